-- Source: supabase/supabase @ 28f58e44b95de1434e83c29703e2abdc9ea082d8
create schema zoo_slack;
select zoo.people('zoo_slack');
select zoo.role('supabase_auth_admin');

create type zoo_slack.permission as enum ('rooms.delete', 'posts.delete');
create type zoo_slack.role as enum ('admin', 'moderator');
create type zoo_slack.status as enum ('ONLINE', 'OFFLINE');
create table zoo_slack.people(id uuid primary key, name text, status zoo_slack.status default 'OFFLINE');
create table zoo_slack.posts(id bigint primary key, body text, author uuid, room_id bigint);
create table zoo_slack.user_roles(id bigint primary key, user_id uuid, role zoo_slack.role, unique (user_id, role));
create table zoo_slack.role_permissions(id bigint primary key, role zoo_slack.role, permission zoo_slack.permission);
create table zoo_slack.deletable_posts(id bigint primary key, body text, author uuid);

create function zoo_slack.authorize(requested zoo_slack.permission, user_id uuid) returns boolean as $$
declare
  found_permissions int;
begin
  select count(*) from zoo_slack.role_permissions
  where role_permissions.permission = authorize.requested
    and role_permissions.role = (auth.jwt() ->> 'user_role')::zoo_slack.role
  into found_permissions;
  return found_permissions > 0;
end;
$$ language plpgsql security definer set search_path = public;

alter table zoo_slack.people enable row level security;
alter table zoo_slack.posts enable row level security;
alter table zoo_slack.user_roles enable row level security;
alter table zoo_slack.role_permissions enable row level security;
alter table zoo_slack.deletable_posts enable row level security;

-- [13] any signed-in user: the claim says that one has signed in.
-- supabase/supabase: examples/slack-clone/nextjs-slack-clone/full-schema.sql
create policy "people for users" on zoo_slack.people for select using (auth.role() = 'authenticated');
-- [14] any signed-in user: the same, for what they wrote.
-- supabase/supabase: examples/slack-clone/nextjs-slack-clone/full-schema.sql
create policy "posts for users" on zoo_slack.posts for select using (auth.role() = 'authenticated');
-- [15] ownership: one's own roles; but the grants are revoked.
-- supabase/supabase: examples/slack-clone/nextjs-slack-clone/full-schema.sql
create policy "own roles" on zoo_slack.user_roles for select using (auth.uid() = user_id);
-- [16] for a role: the auth server's role sees all roles.
-- supabase/supabase: examples/slack-clone/nextjs-slack-clone/full-schema.sql
create policy "roles for the auth server" on zoo_slack.user_roles as permissive for select to supabase_auth_admin
  using (true);
-- [17] enum cast of a claim: a permission of the role in the claims (in the source FOR DELETE, two policies, of which this is a table of its own).
-- supabase/supabase: examples/slack-clone/nextjs-slack-clone/full-schema.sql
create policy "by permission" on zoo_slack.deletable_posts for select
  using (zoo_slack.authorize('posts.delete', auth.uid()));
-- [18] ownership: the other one of the two: the author.
-- supabase/supabase: examples/slack-clone/nextjs-slack-clone/full-schema.sql
create policy "by author" on zoo_slack.deletable_posts for select using (auth.uid() = author);

insert into zoo_slack.persons values
  ('moderator', 'authenticated', zoo.claims(2, '{"user_role": "moderator"}')),
  ('admin', 'authenticated', zoo.claims(3, '{"user_role": "admin"}')),
  ('roleless', 'authenticated', zoo.claims(1, '{"user_role": null}')),
  ('no such role', 'authenticated', zoo.claims(1, '{"user_role": "king"}')),
  ('signed in as nobody', 'anon', ''),
  ('auth server', 'supabase_auth_admin', '{"role": "supabase_auth_admin"}');
insert into zoo_slack.people select zoo.id(n), 'person ' || n, case when n % 2 = 0 then 'ONLINE'::zoo_slack.status end from generate_series(1, 5) n;
insert into zoo_slack.posts select n, 'post ' || n, zoo.id(1 + n % 3), n % 4 from generate_series(1, 12) n;
insert into zoo_slack.user_roles values (1, zoo.id(3), 'admin'), (2, zoo.id(2), 'moderator'), (3, zoo.id(3), 'moderator');
insert into zoo_slack.role_permissions values (1, 'admin', 'rooms.delete'), (2, 'admin', 'posts.delete'), (3, 'moderator', 'posts.delete');
insert into zoo_slack.deletable_posts select n, 'post ' || n, zoo.id(1 + n % 4) from generate_series(1, 12) n;
select zoo.expose('zoo_slack');
-- On Supabase the role owns the schema of auth.uid().
grant usage on schema auth, zoo_slack to supabase_auth_admin;
grant all on zoo_slack.user_roles to supabase_auth_admin;
revoke all on zoo_slack.user_roles from anon, authenticated;
comment on table zoo_slack.user_roles is 'lopsided: only the auth server may read it';
comment on table zoo_slack.role_permissions is 'lopsided: no policy';
