-- Source: point-source/supabase-tenant-rbac @ 2400ad76a74ee6aeaa7f3c89375dac0a253ddb42
create schema zoo_rbac;
select zoo.people('zoo_rbac');
create table zoo_rbac.user_claims(user_id uuid primary key, claims jsonb not null default '{}');
create table zoo_rbac.groups(id uuid primary key, name text);
create table zoo_rbac.members(id uuid primary key, group_id uuid, user_id uuid, roles text[]);
create table zoo_rbac.projects(id uuid primary key, group_id uuid, name text);
create table zoo_rbac.plans(id uuid primary key, group_id uuid);
create table zoo_rbac.token_groups(id uuid primary key, group_id uuid);

create function zoo_rbac._jwt_is_expired() returns boolean language plpgsql stable set search_path = zoo_rbac as $$
begin
  return extract(epoch from now()) > coalesce(auth.jwt() ->> 'exp', '0')::numeric;
end;
$$;
create function zoo_rbac._user_groups() returns jsonb language sql stable set search_path = zoo_rbac as $$
  select coalesce((select claims from zoo_rbac.user_claims where user_id = auth.uid()), '{}')
$$;
create function zoo_rbac.get_claims() returns jsonb language sql stable set search_path = zoo_rbac as $$
  select coalesce(nullif(current_setting('request.groups', true), '')::jsonb, _user_groups())::jsonb
$$;
create function zoo_rbac.is_member(group_id uuid) returns boolean language plpgsql stable set search_path = zoo_rbac as $$
declare
  auth_role text := auth.role();
  answer bool;
begin
  if auth_role = 'authenticated' then
    if _jwt_is_expired() then
      raise exception 'invalid_jwt' using hint = 'jwt is expired or missing';
    end if;
    select coalesce(get_claims() ? group_id::text, false) into answer;
    return answer;
  elsif auth_role = 'anon' then
    return false;
  else
    return session_user = 'postgres' or auth_role = 'service_role';
  end if;
end;
$$;
create function zoo_rbac.has_any_role(group_id uuid, roles text[]) returns boolean
language plpgsql stable set search_path = zoo_rbac as $$
declare
  answer bool;
begin
  if auth.role() = 'authenticated' then
    if _jwt_is_expired() then
      raise exception 'invalid_jwt' using hint = 'jwt is expired or missing';
    end if;
    select coalesce(get_claims() -> group_id::text -> 'roles' ?| roles, false) into answer;
    return answer;
  end if;
  return false;
end;
$$;
create function zoo_rbac.has_permission(group_id uuid, permission text) returns boolean
language plpgsql stable set search_path = zoo_rbac as $$
declare
  answer bool;
begin
  if auth.role() = 'authenticated' then
    if _jwt_is_expired() then
      raise exception 'invalid_jwt' using hint = 'jwt is expired or missing';
    end if;
    select coalesce(get_claims() -> group_id::text -> 'permissions' ? permission, false) into answer;
    return answer;
  end if;
  return false;
end;
$$;
-- The first version of the extension, in which the claims are those of the token.
create function zoo_rbac.user_has_group_role(group_id uuid, group_role text) returns boolean
language plpgsql stable set search_path = zoo_rbac as $$
declare
  answer bool;
begin
  if auth.role() = 'authenticated' then
    if _jwt_is_expired() then
      raise exception 'invalid_jwt' using hint = 'jwt is expired or missing';
    end if;
    select coalesce(coalesce(current_setting('request.groups', true)::jsonb, auth.jwt() -> 'app_metadata' -> 'groups')
      -> group_id::text ? group_role, false) into answer;
    return answer;
  else
    return session_user = 'postgres';
  end if;
end;
$$;

alter table zoo_rbac.groups enable row level security;
alter table zoo_rbac.members enable row level security;
alter table zoo_rbac.projects enable row level security;
alter table zoo_rbac.plans enable row level security;
alter table zoo_rbac.token_groups enable row level security;

-- [74] plpgsql that raises: groups of which the claims table has a key; an expired token raises.
-- point-source/supabase-tenant-rbac: examples/policies/quickstart.sql
create policy "members read groups" on zoo_rbac.groups for select to authenticated using (zoo_rbac.is_member(id));
-- [75] plpgsql that raises: memberships of one's groups.
-- point-source/supabase-tenant-rbac: examples/policies/quickstart.sql
create policy "members read members" on zoo_rbac.members for select to authenticated using (zoo_rbac.is_member(group_id));
-- [76] several policies per table: projects for members.
-- point-source/supabase-tenant-rbac: examples/policies/custom_table_isolation.sql
create policy "members read projects" on zoo_rbac.projects as permissive for select to authenticated
  using (zoo_rbac.is_member(group_id));
-- [77] JSON: ? in nested claims: projects by a permission inside the group's claims.
-- point-source/supabase-tenant-rbac: examples/policies/custom_table_isolation.sql
create policy "read permission" on zoo_rbac.projects as permissive for select to authenticated
  using (zoo_rbac.has_permission(group_id, 'project.read'));
-- [78] JSON: ?| an array: any of several roles (in the source FOR UPDATE).
-- point-source/supabase-tenant-rbac: examples/policies/custom_table_isolation.sql
create policy "owners and admins" on zoo_rbac.plans as permissive for all to authenticated
  using (zoo_rbac.has_any_role(group_id, array['owner', 'admin']));
-- [79] JSON: ? in nested claims: a role in an array of an object of app_metadata.
-- point-source/supabase-tenant-rbac: supabase_rbac--1.0.0.sql
create policy "role by the token" on zoo_rbac.token_groups for select to authenticated
  using (zoo_rbac.user_has_group_role(group_id, 'viewer'));

delete from zoo_rbac.persons where label in ('bob', 'cat');
insert into zoo_rbac.persons values
  ('ann, valid', 'authenticated', zoo.claims(1, jsonb_build_object('exp', 4000000000, 'app_metadata',
    jsonb_build_object('groups', jsonb_build_object(zoo.id(11)::text, '["viewer", "owner"]'::jsonb, zoo.id(12)::text, '["owner"]'::jsonb))))),
  ('bob, valid', 'authenticated', zoo.claims(2, jsonb_build_object('exp', 4000000000, 'app_metadata',
    jsonb_build_object('groups', jsonb_build_object(zoo.id(12)::text, '["viewer"]'::jsonb, zoo.id(13)::text, '["viewer"]'::jsonb))))),
  ('cat, valid', 'authenticated', zoo.claims(3, jsonb_build_object('exp', 4000000000, 'app_metadata',
    jsonb_build_object('groups', jsonb_build_object(zoo.id(11)::text, '["viewer"]'::jsonb))))),
  ('bob, expired', 'authenticated', zoo.claims(2, '{"exp": 1600000000}'));
insert into zoo_rbac.user_claims values
  (zoo.id(1), jsonb_build_object(zoo.id(11)::text, '{"roles": ["owner"], "permissions": ["project.read"]}'::jsonb,
    zoo.id(12)::text, '{"roles": ["viewer", "admin"], "permissions": []}'::jsonb)),
  (zoo.id(2), jsonb_build_object(zoo.id(12)::text, '{"roles": ["admin"], "permissions": ["project.read"]}'::jsonb,
    zoo.id(13)::text, '{"roles": ["owner", "viewer"]}'::jsonb)),
  (zoo.id(3), jsonb_build_object(zoo.id(11)::text, '{"roles": ["viewer", "admin"], "permissions": null}'::jsonb));
insert into zoo_rbac.groups select zoo.id(10 + n), 'group ' || n from generate_series(1, 3) n;
insert into zoo_rbac.members select zoo.id(n), zoo.id(11 + n % 3), zoo.id(1 + n % 3), '{viewer}' from generate_series(1, 9) n;
insert into zoo_rbac.projects select zoo.id(n), zoo.id(11 + n % 3), 'p' from generate_series(1, 9) n;
insert into zoo_rbac.plans select zoo.id(n), zoo.id(11 + n % 3) from generate_series(1, 9) n;
insert into zoo_rbac.token_groups select zoo.id(n), zoo.id(11 + n % 3) from generate_series(1, 9) n;
select zoo.expose('zoo_rbac');
