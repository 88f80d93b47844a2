-- Logs DDL. An event trigger that fails makes everybody's DDL fail: hence the handlers, which catch even a timeout.
create or replace function walcast.on_ddl() returns event_trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $function$
declare
    twice regclass;
begin
    if tg_tag = any ('{
        COMMENT, REFRESH MATERIALIZED VIEW, CREATE MATERIALIZED VIEW, ALTER MATERIALIZED VIEW, CREATE VIEW, ALTER VIEW,
        CREATE SEQUENCE, ALTER SEQUENCE, CREATE STATISTICS, ALTER STATISTICS, CREATE TRIGGER, ALTER TRIGGER,
        CREATE RULE, ALTER RULE, CREATE SUBSCRIPTION, ALTER SUBSCRIPTION, CREATE SERVER, ALTER SERVER,
        CREATE USER MAPPING, ALTER USER MAPPING, CREATE FOREIGN TABLE, ALTER FOREIGN TABLE
    }'::text[]) then
        return;
    end if;
    begin
        if tg_event = 'sql_drop' then
            -- 14 calls the default value of a temporary table's column permanent.
            if not exists (
                select
                from pg_event_trigger_dropped_objects()
                where not is_temporary
                    and object_type <> all ('{default value, trigger, rule, sequence, view, materialized view}')
            ) then
                return;
            end if;
        else
            -- What is dropped comes by sql_drop; DROP OWNED also revokes.
            if tg_tag like 'DROP %' and tg_tag <> 'DROP OWNED' then
                return;
            end if;
            if exists (select from pg_event_trigger_ddl_commands())
                and not exists (
                    select from pg_event_trigger_ddl_commands() where schema_name is distinct from 'pg_temp'
                )
            then
                return;
            end if;
        end if;
        -- One per transaction; another one if the first has been filled in early (SET CONSTRAINTS ALL IMMEDIATE).
        if not exists (select from walcast.ddl_log where xid = pg_current_xact_id() and state is null) then
            insert into walcast.ddl_log (tag) values (tg_tag);
        end if;
    exception when query_canceled or others then
        raise warning 'walcast: this % was not logged, the relay''s poll will find it: %', tg_tag, sqlerrm;
    end;
    begin
        -- A table in both publications would change what the user's means: row filters are OR-ed away.
        for twice in
            select own.prrelid::regclass
            from pg_publication p
            join pg_publication_rel own on own.prpubid = p.oid
            join pg_class c on c.oid = own.prrelid
            join pg_namespace n on n.oid = c.relnamespace
            cross join walcast.installation i
            where p.pubname = 'walcast' and n.nspname <> 'walcast'
                and exists (
                    select
                    from pg_publication u
                    left join pg_publication_rel r on r.prpubid = u.oid
                    left join pg_depend d
                        on d.classid = 6237 and d.refclassid = 'pg_publication'::regclass and d.refobjid = u.oid
                    left join pg_depend s
                        on s.classid = 6237 and s.refclassid = 'pg_namespace'::regclass and s.objid = d.objid
                    where u.pubname = any (i.publications)
                        and (
                            u.puballtables
                            or r.prrelid = c.oid
                            or s.refobjid = c.relnamespace
                            or r.prrelid in (select a.relid from pg_partition_ancestors(c.oid) a)
                            or c.oid in (select a.relid from pg_partition_ancestors(r.prrelid) a)
                            -- A partition in the schema, or a table that this one is a partition of.
                            or exists (
                                select
                                from pg_class part
                                where part.relispartition and part.relnamespace = s.refobjid
                                    and c.oid in (select a.relid from pg_partition_ancestors(part.oid) a)
                            )
                            or exists (
                                select
                                from pg_partition_ancestors(c.oid) a
                                join pg_class above on above.oid = a.relid
                                where above.relnamespace = s.refobjid
                            )
                        )
                )
        loop
            execute format('alter publication walcast drop table only %s', twice);
        end loop;
    exception when query_canceled or others then
        raise warning 'walcast: a table is in the publication "walcast" and in another that the relay reads: %', sqlerrm;
    end;
end
$function$;
revoke all on function walcast.on_ddl() from public;

drop event trigger if exists walcast_ddl_command_end;
create event trigger walcast_ddl_command_end on ddl_command_end execute function walcast.on_ddl();
alter event trigger walcast_ddl_command_end enable always;

drop event trigger if exists walcast_sql_drop;
create event trigger walcast_sql_drop on sql_drop execute function walcast.on_ddl();
alter event trigger walcast_sql_drop enable always;
