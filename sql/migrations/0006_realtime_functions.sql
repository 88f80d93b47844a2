-- With the caller's rights, and under his search_path: the policies for INSERT that he meets are his.

-- For policies: the topic that is asked about.
create or replace function realtime.topic() returns text
language sql stable
as $function$
    select nullif(current_setting('realtime.topic', true), '')
$function$;

-- A broadcast must never fail what it tells of: whatever goes wrong is a warning.
create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
language plpgsql
as $function$
declare
    new_id uuid := gen_random_uuid();
begin
    begin
        perform set_config('realtime.topic', send.topic, true);
        insert into realtime.messages (id, extension, topic, event, private, payload)
        values (
            new_id, 'broadcast', send.topic, send.event, send.private,
            case
                when send.payload ? 'id' then send.payload
                -- Fails where there is no key to add: then nothing is sent.
                else jsonb_set(send.payload, '{id}', to_jsonb(new_id))
            end
        );
    exception when others then
        raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
    end;
end
$function$;

create or replace function realtime.send_binary(payload bytea, event text, topic text, private boolean default true)
returns void
language plpgsql
as $function$
begin
    begin
        perform set_config('realtime.topic', send_binary.topic, true);
        insert into realtime.messages (extension, topic, event, private, binary_payload)
        values ('broadcast', send_binary.topic, send_binary.event, send_binary.private, send_binary.payload);
    exception when others then
        raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
    end;
end
$function$;

-- For triggers. A trigger that is wrong is told so: unlike a message that cannot be sent, that does not depend on the row.
create or replace function realtime.broadcast_changes(
    topic_name text,
    event_name text,
    operation text,
    table_name text,
    table_schema text,
    new record,
    old record,
    level text default 'ROW'
) returns void
language plpgsql
as $function$
begin
    if level = 'STATEMENT' then
        raise exception 'Failed to process the row: a trigger FOR EACH STATEMENT has no row, it must be FOR EACH ROW';
    elsif operation is null or operation not in ('INSERT', 'UPDATE', 'DELETE') then
        raise exception 'Failed to process the row: unexpected operation %', coalesce(operation, 'NULL');
    end if;
    begin
        perform realtime.send(
            jsonb_build_object(
                'schema', table_schema,
                'table', table_name,
                'operation', operation,
                'record', to_jsonb(new),
                'old_record', to_jsonb(old)
            ),
            event_name,
            topic_name
        );
    exception when others then
        raise exception 'Failed to process the row: %', sqlerrm;
    end;
end
$function$;

-- As Supabase has it, for whoever manages these objects as that role. What the role may not own stays the installer's.
do $owner$
begin
    if exists (select from pg_roles where rolname = 'supabase_realtime_admin') then
        grant usage, create on schema realtime to supabase_realtime_admin;
        alter table realtime.messages owner to supabase_realtime_admin;
        alter function realtime.topic() owner to supabase_realtime_admin;
        alter function realtime.send(jsonb, text, text, boolean) owner to supabase_realtime_admin;
        alter function realtime.send_binary(bytea, text, text, boolean) owner to supabase_realtime_admin;
        alter function realtime.broadcast_changes(text, text, text, text, text, record, record, text)
            owner to supabase_realtime_admin;
    end if;
exception when insufficient_privilege then
    null;
end
$owner$;
