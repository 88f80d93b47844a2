-- Source: zakandrewking/brainshare-golden-eagle (commit not recorded)
create schema zoo_chatstream;
select zoo.people('zoo_chatstream');
create table zoo_chatstream.chat(id uuid primary key, user_id uuid);
create table zoo_chatstream.broadcasts(id int primary key, topic text, extension text);
alter table zoo_chatstream.broadcasts enable row level security;

-- [152] cast of the row: the row's text names the chat: split and cast within EXISTS.
-- zakandrewking/brainshare-golden-eagle: supabase/migrations/0009_broadcast-changes.sql
create policy "broadcasts of own chats" on zoo_chatstream.broadcasts for select to authenticated
  using (broadcasts.extension = 'broadcast' and exists (select 1 from zoo_chatstream.chat
    where zoo_chatstream.chat.id = split_part(broadcasts.topic, ':', 2)::uuid and zoo_chatstream.chat.user_id = auth.uid()));

insert into zoo_chatstream.chat select zoo.id(10 + n), zoo.id(1 + n % 3) from generate_series(1, 6) n;
insert into zoo_chatstream.broadcasts
  select n, 'chat:' || zoo.id(11 + n % 6) || ':x', case when n % 8 = 0 then 'presence' else 'broadcast' end from generate_series(1, 16) n
  union all values (30, 'chat:', 'broadcast'), (31, 'lobby', 'presence'), (32, null, 'broadcast');
delete from zoo_chatstream.persons where label = 'anon';
select zoo.expose('zoo_chatstream');
