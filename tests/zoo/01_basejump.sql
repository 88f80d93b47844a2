-- Source: usebasejump/basejump @ 4b6cbcfdafd3ca471fb26f898cafd7603405e087
create schema zoo_basejump;
select zoo.people('zoo_basejump');

create type zoo_basejump.team_role as enum ('owner', 'member');
create table zoo_basejump.teams(
  id uuid primary key, primary_owner uuid not null, name text, personal boolean not null default false);
create table zoo_basejump.team_user(
  user_id uuid not null, team_id uuid not null, team_role zoo_basejump.team_role not null,
  primary key (user_id, team_id));
create table zoo_basejump.invitations(
  id int primary key, team_role zoo_basejump.team_role not null, team_id uuid not null,
  created_at timestamptz, token text);
create table zoo_basejump.settings(id int primary key, enable_team_accounts boolean);

-- Neither is declared stable in the source.
create function zoo_basejump.has_role_on_team(team_id uuid, team_role zoo_basejump.team_role default null)
returns boolean language sql security definer set search_path = public as $$
  select exists (
    select 1 from zoo_basejump.team_user tu
    where tu.user_id = auth.uid() and tu.team_id = has_role_on_team.team_id
      and (tu.team_role = has_role_on_team.team_role or has_role_on_team.team_role is null))
$$;
create function zoo_basejump.teams_with_role(wanted zoo_basejump.team_role default null)
returns setof uuid language sql security definer set search_path = public as $$
  select team_id from zoo_basejump.team_user tu
  where tu.user_id = auth.uid() and (tu.team_role = wanted or wanted is null)
$$;
revoke execute on all functions in schema zoo_basejump from public;
grant execute on function zoo_basejump.has_role_on_team(uuid, zoo_basejump.team_role) to authenticated;
grant execute on function zoo_basejump.teams_with_role(zoo_basejump.team_role) to authenticated;

alter table zoo_basejump.teams enable row level security;
alter table zoo_basejump.team_user enable row level security;
alter table zoo_basejump.invitations enable row level security;
alter table zoo_basejump.settings enable row level security;

-- [1] ownership: one's own rows of the membership table.
-- usebasejump/basejump: supabase/migrations/20240414161947_basejump-accounts.sql
create policy "own memberships" on zoo_basejump.team_user for select to authenticated using (user_id = auth.uid());
-- [2] SECURITY DEFINER sql: team mates, by a volatile definer function with a default argument, compared with true.
-- usebasejump/basejump: supabase/migrations/20240414161947_basejump-accounts.sql
create policy "team mates" on zoo_basejump.team_user for select to authenticated
  using (zoo_basejump.has_role_on_team(team_id) = true);
-- [3] SECURITY DEFINER sql: teams of which one is a member.
-- usebasejump/basejump: supabase/migrations/20240414161947_basejump-accounts.sql
create policy "teams of members" on zoo_basejump.teams for select to authenticated
  using (zoo_basejump.has_role_on_team(id) = true);
-- [4] several policies per table: the team's primary owner, beside the members.
-- usebasejump/basejump: supabase/migrations/20240414161947_basejump-accounts.sql
create policy "teams of the primary owner" on zoo_basejump.teams for select to authenticated
  using (primary_owner = auth.uid());
-- [5] time window: invitations of a day, for owners (an enum argument).
-- usebasejump/basejump: supabase/migrations/20240414162100_basejump-invitations.sql
create policy "fresh invitations for owners" on zoo_basejump.invitations for select to authenticated
  using (created_at > (now() - interval '24 hours') and zoo_basejump.has_role_on_team(team_id, 'owner') = true);
-- [6] any signed-in user: configuration, for everybody who has signed in.
-- usebasejump/basejump: supabase/migrations/20240414161707_basejump-setup.sql
create policy "settings for users" on zoo_basejump.settings for select to authenticated using (true);

insert into zoo_basejump.teams select zoo.id(10 + n), zoo.id(1 + n % 3), 'team ' || n, n % 4 = 0 from generate_series(1, 9) n;
insert into zoo_basejump.team_user
  select zoo.id(1 + n % 3), zoo.id(10 + n), 'owner'::zoo_basejump.team_role from generate_series(1, 9) n
  union all select zoo.id(1 + (n + 1) % 3), zoo.id(10 + n), 'member' from generate_series(1, 9, 2) n;
insert into zoo_basejump.invitations
  select n, 'member', zoo.id(10 + 1 + n % 9), now() - interval '5 hours' * case when n % 4 = 0 then n else n % 4 end, 't' || n
  from generate_series(1, 16) n;
update zoo_basejump.invitations set team_id = zoo.id(11) where id in (2, 3, 6);
insert into zoo_basejump.settings values (1, true), (2, false), (3, null);
select zoo.expose('zoo_basejump');
