-- Takes back what default privileges may have given here: until those who send were let into the schema it meant nothing.
-- Who may send is up to the DBA, but for the privilege by which a trigger could be put between those that say who sends.
do $close$
declare
    login name := 'walcast'; -- The stream's.
    statement text;
begin
    for statement in
        select format(
            'revoke %s on %s %s from %s cascade',
            case
                when c.relname = 'broadcasts' then 'select, update, delete, truncate, references, trigger'
                else 'all'
            end,
            case when c.relkind = 'S' then 'sequence' else 'table' end,
            c.oid::regclass,
            coalesce(quote_ident(r.rolname), 'public')
        )
        from pg_class c
        cross join lateral aclexplode(c.relacl) x
        left join pg_roles r on r.oid = x.grantee
        where c.relnamespace = 'walcast'::regnamespace
            and x.grantee <> c.relowner and r.rolname is distinct from login
            and (x.grantee = 0 or r.oid is not null)
        union
        select format('revoke all on function %s from %s cascade', f.oid::regprocedure, coalesce(quote_ident(r.rolname), 'public'))
        from pg_proc f
        cross join lateral aclexplode(f.proacl) x
        left join pg_roles r on r.oid = x.grantee
        where f.pronamespace = 'walcast'::regnamespace and f.proname <> 'send'
            and x.grantee <> f.proowner and r.rolname is distinct from login
            and (x.grantee = 0 or r.oid is not null)
    loop
        execute statement;
    end loop;
end
$close$;
