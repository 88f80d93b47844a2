-- walcast's own schema. Nobody but the owner and the stream's login may look into it.
create schema if not exists walcast;
revoke all on schema walcast from public;
comment on schema walcast is 'walcast: relays changes over logical replication. Made by `walcast setup`; `walcast setup --remove` takes it away.';

-- One row: what setup was asked for and where it was done. A dump restored elsewhere is recognised by it.
create table if not exists walcast.installation (
    only_row boolean primary key default true check (only_row),
    publications text[] not null,
    system_identifier text not null,
    database oid not null,
    -- What setup made that was not there before, outside this schema: `--remove` takes away no more than that.
    created text[] not null default '{}',
    version text not null,
    at timestamptz not null default now()
);

-- The login that evaluates policies, for the relay to find: `serve` is given one URL.
create table if not exists walcast.oracle_login (
    only_row boolean primary key default true check (only_row),
    login text not null,
    password text not null
);
-- pg_read_all_data reads every table, but for the rows that no policy shows it.
alter table walcast.oracle_login enable row level security;

revoke all on all tables in schema walcast from public;
