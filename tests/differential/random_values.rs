//! Random input literals of every type.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::random_json::json;

/// Makes a literal.
pub(super) type Make = fn(&mut StdRng) -> String;

/// A type, and how its literals are made.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Scalar(Make),
    Array(Box<Shape>, char),
    Composite(Vec<Shape>),
}

impl Shape {
    pub(super) fn array(self) -> Shape {
        Shape::Array(Box::new(self), ',')
    }

    /// Text that the type's input function takes.
    pub(super) fn literal(&self, random: &mut StdRng) -> String {
        match self {
            Shape::Scalar(make) => make(random),
            Shape::Array(element, delimiter) => array_literal(random, element, *delimiter),
            Shape::Composite(fields) => {
                let mut items = Vec::new();
                for field in fields {
                    items.push(if random.random_ratio(1, 6) { String::new() } else { quoted(&field.literal(random)) });
                }
                format!("({})", items.join(","))
            }
        }
    }
}

fn array_literal(random: &mut StdRng, element: &Shape, delimiter: char) -> String {
    let dimensions: Vec<usize> = match random.random_range(0..10) {
        0 => return "{}".to_owned(),
        1 | 2 => vec![random.random_range(1..4), random.random_range(1..4)],
        3 => vec![2, 1, 2],
        _ => vec![random.random_range(1..6)],
    };
    let mut bounds = String::new();
    if random.random_ratio(1, 4) {
        for length in &dimensions {
            let lower = random.random_range(-3..3);
            bounds.push_str(&format!("[{lower}:{}]", lower + *length as i32 - 1));
        }
        bounds.push('=');
    }
    bounds + &dimension(random, element, delimiter, &dimensions)
}

fn dimension(random: &mut StdRng, element: &Shape, delimiter: char, dimensions: &[usize]) -> String {
    let mut items = Vec::new();
    for _ in 0..dimensions.first().copied().unwrap_or(0) {
        items.push(match dimensions {
            [_] if random.random_ratio(1, 6) => "NULL".to_owned(),
            [_] => quoted(&element.literal(random)),
            _ => dimension(random, element, delimiter, &dimensions[1..]),
        });
    }
    format!("{{{}}}", items.join(&delimiter.to_string()))
}

/// Quotes that both array and composite input understand.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The built-in types, by their names in SQL.
pub(super) const SCALARS: &[(&str, Make)] = &[
    ("bool", |random| pick(random, &["t", "f"])),
    ("int2", |random| random.random::<i16>().to_string()),
    ("int4", |random| random.random::<i32>().to_string()),
    ("int8", |random| random.random::<i64>().to_string()),
    ("float4", |random| not_finite(random).unwrap_or_else(|| f32::from_bits(random.random()).to_string())),
    ("float8", float8),
    ("numeric", numeric),
    ("numeric(10,2)", |random| format!("{}e-3", random.random::<i32>())),
    ("oid", |random| random.random::<u32>().to_string()),
    ("text", text),
    ("varchar(20)", |random| text(random).chars().take(20).collect()),
    ("bpchar(8)", |random| text(random).chars().take(8).collect()),
    ("name", |random| text(random).chars().take(15).collect()),
    ("\"char\"", |random| random.random_range(' '..'\u{7f}').to_string()),
    ("uuid", |random| format!("{:032x}", random.random::<u128>())),
    ("json", |random| json(random, 3)),
    ("jsonb", jsonb),
    ("date", |random| special_time(random).unwrap_or_else(|| date(random))),
    ("time", time),
    ("timetz", |random| time(random) + &zone(random)),
    ("timestamp", timestamp),
    ("timestamptz", |random| {
        special_time(random)
            .unwrap_or_else(|| era(random, |random| format!("{} {}{}", day(random), time(random), zone(random))))
    }),
    ("interval", |random| {
        let part = |random: &mut StdRng| random.random_range(-40..40);
        format!("{} mons {} days {} hours {} us", part(random), part(random), part(random), random.random::<i32>())
    }),
    ("bytea", |random| {
        let bytes = random.random_range(0..12);
        (0..bytes).fold("\\x".to_owned(), |text, _| text + &format!("{:02x}", random.random::<u8>()))
    }),
    ("money", |random| (f64::from(random.random::<i32>()) / 100.0).to_string()),
    ("bit(5)", |random| format!("{:05b}", random.random_range(0..32))),
    ("varbit", |random| format!("{:b}", random.random::<u16>())),
    ("inet", |random| format!("{}/{}", ipv4(random), random.random_range(0..=32))),
    ("cidr", |random| pick(random, &["10.0.0.0/8", "192.168.1.0/24", "::1/128", "2001:db8::/32"])),
    ("macaddr", |random| format!("{:012x}", random.random::<u64>() >> 16)),
    ("point", point),
    ("box", |random| format!("{},{}", point(random), point(random))),
    ("lseg", |random| format!("[{},{}]", point(random), point(random))),
    ("path", |random| format!("[{},{}]", point(random), point(random))),
    ("polygon", |random| format!("({},{},{})", point(random), point(random), point(random))),
    ("circle", |random| format!("<{},{}>", point(random), random.random_range(0..9))),
    ("int4range", |random| {
        range(random, |random| random.random_range(-9..9).to_string(), |random| random.random_range(9..99).to_string())
    }),
    ("numrange", |random| range(random, |random| format!("-{:.3}", random.random::<f32>()), numeric_positive)),
    ("tstzrange", |random| {
        range(random, |_| "2001-02-03 04:05:06+00".to_owned(), |_| "\"2024-01-01 00:00:00.5+02\"".to_owned())
    }),
    ("int4multirange", |random| format!("{{[1,{}),[40,50)}}", random.random_range(2..30))),
    ("tsvector", |random| format!("fat:{}A cat:3B & 'a b'", random.random_range(1..9))),
    ("tsquery", |random| pick(random, &["fat & cat", "a | !'b c'", "x:*A <-> y"])),
    ("pg_lsn", |random| format!("{:X}/{:X}", random.random::<u32>(), random.random::<u32>())),
    ("int2vector", |random| numbers(random)),
    ("oidvector", |random| numbers(random)),
    ("regclass", |random| pick(random, &["pg_class", "pg_type", "pg_attribute"])),
    ("xid", |random| random.random::<u32>().to_string()),
    ("jsonpath", |random| pick(random, &["$.a[*] ? (@ > 1)", "strict $.\"a b\""])),
    ("xml", |random| pick(random, &["<a>1</a>", "<a b=\"c\"/>", "text"])),
];

fn pick(random: &mut StdRng, items: &[&str]) -> String {
    items.choose(random).unwrap().to_string()
}

fn not_finite(random: &mut StdRng) -> Option<String> {
    random.random_ratio(1, 8).then(|| pick(random, &["NaN", "Infinity", "-Infinity", "-0", "0"]))
}

fn float8(random: &mut StdRng) -> String {
    not_finite(random).unwrap_or_else(|| match random.random_range(0..3) {
        0 => f64::from_bits(random.random()).to_string(),
        1 => random.random::<f64>().to_string(),
        _ => format!("{}e{}", random.random::<i32>(), random.random_range(-290..290)),
    })
}

fn numeric(random: &mut StdRng) -> String {
    not_finite(random).unwrap_or_else(|| pick(random, &["", "-"]) + &numeric_positive(random))
}

fn numeric_positive(random: &mut StdRng) -> String {
    let exponent = if random.random_ratio(1, 4) { format!("e{}", random.random_range(-60..60)) } else { String::new() };
    format!("{}.{}{exponent}", random.random::<u64>(), random.random::<u32>())
}

fn text(random: &mut StdRng) -> String {
    if random.random_ratio(1, 8) {
        return pick(random, &["NULL", "null", "", " ", "{}", "()", "t", "\\", "\"", "a,b", "1e5"]);
    }
    let mut text = String::new();
    for _ in 0..random.random_range(0..24) {
        text.push(match random.random_range(0..12) {
            0 => *['"', '\\', '{', '}', '(', ')', ',', ';', '\'', '/'].choose(random).unwrap(),
            1 => random.random_range('\u{1}'..' '),
            2 => *['é', '☃', '😀', '\u{7f}', '\u{80}', '\u{2028}', '\u{feff}'].choose(random).unwrap(),
            3 => ' ',
            _ => random.random_range('a'..='z'),
        });
    }
    text
}

/// Like [`json`], without what jsonb refuses.
fn jsonb(random: &mut StdRng) -> String {
    loop {
        let text = json(random, 3);
        let refused = ["\\u0000", "\\ud800", "\\udc00", "e131", "e-163", "e99", "e-99", "e107"];
        if !refused.iter().any(|part| text.contains(part)) {
            return text;
        }
    }
}

fn special_time(random: &mut StdRng) -> Option<String> {
    random.random_ratio(1, 10).then(|| pick(random, &["infinity", "-infinity"]))
}

fn era(random: &mut StdRng, make: impl FnOnce(&mut StdRng) -> String) -> String {
    let before_christ = random.random_ratio(1, 6);
    make(random) + if before_christ { " BC" } else { "" }
}

/// A year that timestamps reach on both sides of Christ.
fn day(random: &mut StdRng) -> String {
    let year = if random.random_ratio(1, 5) { random.random_range(1..4700) } else { random.random_range(1900..2100) };
    format!("{year:04}-{:02}-{:02}", random.random_range(1..13), random.random_range(1..29))
}

fn date(random: &mut StdRng) -> String {
    if random.random_ratio(1, 10) {
        format!("{}-02-03", random.random_range(10_000..200_000))
    } else {
        era(random, day)
    }
}

fn timestamp(random: &mut StdRng) -> String {
    special_time(random).unwrap_or_else(|| match random.random_range(0..10) {
        0 => format!("{}-02-03 04:05:06", random.random_range(10_000..200_000)),
        _ => era(random, |random| format!("{} {}", day(random), time(random))),
    })
}

fn time(random: &mut StdRng) -> String {
    let mut part = |limit| random.random_range(0..limit);
    let fraction = ["", ".5", ".123456", ".000001", ".10"][part(5) as usize];
    format!("{:02}:{:02}:{:02}{fraction}", part(24), part(60), part(60))
}

fn zone(random: &mut StdRng) -> String {
    pick(random, &["+00", "+02", "-08", "+05:30", "-03:45"])
}

fn ipv4(random: &mut StdRng) -> String {
    std::net::Ipv4Addr::from(random.random::<u32>()).to_string()
}

fn point(random: &mut StdRng) -> String {
    format!("({},{})", random.random_range(-99..99), random.random::<f32>())
}

fn range(random: &mut StdRng, low: Make, high: Make) -> String {
    match random.random_range(0..5) {
        0 => "empty".to_owned(),
        1 => format!("(,{})", high(random)),
        2 => format!("[{},)", low(random)),
        _ => format!("[{},{}]", low(random), high(random)),
    }
}

fn numbers(random: &mut StdRng) -> String {
    let count = random.random_range(0..5);
    let numbers: Vec<_> = (0..count).map(|_| random.random_range(0..30_000).to_string()).collect();
    numbers.join(" ")
}
