-- A live chat and a shared inbox, with the row-level security that such applications have: the example that the demo,
-- the client tests and the benchmarks run on.
--
--   psql "$DATABASE_URL" -f sql/examples/chat.sql
--
-- It presupposes the roles anon, authenticated and service_role and the helpers auth.uid() and auth.jwt(): Supabase has
-- them, a plain Postgres gets them from `walcast setup --with-auth`. It may be run again: tables and rows stay, policies,
-- grants and publication are set anew.
--
--   table                published  replica identity  who sees a row
--   support_agents       yes        full              everybody who is signed in
--   live_chat_sessions   yes        full              its user; its agent; while waiting every agent; admins
--   chat_messages        yes        full              those who see its session
--   announcements        yes        default           everybody, signed in or not, once it is published
--   workspace_members    no         default           the member himself
--   contacts             yes        full              the members of its workspace
--   livechat_messages    yes, root  full              the members of its workspace; partitioned by month

begin;

do $$
begin
  if to_regprocedure('auth.uid()') is null or to_regprocedure('auth.jwt()') is null
    or not exists (select from pg_roles where rolname = 'authenticated') then
    raise exception 'auth.uid(), auth.jwt() or the role authenticated is missing'
      using hint = 'On a plain Postgres run "walcast setup --with-auth" first.';
  end if;
end
$$;

set local search_path = public;
set local client_min_messages = warning; -- "already exists, skipping" is what a second run is made of.

-- Live chat ------------------------------------------------------------------------------------------------------------

create table if not exists support_agents (
  user_id uuid primary key,
  display_name text not null,
  available boolean not null default true,
  created_at timestamptz not null default now()
);

create table if not exists live_chat_sessions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null default auth.uid(),
  agent_id uuid references support_agents (user_id),
  status text not null default 'waiting' check (status in ('waiting', 'active', 'closed')),
  subject text,
  created_at timestamptz not null default now(),
  closed_at timestamptz
);
create index if not exists live_chat_sessions_user_id_idx on live_chat_sessions (user_id);
create index if not exists live_chat_sessions_agent_id_idx on live_chat_sessions (agent_id);

create table if not exists chat_messages (
  id bigint generated always as identity primary key,
  session_id uuid not null references live_chat_sessions (id) on delete cascade,
  sender_id uuid not null default auth.uid(),
  sender_type text not null default 'user' check (sender_type in ('user', 'agent', 'system')),
  body text not null,
  metadata jsonb not null default '{}',
  read_at timestamptz,
  created_at timestamptz not null default now()
);
create index if not exists chat_messages_session_id_idx on chat_messages (session_id, created_at);

-- Whole old rows in the WAL: without them a DELETE carries no more than a key, and nobody can tell whose it was.
alter table support_agents replica identity full;
alter table live_chat_sessions replica identity full;
alter table chat_messages replica identity full;

alter table support_agents enable row level security;
alter table live_chat_sessions enable row level security;
alter table chat_messages enable row level security;

drop policy if exists "Signed-in users can see agents" on support_agents;
create policy "Signed-in users can see agents" on support_agents
  for select to authenticated
  using (true);

drop policy if exists "Agents can update themselves" on support_agents;
create policy "Agents can update themselves" on support_agents
  for update to authenticated
  using ((select auth.uid()) = user_id)
  with check ((select auth.uid()) = user_id);

drop policy if exists "Users can see their own sessions" on live_chat_sessions;
create policy "Users can see their own sessions" on live_chat_sessions
  for select to authenticated
  using (auth.uid() = user_id);

drop policy if exists "Agents can see waiting sessions and their own" on live_chat_sessions;
create policy "Agents can see waiting sessions and their own" on live_chat_sessions
  for select to authenticated
  using (
    (status = 'waiting' or agent_id = auth.uid())
    and exists (select 1 from support_agents where support_agents.user_id = auth.uid())
  );

drop policy if exists "Admins can do everything with sessions" on live_chat_sessions;
create policy "Admins can do everything with sessions" on live_chat_sessions
  for all to authenticated
  using ((auth.jwt() -> 'app_metadata' ->> 'role') = 'admin')
  with check ((auth.jwt() -> 'app_metadata' ->> 'role') = 'admin');

drop policy if exists "Users can open sessions" on live_chat_sessions;
create policy "Users can open sessions" on live_chat_sessions
  for insert to authenticated
  with check (auth.uid() = user_id and agent_id is null and status = 'waiting');

drop policy if exists "Agents can take and close sessions" on live_chat_sessions;
create policy "Agents can take and close sessions" on live_chat_sessions
  for update to authenticated
  using (
    (status = 'waiting' or agent_id = auth.uid())
    and exists (select 1 from support_agents where support_agents.user_id = auth.uid())
  )
  with check (agent_id = auth.uid());

drop policy if exists "Users can see messages of their sessions" on chat_messages;
create policy "Users can see messages of their sessions" on chat_messages
  for select to authenticated
  using (
    exists (
      select 1 from live_chat_sessions
      where live_chat_sessions.id = chat_messages.session_id
        and live_chat_sessions.user_id = auth.uid()
    )
  );

drop policy if exists "Agents can see messages of waiting sessions and their own" on chat_messages;
create policy "Agents can see messages of waiting sessions and their own" on chat_messages
  for select to authenticated
  using (
    session_id in (
      select s.id
      from live_chat_sessions s
      join support_agents a on a.user_id = (select auth.uid())
      where s.agent_id = a.user_id or s.status = 'waiting'
    )
  );

drop policy if exists "Admins can do everything with messages" on chat_messages;
create policy "Admins can do everything with messages" on chat_messages
  for all to authenticated
  using ((auth.jwt() -> 'app_metadata' ->> 'role') = 'admin')
  with check ((auth.jwt() -> 'app_metadata' ->> 'role') = 'admin');

drop policy if exists "Participants can write while the session is open" on chat_messages;
create policy "Participants can write while the session is open" on chat_messages
  for insert to authenticated
  with check (
    sender_id = auth.uid()
    and exists (
      select 1 from live_chat_sessions
      where live_chat_sessions.id = chat_messages.session_id
        and live_chat_sessions.status <> 'closed'
        and (
          (live_chat_sessions.user_id = auth.uid() and chat_messages.sender_type = 'user')
          or (live_chat_sessions.agent_id = auth.uid() and chat_messages.sender_type = 'agent')
        )
    )
  );

drop policy if exists "Senders can edit their messages" on chat_messages;
create policy "Senders can edit their messages" on chat_messages
  for update to authenticated
  using (sender_id = auth.uid())
  with check (sender_id = auth.uid());

drop policy if exists "Senders can delete their messages" on chat_messages;
create policy "Senders can delete their messages" on chat_messages
  for delete to authenticated
  using (sender_id = auth.uid());

-- Announcements: the default replica identity, and the one table that people who are not signed in may read ------------

create table if not exists announcements (
  id bigint generated always as identity primary key,
  title text not null,
  body text not null default '',
  published boolean not null default false,
  created_at timestamptz not null default now()
);
-- Old rows are the primary key alone: an UPDATE's old_record and a DELETE's have nothing but `id`.
alter table announcements replica identity default;
alter table announcements enable row level security;

drop policy if exists "Everybody can read what is published" on announcements;
create policy "Everybody can read what is published" on announcements
  for select to anon, authenticated
  using (published);

-- A workspace's inbox ----------------------------------------------------------------------------------------------------

-- Not published: nobody subscribes to it, but the policies below depend on it.
create table if not exists workspace_members (
  workspace_id uuid not null,
  user_id uuid not null,
  role text not null default 'member' check (role in ('owner', 'member')),
  created_at timestamptz not null default now(),
  primary key (workspace_id, user_id)
);
create index if not exists workspace_members_user_id_idx on workspace_members (user_id);

create table if not exists contacts (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null,
  name text,
  email text,
  created_at timestamptz not null default now()
);
create index if not exists contacts_workspace_id_idx on contacts (workspace_id);

create table if not exists livechat_messages (
  id uuid not null default gen_random_uuid(),
  workspace_id uuid not null,
  contact_id uuid not null references contacts (id) on delete cascade,
  direction text not null check (direction in ('inbound', 'outbound')),
  body text not null,
  created_at timestamptz not null default now(),
  primary key (id, created_at)
) partition by range (created_at);
create index if not exists livechat_messages_contact_id_idx on livechat_messages (contact_id, created_at);

-- A partition for each month from the last one to a year ahead, and one for the rest. Replica identity and row-level
-- security are properties of each partition: whoever asks for a partition by its own name meets no policy, so nobody
-- but the owner and service_role gets anything.
do $$
declare
  month date;
  partition text;
begin
  for month in
    select generate_series(
      date_trunc('month', now() at time zone 'UTC') - interval '1 month',
      date_trunc('month', now() at time zone 'UTC') + interval '12 months',
      interval '1 month'
    )::date
  loop
    execute format(
      'create table if not exists %I partition of livechat_messages for values from (%L) to (%L)',
      'livechat_messages_' || to_char(month, 'YYYY_MM'),
      month::text || ' 00:00:00+00',
      (month + interval '1 month')::date::text || ' 00:00:00+00'
    );
  end loop;
  create table if not exists livechat_messages_other partition of livechat_messages default;

  for partition in
    select format('%I.%I', n.nspname, c.relname)
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    join pg_namespace n on n.oid = c.relnamespace
    where i.inhparent = 'livechat_messages'::regclass
  loop
    execute 'alter table ' || partition || ' replica identity full';
    execute 'alter table ' || partition || ' enable row level security';
  end loop;
end
$$;

alter table contacts replica identity full;
alter table livechat_messages replica identity full;

alter table workspace_members enable row level security;
alter table contacts enable row level security;
alter table livechat_messages enable row level security;

drop policy if exists "Members can see their own membership" on workspace_members;
create policy "Members can see their own membership" on workspace_members
  for select to authenticated
  using (user_id = (select auth.uid()));

drop policy if exists "Members can see contacts" on contacts;
create policy "Members can see contacts" on contacts
  for select to authenticated
  using (
    exists (
      select 1 from workspace_members m
      where m.workspace_id = contacts.workspace_id and m.user_id = (select auth.uid())
    )
  );

drop policy if exists "Members can change contacts" on contacts;
create policy "Members can change contacts" on contacts
  for all to authenticated
  using (workspace_id in (select workspace_id from workspace_members where user_id = (select auth.uid())))
  with check (workspace_id in (select workspace_id from workspace_members where user_id = (select auth.uid())));

drop policy if exists "Members can see the inbox" on livechat_messages;
create policy "Members can see the inbox" on livechat_messages
  for select to authenticated
  using (
    exists (
      select 1 from workspace_members m
      where m.workspace_id = livechat_messages.workspace_id and m.user_id = (select auth.uid())
    )
  );

drop policy if exists "Members can answer" on livechat_messages;
create policy "Members can answer" on livechat_messages
  for insert to authenticated
  with check (
    direction = 'outbound'
    and exists (
      select 1 from workspace_members m
      where m.workspace_id = livechat_messages.workspace_id and m.user_id = (select auth.uid())
    )
  );

drop policy if exists "Owners can delete messages" on livechat_messages;
create policy "Owners can delete messages" on livechat_messages
  for delete to authenticated
  using (
    exists (
      select 1 from workspace_members m
      where m.workspace_id = livechat_messages.workspace_id and m.user_id = (select auth.uid()) and m.role = 'owner'
    )
  );

-- Grants, as Supabase gives them: broad, because the policies decide -----------------------------------------------------

grant usage on schema public to anon, authenticated, service_role;
grant select, insert, update, delete
  on support_agents, live_chat_sessions, chat_messages, announcements, workspace_members, contacts, livechat_messages
  to anon, authenticated, service_role;

-- What is published ------------------------------------------------------------------------------------------------------

do $$
declare
  wanted text;
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  foreach wanted in array array[
    'support_agents', 'live_chat_sessions', 'chat_messages', 'announcements', 'contacts', 'livechat_messages'
  ] loop
    if not exists (
      select from pg_publication_rel r
      join pg_publication p on p.oid = r.prpubid
      where p.pubname = 'supabase_realtime' and r.prrelid = format('public.%I', wanted)::regclass
    ) and not exists (select from pg_publication where pubname = 'supabase_realtime' and puballtables) then
      execute format('alter publication supabase_realtime add table public.%I', wanted);
    end if;
  end loop;
end
$$;
-- Changes of a partition under the name of its root: clients subscribe to livechat_messages, whatever the month.
alter publication supabase_realtime set (publish_via_partition_root = true);

commit;
