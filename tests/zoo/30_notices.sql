-- Source: thebigthing313/mcmec-apps (commit not recorded)
create schema zoo_notices;
select zoo.people('zoo_notices');
create table zoo_notices.notices(id uuid primary key, is_published boolean, notice_date date);
alter table zoo_notices.notices enable row level security;

-- [151] time window: published as of today (of the session's time zone), or everything once signed in.
-- thebigthing313/mcmec-apps: supabase/migrations/20260122162920_fix_notices_rls.sql
create policy "published or signed in" on zoo_notices.notices as permissive for select to public
  using ((((is_published = true) and (notice_date <= current_date)) or ((select auth.role() as role) = 'authenticated'::text)));

delete from zoo_notices.persons where label in ('bob', 'cat');
insert into zoo_notices.persons values ('no claims', 'anon', ''), ('anon in name', 'authenticated', '{"role": "anon"}');
insert into zoo_notices.notices select zoo.id(n), case n % 5 when 0 then null when 1 then false else true end,
  current_date + (case n % 3 when 0 then 10 else -10 end) from generate_series(1, 15) n;
select zoo.expose('zoo_notices');
