-- Source: bmorrisondev/quillmate @ b20753427649591a86d24576e7e31c955fb236a2
create schema zoo_articles;
select zoo.people('zoo_articles');
create function zoo_articles.requesting_user_id() returns text as $$
  select nullif(current_setting('request.jwt.claims', true)::json ->> 'sub', '')::text;
$$ language sql stable;
create function zoo_articles.requesting_owner_id() returns text language sql stable as $$
  select coalesce((auth.jwt() ->> 'org_id')::text, (auth.jwt() ->> 'sub')::text)
$$;
create table zoo_articles.by_setting(id int primary key, owner_id text);
create table zoo_articles.by_token(id int primary key, owner_id text);
create table zoo_articles.by_owner(id int primary key, owner_id text);
alter table zoo_articles.by_setting enable row level security;
alter table zoo_articles.by_token enable row level security;
alter table zoo_articles.by_owner enable row level security;

-- [153] current_setting of the claims: json (not jsonb) of request.jwt.claims, in a function of the source's own; no claims at all are an error (the file has the function; the policy is the one that it is made for).
-- bmorrisondev/quillmate: supabase/migrations/20250120193115_add_requesting_user_function.sql
create policy "own by setting" on zoo_articles.by_setting for select using (owner_id = zoo_articles.requesting_user_id());
-- [154] text of the user's id: the user as the token spells it.
-- bmorrisondev/quillmate: supabase/migrations/20250326211805_start_fresh.sql
create policy "own by token" on zoo_articles.by_token for select using (owner_id = (auth.jwt() ->> 'sub')::text);
-- [155] own helpers of claims: the organization, or else the user.
-- bmorrisondev/quillmate: supabase/migrations/20250326211952_support_clerk_orgs.sql
create policy "own by owner" on zoo_articles.by_owner for select using (owner_id = zoo_articles.requesting_owner_id());

insert into zoo_articles.persons values
  ('in an organization', 'authenticated', '{"sub": "user_1", "org_id": "org_1"}'),
  ('alone', 'authenticated', '{"sub": "user_1"}'), ('no claims', 'anon', ''), ('empty sub', 'authenticated', '{"sub": ""}');
delete from zoo_articles.persons where label in ('ann', 'bob', 'cat');
insert into zoo_articles.by_setting
  select n, case n % 5 when 0 then null when 1 then '' else 'user_1' end from generate_series(1, 10) n;
insert into zoo_articles.by_token select * from zoo_articles.by_setting;
insert into zoo_articles.by_owner select n, (array['user_1', 'org_1', '', 'org_1', 'user_1'])[1 + n % 5] from generate_series(1, 10) n;
select zoo.expose('zoo_articles');
