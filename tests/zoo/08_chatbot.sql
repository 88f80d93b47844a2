-- Source: mckaywrigley/chatbot-ui @ 81328b61d2a4ab597a7a057be70e785cf756d9f8
create schema zoo_chatbot;
select zoo.people('zoo_chatbot');

create table zoo_chatbot.workspaces(id uuid primary key, user_id uuid not null, sharing text not null);
create table zoo_chatbot.files(id uuid primary key, user_id uuid not null, sharing text not null);
create table zoo_chatbot.file_items(id uuid primary key, user_id uuid not null, file_id uuid not null);
create table zoo_chatbot.collections(id uuid primary key, user_id uuid not null, sharing text not null);
create table zoo_chatbot.collection_files(
  user_id uuid not null, collection_id uuid, file_id uuid, primary key (collection_id, file_id));
create table zoo_chatbot.chats(id uuid primary key, user_id uuid not null, sharing text not null);
create table zoo_chatbot.messages(id uuid primary key, user_id uuid not null, chat_id uuid not null);
create table zoo_chatbot.objects(id int primary key, bucket_id text, name text, owner_id text);

-- As the storage schema has it.
create function zoo_chatbot.foldername(name text) returns text[] language plpgsql as $$
declare
  parts text[];
begin
  select string_to_array(name, '/') into parts;
  return parts[1:array_length(parts, 1) - 1];
end;
$$;
create function zoo_chatbot.non_private_file_exists(p_name text) returns boolean language sql security definer as $$
  select exists (select 1 from zoo_chatbot.files
    where (id::text = (zoo_chatbot.foldername(p_name))[2]) and sharing <> 'private');
$$;

alter table zoo_chatbot.workspaces enable row level security;
alter table zoo_chatbot.files enable row level security;
alter table zoo_chatbot.file_items enable row level security;
alter table zoo_chatbot.collections enable row level security;
alter table zoo_chatbot.collection_files enable row level security;
alter table zoo_chatbot.chats enable row level security;
alter table zoo_chatbot.messages enable row level security;
alter table zoo_chatbot.objects enable row level security;

-- [42] ownership: FOR ALL, with a check of the same text.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234542_add_workspaces.sql
create policy "own workspaces" on zoo_chatbot.workspaces using (user_id = auth.uid()) with check (user_id = auth.uid());
-- [43] public flag: whatever is not private.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234542_add_workspaces.sql
create policy "shared workspaces" on zoo_chatbot.workspaces for select using (sharing <> 'private');
-- [44] ownership: own files.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234544_add_files.sql
create policy "own files" on zoo_chatbot.files using (user_id = auth.uid()) with check (user_id = auth.uid());
-- [45] public flag: shared files.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234544_add_files.sql
create policy "shared files" on zoo_chatbot.files for select using (sharing <> 'private');
-- [46] two hops: files of shared collections: IN within IN, over tables with policies.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234551_add_collections.sql
create policy "files of shared collections" on zoo_chatbot.files for select
  using (id in (select file_id from zoo_chatbot.collection_files where collection_id in (
    select id from zoo_chatbot.collections where sharing <> 'private')));
-- [47] ownership: own parts of files.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234545_add_file_items.sql
create policy "own items" on zoo_chatbot.file_items using (user_id = auth.uid()) with check (user_id = auth.uid());
-- [48] inner table with policies: parts of shared files.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234545_add_file_items.sql
create policy "items of shared files" on zoo_chatbot.file_items for select
  using (file_id in (select id from zoo_chatbot.files where sharing <> 'private'));
-- [49] ownership: own collections.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234551_add_collections.sql
create policy "own collections" on zoo_chatbot.collections using (user_id = auth.uid()) with check (user_id = auth.uid());
-- [50] public flag: shared collections.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234551_add_collections.sql
create policy "shared collections" on zoo_chatbot.collections for select using (sharing <> 'private');
-- [51] ownership: own links of files to collections.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234551_add_collections.sql
create policy "own collection files" on zoo_chatbot.collection_files using (user_id = auth.uid()) with check (user_id = auth.uid());
-- [52] inner table with policies: links of shared collections.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234551_add_collections.sql
create policy "files in shared collections" on zoo_chatbot.collection_files for select
  using (collection_id in (select id from zoo_chatbot.collections where sharing <> 'private'));
-- [53] ownership: own messages.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234549_add_messages.sql
create policy "own messages" on zoo_chatbot.messages using (user_id = auth.uid()) with check (user_id = auth.uid());
-- [54] inner table with policies: messages of shared chats.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234549_add_messages.sql
create policy "messages of shared chats" on zoo_chatbot.messages for select
  using (chat_id in (select id from zoo_chatbot.chats where sharing <> 'private'));
-- [55] public flag: shared chats.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234548_add_chats.sql
create policy "shared chats" on zoo_chatbot.chats for select using (sharing <> 'private');
-- [56] cast of the row: an image by the folders of its name: a cast that may fail, in a scalar sub-query in an EXISTS, behind an OR.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234549_add_messages.sql
create policy "message images" on zoo_chatbot.objects for select
  using (bucket_id = 'message_images' and ((zoo_chatbot.foldername(name))[1] = auth.uid()::text or (
    exists (select 1 from zoo_chatbot.chats where id = (
      select chat_id from zoo_chatbot.messages where id = (zoo_chatbot.foldername(name))[2]::uuid)
      and sharing <> 'private'))));
-- [57] SECURITY DEFINER sql: objects of shared files, by a definer function without search_path.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234544_add_files.sql
create policy "objects of shared files" on zoo_chatbot.objects for select
  using (bucket_id = 'files' and zoo_chatbot.non_private_file_exists(name));
-- [58] text of the user's id: own objects, compared as text.
-- mckaywrigley/chatbot-ui: supabase/migrations/20240108234540_setup.sql
create policy "own objects" on zoo_chatbot.objects for select to authenticated using (auth.uid()::text = owner_id::text);

insert into zoo_chatbot.workspaces
  select zoo.id(n), zoo.id(1 + n % 3), case when n % 3 = 0 then 'public' else 'private' end from generate_series(1, 12) n;
insert into zoo_chatbot.files
  select zoo.id(n), zoo.id(1 + n % 3), case when n % 4 = 0 then 'public' else 'private' end from generate_series(1, 12) n;
insert into zoo_chatbot.collections
  select zoo.id(n), zoo.id(1 + n % 3), case when n % 3 = 0 then 'unlisted' else 'private' end from generate_series(1, 9) n;
insert into zoo_chatbot.collection_files
  select zoo.id(1 + n % 3), zoo.id(1 + n % 9), zoo.id(1 + n % 12) from generate_series(1, 18) n on conflict do nothing;
insert into zoo_chatbot.file_items select zoo.id(n), zoo.id(1 + n % 3), zoo.id(1 + n % 12) from generate_series(1, 14) n;
insert into zoo_chatbot.chats
  select zoo.id(n), zoo.id(1 + n % 3), case when n % 3 = 1 then 'public' else 'private' end from generate_series(1, 8) n;
insert into zoo_chatbot.messages select zoo.id(n), zoo.id(1 + n % 3), zoo.id(1 + n % 8) from generate_series(1, 16) n;
insert into zoo_chatbot.objects
  select n, 'message_images', zoo.id(1 + n % 3) || '/' || zoo.id(1 + n) || '/' || n || '.png', zoo.id(1 + n % 3)::text
  from generate_series(1, 10) n
  union all select 10 + n, 'message_images', zoo.id(1 + n % 3) || '/not-a-uuid/x.png', zoo.id(1)::text from generate_series(1, 3) n
  union all select 20 + n, 'files', zoo.id(1 + n % 3) || '/' || zoo.id(n) || '/x.pdf', zoo.id(2)::text from generate_series(1, 9) n
  union all select 40, 'files', 'flat', 'nobody'
  union all select 41, null, null, null;
select zoo.expose('zoo_chatbot');
