-- Source: usebasejump/legacy-basejump-template @ 57c3256bfa474305578c86e428560af617c92a0f
create schema zoo_legacyjump;
select zoo.people('zoo_legacyjump');

create type zoo_legacyjump.team_role as enum ('owner', 'member');
create table zoo_legacyjump.team_user(
  user_id uuid not null, team_id uuid not null, team_role zoo_legacyjump.team_role not null,
  primary key (user_id, team_id));
create table zoo_legacyjump.profiles(id uuid primary key, name text);
create table zoo_legacyjump.invitations(id int primary key, team_id uuid, created_at timestamptz);
create table zoo_legacyjump.customers(team_id uuid primary key, customer text, enabled boolean);

create function zoo_legacyjump.my_teams(wanted zoo_legacyjump.team_role default null)
returns setof uuid language sql security definer set search_path = public as $$
  select team_id from zoo_legacyjump.team_user tu
  where tu.user_id = auth.uid() and (tu.team_role = wanted or wanted is null)
$$;
revoke execute on all functions in schema zoo_legacyjump from public;
grant execute on function zoo_legacyjump.my_teams(zoo_legacyjump.team_role) to authenticated;

alter table zoo_legacyjump.team_user enable row level security;
alter table zoo_legacyjump.profiles enable row level security;
alter table zoo_legacyjump.invitations enable row level security;
alter table zoo_legacyjump.customers enable row level security;

-- [7] ownership: one's own memberships.
-- usebasejump/legacy-basejump-template: supabase/migrations/00000000000002_accounts.sql
create policy "own memberships" on zoo_legacyjump.team_user for select to authenticated using (user_id = auth.uid());
-- [8] IN a set-returning function: team mates: the team is in what a definer function returns.
-- usebasejump/legacy-basejump-template: supabase/migrations/00000000000002_accounts.sql
create policy "team mates" on zoo_legacyjump.team_user for select to authenticated
  using (team_id in (select zoo_legacyjump.my_teams() as teams_of_user));
-- [9] ownership: one's own profile.
-- usebasejump/legacy-basejump-template: supabase/migrations/00000000000010_profiles.sql
create policy "own profile" on zoo_legacyjump.profiles for select to authenticated using (id = auth.uid());
-- [10] inner table with policies: profiles of whoever is in a membership row that one may see oneself.
-- usebasejump/legacy-basejump-template: supabase/migrations/00000000000010_profiles.sql
create policy "profiles of team mates" on zoo_legacyjump.profiles for select to authenticated
  using (id in (select team_user.user_id from zoo_legacyjump.team_user where (team_user.user_id <> auth.uid())));
-- [11] time window: invitations of a day, in teams that one owns.
-- usebasejump/legacy-basejump-template: supabase/migrations/00000000000011_invitations.sql
create policy "fresh invitations for owners" on zoo_legacyjump.invitations for select to authenticated
  using (created_at > (now() - interval '24 hours')
    and (team_id in (select zoo_legacyjump.my_teams('owner') as teams_of_user)));
-- [12] IN a set-returning function: billing of one's teams, for every role.
-- usebasejump/legacy-basejump-template: supabase/migrations/00000000000003_billing_setup.sql
create policy "own customer data" on zoo_legacyjump.customers for select
  using (team_id in (select zoo_legacyjump.my_teams() as teams_of_user));

insert into zoo_legacyjump.team_user values
  (zoo.id(1), zoo.id(11), 'owner'), (zoo.id(1), zoo.id(12), 'member'), (zoo.id(2), zoo.id(12), 'owner'),
  (zoo.id(2), zoo.id(13), 'owner'), (zoo.id(3), zoo.id(13), 'member'), (zoo.id(3), zoo.id(14), 'owner'),
  (zoo.id(4), zoo.id(14), 'member'), (zoo.id(5), zoo.id(15), 'owner');
insert into zoo_legacyjump.profiles select zoo.id(n), 'person ' || n from generate_series(1, 7) n;
insert into zoo_legacyjump.invitations
  select n, zoo.id(11 + n % 4), now() - interval '1 hour' * (case when n % 5 = 0 then 30 else n % 5 end)
  from generate_series(1, 15) n;
update zoo_legacyjump.invitations set team_id = zoo.id(12) where team_id = zoo.id(14) and id % 2 = 0;
insert into zoo_legacyjump.customers select zoo.id(10 + n), 'cus_' || n, n % 2 = 0 from generate_series(1, 5) n;
select zoo.expose('zoo_legacyjump');
