-- Source: imbhargav5/nextbase-nextjs-supabase-starter @ 2371c30a97c4f21ded972db6ef5e6ce036e0ec4d
create schema zoo_nextbase;
select zoo.people('zoo_nextbase');
create table zoo_nextbase.posts(id uuid primary key, author_id uuid, is_published boolean not null);
create table zoo_nextbase.comments(id uuid primary key, post_id uuid);
alter table zoo_nextbase.posts enable row level security;
alter table zoo_nextbase.comments enable row level security;

-- [156] public flag: published, or one's own, or for a role in the claims.
-- imbhargav5/nextbase-nextjs-supabase-starter: apps/database/supabase/migrations/20251109011059_create_blog_posts.sql
create policy posts_select on zoo_nextbase.posts for select
  using (is_published or auth.uid() = author_id or auth.role() = 'service_role');
-- [157] public: TRUE.
-- imbhargav5/nextbase-nextjs-supabase-starter: apps/database/supabase/migrations/20251109011059_create_blog_posts.sql
create policy comments_select on zoo_nextbase.comments for select using (true);

insert into zoo_nextbase.persons values ('service role by claim', 'authenticated', zoo.claims(2, '{"role": "service_role"}'));
insert into zoo_nextbase.posts select zoo.id(n), zoo.id(1 + n % 4), n % 4 = 0 from generate_series(1, 12) n;
insert into zoo_nextbase.comments select zoo.id(n), zoo.id(n) from generate_series(1, 3) n;
select zoo.expose('zoo_nextbase');
comment on table zoo_nextbase.comments is 'lopsided: always';
