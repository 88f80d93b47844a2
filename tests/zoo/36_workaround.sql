-- Source: supabase/supabase @ 1e28c421fefe485f0a798bce2b6b286d9f8a3359
create schema zoo_workaround;
select zoo.people('zoo_workaround');
create function zoo_workaround.current_user_id() returns uuid
language plpgsql stable security definer set search_path = public, pg_temp as $$
declare
  v_sub text;
begin
  begin
    v_sub := current_setting('request.jwt.claim.sub', true);
  exception
    when others then
      v_sub := null;
  end;
  if v_sub is not null and v_sub != '' then
    return v_sub::uuid;
  end if;
  return null;
end;
$$;
grant execute on function zoo_workaround.current_user_id() to authenticated, anon;
create table zoo_workaround.posts(id uuid primary key, user_id uuid not null);
alter table zoo_workaround.posts enable row level security;

-- [163] current_setting, a setting per claim: a definer function in plpgsql that catches, of a setting that is not there.
-- supabase/supabase: examples/database/rls-jwt-workaround/migration.sql
create policy "own posts" on zoo_workaround.posts for select to authenticated using (user_id = zoo_workaround.current_user_id());
-- [164] for a role: everything, for anon.
-- supabase/supabase: examples/database/rls-jwt-workaround/migration.sql
create policy "posts for anon" on zoo_workaround.posts for select to anon using (true);

insert into zoo_workaround.posts select zoo.id(n), zoo.id(1 + n % 3) from generate_series(1, 6) n;
select zoo.expose('zoo_workaround');
