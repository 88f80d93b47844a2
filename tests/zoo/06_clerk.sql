-- Source: supabase/supabase @ 61af5d5abdd970d63bfb6ffc8dae675e46704b70
create schema zoo_clerk;
select zoo.people('zoo_clerk');
create table zoo_clerk.secured(id uuid primary key, organization_id text not null);
alter table zoo_clerk.secured enable row level security;

-- [31] tenancy by claim: the organization of either generation of Clerk's tokens.
-- supabase/supabase: examples/clerk/supabase/migrations/20250501155648_setup_database.sql
create policy "own organization" on zoo_clerk.secured for select to authenticated
  using ((organization_id = (select coalesce(auth.jwt() ->> 'org_id', auth.jwt() -> 'o' ->> 'id'))));
-- [32] restrictive: an element of an array in the claims, as text.
-- supabase/supabase: examples/clerk/supabase/migrations/20250501155648_setup_database.sql
create policy "second factor" on zoo_clerk.secured as restrictive for select to authenticated
  using (((select auth.jwt() -> 'fva' ->> 1) != '-1'));

insert into zoo_clerk.persons values
  ('old token', 'authenticated', zoo.claims(1, '{"sub": "user_2x", "org_id": "org_1", "fva": [3, 0]}')),
  ('new token', 'authenticated', zoo.claims(2, '{"sub": "user_2y", "o": {"id": "org_2", "rol": "admin"}, "fva": [3, 5]}')),
  ('both', 'authenticated', zoo.claims(3, '{"sub": "user_2z", "org_id": "org_1", "o": {"id": "org_2"}, "fva": [0, 99]}')),
  ('no second factor', 'authenticated', zoo.claims(3, '{"org_id": "org_1", "fva": [3, -1]}')),
  ('short array', 'authenticated', zoo.claims(3, '{"org_id": "org_2", "fva": [3]}')),
  ('another new token', 'authenticated', zoo.claims(3, '{"o": {"id": "org_1"}, "fva": [1, "x"]}'));
insert into zoo_clerk.secured select zoo.id(n), case when n % 5 = 0 then 'org_3' else 'org_' || 1 + n % 2 end from generate_series(1, 11) n;
delete from zoo_clerk.persons where label in ('ann', 'bob', 'cat');
select zoo.expose('zoo_clerk');
