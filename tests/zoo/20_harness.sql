-- Source: BhodiSea/next-expo-supabase-agent-harness @ 0d05a2915bdda576990c97bb19b8939398b0eee8
create schema zoo_harness;
create schema zoo_harness_private;
select zoo.people('zoo_harness');
select zoo.role('zoo_harness_owner');
create table zoo_harness.factors(id int primary key, user_id uuid, status text);
create table zoo_harness.members(user_id uuid, org_id uuid, primary key (user_id, org_id));
create table zoo_harness.profiles(id uuid primary key, display_name text);
create table zoo_harness.own_notes(id uuid primary key, owner_id uuid, title text);
create table zoo_harness.notes(org_id uuid, id uuid, owner_id uuid, primary key (org_id, id));

create function zoo_harness_private.caller_id() returns uuid language sql stable security invoker set search_path = '' as $$
  select coalesce(nullif(pg_catalog.current_setting('request.jwt.claim.sub', true), ''),
    (nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'))::uuid
$$;
create function zoo_harness_private.caller_aal() returns text language sql stable security invoker set search_path = '' as $$
  select coalesce(nullif(pg_catalog.current_setting('request.jwt.claim.aal', true), ''),
    (nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::jsonb ->> 'aal'))
$$;
create function zoo_harness_private.mfa_is_required() returns boolean language sql stable security definer set search_path = '' as $$
  select exists (select 1 from zoo_harness.factors f
    where f.user_id = (select zoo_harness_private.caller_id()) and f.status = 'verified')
$$;
create function zoo_harness_private.mfa_satisfied() returns boolean language sql stable security invoker set search_path = '' as $$
  select (select zoo_harness_private.caller_aal()) = 'aal2' or not (select zoo_harness_private.mfa_is_required())
$$;
create function zoo_harness_private.member_org_ids() returns uuid[] language sql stable security invoker set search_path = '' as $$
  select coalesce(pg_catalog.array_agg(m.org_id), array[]::uuid[]) from zoo_harness.members m
  where m.user_id = (select zoo_harness_private.caller_id())
$$;
revoke all on all functions in schema zoo_harness_private from public, anon;
grant execute on all functions in schema zoo_harness_private to authenticated;

alter table zoo_harness.members enable row level security;
alter table zoo_harness.members force row level security;
alter table zoo_harness.profiles enable row level security;
alter table zoo_harness.profiles force row level security;
alter table zoo_harness.own_notes enable row level security;
alter table zoo_harness.own_notes force row level security;
alter table zoo_harness.notes enable row level security;
alter table zoo_harness.notes force row level security;

-- [109] FORCE: one's own profile; the table's owner sees none.
-- BhodiSea/next-expo-supabase-agent-harness: template/stack/supabase/migrations/20260101000000_account_spine.sql
create policy profiles_own on zoo_harness.profiles as permissive for select to authenticated using (id = (select auth.uid()));
-- [110] FORCE: one's own notes; the table's owner sees none.
-- BhodiSea/next-expo-supabase-agent-harness: template/stack/supabase/migrations/20260101000100_notes.sql
create policy notes_own on zoo_harness.own_notes as permissive for select to authenticated using (owner_id = (select auth.uid()));
-- [111] restrictive: a second factor if one has one: functions within functions, invoker and definer, own helpers of claims.
-- BhodiSea/next-expo-supabase-agent-harness: template/stack/supabase/migrations/20260812000000_mfa_aal2.sql
create policy notes_mfa on zoo_harness.own_notes as restrictive to authenticated
  using ((select zoo_harness_private.mfa_satisfied())) with check ((select zoo_harness_private.mfa_satisfied()));
-- [112] FORCE: one's own memberships.
-- BhodiSea/next-expo-supabase-agent-harness: template/stack/supabase/migrations/20260201000000_tenancy_spine.sql
create policy members_self on zoo_harness.members as permissive for select to authenticated
  using (user_id = (select auth.uid()));
-- [113] ANY of an array: the organization is in an array that an invoker function aggregates from a table with policies.
-- BhodiSea/next-expo-supabase-agent-harness: template/stack/supabase/schemas/20_notes.sql
create policy notes_org on zoo_harness.notes as permissive for select to authenticated
  using (org_id = any ((select zoo_harness_private.member_org_ids())::uuid[]));
-- [114] restrictive: the same second factor.
-- BhodiSea/next-expo-supabase-agent-harness: template/stack/supabase/schemas/20_notes.sql
create policy notes_mfa on zoo_harness.notes as restrictive to authenticated
  using ((select zoo_harness_private.mfa_satisfied())) with check ((select zoo_harness_private.mfa_satisfied()));

insert into zoo_harness.persons values
  ('ann, twice', 'authenticated', zoo.claims(1, '{"aal": "aal2"}')), ('bob, twice', 'authenticated', zoo.claims(2, '{"aal": "aal2"}')),
  ('owner', 'zoo_harness_owner', zoo.claims(1));
delete from zoo_harness.persons where label = 'anon';
insert into zoo_harness.factors values (1, zoo.id(1), 'verified'), (2, zoo.id(2), 'unverified');
insert into zoo_harness.members values (zoo.id(1), zoo.id(11)), (zoo.id(1), zoo.id(12)), (zoo.id(2), zoo.id(12)), (zoo.id(2), zoo.id(13)), (zoo.id(3), zoo.id(13));
insert into zoo_harness.profiles select zoo.id(n), 'person ' || n from generate_series(1, 3) n;
insert into zoo_harness.own_notes select zoo.id(n), zoo.id(1 + n % 3), 'note' from generate_series(1, 9) n;
insert into zoo_harness.notes select zoo.id(11 + n % 3), zoo.id(n), zoo.id(1 + n % 2) from generate_series(1, 9) n;
select zoo.expose('zoo_harness');
revoke all on all tables in schema zoo_harness from anon;
grant usage on schema zoo_harness_private to authenticated, zoo_harness_owner;
grant usage on schema zoo_harness to zoo_harness_owner;
alter table zoo_harness.profiles owner to zoo_harness_owner;
alter table zoo_harness.own_notes owner to zoo_harness_owner;
alter table zoo_harness.notes owner to zoo_harness_owner;
