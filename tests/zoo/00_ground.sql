-- What the seeds of all zoo files are written with. No policy uses it.
create schema zoo;

-- Persons and things by number: 1 is ann, 2 bob, 3 cat.
create function zoo.id(n bigint) returns uuid language sql immutable as
  $$ select ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid $$;

create function zoo.claims(n bigint, more jsonb default '{}') returns text language sql immutable as $$
  select (jsonb_build_object('sub', zoo.id(n), 'role', 'authenticated', 'aud', 'authenticated', 'aal', 'aal1',
    'email', (array['ann', 'bob', 'cat'])[n] || '@zoo.test') || more)::text
$$;

-- The table of a file's persons, with the usual four in it.
create function zoo.people(schema_name text) returns void language plpgsql as $$
begin
  execute format('create table %I.persons(label text primary key, role text not null, claims text not null)', schema_name);
  execute format($sql$
    insert into %I.persons values
      ('ann', 'authenticated', zoo.claims(1)), ('bob', 'authenticated', zoo.claims(2)),
      ('cat', 'authenticated', zoo.claims(3)), ('anon', 'anon', '{"role": "anon"}')
  $sql$, schema_name);
end $$;

-- Roles are global to the cluster: another database may have made them.
create function zoo.role(name text, attributes text default 'nologin') returns void language plpgsql as $$
begin
  if to_regrole(quote_ident(name)) is null then
    execute format('create role %I %s', name, attributes);
  end if;
exception when duplicate_object or unique_violation then
  null;
end $$;

-- The grants that a Supabase project starts with.
create function zoo.expose(schema_name text) returns void language plpgsql as $$
begin
  execute format('grant usage on schema %I to anon, authenticated, service_role', schema_name);
  execute format('grant select on all tables in schema %I to anon, authenticated, service_role', schema_name);
end $$;
