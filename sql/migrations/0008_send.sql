-- walcast.send: a broadcast that is a logical message, so that no table keeps it and no partition can be missing. It goes
-- out when the transaction commits, and never if it does not.
--
-- Anybody may emit logical messages, so the relay believes those alone that are signed here: HMAC-SHA-256 over the
-- transaction's id (a message that is copied into another transaction is none), the body, and who sends it with which
-- claims, by which the relay asks the policies for writing to the topic.

-- The key, and the two blocks that HMAC makes of it (RFC 2104), made once.
create table if not exists walcast.broadcast_key (
    only_row boolean primary key default true check (only_row),
    key bytea not null,
    inner_block bytea not null,
    outer_block bytea not null
);
revoke all on walcast.broadcast_key from public;
-- pg_read_all_data reads every table, but for the rows that no policy shows it.
alter table walcast.broadcast_key enable row level security;

do $key$
declare
    -- 244 random bits.
    key bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
    inner_block bytea := decode(repeat('36', 64), 'hex');
    outer_block bytea := decode(repeat('5c', 64), 'hex');
begin
    for place in 0..31 loop
        inner_block := set_byte(inner_block, place, get_byte(key, place) # 54);
        outer_block := set_byte(outer_block, place, get_byte(key, place) # 92);
    end loop;
    insert into walcast.broadcast_key (key, inner_block, outer_block)
    values (key, inner_block, outer_block)
    on conflict do nothing;
end
$key$;

-- Never holds a row: what is inserted is signed and emitted, and goes no further. It is a table because of the one thing
-- that a function that signs cannot know, on whose behalf it was called: in a SECURITY DEFINER function current_user is the
-- function's owner, and an argument can say anything. Of two triggers on one INSERT the first runs as whoever inserts
-- (a definer function's owner, where one does: as the policies of realtime.messages would have it), and nobody but the
-- table's owner can come between the two, or call them.
create table if not exists walcast.broadcasts (
    topic text not null,
    event text not null,
    payload jsonb not null,
    private boolean not null,
    caller name
);
revoke all on walcast.broadcasts from public;

create or replace function walcast.name_caller() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
begin
    new.caller := current_user;
    return new;
end
$function$;
revoke all on function walcast.name_caller() from public;

create or replace function walcast.sign_broadcast() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    body bytea;
    mac bytea;
begin
    if new.topic = '' or new.topic is null or new.event is null or new.payload is null or new.private is null then
        raise exception 'walcast.send: topic, event, payload and private are all needed' using errcode = '22004';
    end if;
    body := convert_to(json_build_object(
        'xid', pg_current_xact_id()::text,
        'id', gen_random_uuid(),
        'topic', new.topic,
        'event', new.event,
        'private', new.private,
        'role', new.caller,
        'claims', nullif(current_setting('request.jwt.claims', true), ''),
        'payload', new.payload
    )::text, 'UTF8');
    select sha256(k.outer_block || sha256(k.inner_block || body)) into strict mac from walcast.broadcast_key k;
    perform pg_logical_emit_message(true, 'walcast.broadcast', mac || body);
    return null;
end
$function$;
revoke all on function walcast.sign_broadcast() from public;

-- Not dropped and made again: between the two a message would be stored, or signed for whomever it names.
do $triggers$
begin
    if not exists (
        select from pg_trigger where tgrelid = 'walcast.broadcasts'::regclass and tgname = 'a_name_caller'
    ) then
        create trigger a_name_caller before insert on walcast.broadcasts
            for each row execute function walcast.name_caller();
    end if;
    if not exists (
        select from pg_trigger where tgrelid = 'walcast.broadcasts'::regclass and tgname = 'b_sign_broadcast'
    ) then
        create trigger b_sign_broadcast before insert on walcast.broadcasts
            for each row execute function walcast.sign_broadcast();
    end if;
end
$triggers$;
-- Also under session_replication_role = replica.
alter table walcast.broadcasts enable always trigger a_name_caller;
alter table walcast.broadcasts enable always trigger b_sign_broadcast;

create or replace function walcast.send(topic text, event text, payload jsonb, private boolean default true) returns void
language sql
as $function$
    insert into walcast.broadcasts (topic, event, payload, private)
    values (send.topic, send.event, send.payload, send.private)
$function$;
revoke all on function walcast.send(text, text, jsonb, boolean) from public;
