-- The catalog's states, in commit order: the relay applies a row at the row's own place in the stream, not what it
-- would read later. Rows, and not logical messages: anybody may emit a message, nobody else can write here.
create table if not exists walcast.ddl_log (
    id bigint generated always as identity primary key,
    xid xid8 not null default pg_current_xact_id(),
    at timestamptz not null default clock_timestamp(),
    tag text not null,
    -- walcast.catalog_state() as the commit leaves it. What counts is the order of commits, that of the stream; ids are
    -- in the order of the first DDL. NULL: the relay has to read the catalog itself.
    state text
);
revoke all on walcast.ddl_log from public;
create index if not exists ddl_log_pending on walcast.ddl_log (xid) where state is null;

-- Nothing but a lock (see fill_state). A table, since anybody could hold an advisory lock.
create table if not exists walcast.ddl_lock ();
revoke all on walcast.ddl_lock from public;

create or replace function walcast.catalog_state(publications text[], with_texts boolean) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
set jit = off
set quote_all_identifiers = off
set standard_conforming_strings = on
as $state$
--{sql/catalog/state.sql}
$state$;
revoke all on function walcast.catalog_state(text[], boolean) from public;

-- Runs once per transaction, at its commit: all of the transaction's DDL in one state. It must never fail somebody's
-- commit, so whatever goes wrong leaves the state NULL.
create or replace function walcast.fill_state() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $function$
declare
    wanted text[];
    document text;
begin
    begin
        -- A snapshot taken at the transaction's start does not show what others have committed since: its state would
        -- take their changes back.
        if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
            return null;
        end if;
        -- Held to the end of the commit. Of two transactions with DDL at the same time, the second one's state has to
        -- contain what the first one did.
        lock table walcast.ddl_lock in exclusive mode;
        select publications into wanted from walcast.installation;
        perform set_config('lock_timeout', '200ms', true);
        begin
            document := walcast.catalog_state(wanted, true)::text;
        exception when others then
            -- pg_get_expr waits behind ACCESS EXCLUSIVE locks. The trees do without it, the relay fetches the texts.
            document := walcast.catalog_state(wanted, false)::text;
        end;
        if octet_length(document) <= 16777216 then
            update walcast.ddl_log set state = document where id = new.id;
        end if;
    exception when query_canceled or others then
        raise warning 'walcast: the catalog''s state was not logged, the relay will read it itself: %', sqlerrm;
    end;
    return null;
end
$function$;
revoke all on function walcast.fill_state() from public;

-- Not dropped and made again: the event trigger would log that, into a table without this trigger.
do $trigger$
begin
    if not exists (
        select from pg_trigger where tgrelid = 'walcast.ddl_log'::regclass and tgname = 'fill_state'
    ) then
        create constraint trigger fill_state after insert on walcast.ddl_log
            deferrable initially deferred
            for each row execute function walcast.fill_state();
    end if;
end
$trigger$;
-- Also under session_replication_role = replica.
alter table walcast.ddl_log enable always trigger fill_state;

-- Called by the relay with the id of a row that the slot is confirmed past. The newest row stays.
create or replace function walcast.prune_ddl_log(before bigint) returns bigint
language sql security definer
set search_path = pg_catalog, pg_temp
as $function$
    with pruned as (
        delete from walcast.ddl_log
        where id < before and id < (select max(id) from walcast.ddl_log)
        returning 1
    )
    select count(*) from pruned
$function$;
revoke all on function walcast.prune_ddl_log(bigint) from public;
