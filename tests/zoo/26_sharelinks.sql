-- Source: samanshaik2020/website-builder-project (commit not recorded)
create schema zoo_sharelinks;
select zoo.people('zoo_sharelinks');
create table zoo_sharelinks.projects(id uuid primary key, name text);
create table zoo_sharelinks.links(id uuid primary key, project_id uuid, expires_at timestamptz, max_views int, views int);
alter table zoo_sharelinks.projects enable row level security;
alter table zoo_sharelinks.links enable row level security;

-- [138] time window: projects with a link that has neither expired nor been used up; for everybody.
-- samanshaik2020/website-builder-project: lib/supabase/migration-shareable-links-fix.sql
create policy "by link" on zoo_sharelinks.projects for select
  using (exists (select 1 from zoo_sharelinks.links
    where links.project_id = projects.id and (links.expires_at is null or links.expires_at > now())
      and (links.max_views is null or links.views < links.max_views)));
-- [139] public: all links, for everybody.
-- samanshaik2020/website-builder-project: lib/supabase/migration-shareable-links-fix.sql
create policy "links" on zoo_sharelinks.links for select using (true);

insert into zoo_sharelinks.projects select zoo.id(n) from generate_series(1, 10) n;
insert into zoo_sharelinks.links select zoo.id(n), zoo.id(1 + n % 10),
  case n % 4 when 0 then null when 1 then now() - interval '2 hours' else now() + interval '2 days' end,
  case n % 3 when 0 then null else 3 end, n % 6 from generate_series(1, 13) n;
select zoo.expose('zoo_sharelinks');
comment on table zoo_sharelinks.links is 'lopsided: always';
