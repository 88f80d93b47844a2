-- What the targets `policy`, `filter` and `datum` read: every kind of policy, and a column of every type with a syntax.
-- `WALCAST_FUZZ_CORPUS=write` turns it into world.json, the catalog as walcast reads it, and into seeds.

create type mood as enum ('sad', 'ok', 'happy');
create domain short as text check (length(value) < 10);
create type pair as (a int, b text);

create table kinds (
  id int8 primary key, b bool, i2 int2, i4 int4, f4 float4, f8 float8, n numeric, t text, v varchar(9), c char(4), u uuid,
  d date, ti time, ts timestamp, tz timestamptz, iv interval, by bytea, j json, jb jsonb, m mood, s short, p pair,
  ta text[], ia int4[], ua uuid[], jba jsonb[], pa pair[], ir int4range, ip inet, pt point, bx box[], bi bit(3)
);

create table docs (
  id int4 primary key, owner uuid, team int4, tenant text, name text, tags text[], editors uuid[], data jsonb,
  public bool, price numeric, made timestamptz, due date, mood mood, a int4, b int4
);
create table members (team int4, member uuid, level int4, primary key (team, member));
create table teams (id int4 primary key, name text, closed bool);
create table folders (id int4 primary key, parent int4, owner uuid);
alter table docs enable row level security;
alter table folders enable row level security;
grant select on docs, members, teams, folders, kinds to authenticated;

create function is_member(of int4) returns boolean language sql stable security definer set search_path = ''
  as $$ select exists (select 1 from public.members m where m.team = of and m.member = auth.uid()) $$;
create function teams_of(who uuid) returns setof int4 language sql stable security definer set search_path = ''
  as $$ select m.team from public.members m where m.member = who and m.level > 1 $$;

create policy own on folders for select to authenticated using (owner = (select auth.uid()));

create policy p01 on docs for select to authenticated using (owner = auth.uid());
create policy p02 on docs for select to authenticated using (owner = (select auth.uid()) and not coalesce(public, false));
create policy p03 on docs for select to authenticated using (exists (
  select 1 from members m join teams t on t.id = m.team where m.team = docs.team and m.member = auth.uid() and not t.closed));
create policy p04 on docs for select to authenticated using (team in (select m.team from members m where m.member = auth.uid()));
create policy p05 on docs for select to authenticated using (tenant = auth.jwt() ->> 'tenant' or auth.role() = 'service_role');
create policy p06 on docs for select to authenticated using ((auth.jwt() -> 'app_metadata' -> 'teams') ? tenant);
create policy p07 on docs for select to authenticated using (tags && array['a', 'b'] or 'c' = any (tags));
create policy p08 on docs for select to authenticated using (auth.uid() = any (editors));
create policy p09 on docs for select to authenticated using (made > now() - interval '1 day' and due <= '2030-01-01'::date);
create policy p10 on docs for select to authenticated using (name like 'a%' or name ilike '%B_' or lower(name) = lower(auth.jwt() ->> 'email'));
create policy p11 on docs for select to authenticated using (price between 1.5 and 99.99 or price is null);
create policy p12 on docs for select to authenticated using (case when public then true when mood = 'happy' then a > b else a / b = 2 end);
create policy p13 on docs for select to authenticated using (data -> 'a' ->> 'b' = 'x' or data @> '{"k": [1, "two"]}' or data #>> '{a,0}' = 'y');
create policy p14 on docs for select to authenticated using ((select count(*) from members m where m.team = docs.team) > 2);
create policy p15 on docs for select to authenticated using (is_member(team));
create policy p16 on docs for select to authenticated using (team in (select teams_of(auth.uid())));
create policy p17 on docs for select to authenticated using (a * 2 + b > 5 and a % 3 is distinct from b);
create policy p18 on docs for select to authenticated using (date_trunc('day', made) = date_trunc('day', now()));
create policy p19 on docs for select to authenticated using (not exists (select from folders f where f.id = docs.id and f.parent is null));
create policy p20 on docs for select to authenticated using (tenant in ('x', 'y', 'z') and (public is true) is not false);
create policy p21 on docs for select to authenticated using (team = any (array(select m.team from members m where m.member = auth.uid())));
create policy p22 on docs for select to authenticated using (split_part(name, '/', 2) = auth.uid()::text and length(name) > 3);
create policy p23 on docs for select to authenticated using (((auth.jwt() -> 'app_metadata') ->> 'level')::int >= a);
create policy p24 on docs for select to authenticated using (owner in (
  select m2.member from members m1 join members m2 on m1.team = m2.team where m1.member = (select auth.uid())));
create policy p25 on docs for select to authenticated using (coalesce(nullif(tenant, ''), 'none') = any (
  array(select jsonb_array_elements_text(auth.jwt() -> 'tenants'))));
create policy p26 on docs as restrictive for select to authenticated using ((auth.jwt() ->> 'aal') = 'aal2' and owner = auth.uid());
create policy p27 on docs for select to authenticated using ((auth.jwt() ->> 'n')::numeric * price / 3 - 1 > round(price, 2));
create policy p28 on docs for select to authenticated using (data -> 'n' = auth.jwt() -> 'n' or (data ->> 'n')::float8 < a);
create policy p29 on docs for select to authenticated using (name || tenant = concat(auth.jwt() ->> 'n', team) or replace(name, 'a', 'bb') = tenant);
