-- Source: timothee-alby/inkoming @ 6f7ebcd4fa603e5725b8846e8e5b24ee4f1a159e
create schema zoo_planning;
select zoo.people('zoo_planning');
create table zoo_planning.players(id uuid primary key, user_id uuid, room_id uuid);
create table zoo_planning.rooms(id uuid primary key, user_id uuid);
create table zoo_planning.turns(id int primary key, player_id uuid);
alter table zoo_planning.players enable row level security;
alter table zoo_planning.rooms enable row level security;
alter table zoo_planning.turns enable row level security;

-- [104] current_setting, a setting per claim: the user in PostgREST's setting per claim.
-- timothee-alby/inkoming: sql/policies/players_user_id_policy.sql
create policy players_user_id on zoo_planning.players
  using (((user_id)::text = current_setting('request.jwt.claim.user_id'::text, true)));
-- [105] scalar sub-query: the creator, or a scalar sub-query that yields TRUE or nothing.
-- timothee-alby/inkoming: sql/policies/rooms_member_policy.sql
create policy rooms_member on zoo_planning.rooms
  using ((user_id::text = current_setting('request.jwt.claim.user_id'::text, true)) or (
    select true from zoo_planning.players
    where players.user_id::text = current_setting('request.jwt.claim.user_id'::text, true)
      and players.room_id = rooms.id));
-- [106] two hops: turns of one's players, over a table with policies.
-- timothee-alby/inkoming: sql/policies/turns_player_id_policy.sql
create policy turns_player_id on zoo_planning.turns
  using ((player_id in (select players.id from zoo_planning.players
    where ((players.user_id)::text = current_setting('request.jwt.claim.user_id'::text, true)))));

insert into zoo_planning.persons values ('with user_id', 'anon', format('{"role": "anon", "user_id": "%s"}', zoo.id(1)));
insert into zoo_planning.players select zoo.id(n), zoo.id(1 + n % 3), zoo.id(1 + n % 4) from generate_series(1, 6) n;
insert into zoo_planning.rooms select zoo.id(n), zoo.id(1 + n % 3) from generate_series(1, 4) n;
insert into zoo_planning.turns select n, zoo.id(1 + n % 6) from generate_series(1, 6) n;
select zoo.expose('zoo_planning');
comment on table zoo_planning.players is 'lopsided: nobody sets request.jwt.claim.user_id any more: never';
comment on table zoo_planning.rooms is 'lopsided: nobody sets request.jwt.claim.user_id any more: never';
comment on table zoo_planning.turns is 'lopsided: nobody sets request.jwt.claim.user_id any more: never';
