-- Source: gurvirsinghdev/daddypdf.com @ ec716dfd05e3b11a73b4c8e9cf5fe35240f28d99
create schema zoo_pdfteams;
select zoo.people('zoo_pdfteams');
create table zoo_pdfteams.teams(id uuid primary key, name text);
create table zoo_pdfteams.team_members(team_id uuid, user_id uuid, role text, primary key (team_id, user_id));
alter table zoo_pdfteams.teams enable row level security;
alter table zoo_pdfteams.team_members enable row level security;

-- [124] self-reference: members of teams that one owns: infinite recursion.
-- gurvirsinghdev/daddypdf.com: drizzle/0005_overrated_red_ghost.sql
create policy "members for owners" on zoo_pdfteams.team_members as permissive for select to public
  using (team_id in (select team_id from zoo_pdfteams.team_members where user_id = auth.uid() and role = 'owner'));
-- [125] inner table with policies: teams of members, into whose recursion it runs.
-- gurvirsinghdev/daddypdf.com: drizzle/0005_overrated_red_ghost.sql
create policy "teams of members" on zoo_pdfteams.teams as permissive for select to public
  using (id in (select team_id from zoo_pdfteams.team_members where user_id = auth.uid()));

insert into zoo_pdfteams.teams select zoo.id(10 + n) from generate_series(1, 3) n;
insert into zoo_pdfteams.team_members
  select zoo.id(11 + n % 3), zoo.id(1 + n % 2), case when n % 2 = 0 then 'owner' else 'admin' end from generate_series(1, 6) n;
select zoo.expose('zoo_pdfteams');
comment on table zoo_pdfteams.team_members is 'lopsided: infinite recursion, an error: never';
comment on table zoo_pdfteams.teams is 'lopsided: infinite recursion in the table it looks into, an error: never';
