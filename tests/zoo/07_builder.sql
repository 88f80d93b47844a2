-- Source: supabase/supabase @ b78d05b89fbfe0f13d12f4faeeae3683b34d1774
-- Before (recursive_roles) and after the source's own repair of its recursion.
create schema zoo_builder;
select zoo.people('zoo_builder');
create table zoo_builder.recursive_roles(user_id uuid, organization_id text, role text, primary key (user_id, organization_id));
create table zoo_builder.user_roles(user_id uuid, organization_id text, role text, primary key (user_id, organization_id));
create table zoo_builder.projects(id int primary key, organization_id text, creator_id uuid, deleted_at timestamptz);
create table zoo_builder.audit_logs(id int primary key, organization_id text, project_id int);
create table zoo_builder.rate_limits(id int primary key, user_id uuid, organization_id text);
alter table zoo_builder.recursive_roles enable row level security;
alter table zoo_builder.user_roles enable row level security;
alter table zoo_builder.projects enable row level security;
alter table zoo_builder.audit_logs enable row level security;
alter table zoo_builder.rate_limits enable row level security;

-- [33] ownership: one's own roles.
-- supabase/supabase: examples/supa-builder/supabase/migrations/20260131000002_rls_policies.sql
create policy "own roles" on zoo_builder.recursive_roles for select to authenticated using (user_id = auth.uid());
-- [34] self-reference: admins see the roles of their organization: infinite recursion.
-- supabase/supabase: examples/supa-builder/supabase/migrations/20260131000002_rls_policies.sql
create policy "roles for admins" on zoo_builder.recursive_roles for select to authenticated
  using (exists (select 1 from zoo_builder.recursive_roles as ur
    where ur.user_id = auth.uid() and ur.organization_id = recursive_roles.organization_id and ur.role = 'admin'));
-- [35] any signed-in user: the repair: all roles for all.
-- supabase/supabase: examples/supa-builder/supabase/migrations/20260131000006_fix_rls_recursion_final.sql
create policy "all roles" on zoo_builder.user_roles for select to authenticated using (true);
-- [36] role inside the membership: admins of the organization, except what is deleted.
-- supabase/supabase: examples/supa-builder/supabase/migrations/20260131000002_rls_policies.sql
create policy "projects for admins" on zoo_builder.projects for select to authenticated
  using (exists (select 1 from zoo_builder.user_roles
    where user_roles.user_id = auth.uid() and user_roles.organization_id = projects.organization_id
      and user_roles.role = 'admin') and deleted_at is null);
-- [37] several policies per table: the creator, except what is deleted.
-- supabase/supabase: examples/supa-builder/supabase/migrations/20260131000002_rls_policies.sql
create policy "own projects" on zoo_builder.projects for select to authenticated
  using (creator_id = auth.uid() and deleted_at is null);
-- [38] role inside the membership: logs for admins.
-- supabase/supabase: examples/supa-builder/supabase/migrations/20260131000002_rls_policies.sql
create policy "logs for admins" on zoo_builder.audit_logs for select to authenticated
  using (exists (select 1 from zoo_builder.user_roles
    where user_roles.user_id = auth.uid() and user_roles.organization_id = audit_logs.organization_id
      and user_roles.role = 'admin'));
-- [39] inner table with policies: logs of one's projects, which have policies of their own (what is deleted is not seen).
-- supabase/supabase: examples/supa-builder/supabase/migrations/20260131000002_rls_policies.sql
create policy "logs of own projects" on zoo_builder.audit_logs for select to authenticated
  using (exists (select 1 from zoo_builder.projects
    where projects.id = audit_logs.project_id and projects.creator_id = auth.uid()));
-- [40] ownership: one's own limits.
-- supabase/supabase: examples/supa-builder/supabase/migrations/20260131000002_rls_policies.sql
create policy "own limits" on zoo_builder.rate_limits for select to authenticated using (user_id = auth.uid());
-- [41] role inside the membership: limits for admins.
-- supabase/supabase: examples/supa-builder/supabase/migrations/20260131000002_rls_policies.sql
create policy "limits for admins" on zoo_builder.rate_limits for select to authenticated
  using (exists (select 1 from zoo_builder.user_roles
    where user_roles.user_id = auth.uid() and user_roles.organization_id = rate_limits.organization_id
      and user_roles.role = 'admin'));

insert into zoo_builder.user_roles values
  (zoo.id(1), 'one', 'admin'), (zoo.id(1), 'two', 'builder'), (zoo.id(2), 'two', 'admin'), (zoo.id(3), 'one', 'builder');
insert into zoo_builder.recursive_roles select * from zoo_builder.user_roles;
insert into zoo_builder.projects
  select n, (array['one', 'two', 'three'])[1 + n % 3], zoo.id(1 + n % 4), case when n % 5 = 0 then now() - interval '1 day' end
  from generate_series(1, 20) n;
insert into zoo_builder.audit_logs
  select n, (array['one', 'two', 'three'])[1 + n % 3], 1 + n * 7 % 20 from generate_series(1, 14) n;
insert into zoo_builder.rate_limits
  select n, zoo.id(1 + n % 3), (array['one', 'two', 'three'])[1 + n % 3] from generate_series(1, 10) n;
select zoo.expose('zoo_builder');
comment on table zoo_builder.recursive_roles is 'lopsided: infinite recursion, an error: never';
