-- Source: RsrRuso/cocktailsop @ 0b14b1bb13b699892ece90c2bab567fb452ec134
-- The body of is_team_member is the one that its policies presume.
create schema zoo_cocktails;
select zoo.people('zoo_cocktails');
create table zoo_cocktails.conversations(id uuid primary key, participant_ids uuid[] not null);
create table zoo_cocktails.messages(id uuid primary key, conversation_id uuid, body text);
create table zoo_cocktails.messages_by_exists(id uuid primary key, conversation_id uuid);
create table zoo_cocktails.stories(id uuid primary key, user_id uuid, expires_at timestamptz);
create table zoo_cocktails.team_members(team_id uuid, user_id uuid, primary key (team_id, user_id));
create table zoo_cocktails.documents(id uuid primary key, user_id uuid, shared_with uuid[], team_id uuid);
create function zoo_cocktails.is_team_member(_user_id uuid, _team_id uuid) returns boolean
language sql stable security definer set search_path = public as $$
  select exists (select 1 from zoo_cocktails.team_members where user_id = _user_id and team_id = _team_id)
$$;
alter table zoo_cocktails.conversations enable row level security;
alter table zoo_cocktails.messages enable row level security;
alter table zoo_cocktails.messages_by_exists enable row level security;
alter table zoo_cocktails.stories enable row level security;
alter table zoo_cocktails.documents enable row level security;

-- [172] ANY of an array: the user is in an array of the row.
-- RsrRuso/cocktailsop: supabase/migrations/20251009170907_651cdab5-ec23-414d-b70a-2c981c38f060.sql
create policy "own conversations" on zoo_cocktails.conversations for select using (auth.uid() = any (participant_ids));
-- [173] inner table with policies: messages of conversations in whose array the user is, by IN.
-- RsrRuso/cocktailsop: supabase/migrations/20251010124133_a07b0981-1a34-4095-90a0-48661c0e3060.sql
create policy "own messages" on zoo_cocktails.messages for select
  using (conversation_id in (select id from zoo_cocktails.conversations where auth.uid() = any (participant_ids)));
-- [174] inner table with policies: the same by EXISTS.
-- RsrRuso/cocktailsop: supabase/migrations/20251009170907_651cdab5-ec23-414d-b70a-2c981c38f060.sql
create policy "own messages" on zoo_cocktails.messages_by_exists for select
  using (exists (select 1 from zoo_cocktails.conversations
    where id = messages_by_exists.conversation_id and auth.uid() = any (participant_ids)));
-- [175] time window: until a moment.
-- RsrRuso/cocktailsop: supabase/migrations/20251009170907_651cdab5-ec23-414d-b70a-2c981c38f060.sql
create policy "active stories" on zoo_cocktails.stories for select using (expires_at > now());
-- [176] ANY of an array: one's own, shared by an array, or of one's team by a definer function.
-- RsrRuso/cocktailsop: supabase/migrations/20251110205856_091e8505-d6b6-4a61-a0c6-52fa07c7683a.sql
create policy "own and shared" on zoo_cocktails.documents for select
  using (user_id = auth.uid() or auth.uid() = any (shared_with)
    or (team_id is not null and zoo_cocktails.is_team_member(auth.uid(), team_id)));

insert into zoo_cocktails.conversations
  select zoo.id(n), case n % 5 when 0 then '{}' when 1 then array[zoo.id(1), null] when 2 then array[zoo.id(2), zoo.id(3)]
    when 3 then array[zoo.id(3), zoo.id(1)] else array[zoo.id(1 + n % 3), zoo.id(4)] end from generate_series(1, 10) n;
insert into zoo_cocktails.messages select zoo.id(n), zoo.id(1 + n % 10) from generate_series(1, 12) n;
insert into zoo_cocktails.messages_by_exists select id, conversation_id from zoo_cocktails.messages;
insert into zoo_cocktails.stories
  select zoo.id(n), zoo.id(1 + n % 3), case when n % 2 = 0 then now() - interval '1 hour' else now() + interval '1 day' end from generate_series(1, 6) n;
insert into zoo_cocktails.team_members values (zoo.id(11), zoo.id(1)), (zoo.id(11), zoo.id(2)), (zoo.id(12), zoo.id(3));
insert into zoo_cocktails.documents
  select zoo.id(n), zoo.id(1 + n % 5), case n % 4 when 0 then null when 1 then array[zoo.id(2)] else '{}' end,
    case n % 3 when 0 then null else zoo.id(10 + n % 3) end from generate_series(1, 15) n;
select zoo.expose('zoo_cocktails');
