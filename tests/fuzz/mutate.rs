//! Mutations: blind ones of bytes, and those that know what texts and frames are made of.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};

/// Nobody learns more from a longer one; `long.rs` is about length.
const BYTES_MAX: usize = 16 << 10;

/// Values at which arithmetic turns.
const NUMBERS: [&str; 19] = [
    "0",
    "-1",
    "1",
    "127",
    "255",
    "256",
    "32767",
    "65535",
    "2147483647",
    "-2147483648",
    "4294967295",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "1e400",
    "1e99999999",
    "1e-99999999",
    "1e131071",
    "NaN",
];

/// What grammars are made of, here and there.
const PIECES: [&str; 24] = [
    "\"",
    "'",
    "\\",
    "\\u0000",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    "=",
    ".",
    "%",
    "%00",
    "\0",
    "é",
    "\u{10ffff}",
    "null",
    "<>",
    "[[[[[[[[",
    "{\"a\":",
];

/// One of the seeds with a few mutations.
pub fn mutant(seeds: &[Vec<u8>], random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = seeds.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..=6) {
        mutate(&mut bytes, seeds, random);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut SmallRng) {
    let at = random.random_range(0..=bytes.len());
    let end = at + random.random_range(0..=(bytes.len() - at).min(32));
    match random.random_range(0..12) {
        0 => flip_bit(bytes, random),
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let again = bytes[at..end].repeat(random.random_range(1..8));
            bytes.splice(at..at, again);
        }
        4 => {
            let other = slice_of(seeds.choose(random).map_or(&[][..], Vec::as_slice), random).to_vec();
            bytes.splice(at..end, other);
        }
        5 => {
            let noise: Vec<u8> = (0..random.random_range(1..9)).map(|_| random.random()).collect();
            bytes.splice(at..end, noise);
        }
        6 => drop(bytes.splice(at..end, PIECES.choose(random).map_or("", |piece| piece).bytes())),
        7 => length_field(bytes, at, random),
        8 => number(bytes, at, random),
        9 | 10 => token(bytes, random),
        _ => bracket(bytes, at, random),
    }
}

fn flip_bit(bytes: &mut [u8], random: &mut SmallRng) {
    if let Some(at) = bytes.len().checked_sub(1).map(|last| random.random_range(0..=last)) {
        bytes[at] ^= 1 << random.random_range(0..8);
    }
}

fn slice_of<'a>(bytes: &'a [u8], random: &mut SmallRng) -> &'a [u8] {
    let start = random.random_range(0..=bytes.len());
    &bytes[start..start + random.random_range(0..=(bytes.len() - start).min(256))]
}

/// One, two, four or eight bytes become a number that is next to what was there, or next to an edge.
fn length_field(bytes: &mut [u8], at: usize, random: &mut SmallRng) {
    let width = *[1, 2, 4, 8].choose(random).unwrap_or(&1);
    let Some(field) = bytes.get_mut(at..at + width) else { return };
    let old = field.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let new = match random.random_range(0..5) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => u64::MAX,
        3 => i64::MAX as u64 >> (64 - 8 * width),
        _ => random.next_u64(),
    };
    field.copy_from_slice(&new.to_be_bytes()[8 - width..]);
}

/// The decimal number at or behind a place becomes another.
fn number(bytes: &mut Vec<u8>, at: usize, random: &mut SmallRng) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|offset| at + offset) else { return };
    let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let new = match random.random_range(0..3) {
        0 => random.random_range(0..70_000).to_string(),
        _ => NUMBERS.choose(random).map_or(String::new(), |number| number.to_string()),
    };
    bytes.splice(start..start + length, new.into_bytes());
}

/// A word takes the place of another, or stands before it.
fn token(bytes: &mut Vec<u8>, random: &mut SmallRng) {
    let is_end = |byte: &u8| b" \n\t,:;()[]{}\"'=.&\x1d\x1e\x1f".contains(byte);
    let mut words = Vec::new();
    let mut start = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if is_end(byte) {
            if start < at {
                words.push(start..at);
            }
            start = at + 1;
        }
    }
    let (Some(from), Some(to)) = (words.choose(random), words.choose(random)) else { return };
    let word = bytes[from.clone()].to_vec();
    let place = if random.random() { to.clone() } else { to.start..to.start };
    bytes.splice(place, word);
}

/// What stands in brackets is left out, doubled, or wrapped many times over.
fn bracket(bytes: &mut Vec<u8>, at: usize, random: &mut SmallRng) {
    let Some(start) = bytes[at..].iter().position(|byte| b"([{".contains(byte)).map(|offset| at + offset) else {
        return;
    };
    let (mut depth, mut end) = (0_usize, start);
    for (offset, byte) in bytes[start..].iter().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            end = start + offset + 1;
            break;
        }
    }
    if end <= start || end - start > 4096 {
        return;
    }
    let inside = bytes[start..end].to_vec();
    match random.random_range(0..4) {
        0 => drop(bytes.drain(start..end)),
        1 => drop(bytes.splice(start..start, inside)),
        2 => {
            let times = random.random_range(1..300);
            let (open, close) = (vec![inside[0]; times], vec![inside[inside.len() - 1]; times]);
            bytes.splice(start..end, [open, inside, close].concat());
        }
        // The same node inside of itself.
        _ => {
            let into = start + 1 + random.random_range(0..inside.len());
            bytes.splice(into..into, inside);
        }
    }
}
