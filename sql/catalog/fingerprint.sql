-- A number that changes when anything does that state.sql or roles.sql reads. Asked every second: roles never fire event
-- triggers, and neither do REASSIGN OWNED, a superuser's DDL on Supabase, nor an UPDATE of a catalog.
--
-- A row's xmin changes with every change of the row; freezing leaves it as it is. Nothing here waits for a lock.
select concat_ws(
    ' ',
    (
        select md5(string_agg(
            concat_ws(',', oid, rolname, rolsuper, rolinherit, rolbypassrls, rolreplication, rolcanlogin), ';' order by oid
        ))
        from pg_roles
    ),
    (select md5(string_agg(m::text, ';' order by m::text)) from pg_auth_members m),
    (select md5(string_agg(s::text, ';' order by s::text)) from pg_db_role_setting s),
    (select datdba || ':' || xmin from pg_database where datname = current_database()),
    (select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8)) from pg_publication),
    (select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8)) from pg_publication_rel),
    -- pg_publication_namespace, which 14 does not have.
    (select concat(count(*), ':', sum(hashtext(objid || ':' || xmin)::int8)) from pg_depend where classid = 6237),
    (select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8)) from pg_policy),
    (select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8)) from pg_namespace),
    (
        select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8))
        from pg_class
        where relkind in ('r', 'p') and oid >= 16384
    ),
    -- Partitions, and tables that inherit.
    (select concat(count(*), ':', sum(hashtext(inhrelid || ',' || inhparent || ':' || xmin)::int8)) from pg_inherits),
    (
        -- Column grants, renames. Those of temporary and system tables do not matter, but cost little.
        select concat(count(*), ':', sum(hashtext(attrelid || ',' || attnum || ':' || xmin)::int8))
        from pg_attribute
        where attrelid >= 16384 and attnum > 0
    ),
    (select concat(count(*), ':', sum(hashtext(indexrelid || ':' || xmin)::int8)) from pg_index where indexrelid >= 16384),
    (select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8)) from pg_proc where oid >= 16384),
    (select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8)) from pg_type where oid >= 16384),
    (select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8)) from pg_enum),
    (select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8)) from pg_cast where oid >= 16384),
    (select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8)) from pg_collation where oid >= 16384),
    (select concat(count(*), ':', sum(hashtext(oid || ':' || xmin)::int8)) from pg_event_trigger)
)
