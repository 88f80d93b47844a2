//! Random `json` texts, as nobody would format them.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// A text that the type `json` takes. Now and then one that `jsonb` does not.
pub(super) fn json(random: &mut StdRng, depth: u32) -> String {
    let space = space(random);
    let value = match random.random_range(0..if depth == 0 { 6 } else { 9 }) {
        0 => "null".to_owned(),
        1 => ["true", "false"].choose(random).unwrap().to_string(),
        2 | 3 => number(random),
        4 | 5 => string(random),
        6 => {
            let items: Vec<_> = (0..random.random_range(0..4)).map(|_| json(random, depth - 1)).collect();
            format!("[{}{}]", self::space(random), items.join(","))
        }
        _ => {
            let mut members = Vec::new();
            for _ in 0..random.random_range(0..6) {
                // Few and short keys: some come twice.
                let key = match random.random_range(0..3) {
                    0 => string(random),
                    _ => ["\"a\"", "\"b\"", "\"aa\"", "\"B\"", "\"\"", "\"\\u0061\"", "\"é\""]
                        .choose(random)
                        .unwrap()
                        .to_string(),
                };
                members.push(format!(
                    "{}{key}{}:{}",
                    self::space(random),
                    self::space(random),
                    json(random, depth - 1)
                ));
            }
            format!("{{{}}}", members.join(","))
        }
    };
    format!("{space}{value}{}", self::space(random))
}

fn space(random: &mut StdRng) -> &'static str {
    ["", "", "", " ", "\n", "\t \r"].choose(random).unwrap()
}

fn number(random: &mut StdRng) -> String {
    let sign = ["", "-"].choose(random).unwrap();
    let integer = match random.random_range(0..4) {
        0 => "0".to_owned(),
        1 => random.random_range(1..10).to_string(),
        2 => random.random::<u64>().to_string(),
        _ => format!("1{}", "0".repeat(random.random_range(0..40))),
    };
    let fraction = match random.random_range(0..4) {
        0 => format!(".{}", "0".repeat(random.random_range(1..6))),
        1 => format!(".{}{}", "0".repeat(random.random_range(0..6)), random.random::<u32>()),
        _ => String::new(),
    };
    let exponent = match random.random_range(0..8) {
        0 => format!("e{}", random.random_range(-30..30)),
        1 => format!("E+{:03}", random.random_range(0..40)),
        2 if random.random_ratio(1, 20) => {
            ["e131071", "e131072", "e-16383", "e-16384", "e99999999999", "e-99999999999", "e1073741822"]
                .choose(random)
                .unwrap()
                .to_string()
        }
        _ => String::new(),
    };
    format!("{sign}{integer}{fraction}{exponent}")
}

fn string(random: &mut StdRng) -> String {
    let mut text = "\"".to_owned();
    for _ in 0..random.random_range(0..8) {
        match random.random_range(0..40) {
            0 => text.push_str("\\ud83d\\ude00"),
            1 if random.random_ratio(1, 10) => text.push_str("\\u0000"),
            2 if random.random_ratio(1, 10) => text.push_str("\\ud800"),
            3 if random.random_ratio(1, 10) => text.push_str("\\udc00"),
            4..8 => text.push_str(&format!("\\u{:04x}", random.random_range(1..0xd800))),
            8..16 => text.push_str(["\\n", "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\r", "\\t"].choose(random).unwrap()),
            16..20 => text.push_str(["é", "☃", "😀", "\u{7f}", "\u{2028}", "'", "{", ","].choose(random).unwrap()),
            _ => text.push(random.random_range(b'a'..=b'z') as char),
        }
    }
    text.push('"');
    text
}
