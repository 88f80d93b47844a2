-- Source: supabase-community/supabase-custom-claims @ 254e656bf8b77e6f09131cf1de6440b26c99f39e
create schema zoo_customclaims;
select zoo.people('zoo_customclaims');
create table zoo_customclaims.for_managers(id int primary key, body text);
create table zoo_customclaims.for_levels(id int primary key, body text);
create table zoo_customclaims.for_admins(id int primary key, body text);
create function zoo_customclaims.my_claim(claim text) returns jsonb language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb -> 'app_metadata' -> claim, null)
$$;
alter table zoo_customclaims.for_managers enable row level security;
alter table zoo_customclaims.for_levels enable row level security;
alter table zoo_customclaims.for_admins enable row level security;

-- [80] own helpers of claims: a claim of app_metadata, compared as JSON.
-- supabase-community/supabase-custom-claims: README.md
create policy "managers" on zoo_customclaims.for_managers for select using (zoo_customclaims.my_claim('userrole') = '"MANAGER"');
-- [81] own helpers of claims: a claim as a number: the cast of a JSON string or an object fails.
-- supabase-community/supabase-custom-claims: README.md
create policy "levels" on zoo_customclaims.for_levels for select
  using (coalesce(zoo_customclaims.my_claim('userlevel')::numeric, 0) > 100);
-- [82] own helpers of claims: a claim as a boolean.
-- supabase-community/supabase-custom-claims: README.md
create policy "admins" on zoo_customclaims.for_admins for select
  using (coalesce(zoo_customclaims.my_claim('claims_admin')::bool, false));

insert into zoo_customclaims.persons values
  ('manager', 'authenticated', zoo.claims(1, '{"app_metadata": {"userrole": "MANAGER", "userlevel": 100, "claims_admin": true}}')),
  ('high manager', 'authenticated', zoo.claims(2, '{"app_metadata": {"userrole": "MANAGER", "userlevel": 100.5, "claims_admin": true}}')),
  ('level as text', 'authenticated', zoo.claims(3, '{"app_metadata": {"userlevel": "200", "claims_admin": "true"}}')),
  ('very high', 'anon', '{"app_metadata": {"userrole": ["MANAGER"], "userlevel": 1e3, "claims_admin": false}}'),
  ('null level', 'authenticated', zoo.claims(1, '{"app_metadata": {"userlevel": null, "claims_admin": null, "userrole": "MANAGER"}}')),
  ('no claims', 'anon', '');
insert into zoo_customclaims.for_managers select n from generate_series(1, 3) n;
insert into zoo_customclaims.for_levels select n from generate_series(1, 3) n;
insert into zoo_customclaims.for_admins select n from generate_series(1, 3) n;
select zoo.expose('zoo_customclaims');
