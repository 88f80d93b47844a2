-- Source: tambo-ai/tambo-cloud @ de17167dcc390365929a244ae0e219ece4d7b5a5
create schema zoo_apikeys;
select zoo.people('zoo_apikeys');
select zoo.role('zoo_project_api_key');
create table zoo_apikeys.projects(id text primary key, name text);
create table zoo_apikeys.project_members(project_id text, user_id uuid, primary key (project_id, user_id));
alter table zoo_apikeys.projects enable row level security;
alter table zoo_apikeys.project_members enable row level security;

-- [134] ownership: one's own memberships, FOR ALL.
-- tambo-ai/tambo-cloud: packages/db/migrations/0013_spooky_ultimo.sql
create policy "members by user" on zoo_apikeys.project_members as permissive for all to authenticated
  using (project_members.user_id = (select auth.uid()));
-- [135] another role: a setting that is not a claim and not optional: an error when it is not set.
-- tambo-ai/tambo-cloud: packages/db/migrations/0013_spooky_ultimo.sql
create policy "members by key" on zoo_apikeys.project_members as permissive for all to zoo_project_api_key
  using (project_members.project_id = current_setting('request.apikey.project_id'));
-- [136] inner table with policies: projects of which one is a member.
-- tambo-ai/tambo-cloud: packages/db/migrations/0013_spooky_ultimo.sql
create policy "projects by user" on zoo_apikeys.projects as permissive for all to authenticated
  using (exists (select 1 from zoo_apikeys.project_members
    where project_members.project_id = projects.id and project_members.user_id = (select auth.uid())));
-- [137] another role: the same setting, for projects.
-- tambo-ai/tambo-cloud: packages/db/migrations/0013_spooky_ultimo.sql
create policy "projects by key" on zoo_apikeys.projects as permissive for all to zoo_project_api_key
  using (projects.id = current_setting('request.apikey.project_id'));

insert into zoo_apikeys.persons values ('a key', 'zoo_project_api_key', '{"role": "project_api_key"}');
insert into zoo_apikeys.projects select 'p' || n from generate_series(1, 6) n;
insert into zoo_apikeys.project_members select 'p' || n, zoo.id(1 + n % 3) from generate_series(1, 6) n
  union select 'p' || n, zoo.id(1 + (n + 1) % 3) from generate_series(1, 6, 2) n;
select zoo.expose('zoo_apikeys');
grant usage on schema zoo_apikeys to zoo_project_api_key;
grant select on all tables in schema zoo_apikeys to zoo_project_api_key;
delete from zoo_apikeys.persons where label = 'anon';
