//! Reading JSON as the types `json` and `jsonb` do.

use std::sync::Arc;

use super::Json;
use crate::authz::policy::Failure;
use crate::authz::policy::decode::numeric;

/// Deeper documents are left to Postgres, whose own limit is its stack.
const DEPTH_MAX: u32 = 200;

/// What is made of the text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A `jsonb`: numbers must fit into `numeric`, strings must be text.
    Jsonb,
    /// What the functions of `json` do: strings must be text, as field names are looked for.
    Text,
    /// What `json_in` does: escapes need only be well-formed.
    Grammar,
}

pub(super) fn jsonb(text: &str) -> Result<Json, Failure> {
    document(text, Mode::Jsonb)
}

/// Whether `text` is a `json`.
pub(in crate::authz::policy) fn check(text: &str) -> Result<(), Failure> {
    document(text, Mode::Grammar).map(|_| ())
}

/// The text of a scalar as `->>` gives it; `None`: JSON's null. Containers and numbers are as they were written.
pub(in crate::authz::policy) fn scalar_text(raw: &str) -> Result<Option<Arc<str>>, Failure> {
    match raw.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => match document(raw, Mode::Text)? {
            Json::String(text) => Ok(Some(text)),
            _ => Err(malformed()),
        },
        _ => Ok(Some(raw.into())),
    }
}

fn document(text: &str, mode: Mode) -> Result<Json, Failure> {
    let mut reader = Reader { text, at: 0, mode, depth: 0 };
    let json = reader.value()?;
    reader.end()?;
    Ok(json)
}

/// A member of an object: its key, and its value as it was written.
pub(in crate::authz::policy) type Member<'a> = (Arc<str>, &'a str);

/// The members of a `json` object in their order; `None`: it is none. All of the text is read, so that what is wrong
/// anywhere in it is an error.
pub(in crate::authz::policy) fn members(text: &str) -> Result<Option<Vec<Member<'_>>>, Failure> {
    let mut reader = Reader { text, at: 0, mode: Mode::Text, depth: 0 };
    reader.skip_space();
    if reader.peek() != Some(b'{') {
        document(text, Mode::Text)?;
        return Ok(None);
    }
    let mut members = Vec::new();
    reader.object(|reader, key| {
        let raw = reader.raw_value()?;
        members.push((key, raw));
        Ok(())
    })?;
    reader.end()?;
    Ok(Some(members))
}

/// The elements of a `json` array as they were written; `None`: it is none.
pub(in crate::authz::policy) fn elements(text: &str) -> Result<Option<Vec<&str>>, Failure> {
    let mut reader = Reader { text, at: 0, mode: Mode::Text, depth: 0 };
    reader.skip_space();
    if reader.peek() != Some(b'[') {
        document(text, Mode::Text)?;
        return Ok(None);
    }
    let mut elements = Vec::new();
    reader.array(|reader| {
        elements.push(reader.raw_value()?);
        Ok(())
    })?;
    reader.end()?;
    Ok(Some(elements))
}

fn malformed() -> Failure {
    Failure::Error("invalid input syntax for type json".into())
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    mode: Mode,
    depth: u32,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { Err(malformed()) }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// A value, as it was written, without the space around it.
    fn raw_value(&mut self) -> Result<&'a str, Failure> {
        self.skip_space();
        let start = self.at;
        self.value()?;
        Ok(&self.text[start..self.at])
    }

    fn value(&mut self) -> Result<Json, Failure> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => {
                let mut members = Vec::new();
                self.object(|reader, key| {
                    members.push((key, reader.value()?));
                    Ok(())
                })?;
                Ok(Json::Object(ordered(members)))
            }
            Some(b'[') => {
                let mut elements = Vec::new();
                self.array(|reader| {
                    elements.push(reader.value()?);
                    Ok(())
                })?;
                Ok(Json::Array(elements))
            }
            Some(b'"') => Ok(Json::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let words = [("true", Json::Bool(true)), ("false", Json::Bool(false)), ("null", Json::Null)];
                let rest = &self.text[self.at..];
                let (word, value) = words.into_iter().find(|(w, _)| rest.starts_with(w)).ok_or_else(malformed)?;
                self.at += word.len();
                // `nullx` is one word.
                let goes_on = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
                if self.peek().is_some_and(goes_on) { Err(malformed()) } else { Ok(value) }
            }
        }
    }

    fn deeper(&mut self) -> Result<(), Failure> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Failure::undecided("a deeply nested JSON document"));
        }
        Ok(())
    }

    fn object(&mut self, mut member: impl FnMut(&mut Self, Arc<str>) -> Result<(), Failure>) -> Result<(), Failure> {
        self.deeper()?;
        self.at += 1;
        self.skip_space();
        if !self.take(b'}') {
            loop {
                self.skip_space();
                let key = self.string()?;
                self.skip_space();
                if !self.take(b':') {
                    return Err(malformed());
                }
                member(self, key)?;
                self.skip_space();
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return Err(malformed());
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self, mut element: impl FnMut(&mut Self) -> Result<(), Failure>) -> Result<(), Failure> {
        self.deeper()?;
        self.at += 1;
        self.skip_space();
        if !self.take(b']') {
            loop {
                element(self)?;
                self.skip_space();
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return Err(malformed());
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn number(&mut self) -> Result<Json, Failure> {
        let start = self.at;
        self.take(b'-');
        let integer = self.digits();
        if integer == 0 || (integer > 1 && self.text.as_bytes()[self.at - integer] == b'0') {
            return Err(malformed());
        }
        if self.take(b'.') && self.digits() == 0 {
            return Err(malformed());
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'-') || self.take(b'+');
            if self.digits() == 0 {
                return Err(malformed());
            }
        }
        if self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80) {
            return Err(malformed());
        }
        match self.mode {
            Mode::Jsonb => numeric(&self.text[start..self.at]).map(Json::Number),
            Mode::Text | Mode::Grammar => Ok(Json::Null),
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Result<Arc<str>, Failure> {
        if !self.take(b'"') {
            return Err(malformed());
        }
        let start = self.at;
        let mut unescaped: Option<String> = None;
        let mut copied = start;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    let text = unescaped.get_or_insert_default();
                    text.push_str(&self.text[copied..self.at]);
                    let character = self.escape()?;
                    copied = self.at;
                    unescaped.get_or_insert_default().extend(character);
                }
                None | Some(..0x20) => return Err(malformed()),
                Some(_) => self.at += 1,
            }
        }
        let rest = &self.text[copied..self.at];
        self.at += 1;
        Ok(match unescaped {
            Some(text) => (text + rest).into(),
            None => rest.into(),
        })
    }

    /// A backslash and what follows it; `None` where it stands for no character that text can have.
    fn escape(&mut self) -> Result<Option<char>, Failure> {
        let character = match self.text.as_bytes().get(self.at + 1) {
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(malformed()),
        };
        self.at += 2;
        Ok(Some(character))
    }

    fn unicode_escape(&mut self) -> Result<Option<char>, Failure> {
        let first = self.code_unit()?;
        if self.mode == Mode::Grammar {
            return Ok(None);
        }
        let unpaired = || Failure::Error("a Unicode surrogate without its other half".into());
        let code_point = match first {
            0 => return Err(Failure::Error("\\u0000 cannot be converted to text".into())),
            0xd800..0xdc00 => {
                if !self.text[self.at..].starts_with("\\u") {
                    return Err(unpaired());
                }
                let second = self.code_unit()?;
                if !(0xdc00..0xe000).contains(&second) {
                    return Err(unpaired());
                }
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            other => other,
        };
        char::from_u32(code_point).map(Some).ok_or_else(unpaired)
    }

    /// Reads `\uXXXX`.
    fn code_unit(&mut self) -> Result<u32, Failure> {
        let digits = self.text.as_bytes().get(self.at + 2..self.at + 6).ok_or_else(malformed)?;
        let mut unit = 0;
        for digit in digits {
            unit = unit << 4 | char::from(*digit).to_digit(16).ok_or_else(malformed)?;
        }
        self.at += 6;
        Ok(unit)
    }
}

/// Keys in `jsonb`'s order; of equal ones the last written.
fn ordered(mut members: Vec<(Arc<str>, Json)>) -> Vec<(Arc<str>, Json)> {
    members.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
    // Of neighbours with one key `dedup` keeps the first, whose value the later one takes over.
    members.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            std::mem::swap(&mut later.1, &mut kept.1);
        }
        same
    });
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> String {
        jsonb(text).unwrap().to_string()
    }

    #[test]
    fn jsonb_is_printed_as_postgres_prints_it() {
        for (text, expected) in [
            (r#" {"b":1, "aa":2,"a":[1.50,1e2, -0.0]} "#, r#"{"a": [1.50, 100, 0.0], "b": 1, "aa": 2}"#),
            (r#"{"a":1,"a":2,"a":3}"#, r#"{"a": 3}"#),
            (r#""\u00e9\n\u0001\ud83d\ude00""#, "\"é\\n\\u0001😀\""),
            ("[]", "[]"),
            ("{}", "{}"),
        ] {
            assert_eq!(printed(text), expected);
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for text in ["", "{", "[1,]", "{\"a\"}", "01", "1.", "nullx", "tru", "\"\n\"", "\"\\u12\"", "'a'", "1 2", "-"] {
            assert!(matches!(jsonb(text), Err(Failure::Error(_))), "{text}");
            assert!(matches!(check(text), Err(Failure::Error(_))), "{text}");
        }
        for text in [r#""\u0000""#, r#""\ud800""#, r#""\udc00x""#, r#"["\ud800\u0041"]"#] {
            assert!(matches!(jsonb(text), Err(Failure::Error(_))), "{text}");
            assert_eq!(check(text), Ok(()), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(matches!(jsonb(&deep), Err(Failure::Undecided(_))));
    }

    #[test]
    fn members_keep_their_text() {
        let text = r#"{ "a" : { "x": 1 } , "b":"t\u0041" }"#;
        let found = members(text).unwrap().unwrap();
        assert_eq!(found, [("a".into(), r#"{ "x": 1 }"#), ("b".into(), r#""t\u0041""#)]);
        assert_eq!(scalar_text(found[1].1).unwrap().as_deref(), Some("tA"));
        assert_eq!(elements(text), Ok(None));
    }
}
