-- Source: K3v1n17/SafeDocsback (commit not recorded)
create schema zoo_safedocs;
select zoo.people('zoo_safedocs');
create table zoo_safedocs.shares(
  id uuid primary key, created_by uuid, shared_with_user_id uuid, is_active boolean, expires_at timestamptz);
alter table zoo_safedocs.shares enable row level security;

-- [140] ownership: shares that one made.
-- K3v1n17/SafeDocsback: adapt-existing-schema.sql
create policy "own shares" on zoo_safedocs.shares for select using (created_by = auth.uid());
-- [141] time window: active shares that have not expired, for whoever knows the token: for everybody.
-- K3v1n17/SafeDocsback: adapt-existing-schema.sql
create policy "by token" on zoo_safedocs.shares for select
  using (is_active = true and (expires_at is null or expires_at > now()));
-- [142] time window: the same, for whom it is shared with.
-- K3v1n17/SafeDocsback: adapt-existing-schema.sql
create policy "shared with" on zoo_safedocs.shares for select
  using (shared_with_user_id = auth.uid() and is_active = true and (expires_at is null or expires_at > now()));

insert into zoo_safedocs.shares select zoo.id(n), zoo.id(1 + n % 4), zoo.id(1 + n * 7 % 5),
  case n % 5 when 0 then null when 1 then false else true end,
  case n % 3 when 0 then null when 1 then now() - interval '1 day' else now() + interval '1 day' end from generate_series(1, 20) n;
select zoo.expose('zoo_safedocs');
