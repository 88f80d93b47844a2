//! The tables of a history: published ones that people subscribe to, inner ones that policies look into.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::policies::Policy;

/// What policies read besides the row.
pub(super) const INNER: &str = "
    create type rank as enum ('guest', 'member', 'admin', 'owner');
    create table orgs (id int primary key, owner uuid, plan text, open boolean);
    create table members (org int, member uuid, rank rank, active boolean, primary key (org, member));
    create table rooms (id int primary key, org int, hidden boolean, topic text);
    create table blocks (blocker uuid, blocked uuid, note text, primary key (blocker, blocked));
    create table marks (n bigint primary key);
    create table probes (n bigint generated always as identity primary key);
    alter table probes enable row level security;
    create policy of_members on probes using (exists (select from members where member = auth.uid()));
    create policy of_others on probes using (exists (select from orgs where owner = auth.uid())
      or exists (select from rooms where hidden) or exists (select from blocks where blocker = auth.uid()));
    grant select on marks, probes to anon, authenticated, guest, service_role;
    grant select on orgs, members, rooms, blocks to authenticated, guest, service_role;";

/// Of every published table. Policies read these.
const COLUMNS: [&str; 13] = [
    "n int",
    "owner uuid",
    "org int",
    "room int",
    "open boolean",
    "kind text",
    "price numeric(10, 2)",
    "meta jsonb",
    "tags text[]",
    "expires timestamptz",
    "rank rank",
    "author text",
    "viewers uuid[]",
];

/// Of some tables; policies do not read these.
const EXTRAS: [(&str, &str); 8] = [
    ("span interval", "'1 day 02:03:04'"),
    ("raw bytea", "'\\xdeadbeef'"),
    ("code char(5)", "'ab'"),
    ("place point", "'(1,2)'"),
    ("address inet", "'10.0.0.1/8'"),
    ("doc json", "'{\"b\": 1, \"a\": [1, 2]}'"),
    ("grid int[]", "'{{1,2},{3,NULL}}'"),
    ("score float8", "'-0.1'"),
];

pub(super) struct Table {
    pub name: String,
    /// REPLICA IDENTITY FULL.
    pub whole_old: bool,
    pub row_security: bool,
    pub owner: &'static str,
    pub forced: bool,
    /// Its policies lead to people, however few they are.
    pub leads: bool,
    pub policies: Vec<Policy>,
    /// Counts the sets of policies that it has had; the index of the present one's tally.
    pub era: usize,
    /// Keys of the rows that are there.
    pub live: Vec<i64>,
    pub next_key: i64,
    extras: Vec<(&'static str, &'static str)>,
}

impl Table {
    pub(super) fn random(rng: &mut StdRng, number: usize) -> Table {
        let extras = EXTRAS.into_iter().filter(|_| rng.random_bool(0.3)).collect();
        let owner = if rng.random_bool(0.3) { "keeper" } else { "postgres" };
        Table {
            name: format!("docs{number}"),
            whole_old: number == 1 || rng.random_bool(0.5),
            row_security: true,
            owner,
            forced: rng.random_bool(0.3),
            leads: false,
            policies: Vec::new(),
            era: 0,
            live: Vec::new(),
            next_key: 1,
            extras,
        }
    }

    pub(super) fn create(&self) -> String {
        let name = &self.name;
        let extras = self.extras.iter().map(|(definition, _)| *definition);
        let columns = COLUMNS.into_iter().chain(extras).collect::<Vec<_>>().join(", ");
        let identity = if self.whole_old { "full" } else { "default" };
        let force = if self.forced { "force" } else { "no force" };
        format!(
            "create table {name} (id bigint primary key, {columns});
             alter table {name} replica identity {identity}, enable row level security, {force} row level security;
             grant select on {name} to anon, authenticated, guest, service_role;
             alter table {name} owner to {owner};
             alter publication supabase_realtime add table {name};",
            owner = self.owner
        )
    }

    /// `column = value` for some columns, or all of them.
    pub(super) fn values(&self, rng: &mut StdRng, users: &[String], all: bool) -> Vec<(String, String)> {
        let mut values: Vec<(String, String)> = Vec::new();
        for definition in COLUMNS {
            let column = definition.split(' ').next().expect("a name");
            if all || rng.random_bool(0.25) {
                values.push((column.to_owned(), value(rng, column, users)));
            }
        }
        if all {
            let extra = |(definition, value): &(&str, &str)| {
                (definition.split(' ').next().expect("a name").to_owned(), (*value).to_owned())
            };
            values.extend(self.extras.iter().map(extra));
        } else if values.is_empty() {
            values.push(("org".to_owned(), value(rng, "org", users)));
        }
        values
    }

    pub(super) fn insert(&mut self, rng: &mut StdRng, users: &[String]) -> (i64, String) {
        let key = self.next_key;
        self.next_key += 1;
        let (columns, values): (Vec<_>, Vec<_>) = self.values(rng, users, true).into_iter().unzip();
        let sql =
            format!("insert into {} (id, {}) values ({key}, {})", self.name, columns.join(", "), values.join(", "));
        self.live.push(key);
        (key, sql)
    }
}

/// A literal, now and then NULL.
fn value(rng: &mut StdRng, column: &str, users: &[String]) -> String {
    if rng.random_bool(0.07) {
        return "null".to_owned();
    }
    let user = |rng: &mut StdRng| users.choose(rng).expect("users").clone();
    let one_of = |rng: &mut StdRng, texts: &[&str]| (*texts.choose(rng).expect("not empty")).to_owned();
    match column {
        "n" => rng.random_range(0..=100).to_string(),
        "owner" => format!("'{}'", user(rng)),
        "org" => rng.random_range(1..=6).to_string(),
        "room" => rng.random_range(1..=9).to_string(),
        "open" => rng.random_bool(0.5).to_string(),
        "kind" => {
            let kinds = ["draft", "public", "private", "team:1", "team:2", "", "a_b%c", "\u{c4}rger", "Public"];
            format!("'{}'", one_of(rng, &kinds))
        }
        "price" => format!("{}.{:02}", rng.random_range(-20..=100), rng.random_range(0..100)),
        "meta" => {
            let user = user(rng);
            meta(rng, &user)
        }
        "tags" => one_of(rng, &["'{}'", "'{red}'", "'{red,green}'", "'{blue,NULL}'", "'{green,blue,red}'", "'{NULL}'"]),
        // Hours from the edge: a test of its own is about the edge.
        "expires" => {
            let hours = rng.random_range(3..100) * if rng.random_bool(0.5) { 1 } else { -1 };
            // The edges of the windows, a quarter of an hour to either side: longer than a history takes.
            let edge = *["0 days", "30 minutes", "-4 days", "2 days"].choose(rng).expect("not empty");
            let side = if rng.random_bool(0.5) { "15" } else { "-15" };
            let near = format!("now() + interval '{edge}' + interval '{side} minutes'");
            let far = format!("now() + interval '{hours} hours'");
            one_of(rng, &[&far, &far, &near, &near, "'infinity'", "'2020-02-29 12:00:00.5+03'"])
        }
        "rank" => format!("'{}'", one_of(rng, &["guest", "member", "admin", "owner"])),
        "author" => {
            let known = rng.random_bool(0.9);
            format!("'{}'", if known { user(rng) } else { one_of(rng, &["nobody", "", " "]) })
        }
        "viewers" => {
            let count = rng.random_range(0..4);
            let list: Vec<String> = (0..count).map(|_| user(rng)).collect();
            format!("'{{{}}}'", list.join(","))
        }
        other => unreachable!("no values for {other}"),
    }
}

fn meta(rng: &mut StdRng, user: &str) -> String {
    let (level, org, public) = (rng.random_range(0..6), rng.random_range(1..=6), rng.random_bool(0.5));
    match rng.random_range(0..10) {
        0 => "'[]'".to_owned(),
        1 => "'\"text\"'".to_owned(),
        2 => format!("'{{\"level\": \"{level}\", \"org\": null}}'"),
        3 => format!("'{{\"users\": \"{user}\", \"flags\": {public}}}'"),
        _ => format!(
            "'{{\"level\": {level}, \"org\": {org}, \"users\": [\"{user}\", null], \"flags\": {{\"public\": {public}}}}}'"
        ),
    }
}

/// A change of what policies look into. Grants and revocations are in balance, so that a long history does not end with
/// everybody or nobody inside.
pub(super) fn change_inner(rng: &mut StdRng, users: &[String]) -> String {
    let user = |rng: &mut StdRng| users.choose(rng).expect("users").clone();
    let (org, room, member) = (rng.random_range(1..=6), rng.random_range(1..=9), user(rng));
    match rng.random_range(0..12) {
        0..=3 if rng.random_bool(0.55) => format!(
            "insert into members (org, member, rank, active) values {} on conflict (org, member) do update set rank = excluded.rank, active = excluded.active",
            member_values(rng, org, &member)
        ),
        0..=3 => format!("delete from members where org = {org} and member = '{member}'"),
        4 => {
            let to = rng.random_range(1..=6);
            format!(
                "delete from members where org = {to} and member = '{member}';
                update members set org = {to} where org = {org} and member = '{member}'"
            )
        }
        5 => format!("update members set active = not active where member = '{member}'"),
        6 => format!("update members set rank = '{}' where org = {org}", rank(rng)),
        7 => format!("update rooms set org = {org}, hidden = {} where id = {room}", rng.random_bool(0.4)),
        8 if rng.random_bool(0.3) => format!("delete from rooms where id = {room}"),
        8 => {
            format!("insert into rooms values ({room}, {org}, false, 'new') on conflict (id) do update set org = {org}")
        }
        9 => format!("update orgs set owner = '{member}', open = {} where id = {org}", rng.random_bool(0.5)),
        10 if rng.random_bool(0.6) => format!("delete from blocks where blocker = '{member}'"),
        10 => {
            let other = user(rng);
            format!("insert into blocks values ('{member}', '{other}', null) on conflict do nothing")
        }
        _ => format!("update orgs set plan = '{}' where id = {org}", if rng.random_bool(0.5) { "pro" } else { "free" }),
    }
}

fn rank(rng: &mut StdRng) -> &'static str {
    ["guest", "member", "member", "admin", "owner"].choose(rng).expect("not empty")
}

fn member_values(rng: &mut StdRng, org: i32, member: &str) -> String {
    format!("({org}, '{member}', '{}', {})", rank(rng), rng.random_bool(0.8))
}

/// Everybody anew: at the start, and after a TRUNCATE.
pub(super) fn fill_members(rng: &mut StdRng, users: &[String]) -> String {
    let mut rows = Vec::new();
    for org in 1..=6 {
        for user in users {
            if rng.random_bool(0.5) {
                rows.push(member_values(rng, org, user));
            }
        }
    }
    format!("insert into members (org, member, rank, active) values {}", rows.join(", "))
}

pub(super) fn fill_inner(rng: &mut StdRng, users: &[String]) -> String {
    let mut sql = fill_members(rng, users);
    for org in 1..=6 {
        let owner = users.choose(rng).expect("users");
        sql += &format!("; insert into orgs values ({org}, '{owner}', 'pro', {})", rng.random_bool(0.5));
    }
    for room in 1..=9 {
        sql +=
            &format!("; insert into rooms values ({room}, {}, {}, 'r')", rng.random_range(1..=6), rng.random_bool(0.3));
    }
    for _ in 0..12 {
        let (one, other) = (users.choose(rng).expect("users"), users.choose(rng).expect("users"));
        sql += &format!("; insert into blocks values ('{one}', '{other}', 'n') on conflict do nothing");
    }
    sql
}
