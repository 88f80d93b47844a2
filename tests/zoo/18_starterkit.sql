-- Source: subzerocloud/postgrest-starter-kit @ 53917c9eab7eeb498e9ecaf042726c5f252cdf34
create schema zoo_starterkit;
create schema zoo_starterkit_request;
select zoo.people('zoo_starterkit');
select zoo.role('zoo_api');
select zoo.role('zoo_webuser');
grant zoo_api to zoo_webuser;
create function zoo_starterkit_request.env_var(v text) returns text as $$
  select current_setting(v, true);
$$ stable language sql;
create function zoo_starterkit_request.jwt_claim(c text) returns text as $$
  select zoo_starterkit_request.env_var('request.jwt.claim.' || c);
$$ stable language sql;
create function zoo_starterkit_request.user_id() returns int as $$
  select case coalesce(zoo_starterkit_request.jwt_claim('user_id'), '')
    when '' then 0 else zoo_starterkit_request.jwt_claim('user_id')::int end
$$ stable language sql;
create function zoo_starterkit_request.user_role() returns text as $$
  select zoo_starterkit_request.jwt_claim('role')::text;
$$ stable language sql;
create table zoo_starterkit.todo(id serial primary key, todo text not null, private boolean default true, owner_id int);
alter table zoo_starterkit.todo enable row level security;

-- [107] own helpers of claims: the source's own functions of settings per claim; for a role that others inherit.
-- subzerocloud/postgrest-starter-kit: db/src/authorization/privileges.sql
create policy todo_access on zoo_starterkit.todo to zoo_api
  using ((zoo_starterkit_request.user_role() = 'webuser' and zoo_starterkit_request.user_id() = owner_id) or (private = false));

insert into zoo_starterkit.persons values
  ('api', 'zoo_api', '{"role": "webuser", "user_id": 1}'), ('webuser', 'zoo_webuser', '{"role": "webuser", "user_id": 1}'),
  ('webuser without claims', 'zoo_webuser', '');
insert into zoo_starterkit.todo(todo, private, owner_id)
  select 'todo ' || n, case when n % 5 = 0 then null else n % 5 = 1 end, n % 3 from generate_series(1, 15) n;
select zoo.expose('zoo_starterkit');
grant usage on schema zoo_starterkit, zoo_starterkit_request to zoo_api, zoo_webuser;
grant select on zoo_starterkit.todo to zoo_api;
