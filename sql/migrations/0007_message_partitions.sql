-- Called by setup, and by the relay every few minutes: partitions of realtime.messages for yesterday to three days ahead, in
-- UTC, and none older than the retention. What another keeps is left alone: days that any partition covers, partitions
-- with other names. With nothing to do it takes no lock, and does no DDL.
create or replace function walcast.keep_messages(
    retention interval default '72 hours', out created integer, out dropped integer, out problem text
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- Inserts queue behind whoever waits for a lock here. What cannot be had at once is tried again at the next call.
set lock_timeout = '250ms'
as $function$
declare
    parent oid;
    parent_owner name;
    today date := timezone('utc', now())::date;
    -- Not yesterday's, however short the retention: it would be made again.
    oldest timestamp := least(timezone('utc', now()) - retention, today - 1);
    day date;
    part name;
    ranges tsrange[];
    strange text;
begin
    created := 0;
    dropped := 0;
    select c.oid, r.rolname into parent, parent_owner
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_roles r on r.oid = c.relowner
    where n.nspname = 'realtime' and c.relname = 'messages' and c.relkind = 'p';
    if parent is null then
        return;
    end if;

    -- A bound that is no time, and a default partition's, are taken for everything and for nothing.
    select coalesce(array_agg(tsrange(
        (regexp_match(bound.text, $$FROM \('([^']+)'\)$$))[1]::timestamp,
        (regexp_match(bound.text, $$TO \('([^']+)'\)$$))[1]::timestamp
    )), '{}') into ranges
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    cross join lateral pg_get_expr(c.relpartbound, c.oid) bound(text)
    where i.inhparent = parent and bound.text <> 'DEFAULT';

    for day in select today + ahead from generate_series(-1, 3) ahead loop
        continue when tsrange(day, day + 1) && any (ranges);
        part := to_char(day, '"messages_"YYYY_MM_DD');
        begin
            -- What is copied and attached here is planned, and what is constant in it computed, as this function's owner:
            -- an immutable function in a CHECK, an index or the partition key would run with his rights. So a table of
            -- somebody else's gets partitions only while it is made of what Postgres brings; the lock keeps it so.
            if parent_owner <> current_user then
                lock table only realtime.messages in share update exclusive mode;
                if to_regclass('realtime.messages') is distinct from parent then
                    raise exception 'realtime.messages is another table than a moment ago';
                end if;
                select string_agg(distinct what, ', ') into strange
                from pg_partition_tree(parent) tree
                cross join lateral (
                    select pg_describe_object(d.refclassid, d.refobjid, 0)
                    from pg_depend d
                    where d.refobjid >= 16384 -- FirstNormalObjectId
                        and (
                            d.refclassid in (
                                'pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass
                            )
                            or d.refclassid = 'pg_type'::regclass
                                and (select t.typtype from pg_type t where t.oid = d.refobjid) <> 'e'
                        )
                        and (
                            d.classid = 'pg_class'::regclass and d.objid = tree.relid
                            or d.classid = 'pg_class'::regclass
                                and d.objid in (select i.indexrelid from pg_index i where i.indrelid = tree.relid)
                            or d.classid = 'pg_constraint'::regclass
                                and d.objid in (select k.oid from pg_constraint k where k.conrelid = tree.relid)
                        )
                    union all
                    -- Attached, it is looked whether they hold, by a query over the table that they refer to.
                    select pg_describe_object('pg_constraint'::regclass, k.oid, 0)
                    from pg_constraint k
                    where k.conrelid = tree.relid and k.contype = 'f'
                ) found(what);
                if strange is not null then
                    raise exception 'it has %, so its owner % has to make it', strange, parent_owner;
                end if;
            end if;
            -- CREATE TABLE .. PARTITION OF would lock out every INSERT; ATTACH PARTITION does not.
            execute format('create table realtime.%I (like realtime.messages including all)', part);
            -- Nobody was granted anything on it but by default privileges: those see no row.
            execute format('alter table realtime.%I enable row level security', part);
            if parent_owner <> current_user then
                execute format('alter table realtime.%I owner to %I', part, parent_owner);
            end if;
            execute format(
                'alter table realtime.messages attach partition realtime.%I for values from (%L) to (%L)', part, day, day + 1
            );
            created := created + 1;
        exception when others then
            problem := format('realtime.%s was not made: %s', part, sqlerrm);
        end;
    end loop;

    for part in
        select c.relname
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        join pg_namespace n on n.oid = c.relnamespace
        cross join lateral pg_get_expr(c.relpartbound, c.oid) bound(text)
        where i.inhparent = parent and n.nspname = 'realtime' and c.relname ~ '^messages_\d{4}_\d{2}_\d{2}$'
            and (regexp_match(bound.text, $$TO \('([^']+)'\)$$))[1]::timestamp <= oldest
    loop
        begin
            execute format('drop table realtime.%I', part);
            dropped := dropped + 1;
        exception when others then
            problem := format('realtime.%s was not dropped: %s', part, sqlerrm);
        end;
    end loop;
end
$function$;
revoke all on function walcast.keep_messages(interval) from public;
