//! The tables of a world: judged ones, whose rows are full of NULLs and extremes, and inner ones that policies read.

use std::collections::HashSet;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::people::{MOODS, user_ids};

/// What an expression is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Type {
    Bool,
    Int,
    Big,
    Text,
    /// In collation C, where there is an order.
    Name,
    Char,
    Uuid,
    Numeric,
    Float,
    Moment,
    Stamp,
    Date,
    Interval,
    Json,
    Mood,
    Ints,
    Texts,
    Uuids,
}

impl Type {
    pub fn sql(self) -> &'static str {
        match self {
            Type::Bool => "boolean",
            Type::Int => "int",
            Type::Big => "bigint",
            Type::Text | Type::Name => "text",
            Type::Char => "char(3)",
            Type::Uuid => "uuid",
            Type::Numeric => "numeric",
            Type::Float => "float8",
            Type::Moment => "timestamptz",
            Type::Stamp => "timestamp",
            Type::Date => "date",
            Type::Interval => "interval",
            Type::Json => "jsonb",
            Type::Mood => "mood",
            Type::Ints => "int[]",
            Type::Texts => "text[]",
            Type::Uuids => "uuid[]",
        }
    }
}

/// A table that policies read, or stand on.
pub(super) struct Shape {
    pub name: &'static str,
    pub columns: &'static [(&'static str, Type)],
    pub rows: usize,
}

/// Of every judged table, after its key.
pub(super) const JUDGED: [(&str, Type); 22] = [
    ("a", Type::Int),
    ("b", Type::Int),
    ("c", Type::Big),
    ("s", Type::Text),
    ("t", Type::Text),
    ("k", Type::Name),
    ("ch", Type::Char),
    ("u", Type::Uuid),
    ("w", Type::Uuid),
    ("p", Type::Bool),
    ("q", Type::Bool),
    ("n", Type::Numeric),
    ("f", Type::Float),
    ("ts", Type::Moment),
    ("st", Type::Stamp),
    ("d", Type::Date),
    ("iv", Type::Interval),
    ("j", Type::Json),
    ("e", Type::Mood),
    ("ia", Type::Ints),
    ("ta", Type::Texts),
    ("ua", Type::Uuids),
];

pub(super) const INNER: [Shape; 5] = [
    Shape {
        name: "members",
        columns: &[
            ("org", Type::Int),
            ("who", Type::Uuid),
            ("lvl", Type::Int),
            ("ok", Type::Bool),
            ("note", Type::Text),
            ("mood", Type::Mood),
            ("since", Type::Moment),
        ],
        rows: 40,
    },
    Shape {
        name: "orgs",
        columns: &[
            ("parent", Type::Int),
            ("cap", Type::Big),
            ("owner", Type::Uuid),
            ("open", Type::Bool),
            ("label", Type::Name),
            ("founded", Type::Date),
        ],
        rows: 7,
    },
    Shape {
        name: "parts",
        columns: &[("org", Type::Int), ("who", Type::Uuid), ("val", Type::Int), ("tag", Type::Text)],
        rows: 30,
    },
    Shape {
        name: "pairs",
        columns: &[("x", Type::Int), ("y", Type::Int), ("who", Type::Uuid), ("z", Type::Numeric)],
        rows: 25,
    },
    // With policies of its own.
    Shape {
        name: "guarded",
        columns: &[("org", Type::Int), ("who", Type::Uuid), ("flag", Type::Bool), ("ids", Type::Ints)],
        rows: 25,
    },
];

impl Shape {
    pub fn create(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(definition).collect();
        let (name, columns) = (self.name, columns.join(", "));
        match name {
            "parts" => format!(
                "create table parts (id int, {columns}, part int not null, primary key (id, part)) partition by list (part);
                 create table parts_0 partition of parts for values in (0);
                 create table parts_1 partition of parts for values in (1);
                 create table parts_2 partition of parts default;"
            ),
            // Its notes are long, and kept apart.
            "members" => format!(
                "create table members (id int primary key, {columns}); alter table members alter note set storage external;"
            ),
            _ => format!("create table {name} (id int primary key, {columns});"),
        }
    }

    pub fn insert(&self, random: &mut StdRng, id: usize) -> String {
        let mut columns: Vec<&str> = vec!["id"];
        let mut values = vec![id.to_string()];
        for (column, of) in self.columns {
            columns.push(column);
            values.push(match *column {
                "note" if random.random_bool(0.3) => {
                    format!("repeat('{}', 900)", ["abc", "xyz"].choose(random).expect("not empty"))
                }
                _ => followed(random, *of),
            });
        }
        if self.name == "parts" {
            columns.push("part");
            values.push(random.random_range(0..4).to_string());
        }
        format!(
            "insert into {} ({}) values ({}) on conflict do nothing",
            self.name,
            columns.join(", "),
            values.join(", ")
        )
    }

    /// A change of a few rows.
    pub fn change(&self, random: &mut StdRng) -> String {
        let name = self.name;
        let id = random.random_range(0..self.rows + 10);
        let (column, of) = self.columns.choose(random).expect("not empty");
        let new = followed(random, *of);
        match random.random_range(0..20) {
            0..=5 => self.insert(random, id),
            6..=10 => format!("update {name} set {column} = {new} where id = {id}"),
            11 | 14 if name == "parts" => format!("{}; truncate parts_1", self.insert(random, id)),
            11 => format!("update {name} set {column} = {new} where id % 7 = {}", id % 7),
            // Where it takes no other row's key.
            12 => format!(
                "update {name} set id = id + 100 where id = {id} and not exists (select from {name} where id = {id} + 100)"
            ),
            13 if name == "parts" => format!(
                "update parts set part = {} where id = {id} and (select count(*) from parts where id = {id}) = 1",
                random.random_range(0..4)
            ),
            15 if random.random_bool(0.3) => {
                let some: Vec<String> = (0..self.rows / 2).map(|id| self.insert(random, id)).collect();
                format!("{}; truncate {name}; {}", self.insert(random, id), some.join("; "))
            }
            16 => format!("savepoint s; delete from {name}; rollback to s; release s"),
            17 => format!("{}; delete from {name} where id = {id}", self.insert(random, id)),
            18 => format!("delete from {name} where id = {id}; {}", self.insert(random, id)),
            _ => format!("delete from {name} where id = {id}"),
        }
    }
}

/// A table with a number that is none is not followed.
fn followed(random: &mut StdRng, of: Type) -> String {
    loop {
        let value = value(random, of, 0.15);
        if !value.contains("NaN") {
            return value;
        }
    }
}

fn definition((name, of): &(&str, Type)) -> String {
    let collation = if *of == Type::Name { " collate \"C\"" } else { "" };
    format!("{name} {}{collation}", of.sql())
}

/// A judged table.
pub(super) fn create(name: &str, whole_old: bool, owner: &str, forced: bool) -> String {
    let columns: Vec<String> = JUDGED.iter().map(definition).collect();
    let identity = if whole_old { "full" } else { "default" };
    let force = if forced { "force" } else { "no force" };
    format!(
        "create table {name} (id bigint primary key, {});
         alter table {name} alter t set storage external;
         alter table {name} replica identity {identity}, enable row level security, {force} row level security;
         alter table {name} owner to {owner};
         grant select on {name} to public;",
        columns.join(", ")
    )
}

fn values(random: &mut StdRng) -> Vec<String> {
    let long = |random: &mut StdRng| format!("repeat('{}', 900)", ["abc", "xyz"].choose(random).expect("not empty"));
    JUDGED
        .iter()
        .map(|(name, of)| if *name == "t" && random.random_bool(0.15) { long(random) } else { value(random, *of, 0.2) })
        .collect()
}

pub(super) fn fill(random: &mut StdRng, name: &str, rows: usize) -> String {
    let rows: Vec<String> = (1..=rows).map(|id| format!("({id}, {})", values(random).join(", "))).collect();
    format!("insert into {name} values {}", rows.join(", "))
}

/// A change of one row; keys are small numbers. `None`: that row is `taken`.
pub(super) fn change(random: &mut StdRng, name: &str, rows: usize, taken: &mut HashSet<usize>) -> Option<String> {
    let id = random.random_range(1..=rows);
    if !taken.insert(id) {
        return None;
    }
    Some(match random.random_range(0..10) {
        0..=1 => {
            format!("insert into {name} values ({id}, {}) on conflict do nothing", values(random).join(", "))
        }
        2..=3 => format!("delete from {name} where id = {id}"),
        _ => {
            let some: Vec<String> = JUDGED
                .iter()
                .zip(values(random))
                .filter(|((column, _), _)| *column != "t" && random.random_bool(0.4))
                .map(|((column, _), value)| format!("{column} = {value}"))
                .collect();
            format!(
                "update {name} set {} where id = {id}",
                if some.is_empty() { "a = 1".to_owned() } else { some.join(", ") }
            )
        }
    })
}

/// A literal, from few, so that some are equal.
pub(super) fn value(random: &mut StdRng, of: Type, nulls: f64) -> String {
    if random.random_bool(nulls) {
        return format!("null::{}", of.sql());
    }
    let pick = |random: &mut StdRng, all: &[&str]| all.choose(random).expect("not empty").to_string();
    let rare = random.random_bool(0.05);
    match of {
        Type::Bool => random.random_bool(0.5).to_string(),
        Type::Int if rare => pick(random, &["2147483647", "'-2147483648'::int"]),
        Type::Int => random.random_range(0..7).to_string(),
        Type::Big if rare => pick(random, &["9223372036854775807", "'-9223372036854775808'::bigint", "2147483648"]),
        Type::Big => format!("{}::bigint", random.random_range(0..7)),
        Type::Text | Type::Name => {
            let text =
                pick(random, &["''", "'a'", "'b'", "'ab'", "'A'", "'a_c'", "'abc'", "'3'", "'12'", "'x%'", "'\u{e9}'"]);
            format!("{text}::text")
        }
        Type::Char => format!("{}::char(3)", pick(random, &["'a'", "'a '", "'ab'", "''", "'abc'"])),
        Type::Uuid => format!("'{}'::uuid", user_ids().choose(random).expect("users")),
        Type::Numeric => format!(
            "{}::numeric",
            pick(random, &["0", "1", "1.0", "1.50", "2.5", "-3", "'NaN'", "1e20", "0.00", "'12345678901234567890.12'"])
        ),
        Type::Float => format!(
            "{}::float8",
            pick(random, &["0", "'-0'", "1", "1.5", "2.5", "-3", "'NaN'", "'Infinity'", "'-Infinity'", "1e300"])
        ),
        Type::Moment if random.random_bool(0.4) => near_now(random),
        Type::Moment | Type::Stamp => format!("{}::{}", pick(random, &MOMENTS), of.sql()),
        Type::Date => format!("{}::date", pick(random, &DATES)),
        Type::Interval => format!(
            "{}::interval",
            pick(
                random,
                &[
                    "'1 day'",
                    "'24 hours'",
                    "'1 month'",
                    "'30 days'",
                    "'-1 day'",
                    "'0'",
                    "'1 mon -30 days'",
                    "'31 days'"
                ]
            )
        ),
        Type::Json => format!("{}::jsonb", json(random)),
        Type::Mood => format!("'{}'::mood", MOODS.choose(random).expect("not empty")),
        Type::Ints => format!(
            "{}::int[]",
            pick(random, &["'{}'", "'{1}'", "'{1,2}'", "'{2,NULL}'", "'{NULL}'", "'{3,4,5}'", "'{0,6}'"])
        ),
        Type::Texts => format!(
            "{}::text[]",
            pick(random, &["'{}'", "'{a}'", "'{a,b}'", "'{ab,NULL}'", "'{NULL}'", "'{abc,\"\"}'"])
        ),
        Type::Uuids => {
            let some: Vec<String> = (0..random.random_range(0..4))
                .map(|_| {
                    if random.random_bool(0.2) {
                        "NULL".into()
                    } else {
                        user_ids().choose(random).expect("users").clone()
                    }
                })
                .collect();
            format!("'{{{}}}'::uuid[]", some.join(","))
        }
    }
}

pub(super) const MOMENTS: [&str; 8] = [
    "'infinity'",
    "'-infinity'",
    "'2024-01-31 10:00'",
    "'2024-02-29 23:59:59.999999'",
    "'2023-12-31 23:00'",
    "'2100-01-01'",
    "'1999-12-31 23:59:59'",
    "'2024-03-31'",
];

const DATES: [&str; 8] = [
    "'infinity'",
    "'-infinity'",
    "'2024-01-31'",
    "'2024-02-29'",
    "'2023-12-31'",
    "'2100-01-01'",
    "'1999-12-31'",
    "'2024-03-31'",
];

/// Edges that are passed while the world lasts, and others.
fn near_now(random: &mut StdRng) -> String {
    let milliseconds = match random.random_range(0..4) {
        0 => random.random_range(-1_500..8_000),
        1 => random.random_range(0..4_000),
        _ => random.random_range(-90_000_000_i64..90_000_000),
    };
    format!("clock_timestamp() + interval '{milliseconds} milliseconds'")
}

fn json(random: &mut StdRng) -> String {
    let user = user_ids().choose(random).expect("users").clone();
    let number = random.random_range(0..7);
    match random.random_range(0..9) {
        0 => "'[]'".to_owned(),
        1 => "'null'".to_owned(),
        2 => "'\"a\"'".to_owned(),
        3 => format!("'[{number}, \"a\", null]'"),
        4 => format!("'{{\"n\": \"{number}\", \"l\": null}}'"),
        5 => format!("'{{\"n\": null, \"u\": \"{user}\", \"b\": \"yes\"}}'"),
        _ => format!(
            "'{{\"n\": {number}, \"u\": \"{user}\", \"l\": [1, {number}], \"b\": {}, \"o\": {{\"n\": {number}}}}}'",
            random.random_bool(0.5)
        ),
    }
}
