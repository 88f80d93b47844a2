-- Source: rickardlindahl/salens-samfallighetsforening (commit not recorded)
create schema zoo_village;
select zoo.people('zoo_village');
create table zoo_village.posts(id uuid primary key, user_id uuid not null, draft boolean default true, publish_date timestamptz);
alter table zoo_village.posts enable row level security;

-- [150] time window: one's own, or published, no draft, as of now.
-- rickardlindahl/salens-samfallighetsforening: supabase/migrations/20230906084905_posts-table.sql
create policy "own or published" on zoo_village.posts for select
  using ((auth.uid() = user_id) or (draft = false and publish_date <= now()));

insert into zoo_village.posts select zoo.id(n), zoo.id(1 + n % 5), n % 3 = 0,
  case n % 4 when 0 then null when 1 then now() + interval '3 hours' else now() - interval '3 hours' end from generate_series(1, 20) n;
select zoo.expose('zoo_village');
