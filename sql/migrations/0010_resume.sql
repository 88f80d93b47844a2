-- Where those who resume have got to. Written by the relay in batches; a row has some 100 bytes, and one is written when
-- its client was found to have handled more.
create table if not exists walcast.resume_keys (
    -- A hash of the client's key, its role, its subject and what it subscribes to.
    key bytea primary key,
    -- Of the commit record of the last transaction of which something was handled, and up to which of its changes.
    position pg_lsn not null,
    index bigint not null,
    heard timestamptz not null default now()
) with (fillfactor = 70);

-- Up to where each slot's changes had been handed over. What comes after it is sent to whoever is there, what comes before
-- it to those who resume alone.
create table if not exists walcast.resume_state (
    slot text primary key,
    -- Positions mean nothing in another database.
    system_identifier text not null,
    handed_over pg_lsn not null,
    -- The slot was never confirmed past a change that came after it.
    is_exact boolean not null,
    written timestamptz not null default now()
) with (fillfactor = 50);
