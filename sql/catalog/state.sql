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
-- Those that subscribers read, and walcast's own: together they are what the stream carries.
pub as (
    select
        p.oid, p.pubname, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, p.puballtables,
        p.pubname = any ($1::text[]) as is_users,
        p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate as has_every_operation
    from pg_publication p
    where p.pubname = any ($1::text[]) or p.pubname = 'walcast'
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
-- Every leaf with every partitioned table above it.
leaf as materialized (
    select a.relid as root, c.oid, c.relkind
    from pg_class c
    cross join lateral pg_partition_ancestors(c.oid) a
    where c.relispartition and c.relkind in ('r', 'f') and a.relid <> c.oid
),
published(puboid, oid) as (
    select puboid, oid from member where relkind = 'r' or pubviaroot
    union
    select m.puboid, leaf.oid
    from member m
    join leaf on leaf.root = m.oid and leaf.relkind = 'r'
    where m.relkind = 'p' and not m.pubviaroot
),
listed as (
    select published.oid, bool_or(pub.pubinsert) as ins, bool_or(pub.pubupdate) as upd, bool_or(pub.pubdelete) as del
    from published
    join pub on pub.oid = published.puboid
    where pub.is_users
    group by published.oid
),
subscribable as (
    select c.oid
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
-- realtime.messages, by whose policies private channels are judged: those for INSERT too.
messages as (
    select c.oid
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_database d on d.datname = current_database()
    where n.nspname = 'realtime' and c.relname = 'messages' and c.relkind in ('r', 'p')
        -- Where there is none, whoever may make a schema could make it: see own_publication.sql.
        and not exists (
            select from pg_roles o
            where o.oid in (c.relowner, n.nspowner) and not pg_has_role(o.oid, d.datdba, 'member')
                and o.rolname not in ('supabase_admin', 'supabase_realtime_admin')
        )
),
-- What policies for SELECT read and call: tables, types, functions; what the policies of those tables do; what the
-- functions do. Dependencies tell it but for functions whose body is a string: there every word counts that is
-- something's name. That is too much rather than too little, and what it misses is asked of Postgres.
reached(classid, oid) as (
    select 'pg_class'::regclass::oid, subscribable.oid from subscribable
    union
    select 'pg_class'::regclass::oid, member.oid
    from member
    join pub on pub.oid = member.puboid and not pub.is_users
    union
    select 'pg_class'::regclass::oid, messages.oid from messages
    union
    select next.classid, next.oid
    from reached
    cross join lateral (
        select d.refclassid as classid, d.refobjid as oid
        from pg_policy p
        join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
        where reached.classid = 'pg_class'::regclass and p.polrelid = reached.oid
            and (p.polcmd in ('*', 'r') or (p.polcmd = 'a' and p.polrelid = any (array(select oid from messages))))
            and d.refclassid in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass)
        union all
        select d.refclassid, d.refobjid
        from pg_depend d
        where reached.classid = 'pg_proc'::regclass and d.classid = 'pg_proc'::regclass and d.objid = reached.oid
            and d.refclassid in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass)
        union all
        select named.classid, named.oid
        from pg_proc f
        join pg_language l on l.oid = f.prolang and l.lanname in ('sql', 'plpgsql')
        cross join lateral (
            -- Runs of letters, digits, _ and $, and of whatever is not ASCII.
            select regexp_split_to_table(lower(f.prosrc), '[\x01-\x23\x25-\x2f\x3a-\x5e\x60\x7b-\x7f]+')
            union
            select replace(m[1], '""', '"') from regexp_matches(f.prosrc, '"((?:[^"]|"")+)"', 'g') m
        ) word(text)
        cross join lateral (
            select 'pg_class'::regclass::oid as classid, c.oid
            from pg_class c
            where c.relname = word.text and c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't'
                and c.oid >= 16384
            union all
            select 'pg_proc'::regclass, g.oid
            from pg_proc g
            where g.proname = word.text and g.prokind = 'f' and g.oid >= 16384
                and g.pronamespace <> pg_my_temp_schema() and not pg_is_other_temp_schema(g.pronamespace)
        ) named
        -- Of PL/pgSQL only what returns an expression is ever read.
        where reached.classid = 'pg_proc'::regclass and f.oid = reached.oid and f.prokind = 'f'
            and to_jsonb(f) ->> 'prosqlbody' is null
            and (l.lanname = 'sql' or (f.prosrc ~* '\mreturn\M' and length(f.prosrc) <= 4096))
    ) next
),
rel as (
    select
        c.*, n.nspname, s.oid is not null as is_published, messages.oid is not null as is_messages,
        coalesce(listed.ins, false) as ins, coalesce(listed.upd, false) as upd, coalesce(listed.del, false) as del
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    left join subscribable s on s.oid = c.oid
    left join listed on listed.oid = s.oid
    left join messages on messages.oid = c.oid
    -- Here and below by an array: the planner takes a recursive result for millions of rows.
    where c.oid = any (array(select oid from reached where classid = 'pg_class'::regclass))
        and c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname <> 'walcast'
),
-- Whether the stream carries a table whole; of partitions, each by itself.
carried as (
    select
        c.oid,
        case
            when c.relkind <> 'r' or c.relpersistence <> 'p' then 'not_logged'
            when c.relhassubclass and exists (select from pg_inherits i where i.inhparent = c.oid) then 'inherited'
            when case c.relreplident
                when 'f' then false
                when 'n' then true
                else not exists (
                    select from pg_index i
                    where i.indrelid = c.oid and i.indisvalid and i.indimmediate
                        and case c.relreplident when 'd' then i.indisprimary else i.indisreplident end
                )
            end then 'no_identity'
            -- The stream names a table above it, and does not say when a leaf there is emptied.
            when exists (
                select from leaf join published on published.oid = leaf.root where leaf.oid = c.oid
            ) then 'in_part'
            when exists (
                select
                from published
                join pub on pub.oid = published.puboid and pub.has_every_operation
                where published.oid = c.oid
                    -- A table that both have is read by the user's alone where both cannot be read together.
                    and (pub.is_users or c.oid not in (select oid from listed))
                    and not exists (
                        -- 14 has neither.
                        select from pg_publication_rel r
                        where r.prpubid = pub.oid and r.prrelid = c.oid
                            and coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') is not null
                    )
            ) then 'whole'
            when c.oid in (select oid from published) then 'in_part'
            else 'no'
        end as followed
    from pg_class c
    where c.oid in (
        select oid from rel where relkind <> 'p'
        union all
        select leaf.oid from leaf join rel on rel.oid = leaf.root
    )
),
-- A partitioned table is followed as the worst of its leaves is.
followed as (
    select oid, followed from carried where oid in (select oid from rel)
    union all
    select
        rel.oid,
        case
            when rel.oid in (select oid from published) then 'in_part'
            else coalesce(
                (
                    select carried.followed
                    from leaf join carried on carried.oid = leaf.oid
                    where leaf.root = rel.oid
                    order by array_position('{not_logged, inherited, no_identity, no, in_part, whole}', carried.followed)
                    limit 1
                ),
                -- Without any leaf: as the next one will be.
                case when exists (
                    select
                    from member
                    join pub on pub.oid = member.puboid and pub.has_every_operation and not pub.pubviaroot
                    where member.oid in (select a.relid from pg_partition_ancestors(rel.oid) a)
                ) then 'whole' else 'no' end
            )
        end
    from rel
    where rel.relkind = 'p'
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
        rel.is_published,
        rel.is_messages,
        -- Postgres is asked about subscribers' tables and private channels alone; what those refer to it knows by itself.
        rel.is_published or rel.is_messages as is_asked,
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
    join rel on rel.oid = p.polrelid
    where rel.is_published or p.polcmd in ('*', 'r') or (rel.is_messages and p.polcmd = 'a')
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
            when $2::boolean and att.attrelid in (select oid from rel where is_published)
                and att.attrelid not in (select oid from locked)
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
        'text', case
            when $2::boolean and p.is_asked and p.can_be_deparsed then pg_get_expr(p.polqual, p.polrelid)
        end,
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
    select unnest(array(
        select atttypid from att union select oid from reached where classid = 'pg_type'::regclass
    ))
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
document as (
    select
        rel.oid,
        rel.is_published,
        jsonb_build_object(
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
            'policies', coalesce(pols.list, '[]'),
            'followed', followed.followed,
            -- What the stream names in its place, unless it names the table itself.
            'leaves', case
                when rel.relkind = 'p' and rel.oid not in (select oid from published) then coalesce(
                    (select jsonb_agg(leaf.oid::int8 order by leaf.oid) from leaf where leaf.root = rel.oid), '[]'
                )
                else '[]'
            end
        ) as j
    from rel
    join followed on followed.oid = rel.oid
    left join cols on cols.attrelid = rel.oid
    left join pols on pols.polrelid = rel.oid
)
select jsonb_build_object(
    'format', 3,
    'wanted', to_jsonb($1::text[]),
    'server_version', current_setting('server_version_num')::int,
    'with_texts', $2::boolean
        and not exists (select from policy where is_asked and not can_be_deparsed)
        and not exists (
            select from att
            where attgenerated <> '' and attrelid in (select oid from locked)
                and attrelid in (select oid from rel where is_published)
        ),
    'publications', coalesce((
        select jsonb_agg(jsonb_build_object(
            'name', pubname, 'insert', pubinsert, 'update', pubupdate, 'delete', pubdelete, 'via_root', pubviaroot
        ) order by pubname)
        from pub
        where is_users
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
            or n.oid in (
                select f.pronamespace from pg_proc f
                where f.oid = any (array(select oid from reached where classid = 'pg_proc'::regclass))
            )
    ), '[]'),
    -- Who may insert, and what a new row is checked by: a policy's WITH CHECK, or its USING where it has none.
    'messages', (
        select jsonb_build_object(
            'oid', rel.oid::int8,
            'acl', coalesce((
                select jsonb_agg(distinct x.grantee::int8)
                from aclexplode(coalesce(rel.relacl, acldefault('r', rel.relowner))) x
                where x.privilege_type = 'INSERT'
            ), '[]'),
            'column_acl', coalesce((
                select jsonb_agg(distinct jsonb_build_array(att.attnum, x.grantee::int8))
                from att
                cross join lateral aclexplode(att.attacl) x
                where att.attrelid = rel.oid and x.privilege_type = 'INSERT'
            ), '[]'),
            'policies', coalesce((
                select jsonb_agg(jsonb_build_object(
                    'oid', p.oid::int8,
                    'name', p.polname,
                    'permissive', p.polpermissive,
                    'command', p.polcmd,
                    'roles', to_jsonb(p.polroles::int8[]),
                    'tree', coalesce(p.polwithcheck, p.polqual)::text,
                    'text', case
                        when $2::boolean and p.can_be_deparsed
                            then pg_get_expr(coalesce(p.polwithcheck, p.polqual), p.polrelid)
                    end
                ) order by p.oid)
                from policy p
                where p.polrelid = rel.oid and p.polcmd in ('*', 'a')
            ), '[]')
        )
        from rel
        where rel.is_messages
    ),
    'relations', coalesce((select jsonb_agg(j order by oid) from document where is_published), '[]'),
    'referenced', coalesce((select jsonb_agg(j order by oid) from document where not is_published), '[]'),
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
            'defaults', f.proargdefaults::text,
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
        from pg_proc f
        join pg_namespace n on n.oid = f.pronamespace
        join pg_language l on l.oid = f.prolang
        where f.oid = any (array(select oid from reached where classid = 'pg_proc'::regclass))
    ), '[]')
)
