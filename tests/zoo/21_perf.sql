-- Source: GaryAustin1/RLS-Performance @ f13e608e15f055f590daae35398f7cd03fae624c
-- The source's functions have no search_path and name their tables without a schema: the tables are in public.
create schema zoo_perf;
select zoo.people('zoo_perf');
create table public.zoo_perf_roles(id int primary key, user_id uuid, role text);
create table public.zoo_perf_team_user(team_id int, user_id uuid, primary key (team_id, user_id));
create table public.zoo_perf_by_user(id int primary key, user_id uuid, role text, team_id int);
create table public.zoo_perf_by_admin(like zoo_perf_by_user including all);
create table public.zoo_perf_by_either(like zoo_perf_by_user including all);
create table public.zoo_perf_by_role(like zoo_perf_by_user including all);
create table public.zoo_perf_by_teams(like zoo_perf_by_user including all);
create table public.zoo_perf_by_join(like zoo_perf_by_user including all);
create table public.zoo_perf_posts(id int primary key, creator_id uuid);
create table public.zoo_perf_comments(id int primary key, post_id int);

create function public.zoo_perf_is_admin() returns boolean as $$
begin
  return exists (select 1 from zoo_perf_roles where auth.uid() = user_id and role = 'admin');
end;
$$ language plpgsql security definer;
create function public.zoo_perf_get_role() returns text as $$
begin
  return (select role from zoo_perf_roles where auth.uid() = user_id);
end;
$$ language plpgsql security definer;
create function public.zoo_perf_user_teams() returns int[] as $$
begin
  return array(select team_id from zoo_perf_team_user where auth.uid() = user_id);
end;
$$ language plpgsql security definer;

alter table zoo_perf_by_user enable row level security;
alter table zoo_perf_by_admin enable row level security;
alter table zoo_perf_by_either enable row level security;
alter table zoo_perf_by_role enable row level security;
alter table zoo_perf_by_teams enable row level security;
alter table zoo_perf_by_join enable row level security;
alter table zoo_perf_team_user enable row level security;
alter table zoo_perf_posts enable row level security;
alter table zoo_perf_comments enable row level security;

-- [115] ownership: FOR ALL, for one role.
-- GaryAustin1/RLS-Performance: tests/test1-indexed/test1.sql
create policy "own" on zoo_perf_by_user to authenticated using (auth.uid() = user_id);
-- [116] SECURITY DEFINER plpgsql: a wrapped function without search_path, of nothing in the row.
-- GaryAustin1/RLS-Performance: tests/test2b-wrappedSQL-isadmin()/test2b.sql
create policy "admins" on zoo_perf_by_admin to authenticated using ((select zoo_perf_is_admin()));
-- [117] SECURITY DEFINER plpgsql: that, or ownership, both wrapped.
-- GaryAustin1/RLS-Performance: tests/test2c-wrappedSQL-two-functions/test2c.sql
create policy "either" on zoo_perf_by_either to authenticated using ((select zoo_perf_is_admin()) or (select auth.uid()) = user_id);
-- [118] role in a table: the row's role is the user's; several roles are an error.
-- GaryAustin1/RLS-Performance: tests/test2d-wrappedSQL-sd-fun/test2d.sql
create policy "by role" on zoo_perf_by_role to authenticated using (zoo_perf_get_role() = role);
-- [119] ANY(ARRAY(select)): an array of an array that a definer function returns.
-- GaryAustin1/RLS-Performance: tests/test2e-wrappedSQL-sd-fun-array/test2e.sql
create policy "by teams" on zoo_perf_by_teams to authenticated using (team_id = any (array(select zoo_perf_user_teams())));
-- [120] ownership: one's own rows of the membership table.
-- GaryAustin1/RLS-Performance: tests/test5-fixed-join/test5.sql
create policy "own teams" on zoo_perf_team_user to authenticated using (auth.uid() = user_id);
-- [121] membership, one hop: the user is IN the members of the row's team, over a table with policies.
-- GaryAustin1/RLS-Performance: tests/test5-fixed-join/test5.sql
create policy "by join" on zoo_perf_by_join to authenticated
  using (auth.uid() in (select user_id from zoo_perf_team_user where zoo_perf_team_user.team_id = zoo_perf_by_join.team_id));
-- [122] ownership: one's own posts.
-- GaryAustin1/RLS-Performance: tests/Supabase-Docs-Test/sbt.sql
create policy "own posts" on zoo_perf_posts for select using (auth.uid() = zoo_perf_posts.creator_id);
-- [123] inner table with policies: comments of posts that one may see.
-- GaryAustin1/RLS-Performance: tests/Supabase-Docs-Test/sbt.sql
create policy "comments of seen posts" on zoo_perf_comments for select
  using (exists (select 1 from zoo_perf_posts where zoo_perf_posts.id = zoo_perf_comments.post_id));

insert into zoo_perf_roles values (1, zoo.id(1), 'admin'), (2, zoo.id(2), 'user');
insert into zoo_perf_team_user values (1, zoo.id(1)), (2, zoo.id(1)), (2, zoo.id(2)), (3, zoo.id(2)), (4, zoo.id(3));
insert into zoo_perf_by_user select n, zoo.id(1 + n % 3), (array['user', 'admin', 'x'])[1 + n % 3], 1 + n % 4 from generate_series(1, 12) n;
insert into zoo_perf_by_admin select * from zoo_perf_by_user;
insert into zoo_perf_by_either select * from zoo_perf_by_user;
insert into zoo_perf_by_role select id, user_id, case when id % 2 = 0 then 'user' else 'admin' end, team_id from zoo_perf_by_user;
insert into zoo_perf_by_teams select * from zoo_perf_by_user;
insert into zoo_perf_by_join select * from zoo_perf_by_user;
insert into zoo_perf_posts select n, zoo.id(1 + n % 3) from generate_series(1, 6) n;
insert into zoo_perf_comments select n, 1 + n % 6 from generate_series(1, 12) n;
select zoo.expose('zoo_perf');
grant select on zoo_perf_by_user, zoo_perf_by_admin, zoo_perf_by_either, zoo_perf_by_role, zoo_perf_by_teams, zoo_perf_by_join,
  zoo_perf_team_user, zoo_perf_posts, zoo_perf_comments to anon, authenticated;
