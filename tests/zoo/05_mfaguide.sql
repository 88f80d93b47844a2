-- Source: supabase/supabase @ 0824c892036f977d639e8848a4b7c87a1212e220
-- The restrictive policies are the guide's; the permissive ones beside them are the ownership of the guide to row-level security.
create schema zoo_mfaguide;
select zoo.people('zoo_mfaguide');

create table zoo_mfaguide.users(id uuid primary key, created_at timestamptz);
create table zoo_mfaguide.factors(id int primary key, user_id uuid, status text);
create table zoo_mfaguide.for_all(id int primary key, user_id uuid);
create table zoo_mfaguide.for_new_users(id int primary key, user_id uuid);
create table zoo_mfaguide.opted_in(id int primary key, user_id uuid);
alter table zoo_mfaguide.for_all enable row level security;
alter table zoo_mfaguide.for_new_users enable row level security;
alter table zoo_mfaguide.opted_in enable row level security;

create policy "users" on zoo_mfaguide.for_all for select using (true);
create policy "users" on zoo_mfaguide.for_new_users for select using (true);
create policy "users" on zoo_mfaguide.opted_in for select using (user_id is not null);
-- [28] restrictive: a second factor is asked of everybody.
-- supabase/supabase: apps/docs/content/guides/auth/auth-mfa.mdx
create policy "mfa" on zoo_mfaguide.for_all as restrictive to authenticated using ((select auth.jwt() ->> 'aal') = 'aal2');
-- [29] restrictive: of users made after a moment: a text array in a CASE in a scalar sub-query.
-- supabase/supabase: apps/docs/content/guides/auth/auth-mfa.mdx
create policy "mfa" on zoo_mfaguide.for_new_users as restrictive to authenticated
  using (array[(select auth.jwt() ->> 'aal')] <@ (
    select case when created_at >= '2022-12-12T00:00:00Z' then array['aal2'] else array['aal1', 'aal2'] end as aal
    from zoo_mfaguide.users where (select auth.uid()) = id));
-- [30] restrictive: of users that have a factor: an aggregate.
-- supabase/supabase: apps/docs/content/guides/auth/auth-mfa.mdx
create policy "mfa" on zoo_mfaguide.opted_in as restrictive to authenticated
  using (array[(select auth.jwt() ->> 'aal')] <@ (
    select case when count(id) > 0 then array['aal2'] else array['aal1', 'aal2'] end as aal
    from zoo_mfaguide.factors where ((select auth.uid()) = user_id) and status = 'verified'));

insert into zoo_mfaguide.persons values
  ('ann, twice', 'authenticated', zoo.claims(1, '{"aal": "aal2"}')),
  ('bob, twice', 'authenticated', zoo.claims(2, '{"aal": "aal2"}')),
  ('no level', 'authenticated', zoo.claims(1, '{"aal": null}')),
  ('not a user', 'authenticated', zoo.claims(9));
insert into zoo_mfaguide.users values
  (zoo.id(1), '2022-12-11 23:59:59Z'), (zoo.id(2), '2022-12-12 00:00:00Z'), (zoo.id(3), '2023-12-12 00:00:00Z');
insert into zoo_mfaguide.factors values
  (1, zoo.id(1), 'verified'), (2, zoo.id(1), 'unverified'), (3, zoo.id(2), 'unverified');
insert into zoo_mfaguide.for_all select n, zoo.id(1 + n % 3) from generate_series(1, 6) n;
insert into zoo_mfaguide.for_new_users select n, zoo.id(1 + n % 3) from generate_series(1, 6) n;
insert into zoo_mfaguide.opted_in select n, case when n % 6 > 0 then zoo.id(1 + n % 3) end from generate_series(1, 8) n;
select zoo.expose('zoo_mfaguide');
