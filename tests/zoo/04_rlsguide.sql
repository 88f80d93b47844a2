-- Source: supabase/supabase @ 02425c0640e045f17722531a8604a53851ede934
create schema zoo_rlsguide;
select zoo.people('zoo_rlsguide');

create table zoo_rlsguide.tasks(id int primary key, user_id uuid, body text);
create table zoo_rlsguide.strict_tasks(id int primary key, user_id uuid);
create table zoo_rlsguide.profiles(id int primary key, user_id uuid, avatar text);
create table zoo_rlsguide.public_profiles(id int primary key, user_id uuid, avatar text);
create table zoo_rlsguide.by_claim(id int primary key, team_id jsonb);
create table zoo_rlsguide.user_roles(user_id uuid primary key, role text);
create table zoo_rlsguide.by_role(id int primary key, body text);
create table zoo_rlsguide.by_role_function(id int primary key, body text);
create table zoo_rlsguide.team_user(user_id uuid, team_id int, primary key (user_id, team_id));
create table zoo_rlsguide.slow_join(id int primary key, team_id int);
create table zoo_rlsguide.no_join(id int primary key, team_id int);

create function zoo_rlsguide.has_good_role() returns boolean language plpgsql security definer set search_path = ''
as $$
begin
  return exists (select 1 from zoo_rlsguide.user_roles where (select auth.uid()) = user_id and role = 'good_role');
end;
$$;

alter table zoo_rlsguide.tasks enable row level security;
alter table zoo_rlsguide.strict_tasks enable row level security;
alter table zoo_rlsguide.profiles enable row level security;
alter table zoo_rlsguide.public_profiles enable row level security;
alter table zoo_rlsguide.by_claim enable row level security;
alter table zoo_rlsguide.by_role enable row level security;
alter table zoo_rlsguide.by_role_function enable row level security;
alter table zoo_rlsguide.slow_join enable row level security;
alter table zoo_rlsguide.no_join enable row level security;

-- [19] (select auth.uid()): ownership, the function wrapped.
-- supabase/supabase: apps/docs/content/guides/database/postgres/row-level-security.mdx
create policy "own tasks" on zoo_rlsguide.tasks for select using ((select auth.uid()) = user_id);
-- [20] ownership: with an explicit check that there is a user.
-- supabase/supabase: apps/docs/content/guides/database/postgres/row-level-security.mdx
create policy "own tasks, checked" on zoo_rlsguide.strict_tasks using (auth.uid() is not null and auth.uid() = user_id);
-- [21] (select auth.uid()): the same for one role.
-- supabase/supabase: apps/docs/content/guides/database/postgres/row-level-security.mdx
create policy "own profile" on zoo_rlsguide.profiles for select to authenticated using ((select auth.uid()) = user_id);
-- [22] public: everything, for anon only.
-- supabase/supabase: apps/docs/content/guides/database/postgres/row-level-security.mdx
create policy "public profiles" on zoo_rlsguide.public_profiles for select to anon using (true);
-- [23] array in the claims: IN a scalar JSON array of app_metadata: only the whole array is equal.
-- supabase/supabase: apps/docs/content/guides/database/postgres/row-level-security.mdx
create policy "in the team" on zoo_rlsguide.by_claim to authenticated
  using (team_id in (select auth.jwt() -> 'app_metadata' -> 'teams'));
-- [24] role in a table: EXISTS that does not depend on the row.
-- supabase/supabase: apps/docs/content/guides/database/postgres/row-level-security.mdx
create policy "good role" on zoo_rlsguide.by_role to authenticated
  using (exists (select 1 from zoo_rlsguide.user_roles where (select auth.uid()) = user_id and role = 'good_role'));
-- [25] SECURITY DEFINER plpgsql: the same in a wrapped function with an empty search_path.
-- supabase/supabase: apps/docs/content/guides/database/postgres/row-level-security.mdx
create policy "good role by function" on zoo_rlsguide.by_role_function to authenticated
  using ((select zoo_rlsguide.has_good_role()));
-- [26] membership, one hop: the slow join of the guide, in which the inner table's own column is what is compared.
-- supabase/supabase: apps/docs/content/guides/database/postgres/row-level-security.mdx
create policy "slow join" on zoo_rlsguide.slow_join to authenticated
  using ((select auth.uid()) in (select user_id from zoo_rlsguide.team_user where team_user.team_id = team_id));
-- [27] membership, one hop: the fast one: IN the teams of the user.
-- supabase/supabase: apps/docs/content/guides/database/postgres/row-level-security.mdx
create policy "no join" on zoo_rlsguide.no_join to authenticated
  using (team_id in (select team_id from zoo_rlsguide.team_user where user_id = (select auth.uid())));

insert into zoo_rlsguide.persons values
  ('ann in teams', 'authenticated', zoo.claims(1, '{"app_metadata": {"teams": [1, 2]}}')),
  ('bob in a team', 'authenticated', zoo.claims(2, '{"app_metadata": {"teams": 3}}')),
  ('bob in an odd team', 'authenticated', zoo.claims(2, '{"app_metadata": {"teams": null}}')),
  ('cat in teams', 'authenticated', zoo.claims(3, '{"app_metadata": {"teams": [1, 2]}}')),
  ('bob in teams', 'authenticated', zoo.claims(2, '{"app_metadata": {"teams": [1, 2]}}')),
  ('other anon', 'anon', '');
insert into zoo_rlsguide.tasks select n, case when n % 7 > 0 then zoo.id(1 + n % 3) end, 'task' from generate_series(1, 15) n;
insert into zoo_rlsguide.strict_tasks select n, case when n % 7 > 0 then zoo.id(1 + n % 3) end from generate_series(1, 15) n;
insert into zoo_rlsguide.profiles select n, zoo.id(1 + n % 3) from generate_series(1, 9) n;
insert into zoo_rlsguide.public_profiles select n, zoo.id(n) from generate_series(1, 6) n;
insert into zoo_rlsguide.by_claim
  select n, (array['[1, 2]', '[1, 2]', '3', '[1, 2]', '[2, 1]', 'null', '1'])[1 + n % 7]::jsonb from generate_series(1, 13) n;
update zoo_rlsguide.by_claim set team_id = '[1,2]' where id % 7 in (0, 4, 5);
insert into zoo_rlsguide.user_roles values (zoo.id(1), 'good_role'), (zoo.id(2), 'bad_role'), (zoo.id(3), 'good_role');
insert into zoo_rlsguide.by_role select n from generate_series(1, 5) n;
insert into zoo_rlsguide.by_role_function select n from generate_series(1, 5) n;
insert into zoo_rlsguide.team_user values (zoo.id(1), 1), (zoo.id(1), 2), (zoo.id(2), 2), (zoo.id(2), 3);
insert into zoo_rlsguide.slow_join select n, n % 5 from generate_series(1, 10) n;
insert into zoo_rlsguide.no_join select n, n % 4 from generate_series(1, 12) n;
select zoo.expose('zoo_rlsguide');
