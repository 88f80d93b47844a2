-- What walcast has of its own in this database, and who could have put it there. Whoever owns the log can write any state
-- of the catalog into it, row-level security switched off included, and what is in the schema is called and read by the
-- logins of `serve` and `setup`. With CREATE on a database anybody can make a schema, a table and a publication of these
-- names where setup has not; so they count only if they belong to somebody who can become the database's owner, as
-- superusers can, or to the login that asks.
select
    exists (select from pg_catalog.pg_publication where pubname = 'walcast') as published,
    exists (
        select
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'walcast' and c.relname = 'ddl_log'
    ) as logged,
    (
        select pg_catalog.string_agg(part.what || ' belongs to ' || part.owner::pg_catalog.regrole::text, ', ')
        from (
            select 'the publication walcast' as what, pubowner as owner
            from pg_catalog.pg_publication
            where pubname = 'walcast'
            union all
            select 'the schema walcast', nspowner from pg_catalog.pg_namespace where nspname = 'walcast'
            union all
            select 'the table walcast.ddl_log', c.relowner
            from pg_catalog.pg_class c
            join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            where n.nspname = 'walcast' and c.relname = 'ddl_log'
        ) part
        join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
        join pg_catalog.pg_roles r on r.rolname = current_user
        where not pg_catalog.pg_has_role(part.owner, d.datdba, 'member') and part.owner <> r.oid
    ) as strangers,
    -- Supabase's own belong to roles of its own, which nobody can make who cannot make any role.
    (
        select pg_catalog.string_agg(part.what || ' belongs to ' || r.rolname, ', ')
        from (
            select 'the schema realtime' as what, nspowner as owner from pg_catalog.pg_namespace where nspname = 'realtime'
            union all
            select 'the table realtime.messages', c.relowner
            from pg_catalog.pg_class c
            join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            where n.nspname = 'realtime' and c.relname = 'messages'
        ) part
        join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
        join pg_catalog.pg_roles r on r.oid = part.owner
        where not pg_catalog.pg_has_role(part.owner, d.datdba, 'member') and r.rolname <> current_user
            and r.rolname not in ('supabase_admin', 'supabase_realtime_admin')
    ) as realtime_strangers,
    (
        select c.oid
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
        join pg_catalog.pg_roles r on r.oid = c.relowner
        where n.nspname = 'realtime' and c.relname = 'messages' and c.relkind in ('r', 'p')
            and (
                pg_catalog.pg_has_role(c.relowner, d.datdba, 'member') or r.rolname = current_user
                or r.rolname in ('supabase_admin', 'supabase_realtime_admin')
            )
    ) as messages,
    exists (
        select from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'walcast' and c.relname = 'broadcast_key'
    ) as signs
