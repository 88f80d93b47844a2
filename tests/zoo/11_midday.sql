-- Source: midday-ai/midday @ 47d252aab7e3ab28a0027376cfdd6ee83d2e5ccf
-- The body of the source's function is not in its tree; this is the one that its policies presume.
create schema zoo_midday;
create schema zoo_midday_private;
select zoo.people('zoo_midday');
create table zoo_midday.users_on_team(user_id uuid, team_id uuid, primary key (user_id, team_id));
create table zoo_midday.recurring_invoices(id uuid primary key, team_id uuid, amount numeric(10, 2));
create table zoo_midday.insights(id uuid primary key, team_id uuid);
create table zoo_midday.insight_status(insight_id uuid, user_id uuid, read_at timestamptz, primary key (insight_id, user_id));
create table zoo_midday.invoice_products(id uuid primary key, team_id uuid, is_active boolean);
create function zoo_midday_private.my_teams() returns setof uuid
language sql stable security definer set search_path = public as $$
  select team_id from zoo_midday.users_on_team where user_id = auth.uid()
$$;
alter table zoo_midday.recurring_invoices enable row level security;
alter table zoo_midday.insights enable row level security;
alter table zoo_midday.insight_status enable row level security;
alter table zoo_midday.invoice_products enable row level security;

-- [70] IN a set-returning function: FOR ALL, to public, a function of a private schema.
-- midday-ai/midday: packages/db/migrations/0010_add_invoice_recurring.sql
create policy "team members" on zoo_midday.recurring_invoices for all to public
  using (team_id in (select zoo_midday_private.my_teams()));
-- [71] IN a set-returning function: the same for reading.
-- midday-ai/midday: packages/db/migrations/0016_add_insights.sql
create policy "team members" on zoo_midday.insights for select to public
  using (team_id in (select zoo_midday_private.my_teams()));
-- [72] ownership: a composite key of which one part is the user.
-- midday-ai/midday: packages/db/migrations/0016_add_insights.sql
create policy "own status" on zoo_midday.insight_status for select to public using (user_id = auth.uid());
-- [73] tenancy by claim: the team of the claims, cast outside of a wrapped sub-query.
-- midday-ai/midday: packages/db/src/schema.ts
create policy "team of the token" on zoo_midday.invoice_products for select to public
  using (team_id = (select auth.jwt() ->> 'team_id')::uuid);

insert into zoo_midday.persons values
  ('ann for a team', 'authenticated', zoo.claims(1, jsonb_build_object('team_id', zoo.id(11)))),
  ('bob for a team', 'authenticated', zoo.claims(2, jsonb_build_object('team_id', upper(zoo.id(12)::text)))),
  ('cat for a team', 'authenticated', zoo.claims(3, jsonb_build_object('team_id', zoo.id(11)))),
  ('bad team', 'authenticated', zoo.claims(3, '{"team_id": "none"}')),
  ('empty team', 'authenticated', zoo.claims(2, '{"team_id": ""}'));
insert into zoo_midday.users_on_team values
  (zoo.id(1), zoo.id(11)), (zoo.id(1), zoo.id(12)), (zoo.id(2), zoo.id(12)), (zoo.id(3), zoo.id(11)), (zoo.id(3), zoo.id(13));
insert into zoo_midday.recurring_invoices select zoo.id(n), case when n % 6 > 0 then zoo.id(11 + n % 3) end, n from generate_series(1, 12) n;
insert into zoo_midday.insights select zoo.id(n), zoo.id(11 + n % 4) from generate_series(1, 12) n;
insert into zoo_midday.insight_status select zoo.id(n), zoo.id(1 + n % 3) from generate_series(1, 9) n;
insert into zoo_midday.invoice_products select zoo.id(n), zoo.id(11 + (n % 6 = 0)::int), n % 2 = 0 from generate_series(1, 10) n;
select zoo.expose('zoo_midday');
grant usage on schema zoo_midday_private to anon, authenticated;
