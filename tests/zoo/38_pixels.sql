-- Source: beeynow/pixelport-tool @ e92897bc5adbd3354b88a99829e26f96ed709088
create schema zoo_pixels;
select zoo.people('zoo_pixels');
create table zoo_pixels.user_subscriptions(id uuid primary key, clerk_user_id text not null, tier text not null);
alter table zoo_pixels.user_subscriptions enable row level security;

-- [171] current_setting of the claims: json of request.jwt.claims in the policy itself; no claims are an error.
-- beeynow/pixelport-tool: supabase/migrations/20251025190312_e667dc24-31cb-42b2-bc1b-d8601381a259.sql
create policy "own subscription" on zoo_pixels.user_subscriptions for select
  using (clerk_user_id = current_setting('request.jwt.claims', true)::json ->> 'sub');

delete from zoo_pixels.persons where label in ('ann', 'bob', 'cat');
insert into zoo_pixels.persons values
  ('a user', 'authenticated', '{"sub": "user_1", "role": "authenticated"}'),
  ('another', 'authenticated', '{"role": "authenticated", "sub": "user_2"}'),
  ('by escapes', 'authenticated', '{"sub": "\u0075ser_1"}'),
  ('twice', 'authenticated', '{"sub": "user_1", "sub": "user_2"}'), ('a number', 'anon', '{"sub": 7}'), ('no claims', 'anon', '');
insert into zoo_pixels.user_subscriptions
  select zoo.id(n), (array['user_1', 'user_2', '7'])[1 + n % 3], 'free' from generate_series(1, 12) n;
select zoo.expose('zoo_pixels');
