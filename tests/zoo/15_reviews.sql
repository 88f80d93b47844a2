-- Source: Jirawatpyk/QA-Localization-tool @ 4989a8c28836592b79205998e24bb59a9b451edb
create schema zoo_reviews;
select zoo.people('zoo_reviews');
create table zoo_reviews.tenants(id uuid primary key, name text);
create table zoo_reviews.segments(id uuid primary key, tenant_id uuid, body text);
create table zoo_reviews.findings(id uuid primary key, tenant_id uuid, segment_id uuid);
create table zoo_reviews.assignments(id uuid primary key, tenant_id uuid, finding_id uuid, assigned_to uuid);
create table zoo_reviews.notifications(id uuid primary key, tenant_id uuid, user_id uuid);
alter table zoo_reviews.tenants enable row level security;
alter table zoo_reviews.segments enable row level security;
alter table zoo_reviews.findings enable row level security;
alter table zoo_reviews.assignments enable row level security;
alter table zoo_reviews.notifications enable row level security;

-- [88] tenancy by claim: the tenant of the claims; the whole token is wrapped.
-- Jirawatpyk/QA-Localization-tool: supabase/migrations/00001_rls_policies.sql
create policy "own tenant" on zoo_reviews.tenants for select to authenticated
  using (id = ((select auth.jwt()) ->> 'tenant_id')::uuid);
-- [89] tenancy by claim: assignments of the tenant.
-- Jirawatpyk/QA-Localization-tool: supabase/migrations/00001_rls_policies.sql
create policy "assignments of the tenant" on zoo_reviews.assignments for select to authenticated
  using (tenant_id = ((select auth.jwt()) ->> 'tenant_id')::uuid);
-- [90] role in the claims: the tenant's findings, for two roles.
-- Jirawatpyk/QA-Localization-tool: supabase/migrations/00026_story_5_2b_rls_scoped_access.sql
create policy "findings for admins" on zoo_reviews.findings for select to authenticated
  using (tenant_id = ((select auth.jwt()) ->> 'tenant_id')::uuid
    and ((select auth.jwt()) ->> 'user_role') in ('admin', 'qa_reviewer'));
-- [91] membership and claims: findings assigned to the user; both tables by tenant.
-- Jirawatpyk/QA-Localization-tool: supabase/migrations/00026_story_5_2b_rls_scoped_access.sql
create policy "findings for natives" on zoo_reviews.findings for select to authenticated
  using (tenant_id = ((select auth.jwt()) ->> 'tenant_id')::uuid
    and ((select auth.jwt()) ->> 'user_role') = 'native_reviewer'
    and exists (select 1 from zoo_reviews.assignments fa
      where fa.finding_id = findings.id and fa.assigned_to = ((select auth.jwt()) ->> 'sub')::uuid
        and fa.tenant_id = ((select auth.jwt()) ->> 'tenant_id')::uuid));
-- [92] role in the claims: the tenant's segments, for two roles.
-- Jirawatpyk/QA-Localization-tool: supabase/migrations/00026_story_5_2b_rls_scoped_access.sql
create policy "segments for admins" on zoo_reviews.segments for select to authenticated
  using (tenant_id = ((select auth.jwt()) ->> 'tenant_id')::uuid
    and ((select auth.jwt()) ->> 'user_role') in ('admin', 'qa_reviewer'));
-- [93] two hops: segments that an assigned finding is about: a join in EXISTS, both inner tables with policies.
-- Jirawatpyk/QA-Localization-tool: supabase/migrations/00026_story_5_2b_rls_scoped_access.sql
create policy "segments for natives" on zoo_reviews.segments for select to authenticated
  using (tenant_id = ((select auth.jwt()) ->> 'tenant_id')::uuid
    and ((select auth.jwt()) ->> 'user_role') = 'native_reviewer'
    and exists (select 1 from zoo_reviews.findings f
      inner join zoo_reviews.assignments fa on fa.finding_id = f.id
      where f.segment_id = segments.id and f.tenant_id = ((select auth.jwt()) ->> 'tenant_id')::uuid
        and fa.assigned_to = ((select auth.jwt()) ->> 'sub')::uuid
        and fa.tenant_id = ((select auth.jwt()) ->> 'tenant_id')::uuid));
-- [94] tenancy and ownership: one's own notifications in the tenant of the claims.
-- Jirawatpyk/QA-Localization-tool: src/db/migrations/0021_notifications_rls_user_scoped.sql
create policy "own notifications" on zoo_reviews.notifications for select to authenticated
  using (user_id = ((select auth.jwt()) ->> 'sub')::uuid and tenant_id = ((select auth.jwt()) ->> 'tenant_id')::uuid);

delete from zoo_reviews.persons where label in ('ann', 'bob', 'cat');
insert into zoo_reviews.persons values
  ('admin', 'authenticated', zoo.claims(1, jsonb_build_object('tenant_id', zoo.id(11), 'user_role', 'admin'))),
  ('reviewer', 'authenticated', zoo.claims(2, jsonb_build_object('tenant_id', zoo.id(12), 'user_role', 'qa_reviewer'))),
  ('native', 'authenticated', zoo.claims(3, jsonb_build_object('tenant_id', zoo.id(11), 'user_role', 'native_reviewer'))),
  ('native elsewhere', 'authenticated', zoo.claims(1, jsonb_build_object('tenant_id', zoo.id(12), 'user_role', 'native_reviewer')));
insert into zoo_reviews.tenants select zoo.id(10 + n), 'tenant ' || n from generate_series(1, 3) n;
insert into zoo_reviews.segments select zoo.id(n), zoo.id(11 + n % 2), 's' from generate_series(1, 10) n;
insert into zoo_reviews.findings select zoo.id(n), zoo.id(11 + n % 2), zoo.id(1 + (n - 1) % 10) from generate_series(1, 12) n;
insert into zoo_reviews.assignments
  select zoo.id(n), zoo.id(11 + n % 2), zoo.id(n), zoo.id(1 + n * 7 % 3) from generate_series(1, 12) n;
insert into zoo_reviews.notifications
  select zoo.id(n), zoo.id(case when n % 5 = 0 then 13 when n % 3 = 1 then 12 else 11 end), zoo.id(1 + n % 3) from generate_series(1, 9) n;
insert into zoo_reviews.persons values ('bob elsewhere', 'authenticated', zoo.claims(2, jsonb_build_object('tenant_id', zoo.id(12))));
select zoo.expose('zoo_reviews');
