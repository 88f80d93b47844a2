//! Forms that random expressions seldom come to, each in turn: every few worlds have them all. Many are there for a mistake
//! of the evaluator that nothing else noticed (README.md).

/// What some of them call and read.
pub(super) const SCHEMA: &str = "
    create function has_default(x int, y int default 2, z int default 5) returns boolean language sql stable
        as 'select x + y > z';
    create function ignores(b boolean, x int) returns boolean language sql stable security definer as 'select b';
    create function strictly(b boolean, x int) returns boolean language sql stable strict security definer as 'select b';
    create function who_runs() returns text language sql stable security definer as 'select current_user::text';
    alter function who_runs() owner to keeper;
    create function guarded_by_owner(o int) returns boolean language sql stable security definer
        as 'select exists (select from public.guarded g where g.org = o)';
    create function guarded_by_caller(o int) returns boolean language sql stable
        as 'select exists (select from public.guarded g where g.org = o)';
    create table hidden (id int primary key, org int);
    insert into hidden select n, n % 7 from generate_series(1, 10) n;
    alter table hidden enable row level security;
    grant select on hidden to public;
    create table confidential (id int primary key, org int);
    insert into confidential select n, n % 7 from generate_series(1, 10) n;
    grant select on confidential to authenticated, staff;
    create table doubles (org int, n int, who uuid, primary key (org, n));
    insert into doubles select n % 7, n, null from generate_series(1, 20) n;
    grant select on doubles to public;";

/// A table's policies.
pub(super) enum Form {
    /// One for each remainder of the key.
    Each(&'static [&'static str]),
    /// Permissive policies, the last one first.
    Whole(&'static [&'static str]),
    /// The same of what has to be left to Postgres, for some role or for all.
    Left(&'static [&'static str]),
}

use Form::{Each, Left, Whole};

pub(super) const FORMS: &[Form] = &[
    Each(&["d >= 'infinity'::timestamptz", "(a - 5) / 2 = -1", "(a - 5) % 3 = -1", "6 / a > 1", "n < 0", "f >= 'NaN'"]),
    Each(&[
        "array_position(array[a, b, 3], 3) = 3",
        "array_length(ia, 1) is null",
        "array_position(string_to_array(p::text || '-' || q::text, '-', 'true'), null) is not null",
        "ta && array['a', null]",
        "ta @> array['a', 'b']",
        "array[null, 'ab'] <@ ta",
    ]),
    Each(&[
        "j @> '\"a\"'",
        "j -> -1 = 'null'",
        "(j #>> '{-1}') is null and j ? 'a'",
        "to_jsonb(coalesce(u, 'abcdefab-0000-4000-8000-00000000000a')) = '\"abcdefab-0000-4000-8000-00000000000a\"'",
        "j ?| array['u', 'zz']",
        "(j #>> '{l,0}') = '1'",
    ]),
    Each(&[
        "j @> '{\"b\": true}'",
        "(j ->> 'n') is null",
        "j ?& array['u', 'zz']",
        "j -> 'n' = '3'",
        "j @> '[\"a\"]'",
        "j = 'null'",
    ]),
    Each(&[
        "left(s, 2) = 'ab'",
        "split_part(s, 'b', 2) = 'c'",
        "s || 'x' = 'ax'",
        "length(s) = 1",
        "s::varchar(2) = 'ab'",
        "btrim(' ' || s || ' ') = 'a'",
    ]),
    Each(&[
        "s like 'a\\_c'",
        "s like '__c'",
        "s not like 'a%'",
        "substring(s from 2 for 1) = 'b'",
        "ch = 'a'",
        "s = 'A'",
    ]),
    Each(&[
        "ts + interval '1 mon -1 day' = '2024-02-28 10:00+00'",
        "ts - interval '1 day' < '2024-01-31+00'",
        "extract(day from (ts - interval '40 years')::date) = extract(day from ts - interval '40 years')",
        "date_trunc('week', ts) = '2024-01-29+00'",
        "extract(dow from ts) = 3",
        "ts - '2024-01-01+00' > interval '30 days'",
    ]),
    Each(&[
        "d + interval '1 month' = '2024-02-29'",
        "iv > interval '30 days'",
        "ts = 'infinity'",
        "('2024-01-31 12:00+0' || a::text)::timestamptz > '2024-01-31 10:30+00'",
        "st < ts",
        "d < st",
    ]),
    Each(&["round(n) = 3", "n::numeric(4, 2) > -5", "n::int = 3", "n + 1.125 = 2.125", "a::boolean", "p::int = 1"]),
    Each(&[
        "('o' || left(s, 0))::boolean",
        "(upper(coalesce(s, '')) || 'BCDEF01-0000-4000-8000-000000000001')::uuid is not null",
        "(a::text || '000000000')::int > 0",
        "(s::boolean) is not true",
        "(' ' || a::text || ' ')::int = 3",
        "('{1,NULL,' || a::text || '}')::int[] @> '{3}'",
    ]),
    Each(&[
        "coalesce((select current_setting('request.method')), 'x') = 'x'",
        "coalesce(current_setting('request.method', true), 'x') = 'x'",
        "(case when p then q end)",
        "(case when p then q when q then p else p is null end)",
        "current_setting('role') = 'authenticated'",
        "current_setting('role') <> 'authenticated'",
    ]),
    Each(&[
        "not exists (select from jsonb_array_elements_text(auth.jwt() -> 'orgs') o where o = a::text and p)",
        "not exists (select from unnest(ta) x where x::int > 3 and p)",
        "(select bool_or(m.ok) from members m where m.org = a)",
        "(select bool_and(m.ok) from members m where m.org = a)",
        "(select array_agg(m.org) from members m where m.who = u) is null",
        "(select count(m.lvl) from members m where m.org = a) < (select count(*) from members m where m.org = a)",
    ]),
    Each(&[
        "(select array_agg(m.lvl) from members m where m.org = a) @> array[2]",
        "(select cardinality(array_agg(m.lvl)) from members m where m.org = a) > (select count(m.lvl) from members m where m.org = a)",
        "(select max(m.lvl) from members m where m.org = a) > 4",
        "(select min(m.lvl) from members m where m.org = a) < 1",
        "exists (select from members m where m.org = a and length(m.note) > 100)",
        "(select every(m.ok) from members m where m.org = a) is not false",
    ]),
    Each(&[
        "exists (select from orgs o where o.id = a and exists (select from members m where m.lvl = o.id and m.who = u and exists (select where m.org > 3)))",
        "exists (select from members m where m.who = u and exists (select where m.lvl > a))",
        "exists (select from orgs o where o.id = a and exists (select from members m where m.who = u and m.lvl > o.parent))",
        "not exists (select max(m.lvl) from members m where m.org = a limit 0)",
        "not exists (select from members m where m.org = a and false)",
        "exists (select from members m join orgs o on o.id = m.org where m.who = u and o.open)",
        "exists (select from (select m.org, m.lvl from members m where m.who = u) x where x.org = a)",
        "b not in (select unnest(ia))",
    ]),
    Each(&[
        "has_default(a, 4)",
        "ignores(q, 6 / a)",
        "strictly(q, a) is not false",
        "who_runs() = 'keeper' and p",
        "guarded_by_owner(a)",
        "guarded_by_caller(a)",
    ]),
    Each(&[
        "not exists (select from hidden h where h.org = a)",
        "exists (select from guarded g where g.org = a)",
        "exists (select from guarded g where g.who = u)",
        "(a in (select m.org from members m where m.who = u)) is not false",
        "(a in (select m.org from members m where m.who = u)) is not unknown",
        "(a in (select m.org from members m where m.who = u)) = false",
        "(a not in (select m.org from members m where m.who = u union select p.org from parts p)) is not true",
    ]),
    Each(&[
        "pg_has_role('authenticated', 'usage')",
        "pg_has_role('authenticated', 'member')",
        "not pg_has_role('nobody', 'usage')",
        "pg_has_role('staff', 'USAGE') and p",
        "a > all (select m.lvl from members m where m.who = u)",
        "a = any (select m.lvl from members m where m.who = u)",
    ]),
    // Those that lead to people.
    Whole(&["u = auth.uid()"]),
    Whole(&["u = auth.uid() or p"]),
    Whole(&["u = auth.uid() or (auth.jwt() ->> 'aal') = 'aal2'"]),
    Whole(&["u = auth.uid()", "w = auth.uid()"]),
    Whole(&["u = auth.uid() or w = (select auth.uid())"]),
    Whole(&["exists (select from members m where m.org = {t}.a and m.who = auth.uid())"]),
    Whole(&["a in (select m.org from members m where m.who = (select auth.uid()) and m.lvl > 2)"]),
    Whole(&[
        "auth.uid() in (select m.who from members m where m.org = a union select o.owner from orgs o where o.id = a)",
    ]),
    Whole(&["a in (select jsonb_array_elements_text(auth.jwt() -> 'orgs')::int)"]),
    Whole(&["a = any (array(select jsonb_array_elements_text(auth.jwt() -> 'orgs')::int))"]),
    Whole(&["a = all (array(select jsonb_array_elements_text(auth.jwt() -> 'orgs')::int))"]),
    Whole(&["auth.uid() = any (ua)"]),
    Whole(&["s = any (array[auth.jwt() ->> 'word', auth.jwt() ->> 'aal', 'b'])"]),
    Whole(&["(auth.jwt() ->> 'word') = any (ta) and p"]),
    Whole(&["u = auth.uid() or (auth.jwt() ->> 'until')::timestamptz < '2024-03-01+00'"]),
    Whole(&["ts = (select (auth.jwt() ->> 'until')::timestamptz)"]),
    Whole(&["lower(s) = (auth.jwt() ->> 'word')"]),
    // What the planner works out, and what not.
    Whole(&["p or u = (auth.jwt() ->> 'sub')::uuid"]),
    Whole(&["p or u = (select (auth.jwt() ->> 'sub')::uuid)"]),
    Whole(&["p or 3 = (auth.jwt() ->> 'org')::int"]),
    Whole(&["true or u = (auth.jwt() ->> 'sub')::uuid"]),
    Whole(&["true", "u = (auth.jwt() ->> 'sub')::uuid"]),
    Left(&["true", "for_some(a)"]),
    Left(&["true or for_some(a)"]),
    Left(&["for_some(a) or q", "p"]),
    Left(&["exists (select from confidential c where c.org = a)"]),
    Left(&["exists (select from members m where m.org = a and (m.note::int > 3 or m.ok))"]),
    Left(&["exists (select from members m where m.org = a and m.ok and 6 / m.lvl > 2)"]),
    Left(&["exists (select from orgs o where o.id = a and (select m.ok from members m where m.org = o.parent))"]),
    Left(&["exists (select from members m left join orgs o on o.id = m.org where m.who = u and o.id is null)"]),
    Left(&["(select count(*) from (select distinct m.org from members m where m.who = u) x) > 4"]),
    Left(&[
        "(select count(*) from (select m.org from members m where m.who = u union select p.org from parts p where p.who = u) x) > 4",
    ]),
    Left(&["(select d.n from doubles d where d.org = a limit 1) > 0"]),
    Left(&["(select m.who from members m where m.org = a limit 1) = u"]),
    Left(&["s collate \"und-x-icu\" > 'B'"]),
    Left(&["p or 1 / 0 = 1"]),
    Left(&["1 / 0 = 1 or true"]),
];

/// So many tables of a world have one.
pub(super) const EACH_WORLD: usize = 18;
/// Worlds that have them all.
pub(super) const WORLDS: usize = FORMS.len().div_ceil(EACH_WORLD);

pub(super) fn of_world(world: usize, n: usize) -> &'static Form {
    &FORMS[(world * EACH_WORLD + n) % FORMS.len()]
}

impl Form {
    pub fn is_left(&self) -> bool {
        matches!(self, Left(_))
    }

    pub fn create(&self, table: &str) -> Vec<String> {
        let policy = |(n, using): (usize, &String)| {
            format!("create policy p{n} on {table} for select using ({})", using.replace("{t}", table))
        };
        let usings: Vec<String> = match self {
            Whole(usings) | Left(usings) => usings.iter().map(|using| (*using).to_owned()).collect(),
            Each(forms) => {
                let count = forms.len();
                let whens = forms.iter().enumerate().map(|(n, form)| format!("when {n} then {form} "));
                vec![format!("case {table}.id % {count} {}end", whens.collect::<String>())]
            }
        };
        usings.iter().enumerate().map(policy).collect()
    }
}
