-- Source: xsahxl/supabase-admin (commit not recorded)
create schema zoo_enterprises;
select zoo.people('zoo_enterprises');
create table zoo_enterprises.users(id int primary key, auth_user_id uuid, role text);
create table zoo_enterprises.enterprises(id int primary key, user_id uuid);
alter table zoo_enterprises.enterprises enable row level security;

-- [158] role in a table: one's own, or the user is IN a list that does not depend on the row.
-- xsahxl/supabase-admin: scripts/1_policy.sql
create policy "own data" on zoo_enterprises.enterprises as permissive for all to authenticated
  using (user_id = auth.uid() or auth.uid() in (select auth_user_id from zoo_enterprises.users where role = 'super_admin'));

insert into zoo_enterprises.users values (1, zoo.id(1), 'super_admin'), (2, zoo.id(2), 'user'), (3, null, 'super_admin');
insert into zoo_enterprises.enterprises select n, case when n % 5 > 0 then zoo.id(1 + n % 3) end from generate_series(1, 12) n;
select zoo.expose('zoo_enterprises');
