-- Roles, memberships and per-role settings, as one JSON document. Apart from state.sql because no event trigger ever
-- sees them change. pg_roles and pg_auth_members may be read by everybody.
with version as (
    select current_setting('server_version_num')::int as num
)
select jsonb_build_object(
    'roles', coalesce((
        select jsonb_agg(jsonb_build_object(
            'oid', r.oid::int8,
            'name', r.rolname,
            'superuser', r.rolsuper,
            'bypass_rls', r.rolbypassrls
        ) order by r.oid)
        from pg_roles r
    ), '[]'),
    -- [member, role]: membership through which privileges are inherited. Until 15 that is the member's property, from
    -- 16 the membership's.
    'inherits', coalesce((
        select jsonb_agg(jsonb_build_array(edge.member, edge.role) order by edge.member, edge.role)
        from (
            select distinct m.member::int8, m.roleid::int8
            from pg_auth_members m
            join pg_roles r on r.oid = m.member
            where coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, r.rolinherit)
            union
            -- The database's owner is a member of pg_database_owner without any row that says so.
            select d.datdba::int8, o.oid::int8
            from pg_database d
            join pg_roles r on r.oid = d.datdba
            join pg_roles o on o.rolname = 'pg_database_owner'
            cross join version
            where d.datname = current_database() and (version.num >= 160000 or r.rolinherit)
        ) edge(member, role)
    ), '[]'),
    -- The same of every membership, whether or not privileges are inherited: pg_has_role(.., 'MEMBER').
    'members', coalesce((
        select jsonb_agg(jsonb_build_array(edge.member, edge.role) order by edge.member, edge.role)
        from (
            select m.member::int8, m.roleid::int8
            from pg_auth_members m
            union
            select d.datdba::int8, o.oid::int8
            from pg_database d
            join pg_roles o on o.rolname = 'pg_database_owner'
            where d.datname = current_database()
        ) edge(member, role)
    ), '[]'),
    -- ALTER ROLE/DATABASE .. SET, as they apply in this database; role 0 stands for everybody.
    'settings', coalesce((
        select jsonb_agg(jsonb_build_object('role', s.setrole::int8, 'values', to_jsonb(s.setconfig))
            order by s.setrole, s.setdatabase)
        from pg_db_role_setting s
        where s.setdatabase = 0 or s.setdatabase = (select oid from pg_database where datname = current_database())
    ), '[]')
)
