//! Policies at random, of the kinds in `tests/zoo`.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// A boolean expression, and the kinds of clauses in it.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    pub sql: String,
    pub kinds: Vec<&'static str>,
}

/// `{t}` stands for the table; `%o` for any of the comparisons.
const CLAUSES: &[(&str, &[&str])] = &[
    ("ownership", &["owner = auth.uid()", "{t}.owner = auth.uid()", "auth.uid() is not null and owner = auth.uid()"]),
    ("(select auth.uid())", &["(select auth.uid()) = owner", "owner in (select auth.uid())"]),
    (
        "text of the user's id",
        &["author = auth.uid()::text", "author = (select auth.uid()::text)", "author = (auth.jwt() ->> 'sub')"],
    ),
    ("cast of the row", &["author::uuid = auth.uid()", "author <> '' and author::uuid = (select auth.uid())"]),
    (
        "tenancy by claim",
        &[
            "org = ((auth.jwt() -> 'app_metadata') ->> 'org')::int",
            "org::text = auth.jwt() #>> '{app_metadata,org}'",
            "(select auth.jwt() -> 'app_metadata' -> 'org') = to_jsonb(org)",
        ],
    ),
    (
        "current_setting of the claims",
        &[
            "org = (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,org}')::int",
            "(current_setting('request.jwt.claims', true)::json ->> 'sub') = owner::text",
        ],
    ),
    (
        "array in the claims",
        &[
            "org in (select jsonb_array_elements_text(auth.jwt() -> 'app_metadata' -> 'orgs')::int)",
            "(auth.jwt() -> 'app_metadata' -> 'orgs') @> to_jsonb(org)",
            "auth.jwt() #> '{app_metadata,orgs}' @> jsonb_build_array(org)",
            "(auth.jwt() -> 'user_metadata' -> 'kinds') ? kind",
        ],
    ),
    ("public flag", &["open", "open is true", "coalesce(open, false)", "open is not false", "not open", "open = true"]),
    (
        "time window",
        &[
            "expires > now()",
            "(expires is null or expires > now())",
            "expires between now() - interval '4 days' and now() + interval '2 days'",
            "now() < expires - interval '30 minutes'",
            "not (expires <= now())",
        ],
    ),
    (
        "membership, one hop",
        &[
            "exists (select 1 from members m where m.org = {t}.org and m.member = auth.uid())",
            "exists (select from members where members.org = {t}.org and members.member = (select auth.uid()))",
            "org in (select m.org from members m where m.member = auth.uid())",
            "org in (select org from members where member = (select auth.uid()) and active)",
            "auth.uid() in (select member from members m where m.org = {t}.org)",
        ],
    ),
    ("ANY(ARRAY(select))", &["org = any (array(select m.org from members m where m.member = auth.uid()))"]),
    (
        "role inside the membership",
        &[
            "exists (select 1 from members m where m.org = {t}.org and m.member = auth.uid() and m.rank in ('admin', 'owner', 'member'))",
            "exists (select 1 from members m where m.org = {t}.org and m.member = auth.uid() and m.rank >= {t}.rank)",
            "org in (select m.org from members m where m.member = auth.uid() and m.rank = any (array['admin', 'member']::rank[]) and m.active)",
        ],
    ),
    (
        "two hops",
        &[
            "exists (select 1 from rooms r join members m on m.org = r.org where r.id = {t}.room and m.member = auth.uid())",
            "room in (select r.id from rooms r where r.org in (select m.org from members m where m.member = auth.uid()))",
            "exists (select 1 from rooms r, members m where r.id = room and r.org = m.org and m.member = auth.uid() and not r.hidden)",
            "exists (select from rooms r where r.id = room and exists (select from members m where m.org = r.org and m.member = auth.uid() and m.active))",
        ],
    ),
    (
        "blocks",
        &[
            "not exists (select 1 from blocks b where b.blocker = {t}.owner and b.blocked = auth.uid())",
            "owner not in (select b.blocker from blocks b where b.blocked = auth.uid())",
        ],
    ),
    (
        "scalar sub-query",
        &[
            "(select o.owner from orgs o where o.id = {t}.org) = auth.uid()",
            "(select o.open from orgs o where o.id = {t}.org)",
            "coalesce((select m.rank from members m where m.org = {t}.org and m.member = auth.uid()), 'guest') > 'guest'",
        ],
    ),
    ("another table's flag", &["exists (select 1 from orgs o where o.id = org and (o.open or o.owner = auth.uid()))"]),
    ("function: is_member", &["is_member(org)", "(select is_member({t}.org))", "is_member(org) = true"]),
    ("function: my_orgs", &["org in (select my_orgs())", "org = any (array(select my_orgs()))"]),
    ("function: rank_in", &["rank_in(org) in ('admin', 'owner', 'member')", "rank_in({t}.org) >= 'member'"]),
    ("function: of claims", &["my_org() = org", "has_role('admin') or n > 70"]),
    (
        "LIKE",
        &["kind like 'team:%'", "kind like 'p%'", "kind not like '%\\_%' escape '\\'", "'x' || kind like 'x_______'"],
    ),
    (
        "CASE",
        &[
            "case when open then true when kind = 'private' then owner = auth.uid() else n > 50 end",
            "case kind when 'public' then true when 'draft' then owner = auth.uid() else rank > 'guest' end",
        ],
    ),
    ("arithmetic", &["n % 2 = 0", "n * 2 + 1 > 100", "price * 2 > n", "price - n / 3 > 10.5", "abs(n - 50) < 30"]),
    (
        "json of the row",
        &[
            "(meta ->> 'level')::int > 2",
            "meta -> 'users' ? auth.uid()::text",
            "meta @> '{\"flags\": {\"public\": true}}'",
            "(meta #>> '{org}')::int = org",
            "(meta -> 'flags' ->> 'public')::boolean is true",
            "meta ? 'level'",
        ],
    ),
    (
        "NULL and DISTINCT",
        &[
            "owner is distinct from auth.uid() and kind is not null",
            "open is not distinct from ((auth.jwt() ->> 'aal') = 'aal2')",
            "(n > 50) is not true",
            "(n > 50) is unknown or kind = 'public'",
            "nullif(kind, '') is not null and not (org = 3)",
        ],
    ),
    (
        "array of the row",
        &[
            "auth.uid() = any (viewers)",
            "'red' = any (tags)",
            "tags && array['red', 'blue']",
            "viewers @> array[auth.uid()]",
            "'red' <> all (tags)",
        ],
    ),
    (
        "enum",
        &["rank = 'admin' or rank = 'owner'", "rank > 'guest'", "rank in ('guest', 'member')", "rank::text <> 'guest'"],
    ),
    (
        "claims alone",
        &[
            "(auth.jwt() ->> 'aal') = 'aal2'",
            "(auth.jwt() -> 'app_metadata' ->> 'role') = 'admin'",
            "(auth.jwt() -> 'app_metadata' ->> 'role') in ('admin', 'member')",
            "((auth.jwt() -> 'app_metadata') ->> 'level')::int >= 3",
            "auth.email() like '%@org%.test' and auth.role() = 'authenticated'",
            "current_user in ('authenticated', 'editor')",
        ],
    ),
    (
        "row and claims",
        &[
            "n >= ((auth.jwt() -> 'app_metadata') ->> 'level')::int * 15",
            "org < coalesce(((auth.jwt() -> 'app_metadata') ->> 'level')::int, 0)",
        ],
    ),
    ("aggregate", &["(select count(*) from members m where m.org = {t}.org) > 5"]),
];

/// Those that say of a row who may see it.
const LEADING: &[&str] = &[
    "owner = auth.uid()",
    "owner = (select auth.uid()) or open",
    "owner = auth.uid() or author = (auth.jwt() ->> 'sub')",
    "owner = auth.uid() or ((auth.jwt() ->> 'aal') = 'aal2' and kind = 'public')",
    "owner = auth.uid() or (auth.jwt() -> 'app_metadata' ->> 'role') = 'admin'",
    "auth.uid() = any (viewers)",
    "org = any (array(select jsonb_array_elements_text(auth.jwt() -> 'app_metadata' -> 'orgs')::int))",
    "org = ((auth.jwt() -> 'app_metadata') ->> 'org')::int",
    "exists (select 1 from members m where m.org = {t}.org and m.member = auth.uid())",
    "org in (select m.org from members m where m.member = (select auth.uid()) and m.active)",
    "exists (select 1 from rooms r join members m on m.org = r.org where r.id = {t}.room and m.member = auth.uid())",
];

pub(super) fn leading(rng: &mut StdRng, table: &str) -> Expression {
    let sql = LEADING.choose(rng).expect("not empty").replace("{t}", table);
    Expression { sql: format!("({sql})"), kinds: vec!["leading to people"] }
}

fn clause(rng: &mut StdRng, table: &str) -> Expression {
    let (kind, forms) = CLAUSES.choose(rng).expect("not empty");
    let sql = forms.choose(rng).expect("not empty").replace("{t}", table);
    Expression { sql: format!("({sql})"), kinds: vec![kind] }
}

/// One to four clauses.
pub(super) fn expression(rng: &mut StdRng, table: &str) -> Expression {
    let one = clause(rng, table);
    match rng.random_range(0..10) {
        0..=2 => one,
        3..=4 => join(one, "and", clause(rng, table)),
        5..=6 => join(one, "or", clause(rng, table)),
        7 => {
            let either = join(clause(rng, table), "or", clause(rng, table));
            join(one, "and", Expression { sql: format!("({})", either.sql), kinds: either.kinds })
        }
        8 => Expression { sql: format!("(not {})", one.sql), kinds: with(one.kinds, "NOT") },
        _ => {
            let (then, otherwise) = (clause(rng, table), clause(rng, table));
            let sql = format!("case when {} then {} else {} end", one.sql, then.sql, otherwise.sql);
            let kinds = [one.kinds, then.kinds, otherwise.kinds].concat();
            Expression { sql, kinds: with(kinds, "CASE") }
        }
    }
}

fn with(mut kinds: Vec<&'static str>, kind: &'static str) -> Vec<&'static str> {
    kinds.push(kind);
    kinds
}

fn join(one: Expression, operator: &str, other: Expression) -> Expression {
    Expression { sql: format!("{} {operator} {}", one.sql, other.sql), kinds: [one.kinds, other.kinds].concat() }
}

/// The functions that policies call, each in one of several forms.
pub(super) const FUNCTIONS: [&str; 5] = ["is_member", "my_orgs", "rank_in", "my_org", "has_role"];

pub(super) fn function(rng: &mut StdRng, name: &str) -> String {
    let which = *["true", "m.active", "m.rank >= 'member'", "m.rank <> 'guest'"].choose(rng).expect("not empty");
    let uid = *["auth.uid()", "(select auth.uid())"].choose(rng).expect("not empty");
    let (signature, body) = match name {
        "is_member" => (
            "is_member(o int) returns boolean",
            format!("select exists (select 1 from public.members m where m.org = o and m.member = {uid} and {which})"),
        ),
        "my_orgs" => (
            "my_orgs() returns setof int",
            format!("select m.org from public.members m where m.member = {uid} and {which}"),
        ),
        "rank_in" => (
            "rank_in(o int) returns public.rank",
            format!("select m.rank from public.members m where m.org = $1 and m.member = {uid} and {which}"),
        ),
        "my_org" => {
            let path = *["{app_metadata,org}", "{app_metadata,level}"].choose(rng).expect("not empty");
            ("my_org() returns int", format!("select (auth.jwt() #>> '{path}')::int"))
        }
        "has_role" => {
            let role = *["'app_metadata'", "'user_metadata'"].choose(rng).expect("not empty");
            ("has_role(r text) returns boolean", format!("select coalesce(auth.jwt() -> {role} ->> 'role' = r, false)"))
        }
        other => unreachable!("no function {other}"),
    };
    let definer = if rng.random_bool(0.6) { "security definer" } else { "security invoker" };
    let path = match rng.random_range(0..3) {
        0 => "",
        1 => "set search_path = ''",
        _ => "set search_path = public, pg_temp",
    };
    let body = if rng.random_bool(0.4) { format!("begin atomic {body}; end") } else { format!("as $$ {body} $$") };
    format!("create or replace function {signature} language sql stable {definer} {path} {body}")
}
