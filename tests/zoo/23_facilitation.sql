-- Source: GECO-Project-App/facilitation-app @ e3dee0c7bde3246ff363ab85bc23c3f2c25c9abe
create schema zoo_facilitation;
select zoo.people('zoo_facilitation');
create table zoo_facilitation.teams(id uuid primary key, created_by uuid);
create table zoo_facilitation.team_members(team_id uuid, user_id uuid, primary key (team_id, user_id));
alter table zoo_facilitation.teams enable row level security;
alter table zoo_facilitation.team_members enable row level security;

-- [126] mutual reference: oneself, or teams that one made, whose policy looks back: infinite recursion.
-- GECO-Project-App/facilitation-app: supabase/migrations/20241108184732_remote_schema.sql
create policy "members" on zoo_facilitation.team_members as permissive for select to public
  using (((user_id = auth.uid()) or (team_id in (select teams.id from zoo_facilitation.teams
    where (teams.created_by = auth.uid())))));
-- [127] mutual reference: the other half.
-- GECO-Project-App/facilitation-app: supabase/migrations/20241108184732_remote_schema.sql
create policy "teams" on zoo_facilitation.teams as permissive for select to public
  using (((created_by = auth.uid()) or (id in (select team_members.team_id from zoo_facilitation.team_members
    where (team_members.user_id = auth.uid())))));

insert into zoo_facilitation.teams select zoo.id(10 + n), zoo.id(n) from generate_series(1, 3) n;
insert into zoo_facilitation.team_members select zoo.id(11 + n % 3), zoo.id(1 + n % 2) from generate_series(1, 6) n;
select zoo.expose('zoo_facilitation');
comment on table zoo_facilitation.teams is 'lopsided: infinite recursion over two tables, an error: never';
comment on table zoo_facilitation.team_members is 'lopsided: infinite recursion over two tables, an error: never';
