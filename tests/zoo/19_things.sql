-- Source: merkatorgis/docker4gis @ b3bfab647cee614d406606e1df6a31f61f9631d7
create schema zoo_things;
select zoo.people('zoo_things');
select zoo.role('zoo_web_user'), zoo.role('zoo_web_admin'), zoo.role('zoo_web_ann'), zoo.role('zoo_web_bob'),
  zoo.role('zoo_web_eve', 'nologin noinherit');
grant zoo_web_user to zoo_web_admin;
grant zoo_web_user to zoo_web_ann;
grant zoo_web_admin to zoo_web_bob;
grant zoo_web_user to zoo_web_eve;
create function zoo_things.i_am(role name) returns boolean language sql as $$
  select pg_has_role(role, 'member');
$$;
create table zoo_things.things(id serial primary key, role name not null default current_user, what text not null, unique (role, what));
alter table zoo_things.things enable row level security;

-- [108] inherited roles: the row names a role; whoever is a member of it, also by another role, sees it.
-- merkatorgis/docker4gis: components/docker4gis-postgis-ddl/template/conf/ddl/{{DOCKER_USER}}/schema/1/things.sql
create policy things_web_user on zoo_things.things to zoo_web_user using (zoo_things.i_am(role)) with check (zoo_things.i_am(role));

insert into zoo_things.persons values
  ('user', 'zoo_web_user', ''), ('admin', 'zoo_web_admin', ''), ('ann by role', 'zoo_web_ann', ''), ('bob by role', 'zoo_web_bob', ''),
  ('member that does not inherit', 'zoo_web_eve', '{}');
insert into zoo_things.things(role, what)
  select (array['zoo_web_user', 'zoo_web_ann', 'zoo_web_admin', 'zoo_web_bob', 'no_such_role'])[1 + n % 5], 'thing ' || n
  from generate_series(0, 14) n;
insert into zoo_things.things(role, what) select 'zoo_web_user', 'more ' || n from generate_series(1, 8) n;
select zoo.expose('zoo_things');
grant usage on schema zoo_things to zoo_web_user;
grant all on zoo_things.things to zoo_web_user;
