-- Source: duan-li/tickbucket @ e5724177bb76e66e6342b16e09b989e972a69538
create schema zoo_tickets;
select zoo.people('zoo_tickets');
create table zoo_tickets.service_users(id uuid primary key, supabase_user uuid);
create table zoo_tickets.tenant_permissions(id int primary key, service_user uuid, tenant text);
create table zoo_tickets.tenants(id text primary key, name text);
create table zoo_tickets.token_tenants(id text primary key, name text);
create table zoo_tickets.tickets(id int primary key, tenant text);
alter table zoo_tickets.service_users enable row level security;
alter table zoo_tickets.tenant_permissions enable row level security;
alter table zoo_tickets.tenants enable row level security;
alter table zoo_tickets.token_tenants enable row level security;
alter table zoo_tickets.tickets enable row level security;

-- [83] ownership: one's own account.
-- duan-li/tickbucket: supabase/migrations/20250220112607_create_rls_policies.sql
create policy "own account" on zoo_tickets.service_users as permissive for select to public using ((supabase_user = auth.uid()));
-- [84] membership, one hop: EXISTS with an empty list, over a table with policies.
-- duan-li/tickbucket: supabase/migrations/20250220113055_update_rls_policies.sql
create policy "own permissions" on zoo_tickets.tenant_permissions as permissive for select to public
  using ((exists (select from zoo_tickets.service_users su
    where ((su.id = tenant_permissions.service_user) and (su.supabase_user = auth.uid())))));
-- [85] inner table with policies: only the inner table's own policies keep strangers out.
-- duan-li/tickbucket: supabase/migrations/20250220113055_update_rls_policies.sql
create policy "permitted tenants" on zoo_tickets.tenants as permissive for select to public
  using ((exists (select from zoo_tickets.tenant_permissions tp where (tp.tenant = tenants.id))));
-- [86] array in the claims: a text array of app_metadata has the row's key.
-- duan-li/tickbucket: supabase/migrations/20250220113615_changed_rls_custom_claims.sql
create policy "tenants of the token" on zoo_tickets.token_tenants as permissive for select to authenticated
  using (coalesce((((auth.jwt() -> 'app_metadata'::text) -> 'tenants'::text) ? id), false));
-- [87] array in the claims: the same of a column, for every role (in the source FOR UPDATE).
-- duan-li/tickbucket: supabase/migrations/20250330103615_policy_allow_updating_on_allowed_tenant.sql
create policy "tickets of the token" on zoo_tickets.tickets as permissive for all to public
  using (coalesce((((auth.jwt() -> 'app_metadata'::text) -> 'tenants'::text) ? tenant), false));

insert into zoo_tickets.persons values
  ('ann with tenants', 'authenticated', zoo.claims(1, '{"app_metadata": {"tenants": ["t1", "t2", "t3"]}}')),
  ('bob with tenants', 'authenticated', zoo.claims(2, '{"app_metadata": {"tenants": {"t2": 1, "t3": 2}}}')),
  ('cat with a tenant', 'authenticated', zoo.claims(3, '{"app_metadata": {"tenants": "t1"}}')),
  ('cat with none', 'authenticated', zoo.claims(3, '{"app_metadata": {"tenants": []}}')),
  ('tenants for anon', 'anon', '{"app_metadata": {"tenants": ["t3", 4]}}');
insert into zoo_tickets.service_users select zoo.id(10 + n), zoo.id(n) from generate_series(1, 3) n;
insert into zoo_tickets.tenant_permissions
  select n, zoo.id(11 + n % 3), 't' || 1 + n % 5 from generate_series(1, 12) n;
insert into zoo_tickets.tenants select 't' || n from generate_series(1, 6) n;
insert into zoo_tickets.token_tenants select 't' || n from generate_series(1, 3) n;
insert into zoo_tickets.tickets select n, case when n % 6 > 0 then 't' || 1 + n % 3 end from generate_series(1, 12) n;
select zoo.expose('zoo_tickets');
