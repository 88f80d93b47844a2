-- The state of the catalog that walcast decides by, as one JSON document.
--
--   $1 text[]   the publications that subscribers read
--   $2 boolean  whether to deparse expressions. pg_get_expr waits behind ACCESS EXCLUSIVE locks (a long migration);
--               nothing else here does. Tables that are seen to be locked are left out; "with_texts" says whether any
--               were. A lock that comes in between is waited for: have a lock_timeout, and call again without.
--
-- Written so that 14 to 18 all run it: what only some versions have is read through to_jsonb(row). Run it under
-- search_path = pg_catalog, pg_temp: then every other name is printed with its schema, and no temporary table can
-- stand in for a catalog. Needs no privileges but to read the catalogs. Roles are not here: see roles.sql.
with recursive
pub as (
    select p.oid, p.pubname, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, p.puballtables
    from pg_publication p
    where p.pubname = any ($1::text[])
),
-- What pg_publication_tables shows. The view itself waits behind ACCESS EXCLUSIVE locks from 16 on.
member as (
    select pub.oid as puboid, pub.pubviaroot, c.oid, c.relkind
    from pub
    join pg_publication_rel r on r.prpubid = pub.oid
    join pg_class c on c.oid = r.prrelid
    union
    -- FOR TABLES IN SCHEMA: pg_publication_namespace (6237) does not exist in 14, its dependencies can be asked for.
    select pub.oid, pub.pubviaroot, c.oid, c.relkind
    from pub
    join pg_depend p on p.classid = 6237 and p.refclassid = 'pg_publication'::regclass and p.refobjid = pub.oid
    join pg_depend n on n.classid = 6237 and n.refclassid = 'pg_namespace'::regclass and n.objid = p.objid
    join pg_class c on c.relnamespace = n.refobjid and c.relkind in ('r', 'p') and pg_relation_is_publishable(c.oid)
    union
    select pub.oid, pub.pubviaroot, c.oid, c.relkind
    from pub
    join pg_class c on pub.puballtables and c.relkind in ('r', 'p') and pg_relation_is_publishable(c.oid)
),
published(puboid, oid) as (
    select puboid, oid from member where relkind = 'r' or pubviaroot
    union
    select m.puboid, leaf.oid
    from member m
    join pg_class leaf on leaf.relispartition and leaf.relkind = 'r'
    where m.relkind = 'p' and not m.pubviaroot and m.oid in (select a.relid from pg_partition_ancestors(leaf.oid) a)
),
listed as (
    select published.oid, bool_or(pub.pubinsert) as ins, bool_or(pub.pubupdate) as upd, bool_or(pub.pubdelete) as del
    from published
    join pub on pub.oid = published.puboid
    group by published.oid
),
rel as (
    select c.*, n.nspname, listed.ins, listed.upd, listed.del
    from listed
    join pg_class c on c.oid = listed.oid
    join pg_namespace n on n.oid = c.relnamespace
    -- walcast's own tables are in a publication FOR ALL TABLES too; they are nobody's to subscribe to.
    -- A partitioned table is there only under publish_via_partition_root; then the stream names it, not its leaves,
    -- whatever another publication lists.
    where n.nspname <> 'walcast' and not exists (
        select from pg_partition_ancestors(c.oid) a
        where a.relid <> c.oid and a.relid in (select oid from listed)
    )
),
att as (
    select a.*, pg_attrdef.adbin
    from rel
    join pg_attribute a on a.attrelid = rel.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef on a.attgenerated <> '' and pg_attrdef.adrelid = a.attrelid and pg_attrdef.adnum = a.attnum
),
db as (
    select to_jsonb(d) as j from pg_database d where d.datname = current_database()
),
coll as (
    select
        c.oid,
        c.collisdeterministic as deterministic,
        case
            when c.collprovider = 'b' or (c.collprovider = 'd' and db.j ->> 'datlocprovider' = 'b') then true
            when c.collprovider = 'c' then to_jsonb(c) ->> 'collcollate' in ('C', 'POSIX')
            when c.collprovider = 'd' and coalesce(db.j ->> 'datlocprovider', 'c') = 'c'
                then db.j ->> 'datcollate' in ('C', 'POSIX')
            else false
        end as is_c
    from pg_collation c, db
    where c.oid = any (array(select distinct attcollation from att))
),
locked as materialized (
    select l.relation as oid
    from pg_locks l
    where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and l.pid is distinct from pg_backend_pid()
        and l.database = (select oid from pg_database where datname = current_database())
),
policy as (
    select
        p.*,
        p.polqual::text as tree,
        -- The deparser opens the table itself and those of sub-queries.
        not exists (
            select from locked
            where locked.oid = p.polrelid
                or locked.oid in (
                    select d.refobjid
                    from pg_depend d
                    where d.classid = 'pg_policy'::regclass and d.objid = p.oid and d.refclassid = 'pg_class'::regclass
                )
        ) as can_be_deparsed
    from pg_policy p
    where p.polrelid in (select oid from rel)
),
-- Grouped here and joined below: looked up table by table, a thousand tables would cost a million rows.
cols as (
    select att.attrelid, jsonb_agg(jsonb_build_object(
        'attnum', att.attnum,
        'name', att.attname,
        'type', att.atttypid::int8,
        'modifier', att.atttypmod,
        'generated', att.attgenerated,
        'expression', case
            when $2::boolean and att.attrelid not in (select oid from locked)
                then pg_get_expr(att.adbin, att.attrelid)
        end,
        'collation', case
            when coll.oid is not null
                then jsonb_build_object('deterministic', coll.deterministic, 'is_c', coll.is_c)
        end,
        'acl', case
            when att.attacl is null then '[]'
            else coalesce((
                select jsonb_agg(distinct x.grantee::int8) from aclexplode(att.attacl) x
                where x.privilege_type = 'SELECT'
            ), '[]')
        end
    ) order by att.attnum) as list
    from att
    left join coll on coll.oid = att.attcollation
    group by att.attrelid
),
pols as (
    select p.polrelid, jsonb_agg(jsonb_build_object(
        'oid', p.oid::int8,
        'name', p.polname,
        'permissive', p.polpermissive,
        'command', p.polcmd,
        'roles', to_jsonb(p.polroles::int8[]),
        'tree', p.tree,
        'text', case when $2::boolean and p.can_be_deparsed then pg_get_expr(p.polqual, p.polrelid) end,
        -- pg_depend counts the columns of WITH CHECK too, the tree those of other tables: what is in both is what
        -- USING reads, or a little more. Whole rows and system columns: not known.
        'columns', case when p.tree !~ ':varattno (0|-)' then coalesce((
            select jsonb_agg(distinct d.refobjsubid)
            from pg_depend d
            where d.classid = 'pg_policy'::regclass and d.objid = p.oid
                and d.refclassid = 'pg_class'::regclass and d.refobjid = p.polrelid and d.refobjsubid > 0
                and p.tree like '%:varattno ' || d.refobjsubid || ' %'
        ), '[]') end
    ) order by p.oid) as list
    from policy p
    group by p.polrelid
),
type_oid(oid) as (
    select atttypid from att
    union
    select part.oid
    from type_oid
    join pg_type t on t.oid = type_oid.oid
    cross join lateral (
        select t.typbasetype as oid where t.typtype = 'd'
        union all
        select t.typelem where t.typsubscript = 'array_subscript_handler'::regproc
        union all
        select a.atttypid from pg_attribute a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        union all
        -- Policies compare columns of an enum with arrays of it.
        select t.typarray where t.typtype = 'e' and t.typarray <> 0
        union all
        select r.rngsubtype from pg_range r where t.oid = r.rngtypid
        union all
        select r.rngtypid from pg_range r where t.oid = r.rngmultitypid
    ) part
),
fn(oid) as (
    -- Functions of extensions and users that policies call, and those that SQL-standard bodies call in turn.
    -- Built-in ones leave no trace in pg_depend.
    select d.refobjid
    from pg_depend d
    join policy p on d.classid = 'pg_policy'::regclass and d.objid = p.oid
    where d.refclassid = 'pg_proc'::regclass
    union
    select d.refobjid
    from fn
    join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = fn.oid and d.refclassid = 'pg_proc'::regclass
)
select jsonb_build_object(
    'format', 1,
    'wanted', to_jsonb($1::text[]),
    'server_version', current_setting('server_version_num')::int,
    'with_texts', $2::boolean
        and not exists (select from policy where not can_be_deparsed)
        and not exists (select from att where attgenerated <> '' and attrelid in (select oid from locked)),
    'publications', coalesce((
        select jsonb_agg(jsonb_build_object(
            'name', pubname, 'insert', pubinsert, 'update', pubupdate, 'delete', pubdelete, 'via_root', pubviaroot
        ) order by pubname)
        from pub
    ), '[]'),
    'schemas', coalesce((
        select jsonb_agg(jsonb_build_object(
            'name', n.nspname,
            'usage', coalesce((
                select jsonb_agg(distinct x.grantee::int8)
                from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
                where x.privilege_type = 'USAGE'
            ), '[]')
        ) order by n.nspname)
        from pg_namespace n
        where n.oid in (select relnamespace from rel)
    ), '[]'),
    'relations', coalesce((
        select jsonb_agg(jsonb_build_object(
            'oid', rel.oid::int8,
            'schema', rel.nspname,
            'name', rel.relname,
            'kind', rel.relkind,
            'owner', rel.relowner::int8,
            'row_security', rel.relrowsecurity,
            'force_row_security', rel.relforcerowsecurity,
            'replica_identity', rel.relreplident,
            'publish', jsonb_build_object('insert', rel.ins, 'update', rel.upd, 'delete', rel.del),
            'acl', coalesce((
                select jsonb_agg(distinct x.grantee::int8)
                from aclexplode(coalesce(rel.relacl, acldefault('r', rel.relowner))) x
                where x.privilege_type = 'SELECT'
            ), '[]'),
            'columns', coalesce(cols.list, '[]'),
            'primary_key', coalesce((
                select jsonb_agg(key.attnum order by key.place)
                from pg_index i
                cross join lateral unnest(i.indkey::int2[]) with ordinality key(attnum, place)
                where i.indrelid = rel.oid and i.indisprimary and key.place <= i.indnkeyatts
            ), '[]'),
            -- An index as replica identity, or the primary key where it serves as one (a deferrable one does not).
            'identity_index', (
                select jsonb_agg(key.attnum order by key.place)
                from pg_index i
                cross join lateral unnest(i.indkey::int2[]) with ordinality key(attnum, place)
                where i.indrelid = rel.oid and key.place <= i.indnkeyatts and i.indisvalid
                    and case rel.relreplident
                        when 'd' then i.indisprimary and i.indimmediate
                        when 'i' then i.indisreplident
                        else false
                    end
            ),
            'policies', coalesce(pols.list, '[]')
        ) order by rel.oid)
        from rel
        left join cols on cols.attrelid = rel.oid
        left join pols on pols.polrelid = rel.oid
    ), '[]'),
    'types', coalesce((
        select jsonb_agg(jsonb_build_object(
            'oid', t.oid::int8,
            'schema', n.nspname,
            'name', t.typname,
            'sql_name', format_type(t.oid, null),
            'type', t.typtype,
            'base', case when t.typtype = 'd' then t.typbasetype::int8 end,
            'element', case when t.typsubscript = 'array_subscript_handler'::regproc then t.typelem::int8 end,
            'delimiter', (select e.typdelim from pg_type e where e.oid = t.typelem),
            'labels', (
                select jsonb_agg(e.enumlabel order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid
            ),
            'label_oids', (
                select jsonb_agg(e.oid::int8 order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid
            ),
            'attributes', (
                select jsonb_agg(jsonb_build_array(a.attname, a.atttypid::int8) order by a.attnum)
                from pg_attribute a
                where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
            ),
            -- to_jsonb looks for such a cast only from types that are not built in.
            'json_cast', t.oid >= 16384 and exists (
                select from pg_cast
                where castsource = t.oid and casttarget = 'json'::regtype and castmethod = 'f'
            )
        ) order by t.oid)
        from type_oid
        join pg_type t on t.oid = type_oid.oid
        join pg_namespace n on n.oid = t.typnamespace
    ), '[]'),
    'functions', coalesce((
        select jsonb_agg(jsonb_build_object(
            'oid', f.oid::int8,
            'schema', n.nspname,
            'name', f.proname,
            'arguments', to_jsonb(string_to_array(f.proargtypes::text, ' ')::int8[]),
            'argument_names', to_jsonb(f.proargnames),
            'result', f.prorettype::int8,
            'returns_set', f.proretset,
            'language', l.lanname,
            'volatility', f.provolatile,
            'strict', f.proisstrict,
            'security_definer', f.prosecdef,
            'owner', f.proowner::int8,
            'settings', to_jsonb(f.proconfig),
            'source', f.prosrc,
            'body', to_jsonb(f) ->> 'prosqlbody',
            'execute', coalesce((
                select jsonb_agg(distinct x.grantee::int8)
                from aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) x
                where x.privilege_type = 'EXECUTE'
            ), '[]')
        ) order by f.oid)
        from fn
        join pg_proc f on f.oid = fn.oid
        join pg_namespace n on n.oid = f.pronamespace
        join pg_language l on l.oid = f.prolang
    ), '[]')
)
