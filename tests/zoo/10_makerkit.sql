-- Source: bb81a/makerkit-app @ d0c0409a2efb2ef7417c89393f7f27f30321cee5
create schema zoo_makerkit;
select zoo.people('zoo_makerkit');
create table zoo_makerkit.users(id uuid primary key, onboarded boolean);
create table zoo_makerkit.organizations(id bigint primary key, name text);
create table zoo_makerkit.memberships(
  id bigint primary key, user_id uuid, organization_id bigint not null, role int not null, invited_email text, code text);
create table zoo_makerkit.subscriptions(id text primary key, status text);
create table zoo_makerkit.organizations_subscriptions(
  organization_id bigint primary key, subscription_id text, customer_id text);

create function zoo_makerkit.my_organizations() returns setof bigint
language sql security definer set search_path = public stable as $$
  select organization_id from zoo_makerkit.memberships where user_id = auth.uid()
$$;
-- Neither definer nor stable.
create function zoo_makerkit.is_member_of(organization_id bigint) returns bool language plpgsql as $$
begin
  return (organization_id in (select zoo_makerkit.my_organizations()));
end;
$$;

alter table zoo_makerkit.users enable row level security;
alter table zoo_makerkit.organizations enable row level security;
alter table zoo_makerkit.memberships enable row level security;
alter table zoo_makerkit.subscriptions enable row level security;
alter table zoo_makerkit.organizations_subscriptions enable row level security;

-- [62] IN a set-returning function: EXISTS over memberships with policies; it does not depend on the row.
-- bb81a/makerkit-app: supabase/migrations/20221215192558_schema.sql
create policy "people of one's organizations" on zoo_makerkit.users for select
  using (exists (select 1 from zoo_makerkit.memberships
    where organization_id in (select zoo_makerkit.my_organizations())));
-- [63] ownership: one's own record.
-- bb81a/makerkit-app: supabase/migrations/20231102101419_organizations-teardown.sql
create policy "own record" on zoo_makerkit.users for select using (auth.uid() = users.id);
-- [64] membership, one hop: organizations in which one is, by IN.
-- bb81a/makerkit-app: supabase/migrations/20221215192558_schema.sql
create policy "own organizations" on zoo_makerkit.organizations for select
  using (id in (select organization_id from zoo_makerkit.memberships where auth.uid() = memberships.user_id));
-- [65] email in the claims: organizations to which one's address is invited.
-- bb81a/makerkit-app: supabase/migrations/20221215192558_schema.sql
create policy "invited to" on zoo_makerkit.organizations for select
  using (exists (select 1 from zoo_makerkit.memberships
    where organizations.id = memberships.organization_id and memberships.invited_email = auth.email()
      and memberships.code is not null));
-- [66] plpgsql over a set-returning function: memberships of one's organizations: plpgsql that calls a definer function.
-- bb81a/makerkit-app: supabase/migrations/20221215192558_schema.sql
create policy "members of one's organizations" on zoo_makerkit.memberships for select
  using (zoo_makerkit.is_member_of(organization_id));
-- [67] email in the claims: one's own invitations.
-- bb81a/makerkit-app: supabase/migrations/20221215192558_schema.sql
create policy "own invitations" on zoo_makerkit.memberships for select
  using (auth.email() = memberships.invited_email and memberships.code is not null);
-- [68] two hops: subscriptions: EXISTS over a join of two tables with policies.
-- bb81a/makerkit-app: supabase/migrations/20221215192558_schema.sql
create policy "subscriptions of members" on zoo_makerkit.subscriptions for select
  using (exists (select 1 from zoo_makerkit.memberships
    join zoo_makerkit.organizations_subscriptions
      on organizations_subscriptions.organization_id = memberships.organization_id
    where memberships.organization_id = organizations_subscriptions.organization_id
      and subscriptions.id = organizations_subscriptions.subscription_id and memberships.user_id = auth.uid()));
-- [69] captured name: the row's organization_id is hidden by the inner table's: any membership will do.
-- bb81a/makerkit-app: supabase/migrations/20221215192558_schema.sql
create policy "any membership" on zoo_makerkit.organizations_subscriptions for select
  using (exists (select 1 from zoo_makerkit.memberships
    where user_id = auth.uid() and organization_id = memberships.organization_id));

insert into zoo_makerkit.users select zoo.id(n), n % 2 = 0 from generate_series(1, 6) n;
insert into zoo_makerkit.organizations select n, 'org ' || n from generate_series(1, 6) n;
insert into zoo_makerkit.memberships values
  (1, zoo.id(1), 1, 2, null, null), (2, zoo.id(1), 2, 0, null, null), (3, zoo.id(2), 2, 2, null, null),
  (4, zoo.id(2), 3, 1, null, null), (5, null, 4, 0, 'ann@zoo.test', 'c1'), (6, null, 5, 1, 'cat@zoo.test', 'c2'),
  (7, null, 6, 1, 'cat@zoo.test', null), (8, null, 1, 0, 'bob@zoo.test', 'c3'), (9, zoo.id(4), 6, 2, null, null),
  (10, zoo.id(5), 3, 2, null, null), (11, zoo.id(3), 5, 1, null, null);
insert into zoo_makerkit.subscriptions select 'sub_' || n, 'active' from generate_series(1, 6) n;
insert into zoo_makerkit.organizations_subscriptions select n, 'sub_' || n from generate_series(1, 6) n;
select zoo.expose('zoo_makerkit');
