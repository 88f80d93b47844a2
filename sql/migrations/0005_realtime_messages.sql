-- Broadcast from the database, on a Postgres where Supabase has not installed its own: what is inserted here is broadcast
-- when it commits, and kept for replay. Policies on this table say who may use a private channel.
create schema if not exists realtime;

create table if not exists realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    -- UTC, whatever the session's time zone: partitions are days of UTC.
    updated_at timestamp not null default timezone('utc', now()),
    inserted_at timestamp not null default timezone('utc', now()),
    id uuid not null default gen_random_uuid(),
    binary_payload bytea,
    primary key (id, inserted_at),
    constraint messages_one_payload check (payload is null or binary_payload is null)
) partition by range (inserted_at);

-- What a replay reads.
create index if not exists messages_replay on realtime.messages (inserted_at desc, topic)
    where extension = 'broadcast' and private;

alter table realtime.messages enable row level security;
