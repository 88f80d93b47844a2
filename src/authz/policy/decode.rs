//! Values from text.
//!
//! The text that Postgres itself writes on the stream, and text that people write into claims and constants. What is
//! surely wrong is Postgres' error; what is spelled so that the meaning depends on version, settings or more rules
//! than are worth having here is undecided.

mod number;
mod time;

use super::json::{self, Json};
use super::{DatumType, Failure, Value};
use crate::routing::array_literal;

pub use super::encode::encode;
pub(super) use number::{float4, float8, numeric, numeric_text};

/// `isspace` of the C locale: what numbers may have around them.
const SPACE: [char; 6] = [' ', '\t', '\n', '\r', '\x0b', '\x0c'];

/// `text::type`.
pub fn decode(of: &DatumType, text: &str) -> Result<Value, Failure> {
    Ok(match of {
        DatumType::Bool => Value::Bool(boolean(text)?),
        DatumType::Int2 => Value::Int(number::integer(text, i16::MIN.into(), i16::MAX.into())?),
        DatumType::Int4 => Value::Int(number::integer(text, i32::MIN.into(), i32::MAX.into())?),
        DatumType::Int8 => Value::Int(number::integer(text, i64::MIN, i64::MAX)?),
        DatumType::Oid => Value::Int(number::oid(text)?),
        DatumType::Float4 => Value::Float(float4(text)?.to_bits()),
        DatumType::Float8 => Value::Float(float8(text)?.to_bits()),
        DatumType::Numeric => Value::Numeric(numeric(text)?.into()),
        DatumType::Text | DatumType::Bpchar => Value::Text(text.into()),
        DatumType::Uuid => Value::Uuid(uuid(text)?),
        DatumType::Date => Value::Date(time::date(text)?),
        DatumType::Time => Value::Time(time::time_of_day(text)?),
        DatumType::Timestamp => Value::Timestamp(time::timestamp(text)?),
        DatumType::Timestamptz => Value::Timestamptz(time::timestamptz(text)?),
        DatumType::Interval => Value::Interval(time::interval(text)?),
        DatumType::Json => {
            json::check(text)?;
            Value::Json(text.into())
        }
        DatumType::Jsonb => Value::Jsonb(Json::parse(text)?.into()),
        DatumType::Bytea => Value::Bytea(bytea(text)?.into()),
        DatumType::Enum(labels) => match labels.iter().any(|label| label == text) {
            true => Value::Text(text.into()),
            false => return Err(invalid("enum")),
        },
        DatumType::Array(element) => array(element, text)?,
    })
}

fn invalid(of: &str) -> Failure {
    Failure::Error(format!("invalid input syntax for type {of}").into())
}

fn out_of_range(of: &str) -> Failure {
    Failure::Error(format!("value out of range for type {of}").into())
}

/// `boolin`: any unambiguous beginning of a word.
fn boolean(text: &str) -> Result<bool, Failure> {
    let word = text.trim_matches(SPACE);
    let begins = |whole: &str, least: usize| {
        word.len() >= least
            && word.len() <= whole.len()
            && whole.as_bytes()[..word.len()].eq_ignore_ascii_case(word.as_bytes())
    };
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || word == "1" {
        return Ok(true);
    }
    if begins("false", 1) || begins("no", 1) || begins("off", 2) || word == "0" {
        return Ok(false);
    }
    Err(invalid("boolean"))
}

/// 32 hexadecimal digits; a hyphen may stand after each four of them, braces around all.
fn uuid(text: &str) -> Result<[u8; 16], Failure> {
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let parse = || -> Option<[u8; 16]> {
        let mut rest = text.as_bytes();
        if let Some(inner) = rest.strip_prefix(b"{") {
            rest = inner.strip_suffix(b"}")?;
        }
        let mut bytes = [0; 16];
        for (place, byte) in bytes.iter_mut().enumerate() {
            let [high, low, more @ ..] = rest else { return None };
            *byte = hex(*high)? << 4 | hex(*low)?;
            rest = more;
            if place % 2 == 1 && place < 15 {
                rest = rest.strip_prefix(b"-").unwrap_or(rest);
            }
        }
        rest.is_empty().then_some(bytes)
    };
    parse().ok_or_else(|| invalid("uuid"))
}

/// `\x0102`; of the old escape format only what has no escapes.
fn bytea(text: &str) -> Result<Vec<u8>, Failure> {
    let Some(digits) = text.strip_prefix("\\x") else {
        return match text.contains('\\') {
            true => Err(Failure::undecided("bytea in escape format")),
            false => Ok(text.as_bytes().to_vec()),
        };
    };
    if digits.contains(SPACE) {
        return Err(Failure::undecided("bytea with blanks"));
    }
    let pair = |pair: &[u8]| -> Option<u8> {
        let [high, low] = pair else { return None };
        Some((char::from(*high).to_digit(16)? << 4 | char::from(*low).to_digit(16)?) as u8)
    };
    digits.as_bytes().chunks(2).map(pair).collect::<Option<Vec<u8>>>().ok_or_else(|| invalid("bytea"))
}

fn array(element: &DatumType, text: &str) -> Result<Value, Failure> {
    let elements =
        array_literal::parse(text).ok_or_else(|| Failure::undecided("an array literal out of the ordinary"))?;
    let value = |element_text: Option<String>| match element_text {
        Some(text) => decode(element, &text),
        None => Ok(Value::Null),
    };
    Ok(Value::Array(elements.into_iter().map(value).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_error(of: &DatumType, text: &str) -> bool {
        matches!(decode(of, text), Err(Failure::Error(_)))
    }

    #[test]
    fn spellings_of_uuids() {
        let expected = decode(&DatumType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11").unwrap();
        for text in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
        ] {
            assert_eq!(decode(&DatumType::Uuid, text).as_ref(), Ok(&expected), "{text}");
        }
        for text in ["", "{", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a-"] {
            assert!(is_error(&DatumType::Uuid, text), "{text}");
        }
    }

    #[test]
    fn booleans_by_any_clear_beginning() {
        for (text, expected) in [("t", true), (" TRUE ", true), ("y", true), ("on", true), ("of", false), ("0", false)]
        {
            assert_eq!(decode(&DatumType::Bool, text), Ok(Value::Bool(expected)), "{text}");
        }
        for text in ["", "o", "tt", "10", "truee"] {
            assert!(is_error(&DatumType::Bool, text), "{text}");
        }
    }

    #[test]
    fn integers_with_blanks_and_limits() {
        assert_eq!(decode(&DatumType::Int4, " +42\t"), Ok(Value::Int(42)));
        assert_eq!(decode(&DatumType::Int8, "-9223372036854775808"), Ok(Value::Int(i64::MIN)));
        for text in ["", "abc", "1.5", "2147483648", "1 2", "--1", "99999999999999999999999"] {
            assert!(is_error(&DatumType::Int4, text), "{text}");
        }
        // These were errors before 16.
        for text in ["0x1f", "1_000", "-0b1"] {
            assert!(matches!(decode(&DatumType::Int4, text), Err(Failure::Undecided(_))), "{text}");
        }
    }

    #[test]
    fn an_oid_with_a_leading_zero_is_octal_since_16() {
        assert_eq!(decode(&DatumType::Oid, " 1375"), Ok(Value::Int(1375)));
        assert_eq!(decode(&DatumType::Oid, "0"), Ok(Value::Int(0)));
        assert!(is_error(&DatumType::Oid, "4294967296"));
        for text in ["01375", "00", "08", "-1"] {
            assert!(matches!(decode(&DatumType::Oid, text), Err(Failure::Undecided(_))), "{text}");
        }
    }

    #[test]
    fn arrays_of_one_dimension() {
        let ints = DatumType::Array(Box::new(DatumType::Int4));
        let expected = Value::Array([Value::Int(1), Value::Null].into());
        assert_eq!(decode(&ints, "{1,NULL}"), Ok(expected));
        assert!(is_error(&ints, "{a}"));
        assert!(matches!(decode(&ints, "{{1},{2}}"), Err(Failure::Undecided(_))));
    }
}
