-- Source: matiasbattocchia/open-bsp-api @ 59199861315e50e1d30cad40d1e8bc2a7ecf2ca9
create schema zoo_bsp;
select zoo.people('zoo_bsp');
create type zoo_bsp.role as enum ('owner', 'admin', 'member');
create table zoo_bsp.agents(id uuid primary key, organization_id uuid, user_id uuid, extra jsonb);
create table zoo_bsp.organizations(id uuid primary key, name text);
create table zoo_bsp.api_keys(key text primary key, organization_id uuid, role zoo_bsp.role);
create table zoo_bsp.quick_replies(id uuid primary key, organization_id uuid);
create table zoo_bsp.webhooks(id uuid primary key, organization_id uuid);
create table zoo_bsp.objects(id int primary key, bucket_id text, name text);

create function zoo_bsp.authorized_orgs(role zoo_bsp.role default 'member') returns setof uuid
language plpgsql security definer set search_path to '' as $$
declare
  req_level int;
  api_key text;
  org_id uuid;
begin
  req_level := case role::text when 'owner' then 3 when 'admin' then 2 else 1 end;
  if auth.uid() is not null then
    return query select organization_id from zoo_bsp.agents
      where user_id = auth.uid()
        and (extra -> 'invitation' is null or extra -> 'invitation' ->> 'status' = 'accepted')
        and (case (extra ->> 'role') when 'owner' then 3 when 'admin' then 2 else 1 end) >= req_level;
    return;
  end if;
  api_key := current_setting('request.headers', true)::json ->> 'api-key';
  if api_key is not null then
    select a.organization_id into org_id from zoo_bsp.api_keys a
      where a.key = api_key
        and (case (a.role::text) when 'owner' then 3 when 'admin' then 2 else 1 end) >= req_level;
    if org_id is not null then
      return next org_id;
    end if;
    return;
  end if;
  raise exception using errcode = '42501', message = 'authentication required', hint = 'use api-key header or jwt authentication';
end;
$$;
create function zoo_bsp.foldername(name text) returns text[] language sql immutable as $$
  select (string_to_array(name, '/'))[1:array_length(string_to_array(name, '/'), 1) - 1]
$$;
alter table zoo_bsp.agents enable row level security;
alter table zoo_bsp.organizations enable row level security;
alter table zoo_bsp.api_keys enable row level security;
alter table zoo_bsp.quick_replies enable row level security;
alter table zoo_bsp.webhooks enable row level security;
alter table zoo_bsp.objects enable row level security;

-- [143] ownership: oneself among the agents.
-- matiasbattocchia/open-bsp-api: supabase/schemas/05_rls/05-04_agents_rls.sql
create policy "themselves" on zoo_bsp.agents for select to authenticated using (user_id = auth.uid());
-- [144] plpgsql set-returning function: JSON in the membership decides; it raises for whoever has not signed in.
-- matiasbattocchia/open-bsp-api: supabase/schemas/05_rls/05-00_organizations_rls.sql
create policy "members read orgs" on zoo_bsp.organizations for select to authenticated, anon
  using (id in (select zoo_bsp.authorized_orgs('member')));
-- [145] request headers: the key in the request's headers, or for owners.
-- matiasbattocchia/open-bsp-api: supabase/schemas/05_rls/05-06_api_keys_rls.sql
create policy "owners read keys" on zoo_bsp.api_keys for select to authenticated, anon
  using (key = current_setting('request.headers', true)::json ->> 'api-key'
    or organization_id in (select zoo_bsp.authorized_orgs('owner')));
-- [146] plpgsql set-returning function: for members.
-- matiasbattocchia/open-bsp-api: supabase/schemas/05_rls/05-08_quick_replies_rls.sql
create policy "members read replies" on zoo_bsp.quick_replies for select to authenticated, anon
  using (organization_id in (select zoo_bsp.authorized_orgs('member')));
-- [147] several policies per table: FOR ALL, for admins.
-- matiasbattocchia/open-bsp-api: supabase/schemas/05_rls/05-08_quick_replies_rls.sql
create policy "admins manage replies" on zoo_bsp.quick_replies for all to authenticated, anon
  using (organization_id in (select zoo_bsp.authorized_orgs('admin')));
-- [148] role inside the membership: FOR ALL, for admins, whose role is in JSON.
-- matiasbattocchia/open-bsp-api: supabase/schemas/05_rls/05-07_webhooks_rls.sql
create policy "admins manage webhooks" on zoo_bsp.webhooks for all to authenticated, anon
  using (organization_id in (select zoo_bsp.authorized_orgs('admin')));
-- [149] IN a set-returning function: a folder of the object's name is in what the function returns, as text.
-- matiasbattocchia/open-bsp-api: supabase/schemas/05_rls/05-11_objects_rls.sql
create policy "members download media" on zoo_bsp.objects for select to authenticated, anon
  using (bucket_id = 'media' and (zoo_bsp.foldername(name))[2] in (select zoo_bsp.authorized_orgs('member')::text));

insert into zoo_bsp.agents values
  (zoo.id(1), zoo.id(11), zoo.id(1), '{"role": "owner"}'),
  (zoo.id(2), zoo.id(12), zoo.id(1), '{"role": "admin", "invitation": {"status": "accepted"}}'),
  (zoo.id(3), zoo.id(13), zoo.id(1), '{"role": "owner", "invitation": {"status": "pending"}}'),
  (zoo.id(4), zoo.id(12), zoo.id(2), '{"role": "owner"}'), (zoo.id(5), zoo.id(13), zoo.id(2), null),
  (zoo.id(6), zoo.id(11), zoo.id(3), '{"role": "admin"}'), (zoo.id(7), zoo.id(13), zoo.id(3), '{"role": "owner"}');
insert into zoo_bsp.organizations select zoo.id(10 + n), 'org ' || n from generate_series(1, 4) n;
insert into zoo_bsp.api_keys select 'key' || n, zoo.id(11 + n % 3), (enum_range(null::zoo_bsp.role))[1 + n % 3] from generate_series(1, 6) n;
insert into zoo_bsp.quick_replies select zoo.id(n), zoo.id(11 + n % 3) from generate_series(1, 9) n;
insert into zoo_bsp.webhooks select zoo.id(n), zoo.id(11 + n % 3) from generate_series(1, 9) n;
insert into zoo_bsp.objects
  select n, case when n % 6 = 0 then 'other' else 'media' end, 'organizations/' || zoo.id(11 + n % 3) || '/attachments/' || n
  from generate_series(1, 12) n
  union all select 20, 'media', 'organizations' union all select 21, null, null;
select zoo.expose('zoo_bsp');
