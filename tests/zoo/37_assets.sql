-- Source: vijaydixitffis/stratifyitai @ a74f972ea4b8146a0fad99b697a826bdbbe0f7de
create schema zoo_assets;
select zoo.people('zoo_assets');
create table zoo_assets.users(id uuid primary key, org_code text);
create table zoo_assets.assets(id int primary key, org_id int);
create table zoo_assets.client_users(id uuid primary key, org_id int);
create function zoo_assets.is_admin_user() returns boolean as $$
begin
  return (auth.jwt() -> 'user_metadata' ->> 'role') in ('admin', 'admin-super');
end;
$$ language plpgsql security definer;
create function zoo_assets.current_org_id() returns integer as $$
begin
  return (auth.jwt() -> 'user_metadata' ->> 'org_id')::integer;
end;
$$ language plpgsql security definer;
alter table zoo_assets.users enable row level security;
alter table zoo_assets.assets enable row level security;
alter table zoo_assets.client_users enable row level security;

-- [165] role in user_metadata: a claim that the user may change, IN a list.
-- vijaydixitffis/stratifyitai: supabase/migrations/20250922120000_fix_rls_recursion.sql
create policy admin_users on zoo_assets.users for all to authenticated
  using ((auth.jwt() -> 'user_metadata' ->> 'role') in ('admin', 'admin-super'));
-- [166] SECURITY DEFINER plpgsql: the same in a function without search_path.
-- vijaydixitffis/stratifyitai: supabase/migrations/20250928195000_fix_it_assets_rls.sql
create policy admin_assets on zoo_assets.assets for all to authenticated using (zoo_assets.is_admin_user());
-- [167] tenancy in user_metadata: not an admin, and the organization of user_metadata as a number: NOT of a function that may be NULL.
-- vijaydixitffis/stratifyitai: supabase/migrations/20250928195000_fix_it_assets_rls.sql
create policy org_assets on zoo_assets.assets for all to authenticated
  using (not zoo_assets.is_admin_user() and org_id = zoo_assets.current_org_id());
-- [168] LIKE of a claim: roles by a pattern.
-- vijaydixitffis/stratifyitai: .bolt/supabase_discarded_migrations/20250920093640_navy_lagoon.sql
create policy admin_client_users on zoo_assets.client_users for all to authenticated using (auth.jwt() ->> 'role' like 'admin-%');
-- [169] ownership: the user of the token, cast.
-- vijaydixitffis/stratifyitai: .bolt/supabase_discarded_migrations/20250920093640_navy_lagoon.sql
create policy own_client_user on zoo_assets.client_users for all to authenticated
  using (client_users.id = (auth.jwt() ->> 'sub')::uuid);
-- [170] tenancy in app_metadata: the organization as text.
-- vijaydixitffis/stratifyitai: .bolt/supabase_discarded_migrations/20250920093640_navy_lagoon.sql
create policy org_client_users on zoo_assets.client_users for select to authenticated
  using (org_id::text = (auth.jwt() -> 'app_metadata' ->> 'org_id'));

insert into zoo_assets.persons values
  ('admin', 'authenticated', zoo.claims(1, '{"role": "admin-super", "user_metadata": {"role": "admin"}}')),
  ('super', 'authenticated', zoo.claims(2, '{"role": "admin", "user_metadata": {"role": "admin-super"}}')),
  ('of one', 'authenticated', zoo.claims(3, '{"user_metadata": {"role": "client", "org_id": 1}, "app_metadata": {"org_id": 1}}')),
  ('of two', 'authenticated', zoo.claims(1, '{"user_metadata": {"role": "client", "org_id": "2"}, "app_metadata": {"org_id": "2"}}')),
  ('of something', 'authenticated', zoo.claims(2, '{"user_metadata": {"role": "client", "org_id": "two"}, "app_metadata": {"org_id": 2.0}}')),
  ('without a role', 'authenticated', zoo.claims(3, '{"user_metadata": {"org_id": 1}}'));
delete from zoo_assets.persons where label in ('bob', 'cat');
insert into zoo_assets.users select zoo.id(n), 'c' || n from generate_series(1, 4) n;
insert into zoo_assets.assets select n, case when n % 5 > 0 then 1 + n % 2 end from generate_series(1, 10) n;
insert into zoo_assets.client_users select zoo.id(n), 1 + n % 2 from generate_series(1, 6) n;
select zoo.expose('zoo_assets');
