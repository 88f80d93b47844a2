//! Arguments of functions: from small sets, so that some are equal, with the extremes of each type.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

pub(super) const MOODS: &[&str] = &["sad", "ok", "so so"];

const PARTS: &[&str] = &[
    "year", "quarter", "month", "day", "hour", "minute", "second", "epoch", "dow", "isodow", "doy", "week", "DAY",
    "century", "nonsense", "hour", "minute", "second", "epoch",
];
const PARTS_OF_DATES: &[&str] =
    &["year", "quarter", "month", "day", "epoch", "dow", "isodow", "doy", "Month", "week", "hour"];
const PARTS_OF_TIMES: &[&str] = &["hour", "minute", "second", "epoch", "Hour", "day"];
const UNITS: &[&str] = &["second", "minute", "hour", "day", "week", "month", "quarter", "year", "Year", "decade"];
const UUIDS: &[&str] = &[
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12",
];

pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn pick(random: &mut StdRng, items: &[&str]) -> String {
    items.choose(random).unwrap().to_string()
}

/// The text of an argument of a function of these types: what the function is about first, then any value.
pub(super) fn literal(random: &mut StdRng, function: &str, types: &[String], place: usize, type_name: &str) -> String {
    match (function, place, type_name) {
        ("extract" | "date_part", 0, _) => match types[1].as_str() {
            "date" => pick(random, PARTS_OF_DATES),
            "time without time zone" => pick(random, PARTS_OF_TIMES),
            _ => pick(random, PARTS),
        },
        ("date_trunc", 0, _) => pick(random, UNITS),
        ("timezone", 0, _) => pick(random, &["UTC", "utc", "UTC", "Europe/Berlin"]),
        ("varchar" | "bpchar", 1, _) => pick(random, &["-1", "4", "5", "7", "9", "14"]),
        ("numeric", 1, _) => {
            let precision = random.random_range(1..12);
            (precision * 65_536 + random.random_range(0..=precision) + 4).to_string()
        }
        ("lower" | "upper", _, "text") => pick(random, &["abc", "ABC", "a1-Z", "", "é", "Hi", "user@x.org", "X_Y"]),
        ("to_timestamp", ..) => {
            pick(random, &["0", "1700000000", "1700000000.123456", "-1.5", "1e20", "NaN", "Infinity", "0.0000005"])
        }
        ("round" | "trunc", 1, _) => random.random_range(-5..6).to_string(),
        ("array_length" | "array_upper" | "array_lower", 1, _) => pick(random, &["1", "1", "2", "0", "-1"]),
        (name, 1, "text") if name.starts_with("json") => pick(random, &["a", "b", "aa", "é", "", "0", "x"]),
        (name, 1, "text[]") if name.contains("path") => {
            let steps = random.random_range(0..3);
            let steps: Vec<String> =
                (0..steps).map(|_| pick(random, &["a", "b", "0", "1", "-1", "aa", "\" 1\"", "x", "NULL"])).collect();
            format!("{{{}}}", steps.join(","))
        }
        (name, 1, "text[]") if name.starts_with("jsonb") => pick(random, &["{}", "{a}", "{a,b}", "{x,NULL}", "{b,é}"]),
        (name, 0, "json" | "jsonb") if name.contains("array") && random.random_ratio(1, 2) => {
            format!("[{},{}]", json(random, 1), json(random, 0))
        }
        (name, 0, "jsonb") if !name.starts_with("json") && name != "to_jsonb" => pick(
            random,
            &["1", "1.5", "-2.5", "\"1\"", "true", "false", "1e3", "1e20", "[1]", "2147483648", "null", "0"],
        ),
        _ => value(random, type_name),
    }
}

fn value(random: &mut StdRng, type_name: &str) -> String {
    if let Some(element) = type_name.strip_suffix("[]") {
        return array(random, element);
    }
    match type_name {
        "boolean" => pick(random, &["t", "f"]),
        "smallint" => integer(random, i16::MIN.into(), i16::MAX.into()),
        "integer" => integer(random, i32::MIN.into(), i32::MAX.into()),
        "bigint" => integer(random, i64::MIN, i64::MAX),
        "oid" => integer(random, 0, u32::MAX.into()).replace('-', ""),
        "real" => float(random, 30),
        "double precision" => float(random, 300),
        "numeric" => numeric(random),
        "text" | "character varying" | "bpchar" => text(random),
        "uuid" => pick(random, UUIDS),
        "date" => date(random),
        "time without time zone" => time(random),
        "timestamp without time zone" => timestamp(random),
        "timestamp with time zone" => match timestamp(random) {
            infinite if infinite.ends_with('y') => infinite,
            finite => finite + "+00",
        },
        "interval" => interval(random),
        "json" | "jsonb" => json(random, 2),
        "bytea" => pick(random, &["\\x", "\\x00", "\\x01ff", "\\xdeadbeef", "\\x01fe"]),
        "mood" => pick(random, MOODS),
        other => panic!("no generator for {other}"),
    }
}

fn array(random: &mut StdRng, element: &str) -> String {
    let mut elements = Vec::new();
    for _ in 0..random.random_range(0..4) {
        if random.random_ratio(1, 8) {
            elements.push("NULL".to_owned());
            continue;
        }
        let text = value(random, element);
        elements.push(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    }
    format!("{{{}}}", elements.join(","))
}

fn integer(random: &mut StdRng, min: i64, max: i64) -> String {
    match random.random_range(0..8) {
        0 => min,
        1 => max,
        2 => random.random_range(min..=max),
        3 => random.random_range(min / 1000..=max / 1000),
        _ => random.random_range(-3..10).clamp(min, max),
    }
    .to_string()
}

fn float(random: &mut StdRng, exponent: i32) -> String {
    match random.random_range(0..6) {
        0 => pick(random, &["NaN", "Infinity", "-Infinity", "-0", "0"]),
        1 => format!("{}e{}", random.random_range(-9..10), random.random_range(-exponent..exponent)),
        2 => format!("{:.3}", random.random_range(-1e6..1e6)),
        3 => format!("{}.5", random.random_range(-4..4)),
        4 => pick(random, &["9223372036854775807", "-9223372036854775808", "2147483647.5", "32767.4", "0.1"]),
        _ => random.random_range(-3..10).to_string(),
    }
}

fn numeric(random: &mut StdRng) -> String {
    let sign = pick(random, &["", "", "-"]);
    match random.random_range(0..6) {
        0 => format!("{sign}{}.{}", random.random::<u64>(), random.random::<u32>()),
        1 => format!("{sign}{}.5", random.random_range(0..5)),
        2 => format!("{sign}0.{}{}", "0".repeat(random.random_range(0..12)), random.random_range(1..100_000)),
        3 => format!("{sign}{}e{}", random.random_range(1..100), random.random_range(-25..25)),
        4 => pick(random, &["0", "0.00", "1.0", "9223372036854775807.4", "32767.5", "2147483647", "99999999.99"]),
        _ => format!("{sign}{}", random.random_range(0..12)),
    }
}

/// Of few characters, so that one is found in the other; patterns for LIKE among them.
fn text(random: &mut StdRng) -> String {
    if random.random_ratio(1, 5) {
        return pick(random, &["", " ", "ab", "ab ", "  ab", "a,b", "a,b,,c", "%", "a%", "_b%", "null", "\\%", "A"]);
    }
    let length = random.random_range(0..6);
    let letters = ['a', 'b', 'a', 'b', 'c', ',', ' ', '%', '_', '\\'];
    let mut text: String = (0..length).map(|_| *letters.choose(random).unwrap()).collect();
    if random.random_ratio(1, 12) {
        text.push('é');
    }
    text
}

fn day(random: &mut StdRng) -> String {
    let year = if random.random_ratio(1, 6) { random.random_range(1..9999) } else { random.random_range(1998..2030) };
    let day = [1, 28, 29, 30, 31, random.random_range(1..29)].choose(random).copied().unwrap();
    let month: u32 = random.random_range(1..13);
    format!("{year:04}-{month:02}-{:02}", if month == 2 { day.min(28) } else { day.min(30) })
}

fn date(random: &mut StdRng) -> String {
    match random.random_range(0..12) {
        0 => pick(random, &["infinity", "-infinity", "0001-01-01", "294277-01-01", "294276-12-31", "2024-02-29"]),
        _ => day(random),
    }
}

fn time(random: &mut StdRng) -> String {
    if random.random_ratio(1, 5) {
        return pick(random, &["00:00:00", "23:59:59.999999", "12:00:00"]);
    }
    let mut part = |limit| random.random_range(0..limit);
    let fraction = ["", ".5", ".123456", ".000001"][part(4) as usize];
    format!("{:02}:{:02}:{:02}{fraction}", part(24), part(60), part(60))
}

fn timestamp(random: &mut StdRng) -> String {
    match random.random_range(0..12) {
        0 => pick(random, &["infinity", "-infinity", "0001-01-01 00:00:00", "294276-12-31 23:59:59.999999"]),
        _ => format!("{} {}", day(random), time(random)),
    }
}

fn interval(random: &mut StdRng) -> String {
    if random.random_ratio(1, 6) {
        // As long as each other: a month is 30 days, a day 24 hours.
        let lengths =
            ["1 mon", "30 days", "31 days", "720:00:00", "1 year", "12 mons", "360 days", "1 day", "24:00:00"];
        return pick(random, &lengths);
    }
    let mut parts = Vec::new();
    for (unit, limit) in [("years", 20), ("mons", 12), ("days", 40)] {
        if random.random_ratio(1, 2) {
            parts.push(format!("{} {unit}", random.random_range(-limit..limit)));
        }
    }
    if parts.is_empty() || random.random_ratio(1, 2) {
        parts.push(pick(random, &["", "-"]) + &time(random));
    }
    parts.join(" ")
}

/// Of few keys and values, so that one contains the other.
fn json(random: &mut StdRng, depth: u32) -> String {
    match random.random_range(0..if depth == 0 { 6 } else { 10 }) {
        0 => pick(random, &["null", "true", "false"]),
        1..4 => pick(random, &["1", "1.0", "2", "-1.50", "0", "1e2", "12345678901234567890.5"]),
        4 | 5 => pick(random, &["\"a\"", "\"b\"", "\"\\u0061\"", "\"\"", "\"é\\n\"", "\"1\""]),
        6 | 7 => {
            let elements: Vec<String> = (0..random.random_range(0..4)).map(|_| json(random, depth - 1)).collect();
            format!("[{}]", elements.join(" , "))
        }
        _ => {
            let mut members = Vec::new();
            for _ in 0..random.random_range(0..4) {
                let key = pick(random, &["\"a\"", "\"b\"", "\"aa\"", "\"\\u0061\"", "\"é\""]);
                members.push(format!("{key}: {}", json(random, depth - 1)));
            }
            format!("{{{}}}", members.join(","))
        }
    }
}

const ODDITIES: &[(&str, &[&str])] = &[
    ("boolean", &["true", " T", "tru ", "yes", "y", "on", "o", "of", "OFF", "n", "1", "0", "2", "", "t f", "01"]),
    ("integer", &["", " 1", "+1", "- 1", "1.0", "1e3", "0x10", "1_000", "0b1", "0o7", "abc", "2147483648", "٣", "-0"]),
    ("oid", &["-1", "+1", "4294967296", "1.0", "0x1", " 7 "]),
    (
        "double precision",
        &["1e400", "1e-400", "nan", "inf", "+Infinity", ".5", "5.", ".", "1e", "0x1p3", "1d", "1_0", "4.9e-324"],
    ),
    ("real", &["1e39", "1e-46", "1e-45", "3.4028235e38", "16777217", ".5"]),
    (
        "numeric",
        &[
            "1e5",
            "1.50e1",
            ".5",
            "5.",
            ".",
            "",
            "1e",
            "NaN",
            "inf",
            "1_000",
            "0x1f",
            "1e1000000",
            "-0",
            "+1.0",
            "1 2",
            "1e-20",
        ],
    ),
    (
        "uuid",
        &[
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
            " a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
            "",
        ],
    ),
    (
        "date",
        &[
            "2024-2-9",
            "2024-02-30",
            "2024-13-01",
            "2024-00-10",
            "01/02/2024",
            "today",
            "",
            "2024-02-29 12:00:00",
            "20240229",
            "0000-01-01",
            "2024-02-09 BC",
            "J2451187",
            "99-01-08",
        ],
    ),
    (
        "timestamp with time zone",
        &[
            "2024-02-29T12:00:00Z",
            "2024-02-29 12:00:00+02",
            "2024-02-29 12:00:00 +02:30",
            "2024-02-29 24:00:00+00",
            "2024-02-29 12:00:60Z",
            "2024-02-29 12:00+0130",
            "2024-02-29 12:00:00.1234567Z",
            "2024-02-29 12:00:00-15",
            "2024-02-29",
            "now",
            "2024-02-29 12:00:00z",
            "2024-02-29 12:00:00+14",
            "2024-02-30 12:00:00Z",
            "2024-02-29 25:00:00Z",
            "2024-02-29T12:00:00.5-0830",
        ],
    ),
    (
        "timestamp without time zone",
        &[
            "2024-02-29",
            "2024-02-29T12:00",
            "2024-02-29 12:00:00Z",
            "2024-02-29t12:00:00",
            "2024-02-29  12:00:00",
            "2024-02-29 12",
            "294277-01-01 00:00:00",
            "epoch",
        ],
    ),
    (
        "time without time zone",
        &["12:00", "24:00:00", "12", "1:00", "12:00:00 PM", "23:59:60", "12:00:00.5", "12:60:00"],
    ),
    (
        "interval",
        &[
            "1 day",
            "2 hours",
            "1 hour 30 minutes",
            "1.5 days",
            "P1D",
            "-1 day",
            "1 week",
            "3 mons",
            "1 year 2 years",
            "12:30",
            "1 day 12:30:00",
            "@ 1 day",
            "1 day ago",
            "-00:00:01",
            "30",
            "",
            "90 minutes",
            "1 sec",
            "+1 day -2 hours",
            "1 hour 02:03:04",
            "5 days 1 week",
            "1 d",
            "100:00:00",
        ],
    ),
    (
        "json",
        &[
            "",
            "{",
            "[1,]",
            "nul",
            "\"\\u0000\"",
            "\"\\ud800\"",
            "{\"a\":1,}",
            "01",
            "1.",
            "-",
            " 1 ",
            "\"\t\"",
            "'a'",
            "1e",
            "true false",
            "truex",
        ],
    ),
    (
        "jsonb",
        &[
            "",
            "{",
            "[1,]",
            "nul",
            "\"\\u0000\"",
            "\"\\ud800\"",
            "{\"a\":1,\"a\":2}",
            "01",
            "-0.0",
            "1e400",
            "\"\\ud83d\\ude00\"",
            "1.10e1",
            "[1e-5]",
        ],
    ),
    ("bytea", &["\\x0", "\\xzz", "abc", "\\x01 02", "a\\\\b", "\\X01", "\\xABcd", "é"]),
    ("mood", &["SAD", "", " ok", "so so", "glad"]),
    (
        "integer[]",
        &[
            "{1, 2}",
            "{1,a}",
            "{{1,2},{3,4}}",
            "[0:1]={1,2}",
            "{",
            "{1,}",
            "1",
            "{NULL,null}",
            "{\"1\"}",
            " {1}",
            "{1} ",
        ],
    ),
    ("text[]", &["{a b , c}", "{\"a\"}", "{a\"b\"}", "{a\\,b}", "{\"null\",null}", "{ }", "{\"\"}", "{a,,b}", "{é}"]),
];

/// A text that may or may not be of the type: odd ones, good ones, and good ones that lost their shape.
pub(super) fn spelling(random: &mut StdRng, type_name: &str) -> String {
    let odd = ODDITIES.iter().find(|(name, _)| *name == type_name).map(|(_, texts)| *texts);
    match odd {
        Some(texts) if random.random_ratio(1, 3) => return pick(random, texts),
        _ => {}
    }
    let text = value(random, type_name);
    if random.random_ratio(1, 2) {
        return text;
    }
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..random.random_range(1..3) {
        let at = random.random_range(0..=characters.len());
        let character = *['0', '1', ' ', '-', '+', '.', 'e', ',', ':', '"', '{', 'x', 'Z', '9', '\\', '_', '\t']
            .choose(random)
            .unwrap();
        match random.random_range(0..3) {
            0 => characters.insert(at, character),
            1 if at < characters.len() => characters[at] = character,
            _ if at < characters.len() => drop(characters.remove(at)),
            _ => {}
        }
    }
    characters.into_iter().collect()
}
