-- Source: tutur3u/platform @ 6a5389fd0b68889d57e0b7bf1de77464cc04ad44
-- The source's functions have no search_path and name their tables without a schema: the tables are in public.
create schema zoo_platform;
select zoo.people('zoo_platform');
create table public.zoo_platform_members(user_id uuid, org_id uuid, primary key (user_id, org_id));
create table public.zoo_platform_invites(id int primary key, user_id uuid, org_id uuid);
create table public.zoo_platform_board_members(user_id uuid, board_id uuid, primary key (user_id, board_id));
create table public.zoo_platform_boards(id uuid primary key, creator_id uuid);
create table public.zoo_platform_nova_roles(email text primary key, allow_role_management boolean);

create function public.zoo_platform_is_member(_user_id uuid, _org_id uuid) returns boolean language sql security definer as $$
select exists (select 1 from zoo_platform_members om where om.org_id = _org_id and om.user_id = _user_id);
$$;
create function public.zoo_platform_is_board_member(_user_id uuid, _board_id uuid) returns boolean language sql security definer as $$
select exists (select 1 from zoo_platform_board_members bm where bm.board_id = _board_id and bm.user_id = _user_id);
$$;
create function public.zoo_platform_is_role_manager() returns boolean language plpgsql as $function$begin
  return exists (select 1 from zoo_platform_nova_roles where (select auth.email()) = email and allow_role_management = true);
end;$function$;

alter table zoo_platform_members enable row level security;
alter table zoo_platform_invites enable row level security;
alter table zoo_platform_board_members enable row level security;
alter table zoo_platform_boards enable row level security;
alter table zoo_platform_nova_roles enable row level security;

-- [128] SECURITY DEFINER sql: a function of the user and the row, without search_path.
-- tutur3u/platform: apps/database/supabase/migrations/20230202082703_remote_commit.sql
create policy "members" on zoo_platform_members for select to authenticated using (zoo_platform_is_member(auth.uid(), org_id));
-- [129] SECURITY DEFINER sql: one's own invitations, or those of one's organization.
-- tutur3u/platform: apps/database/supabase/migrations/20230202082703_remote_commit.sql
create policy "invites" on zoo_platform_invites for select to authenticated
  using (((auth.uid() = user_id) or zoo_platform_is_member(auth.uid(), org_id)));
-- [130] ownership: ownership AND a definer function over the same table.
-- tutur3u/platform: apps/database/supabase/migrations/20230202082703_remote_commit.sql
create policy "board members" on zoo_platform_board_members for select to authenticated
  using (((user_id = auth.uid()) and zoo_platform_is_board_member(auth.uid(), board_id)));
-- [131] several policies per table: boards of which one is a member.
-- tutur3u/platform: apps/database/supabase/migrations/20230202082703_remote_commit.sql
create policy "boards of members" on zoo_platform_boards for select to authenticated using (zoo_platform_is_board_member(auth.uid(), id));
-- [132] ownership: boards that one made.
-- tutur3u/platform: apps/database/supabase/migrations/20230202082703_remote_commit.sql
create policy "boards of creators" on zoo_platform_boards for select to authenticated using ((creator_id = auth.uid()));
-- [133] self-reference in a function: plpgsql, no definer, that reads the table whose policy it is: the stack runs out.
-- tutur3u/platform: apps/database/supabase/migrations/20250421151139_fix_nova_role_manager.sql
create policy "role managers" on zoo_platform_nova_roles as permissive for all to authenticated using (zoo_platform_is_role_manager());

insert into zoo_platform_members values
  (zoo.id(1), zoo.id(11)), (zoo.id(2), zoo.id(11)), (zoo.id(2), zoo.id(12)), (zoo.id(3), zoo.id(12)), (zoo.id(4), zoo.id(13)), (zoo.id(3), zoo.id(14));
insert into zoo_platform_invites select n, zoo.id(1 + n % 4), zoo.id(11 + n % 4) from generate_series(1, 12) n;
insert into zoo_platform_board_members values
  (zoo.id(1), zoo.id(21)), (zoo.id(1), zoo.id(22)), (zoo.id(2), zoo.id(22)), (zoo.id(3), zoo.id(23)), (zoo.id(4), zoo.id(24)), (zoo.id(3), zoo.id(24));
insert into zoo_platform_boards select zoo.id(20 + n), zoo.id(1 + n % 4) from generate_series(1, 8) n;
insert into zoo_platform_nova_roles values ('ann@zoo.test', true), ('bob@zoo.test', false);
select zoo.expose('zoo_platform');
grant select on zoo_platform_members, zoo_platform_invites, zoo_platform_board_members, zoo_platform_boards, zoo_platform_nova_roles
  to anon, authenticated;
comment on table zoo_platform_nova_roles is 'lopsided: recursion through a function, an error: never';
