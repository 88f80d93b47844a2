//! Random filters: as a client writes them, and as SQL.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::random_values::{Make, SCALARS};

/// A column of the table that filters are asked about.
pub(super) struct Column {
    pub(super) name: &'static str,
    /// As it is created.
    pub(super) definition: &'static str,
    /// What a constant is cast to: without lengths, and never to `character(1)`.
    pub(super) cast: &'static str,
    /// The generator of literals by its name in `SCALARS`, if any; `few` come on top, often, so that values meet.
    pub(super) random: Option<&'static str>,
    pub(super) few: &'static [&'static str],
}

const TEXTS: &[&str] = &[
    "", "a", "A", "b", "ab", "AB", "aB", "a b", "a%", "a_b", "é", "É", "i", "I", "ı", "İ", "HI", "null", "Z", "_",
    "a\\b", "it's", "ß", "SS",
];

const fn column(
    name: &'static str,
    definition: &'static str,
    cast: &'static str,
    random: &'static str,
    few: &'static [&'static str],
) -> Column {
    Column { name, definition, cast, random: Some(random), few }
}

const fn listed(
    name: &'static str,
    definition: &'static str,
    cast: &'static str,
    few: &'static [&'static str],
) -> Column {
    Column { name, definition, cast, random: None, few }
}

const NUMBERS: &[&str] = &["0", "1", "-1", "2", "10", "9", "-32768", "32767"];
const TIMES: &[&str] = &[
    "2024-02-29",
    "2024-01-01",
    "2024-02-29 10:34:56.1",
    "2024-02-29T10:34:56.123456Z",
    "0001-01-01",
    "0044-03-15 BC",
    "infinity",
    "-infinity",
    "2024-02-29 10:34",
    "12024-01-01",
];

pub(super) const COLUMNS: &[Column] = &[
    column("b", "bool", "bool", "bool", &["true", "false", "yes", "0"]),
    column("i2", "int2", "int2", "int2", NUMBERS),
    column("i4", "int4", "int4", "int4", NUMBERS),
    column("i8", "int8", "int8", "int8", NUMBERS),
    column("oid", "oid", "oid", "oid", &["0", "1", "42", "4294967295"]),
    column("xid", "xid", "xid", "xid", &["1", "2"]),
    column("f4", "float4", "float4", "float4", &["0", "-0", "0.1", "1.5", "NaN", "Infinity", "1e-40"]),
    column("f8", "float8", "float8", "float8", &["0", "-0", "0.1", "1.5", "NaN", "-Infinity", "1e300", "5e-324"]),
    column(
        "num",
        "numeric",
        "numeric",
        "numeric",
        &["0", "0.00", "1.5", "1.50", "-1", "1e3", "1000", "NaN", "Infinity", "9.99", "10"],
    ),
    column("num2", "numeric(10,2)", "numeric", "numeric(10,2)", &["0", "1.5", "1.50", "-1", "10"]),
    column("t", "text", "text", "text", TEXTS),
    column("t_c", "text collate \"C\"", "text", "text", TEXTS),
    column("t_en", "text collate \"en-x-icu\"", "text", "text", TEXTS),
    column("t_tr", "text collate \"tr-x-icu\"", "text", "text", TEXTS),
    column("t_ci", "text collate ignore_case", "text", "text", TEXTS),
    column("vc", "varchar(20)", "varchar", "varchar(20)", TEXTS),
    column("vc_c", "varchar collate \"POSIX\"", "varchar", "varchar(20)", TEXTS),
    column("ch", "char(5)", "bpchar", "bool", TEXTS),
    column("ch_c", "char(5) collate \"C\"", "bpchar", "bool", TEXTS),
    column("ch_ci", "char(5) collate ignore_case", "bpchar", "bool", TEXTS),
    column("nm", "name", "name", "name", TEXTS),
    column("c1", "\"char\"", "\"char\"", "\"char\"", &["a", "b", ""]),
    column(
        "u",
        "uuid",
        "uuid",
        "uuid",
        &[
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            "00000000-0000-0000-0000-000000000000",
        ],
    ),
    column(
        "d",
        "date",
        "date",
        "date",
        &["2024-02-29", "2024-01-01", "0001-01-01", "0044-03-15 BC", "infinity", "12024-01-01"],
    ),
    column("tm", "time", "time", "time", &["10:34", "10:34:56.1", "24:00:00", "00:00", "10:34:56.123456"]),
    column("tmtz", "timetz", "timetz", "timetz", &["10:34+00", "12:34+02", "10:34:56.1-03"]),
    column("ts", "timestamp", "timestamp", "timestamp", TIMES),
    column("tstz", "timestamptz", "timestamptz", "timestamptz", TIMES),
    column("tstz3", "timestamptz(3)", "timestamptz", "timestamptz", TIMES),
    column("iv", "interval", "interval", "interval", &["1 mon", "30 days", "720 hours", "1 year"]),
    column("by", "bytea", "bytea", "bytea", &["\\xdeadbeef", "\\xDEADBEEF", "\\x", "\\xde", "abc", "a\\000b"]),
    column("jb", "jsonb", "jsonb", "jsonb", &["1", "1.0", "{}", "{\"a\":1,\"b\":2}", "{\"b\":2,\"a\":1}", "null"]),
    column(
        "ip",
        "inet",
        "inet",
        "inet",
        &["10.0.0.1", "10.0.0.1/32", "10.0.0.1/24", "::1", "::1/128", "::ffff:1.2.3.4"],
    ),
    column("net", "cidr", "cidr", "cidr", &["10.0.0.0/8", "10.0.0.1", "::1", "10"]),
    column("mac", "macaddr", "macaddr", "macaddr", &["08:00:2b:01:02:03", "08002b:010203"]),
    listed(
        "mac8",
        "macaddr8",
        "macaddr8",
        &["08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03", "ff:00:2b:01:02:03:04:05"],
    ),
    column("mny", "money", "money", "money", &["1", "1.00", "-2.5", "$1"]),
    column("bits", "bit(5)", "\"bit\"", "bit(5)", &["10101", "00000", "10100"]),
    column("vb", "varbit", "varbit", "varbit", &["1", "10", "010", ""]),
    column("r4", "int4range", "int4range", "int4range", &["[1,10)", "[1,9]", "empty", "(,5)", "[,5)"]),
    listed(
        "rd",
        "daterange",
        "daterange",
        &["[2024-01-01,2024-02-01)", "[2024-01-01,2024-01-31]", "empty", "(,infinity)"],
    ),
    column("rn", "numrange", "numrange", "numrange", &["[1,2)", "[1.0,2.0)", "empty"]),
    column("lsn", "pg_lsn", "pg_lsn", "pg_lsn", &["0/0", "0/A", "0/a", "1/0"]),
    listed("xid8", "xid8", "xid8", &["1", "10", "9"]),
    listed("tid", "tid", "tid", &["(0,1)", "(1,0)", "( 0,1)"]),
    column("tsv", "tsvector", "tsvector", "tsvector", &["fat cat", "cat fat"]),
    listed("mood", "mood", "mood", &["sad", "ok", "happy", "so so, really"]),
    listed("moods", "mood_domain", "mood_domain", &["sad", "ok", "happy"]),
    listed("short", "short_text", "short_text", &["a", "ab", "A", "toolong"]),
    listed("small", "small_int", "small_int", &["1", "01", "9", "10"]),
    listed("pair", "pair", "pair", &["(1,a)", "(1,\"a\")", "(2,b)", "(,)", "(,a)"]),
    listed("na.me \"q\"", "text", "text", &["a", "b", "A"]),
    column("js", "json", "json", "json", &["{}"]),
    column("pt", "point", "point", "point", &["(0,0)"]),
    listed("list", "text[]", "text[]", &["{a,b}", "{}"]),
];

/// Present where the extension is installed.
pub(super) const CITEXT: Column = listed("ct", "citext", "citext", TEXTS);

const JUNK: &[&str] = &[
    "",
    "abc",
    "1e5",
    " 1 ",
    "0x1F",
    "1_000",
    "yes",
    "infinity",
    "NaN",
    "{1}",
    "99999999999999999999",
    "2024-13-45",
    "\\x0",
    "'; --",
    "a\\",
];

const OPERATORS: &[&str] =
    &["eq", "neq", "lt", "lte", "gt", "gte", "in", "like", "ilike", "is", "match", "imatch", "isdistinct"];

const REGEXES: &[&str] = &["a", "^a", "B$", ".", "", "^$", "[a-z]+", "(", "a|b", "\\d", "i", "É", "a{2}", "*"];

impl Column {
    pub(super) fn literal(&self, random: &mut StdRng) -> String {
        let make: Option<Make> = self
            .random
            .filter(|name| *name != "bool" || self.definition == "bool")
            .map(|name| SCALARS.iter().find(|(scalar, _)| *scalar == name).expect("a scalar").1);
        match make {
            Some(make) if random.random_ratio(1, 3) => make(random),
            _ => self.few.choose(random).unwrap().to_string(),
        }
    }
}

/// One filter of one or two clauses.
pub(super) struct Question {
    /// What the client sends.
    pub(super) filter: String,
    /// What Postgres is asked, clause by clause.
    pub(super) clauses: Vec<String>,
    /// Patterns may be refused by Postgres when they meet a value.
    pub(super) has_pattern: bool,
}

impl Question {
    pub(super) fn random(columns: &[&Column], random: &mut StdRng) -> Question {
        let mut question = Question::clause(columns, random);
        if random.random_ratio(1, 4) {
            let other = Question::clause(columns, random);
            question.filter = format!("{},{}", question.filter, other.filter);
            question.clauses.extend(other.clauses);
            question.has_pattern |= other.has_pattern;
        }
        question
    }

    pub(super) fn expected(&self) -> String {
        format!("({})", self.clauses.join(") and ("))
    }

    fn clause(columns: &[&Column], random: &mut StdRng) -> Question {
        let column = columns.choose(random).unwrap();
        let operator = *OPERATORS.choose(random).unwrap();
        let value = match operator {
            "in" => list(column, random),
            "is" => ["null", "null", "true", "false", "unknown", "NULL"].choose(random).unwrap().to_string(),
            "like" | "ilike" => pattern(column, random),
            "match" | "imatch" => REGEXES.choose(random).unwrap().to_string(),
            _ if random.random_ratio(1, 20) => JUNK.choose(random).unwrap().to_string(),
            _ => column.literal(random),
        };
        let negate = random.random_ratio(1, 3);
        let written = match operator {
            "in" => format!("({value})"),
            "is" => value.clone(),
            _ => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
        };
        let not = if negate { "not." } else { "" };
        Question {
            filter: format!("{}={not}{operator}.{written}", column.name),
            clauses: vec![sql(column, operator, &value, negate)],
            has_pattern: matches!(operator, "like" | "ilike" | "match" | "imatch"),
        }
    }
}

fn list(column: &Column, random: &mut StdRng) -> String {
    let count = random.random_range(0..5);
    let elements: Vec<String> = (0..count)
        .map(|_| match random.random_range(0..30) {
            0 | 1 => "NULL".to_owned(),
            2 => format!("\"{}\"", JUNK.choose(random).unwrap().replace('\\', "\\\\")),
            _ => format!("\"{}\"", column.literal(random).replace('\\', "\\\\").replace('"', "\\\"")),
        })
        .collect();
    elements.join(if random.random_bool(0.5) { "," } else { ", " })
}

/// A value with characters replaced by wildcards and letters in another case.
fn pattern(column: &Column, random: &mut StdRng) -> String {
    let mut pattern = String::new();
    for character in column.literal(random).chars() {
        match random.random_range(0..8) {
            0 => pattern.push('%'),
            1 => pattern.push('_'),
            2 => pattern.extend(character.to_uppercase()),
            3 => pattern.extend(['\\', character]),
            _ => pattern.push(character),
        }
    }
    if random.random_ratio(1, 3) { pattern + "%" } else { pattern }
}

fn sql(column: &Column, operator: &str, value: &str, negate: bool) -> String {
    let name = format!("filters.\"{}\"", column.name.replace('"', "\"\""));
    let quoted = |text: &str| format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    let constant = format!("{}::{}", quoted(value), column.cast);
    // Patterns are not for non-deterministic collations; Supabase compares under the database's.
    let collate = if column.definition.contains("ignore_case") { " collate \"default\"" } else { "" };
    let symbol = match operator {
        "eq" => "=",
        "neq" => "<>",
        "lt" => "<",
        "lte" => "<=",
        "gt" => ">",
        "gte" => ">=",
        "like" => "like",
        "ilike" => "ilike",
        "match" => "~",
        "imatch" => "~*",
        "isdistinct" => "is distinct from",
        "is" => return format!("{name} is {}{value}", if negate { "not " } else { "" }),
        _ => {
            let array = format!("{}::{}[]", quoted(&format!("{{{value}}}")), column.cast);
            return format!("{}({name} = any ({array}))", if negate { "not " } else { "" });
        }
    };
    let is_pattern = matches!(operator, "like" | "ilike" | "match" | "imatch");
    let collate = if is_pattern { collate } else { "" };
    format!("{}({name} {symbol} {constant}{collate})", if negate { "not " } else { "" })
}
