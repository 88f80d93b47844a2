-- What the policies of `authorization.rs` are about.
create type grade as enum ('draft', 'review', 'final');
create table teams(id int primary key, org int);
insert into teams values (1, 1), (2, 1), (3, 2), (4, 2);
create table members(team int, who uuid, level text);
insert into members values
  (1, '00000000-0000-0000-0000-00000000000a', 'admin'), (2, '00000000-0000-0000-0000-00000000000a', 'reader'),
  (3, '00000000-0000-0000-0000-00000000000b', 'admin'), (2, '00000000-0000-0000-0000-00000000000b', 'writer');
create table org_members(org int, who uuid);
insert into org_members values (1, '00000000-0000-0000-0000-00000000000a'), (2, '00000000-0000-0000-0000-00000000000b');
create table profiles(id uuid primary key, tenant text, is_admin bool);
insert into profiles values
  ('00000000-0000-0000-0000-00000000000a', 't1', true), ('00000000-0000-0000-0000-00000000000b', 't2', null);
-- Judged by policies of its own when a policy looks into it.
create table own_members(team int, who uuid);
insert into own_members select team, who from members;
alter table own_members enable row level security;
create policy own on own_members using (who = auth.uid());
-- Nobody may read it but through functions.
create table hidden_members(team int, who uuid);
insert into hidden_members select team, who from members;
create table blocks(doc int, who uuid);
insert into blocks select n, ('00000000-0000-0000-0000-00000000000' || case n % 2 when 0 then 'a' else 'b' end)::uuid
  from generate_series(1, 4000, 3) n;

create function tenant() returns text language sql stable as $$ select auth.jwt() ->> 'tenant' $$;
create function is_member(int) returns bool language sql stable security definer set search_path = '' as
  $$ select exists (select from public.hidden_members m where m.team = $1 and m.who = (select auth.uid())) $$;
create function is_member_slowly(wanted int) returns bool language plpgsql stable security definer as $$
  declare found_one bool; begin
    select true into found_one from hidden_members where team = wanted and who = auth.uid();
    return coalesce(found_one, false);
  end $$;
create function my_teams() returns setof int language sql stable security definer as
  $$ select team from hidden_members where who = auth.uid() $$;
create function may_read(level text) returns bool language sql immutable as
  $$ select level in ('admin', 'writer') $$;
create function claim(name text) returns text language plpgsql stable as $$ begin
    return current_setting('request.jwt.claims', true)::json ->> name;
  exception when others then return null; end $$;

-- Every policy has a table like this one.
create table docs(
  id int primary key, owner uuid, gone text, tenant text, team int, public bool, opens timestamptz, closes timestamptz,
  tags text[], meta jsonb, title text collate "C", score int, amount numeric, grade grade, "Quoted Name" varchar(20),
  slug text generated always as (lower(title) || '-' || score) stored
);
alter table docs drop column gone;
