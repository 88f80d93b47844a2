-- Source: maslennikov-ig/MC-2 @ e6368f7d915e294c3dfcf065cb2d992e51b6a392
create schema zoo_courses;
select zoo.people('zoo_courses');
create type zoo_courses.enrollment as enum ('active', 'completed');
create table zoo_courses.organizations(id uuid primary key, name text);
create table zoo_courses.users(id uuid primary key, organization_id uuid, role text);
create table zoo_courses.jobs(id uuid primary key, organization_id uuid, user_id uuid);
create table zoo_courses.courses(id uuid primary key, organization_id uuid, user_id uuid);
create table zoo_courses.enrollments(id uuid primary key, course_id uuid, user_id uuid, status zoo_courses.enrollment);
create table zoo_courses.files(id uuid primary key, organization_id uuid, course_id uuid);
create table zoo_courses.owned(id uuid primary key, user_id uuid);
create table zoo_courses.history(id uuid primary key, course_id uuid);
create table zoo_courses.outbox(id uuid primary key);
create table zoo_courses.events(id uuid primary key, user_id uuid);
create function zoo_courses.is_superadmin(user_id uuid) returns boolean language sql stable security invoker as $$
  select exists (select 1 from zoo_courses.users where id = user_id and role = 'superadmin');
$$;
alter table zoo_courses.organizations enable row level security;
alter table zoo_courses.users enable row level security;
alter table zoo_courses.jobs enable row level security;
alter table zoo_courses.courses enable row level security;
alter table zoo_courses.enrollments enable row level security;
alter table zoo_courses.history enable row level security;
alter table zoo_courses.outbox enable row level security;
alter table zoo_courses.events enable row level security;
alter table zoo_courses.files enable row level security;

-- [95] CASE on a claim: the claim picks the condition; here always the organization.
-- maslennikov-ig/MC-2: packages/course-gen-platform/supabase/migrations/20250114_add_to_authenticated_to_rls.sql
create policy "organizations" on zoo_courses.organizations for all to authenticated
  using (case (select (auth.jwt() ->> 'role'::text))
    when 'admin'::text then (id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    when 'instructor'::text then (id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    when 'student'::text then (id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    else false end);
-- [96] CASE on a claim: people of the organization, or only oneself.
-- maslennikov-ig/MC-2: packages/course-gen-platform/supabase/migrations/20250114_add_to_authenticated_to_rls.sql
create policy "people" on zoo_courses.users for all to authenticated
  using (case (select (auth.jwt() ->> 'role'::text))
    when 'admin'::text then (organization_id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    when 'instructor'::text then (organization_id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    when 'student'::text then (id = (select auth.uid()))
    else false end);
-- [97] CASE on a claim: jobs of the organization, or one's own.
-- maslennikov-ig/MC-2: packages/course-gen-platform/supabase/migrations/20250114_add_to_authenticated_to_rls.sql
create policy "jobs" on zoo_courses.jobs for all to authenticated
  using (case (select (auth.jwt() ->> 'role'::text))
    when 'admin'::text then (organization_id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    when 'instructor'::text then (organization_id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    when 'student'::text then (user_id = (select auth.uid()))
    else false end);
-- [98] CASE with a sub-query: files of one's courses, or of none, in the organization (courses without policies here).
-- maslennikov-ig/MC-2: packages/course-gen-platform/supabase/migrations/20250114_add_to_authenticated_to_rls.sql
create policy "files" on zoo_courses.files for all to authenticated
  using (case (select (auth.jwt() ->> 'role'::text))
    when 'admin'::text then (organization_id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    when 'instructor'::text then ((course_id in (select id from zoo_courses.owned where user_id = (select auth.uid()))
      or course_id is null) and organization_id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    else false end);
-- [99] mutual reference: students see courses by their enrollment, whose policy reads the courses: infinite recursion.
-- maslennikov-ig/MC-2: packages/course-gen-platform/supabase/migrations/20250114_add_to_authenticated_to_rls.sql
create policy "courses" on zoo_courses.courses for all to authenticated
  using (case (select (auth.jwt() ->> 'role'::text))
    when 'admin'::text then (organization_id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    when 'instructor'::text then (organization_id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid))
    when 'student'::text then (id in (select course_id from zoo_courses.enrollments
      where user_id = (select auth.uid()) and status = 'active'::zoo_courses.enrollment))
    else false end);
-- [100] mutual reference: the other half of it.
-- maslennikov-ig/MC-2: packages/course-gen-platform/supabase/migrations/20250114_add_to_authenticated_to_rls.sql
create policy "enrollments" on zoo_courses.enrollments for all to authenticated
  using (case (select (auth.jwt() ->> 'role'::text))
    when 'admin'::text then (course_id in (select id from zoo_courses.courses
      where organization_id = (select ((auth.jwt() ->> 'organization_id'::text))::uuid)))
    when 'instructor'::text then (course_id in (select id from zoo_courses.courses where user_id = (select auth.uid())))
    when 'student'::text then (user_id = (select auth.uid()))
    else false end);
-- [101] invoker function over policies: a function of auth.uid(), or an EXISTS (courses without policies here).
-- maslennikov-ig/MC-2: packages/course-gen-platform/supabase/migrations/20251022_enhance_superadmin_policies_final.sql
create policy "history of own courses" on zoo_courses.history for select
  using (zoo_courses.is_superadmin(auth.uid())
    or exists (select 1 from zoo_courses.owned where owned.id = history.course_id and owned.user_id = auth.uid()));
-- [102] nobody: false.
-- maslennikov-ig/MC-2: packages/course-gen-platform/supabase/migrations/20251118094238_create_transactional_outbox_tables.sql
create policy "system only" on zoo_courses.outbox for all using (false) with check (false);
-- [103] ownership: one's own, or for a role in the claims.
-- maslennikov-ig/MC-2: packages/course-gen-platform/supabase/migrations/20251118094238_create_transactional_outbox_tables.sql
create policy "own events" on zoo_courses.events for select
  using (auth.uid() = user_id or auth.jwt() ->> 'role' = 'service_role');

delete from zoo_courses.persons where label in ('bob', 'cat');
insert into zoo_courses.persons values
  ('admin', 'authenticated', zoo.claims(1, jsonb_build_object('role', 'admin', 'organization_id', zoo.id(11)))),
  ('instructor', 'authenticated', zoo.claims(2, jsonb_build_object('role', 'instructor', 'organization_id', zoo.id(12)))),
  ('student', 'authenticated', zoo.claims(3, jsonb_build_object('role', 'student', 'organization_id', zoo.id(11)))),
  ('service role by claim', 'authenticated', zoo.claims(2, '{"role": "service_role"}')),
  ('superadmin', 'authenticated', zoo.claims(4, '{"role": "student", "organization_id": "nowhere"}'));
insert into zoo_courses.persons values ('second admin', 'authenticated',
  zoo.claims(2, jsonb_build_object('role', 'admin', 'organization_id', zoo.id(12))));
insert into zoo_courses.persons values ('second instructor', 'authenticated',
  zoo.claims(1, jsonb_build_object('role', 'instructor', 'organization_id', zoo.id(12))));
insert into zoo_courses.organizations values (zoo.id(11), 'a'), (zoo.id(12), 'b');
insert into zoo_courses.users
  select zoo.id(n), zoo.id(11 + n % 2), case when n = 4 then 'superadmin' else 'user' end from generate_series(1, 6) n;
insert into zoo_courses.jobs select zoo.id(n), zoo.id(11 + n % 2), zoo.id(1 + n % 3) from generate_series(1, 10) n;
insert into zoo_courses.courses select zoo.id(20 + n), zoo.id(11 + n % 2), zoo.id(1 + n % 2) from generate_series(1, 6) n;
insert into zoo_courses.owned select id, user_id from zoo_courses.courses;
insert into zoo_courses.enrollments
  select zoo.id(n), zoo.id(20 + 1 + n % 6), zoo.id(3), case when n % 2 = 0 then 'active' else 'completed' end::zoo_courses.enrollment
  from generate_series(1, 6) n;
insert into zoo_courses.files
  select zoo.id(n), zoo.id(11 + n % 2), case when n % 4 <> 1 and n % 8 <> 3 then zoo.id(20 + 1 + n % 6) end from generate_series(1, 12) n;
insert into zoo_courses.history select zoo.id(n), zoo.id(20 + 1 + n % 7) from generate_series(1, 14) n;
insert into zoo_courses.outbox select zoo.id(n) from generate_series(1, 2) n;
insert into zoo_courses.events select zoo.id(n), zoo.id(1 + n % 3) from generate_series(1, 9) n;
select zoo.expose('zoo_courses');
comment on table zoo_courses.courses is 'lopsided: infinite recursion over two tables, an error: never';
comment on table zoo_courses.enrollments is 'lopsided: infinite recursion over two tables, an error: never';
comment on table zoo_courses.outbox is 'lopsided: false: never';
