//! Whether a body is JSON that may be passed on as it came, and looking into it without building a tree: eight megabytes
//! of `[[[[` or `0,0,0,` would become hundreds.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{Deserialize, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// As deep as serde_json itself goes, which reads it again in clients' sessions.
const DEPTH_MAX: usize = 127;

/// The text of a JSON value that every receiver can read.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(&'a RawValue);

impl<'a> Json<'a> {
    /// `None` for what is not JSON, and for what is in grammar alone: nested without end, numbers beyond a double's range
    /// (the original cannot decode those either), halves of surrogate pairs.
    pub fn check(bytes: &'a [u8]) -> Option<Json<'a>> {
        let text = std::str::from_utf8(bytes).ok()?;
        is_sane(text).then_some(())?;
        serde_json::from_str(text).ok().map(Json)
    }

    pub fn text(self) -> &'a str {
        self.0.get()
    }

    pub fn is_object(self) -> bool {
        self.text().starts_with('{')
    }

    pub fn is_null(self) -> bool {
        self.text() == "null"
    }

    pub fn string(self) -> Option<Cow<'a, str>> {
        let text = self.text();
        let inner = text.strip_prefix('"')?.strip_suffix('"')?;
        match inner.contains('\\') {
            false => Some(Cow::Borrowed(inner)),
            true => serde_json::from_str::<String>(text).ok().map(Cow::Owned),
        }
    }

    /// The values of these keys; of a key that is given twice, the last. `None`: it is not an object.
    pub fn fields<const N: usize>(self, names: [&'static str; N]) -> Option<[Option<Json<'a>>; N]> {
        self.is_object().then(|| serde_json::Deserializer::from_str(self.text()).deserialize_map(Fields(names)).ok())?
    }

    /// The elements, or how many there are if that is more than `max`. `None`: it is not an array.
    pub fn elements(self, max: usize) -> Option<Elements<'a>> {
        self.text()
            .starts_with('[')
            .then(|| serde_json::Deserializer::from_str(self.text()).deserialize_seq(List { max }).ok())?
    }
}

pub enum Elements<'a> {
    All(Vec<Json<'a>>),
    TooMany,
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(Json)
    }
}

struct Fields<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Fields<N> {
    type Value = [Option<Json<'de>>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [None; N];
        while let Some(key) = map.next_key::<Json<'de>>()? {
            let key = key.string();
            match self.0.iter().position(|name| key.as_deref() == Some(*name)) {
                Some(index) => values[index] = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(values)
    }
}

struct List {
    max: usize,
}

impl<'de> Visitor<'de> for List {
    type Value = Elements<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            if elements.len() == self.max {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Elements::TooMany);
            }
            elements.push(element);
        }
        Ok(Elements::All(elements))
    }
}

/// What the grammar does not say. Text that is not JSON may pass: the parser comes after.
fn is_sane(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        at = match byte {
            b'"' => match end_of_string(bytes, at) {
                Some(end) if is_sane_string(&text[at..end]) => end,
                _ => return false,
            },
            b'[' | b'{' if depth == DEPTH_MAX => return false,
            b'[' | b'{' => {
                depth += 1;
                at + 1
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at + 1
            }
            b'-' | b'0'..=b'9' => {
                let end = end_of_number(bytes, at);
                if !is_sane_number(&text[at..end]) {
                    return false;
                }
                end
            }
            _ => at + 1,
        };
    }
    true
}

/// Behind the closing quote.
fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        match bytes[at] {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

fn is_sane_string(quoted: &str) -> bool {
    !quoted.contains("\\u") || serde_json::from_str::<String>(quoted).is_ok()
}

fn end_of_number(bytes: &[u8], start: usize) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    start + bytes[start..].iter().position(|byte| !is_part(byte)).unwrap_or(bytes.len() - start)
}

/// Short ones without an exponent are within a double's range.
fn is_sane_number(number: &str) -> bool {
    (number.len() < 300 && !number.contains(['e', 'E'])) || number.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_json(text: &str) -> bool {
        Json::check(text.as_bytes()).is_some()
    }

    #[test]
    fn what_no_receiver_could_read_is_not_passed_on() {
        for good in ["{}", " [1, -2.50, 1e3] ", r#""a\"\\ü\ud83d\ude00""#, "null", "123456789012345678901234567890"] {
            assert!(is_json(good), "{good}");
        }
        let bad = ["", " ", "{", "xx", "{} {}", "01", "1.", "--1", "[1,]", "{'a':1}", "\"a\nb\"", "\"", "\"\\", "NaN"];
        for bad in bad.into_iter().chain(["1e999", "[-1e400]", r#""\ud83d""#, r#"{"\udc00x":1}"#, "1e", "1e+-5"]) {
            assert!(!is_json(bad), "{bad}");
        }
        assert!(Json::check(b"\"\xff\"").is_none());
    }

    #[test]
    fn bombs_are_refused_without_going_off() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_json(&nested(127)) && !is_json(&nested(128)));
        assert!(!is_json(&"[".repeat(8_000_000)));
        assert!(!is_json(&r#"{"a":"#.repeat(1_000_000)));
        assert!(!is_json(&"9".repeat(8_000_000)));
        assert!(is_json(&format!("0.{}", "9".repeat(1_000_000))));
    }

    #[test]
    fn of_a_key_that_is_given_twice_the_last_counts() {
        let json = Json::check(br#"{"a":1,"b":{"a":9},"\u0061":2}"#).unwrap();
        let [a, c] = json.fields(["a", "c"]).unwrap();
        assert_eq!((a.unwrap().text(), c.is_none()), ("2", true));
        assert!(Json::check(b"[1]").unwrap().fields(["a"]).is_none());
    }

    #[test]
    fn lists_are_counted_before_they_are_kept() {
        let json = Json::check(b"[1,2,3]").unwrap();
        assert!(matches!(json.elements(3), Some(Elements::All(all)) if all.len() == 3));
        assert!(matches!(json.elements(2), Some(Elements::TooMany)));
        assert!(Json::check(b"{}").unwrap().elements(2).is_none());
    }
}
