-- Source: softmaple/softmaple @ d3ea772debcf5bb62add3fdb4729e483cc38c144
create schema zoo_documents;
select zoo.people('zoo_documents');
-- The source's functions are neither definer nor have they a search_path; here they name the schema.
create table zoo_documents.workspaces(id int primary key, owner_id uuid);
create table zoo_documents.workspace_members(workspace_id int, user_id uuid, role text, primary key (workspace_id, user_id));
create table zoo_documents.documents(id int primary key, workspace_id int, author_id uuid, is_public boolean);
create table zoo_documents.versions(id int primary key, workspace_id int);
create function zoo_documents.is_workspace_member(p_user_id uuid, p_workspace_id int) returns boolean as $$
begin
  return exists (select 1 from zoo_documents.workspace_members where workspace_id = p_workspace_id and user_id = p_user_id);
end;
$$ language plpgsql stable;
create function zoo_documents.is_author(p_user_id uuid, p_author_id uuid) returns boolean as $$
begin
  return p_user_id = p_author_id;
end;
$$ language plpgsql stable;
alter table zoo_documents.workspaces enable row level security;
alter table zoo_documents.workspace_members enable row level security;
alter table zoo_documents.documents enable row level security;
alter table zoo_documents.versions enable row level security;

-- [159] ownership: one's own memberships.
-- softmaple/softmaple: packages/db/supabase/rls/02_policies_workspace_members.sql
create policy "own memberships" on zoo_documents.workspace_members for select using (user_id = (select auth.uid()));
-- [160] plpgsql, invoker: member by a plpgsql function that the inner table's policies hold for, or owner.
-- softmaple/softmaple: packages/db/supabase/rls/01_policies_workspaces.sql
create policy "joined workspaces" on zoo_documents.workspaces for select
  using (zoo_documents.is_workspace_member((select auth.uid()), id) or owner_id = (select auth.uid()));
-- [161] public flag: public, or the author, or a member: plpgsql with sub-queries as arguments.
-- softmaple/softmaple: packages/db/supabase/rls/03_policies_documents.sql
create policy "documents" on zoo_documents.documents for select
  using (is_public = true or zoo_documents.is_author((select auth.uid()), author_id)
    or zoo_documents.is_workspace_member((select auth.uid()), workspace_id));
-- [162] membership, one hop: EXISTS over a table with policies.
-- softmaple/softmaple: packages/db/supabase/rls/04_policies_document_versions.sql
create policy "versions" on zoo_documents.versions for all
  using (exists (select 1 from zoo_documents.workspace_members
    where workspace_id = versions.workspace_id and user_id = (select auth.uid())));

insert into zoo_documents.workspaces select n, zoo.id(1 + n % 3) from generate_series(1, 6) n;
insert into zoo_documents.workspace_members
  select 1 + n % 6, zoo.id(1 + n % 3), case when n % 3 = 0 then 'OWNER' else 'MEMBER' end from generate_series(1, 6) n
  union select n, zoo.id(1 + (n + 1) % 3), 'MEMBER' from generate_series(1, 6, 2) n
  on conflict do nothing;
insert into zoo_documents.documents
  select n, 1 + n % 6, zoo.id(1 + n % 4), case n % 5 when 0 then true when 1 then null else false end from generate_series(1, 15) n;
insert into zoo_documents.versions select n, 1 + n % 7 from generate_series(1, 14) n;
select zoo.expose('zoo_documents');
