-- What Supabase has for private channels (PROTOCOL 6), as far as policies are concerned. Made only where setup has not.
create schema if not exists realtime;
create table if not exists realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    updated_at timestamp not null default now(),
    inserted_at timestamp not null default now(),
    id uuid not null default gen_random_uuid(),
    binary_payload bytea,
    primary key (id, inserted_at)
) partition by range (inserted_at);
do $$
begin
    if not exists (select from pg_inherits where inhparent = 'realtime.messages'::regclass) then
        create table realtime.messages_all partition of realtime.messages default;
    end if;
    if to_regprocedure('realtime.topic()') is null then
        create function realtime.topic() returns text language sql stable as $topic$
            select nullif(current_setting('realtime.topic', true), '')::text;
        $topic$;
    end if;
end
$$;
alter table realtime.messages enable row level security;
grant usage on schema realtime to anon, authenticated, service_role;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

-- What policies read.
create table members (user_id uuid, room text, can_write boolean not null default false, primary key (user_id, room));
create table rooms (id int primary key, topic text unique not null, is_public boolean not null, owner uuid);
alter table rooms enable row level security;
create policy shown on rooms for select using (is_public or owner = auth.uid());
create table bans (user_id uuid primary key, until timestamptz);
insert into members values
    ('11111111-1111-4111-8111-111111111111', 'lobby', true),
    ('11111111-1111-4111-8111-111111111111', 'acme:general', false),
    ('22222222-2222-4222-8222-222222222222', 'lobby', false),
    ('22222222-2222-4222-8222-222222222222', 'room:1', true);
insert into rooms values
    (1, 'room:1', true, null),
    (2, 'lobby', false, '11111111-1111-4111-8111-111111111111'),
    (3, 'acme:general', false, '22222222-2222-4222-8222-222222222222');
insert into bans values ('22222222-2222-4222-8222-222222222222', 'infinity');
grant select on members, rooms, bans to public;

create function is_member(room_name text) returns boolean language sql stable security definer set search_path = '' as $$
    select exists (select from public.members m where m.room = room_name and m.user_id = auth.uid())
$$;
create function may_write() returns boolean language plpgsql stable security definer as $$
begin
    return exists (
        select from public.members m where m.room = realtime.topic() and m.user_id = auth.uid() and m.can_write
    );
end
$$;
create function slow_path(t text) returns boolean language plpgsql stable as $$
declare
    found_it boolean := false;
begin
    if t like 'room:%' then
        found_it := true;
    end if;
    return found_it;
end
$$;
