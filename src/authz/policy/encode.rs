//! Values as the text that Postgres' output functions write.

use std::fmt::Write;

use bigdecimal::BigDecimal;

use super::calendar::{Civil, MICROSECONDS_PER_DAY, MICROSECONDS_PER_SECOND};
use super::decode::numeric_text;
use super::value::Interval;
use super::{DatumType, Failure, Value};

/// `value::text` where that goes through the type's output function (`CoerceViaIO`). Dates and timestamps as under
/// DateStyle ISO, intervals as under IntervalStyle `postgres`: whoever compiles makes sure. A `timestamptz` would need
/// the session's TimeZone.
pub fn encode(of: &DatumType, value: &Value) -> Result<String, Failure> {
    Ok(match (of, value) {
        (_, Value::Bool(value)) => if *value { "t" } else { "f" }.to_owned(),
        (_, Value::Int(value)) => value.to_string(),
        (DatumType::Float4, Value::Float(bits)) => float(f64::from_bits(*bits), true)?,
        (_, Value::Float(bits)) => float(f64::from_bits(*bits), false)?,
        (_, Value::Numeric(number)) => numeric_text(number),
        (_, Value::Text(text) | Value::Json(text)) => text.to_string(),
        (_, Value::Uuid(bytes)) => uuid(bytes),
        (_, Value::Date(days)) => date(*days)?,
        (_, Value::Time(microseconds)) => clock(*microseconds),
        (_, Value::Timestamp(microseconds)) => timestamp(*microseconds)?,
        (_, Value::Timestamptz(_)) => return Err(Failure::undecided("the text of a timestamptz")),
        (_, Value::Interval(value)) => interval(value),
        (_, Value::Jsonb(json)) => json.to_string(),
        (_, Value::Bytea(bytes)) => bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
        (DatumType::Array(element), Value::Array(values)) => array(element, values)?,
        (_, Value::Array(_) | Value::Null) => return Err(Failure::undecided("the text of an unexpected value")),
    })
}

/// The shortest digits that read back as the same value, with an exponent where `float8out` has one.
fn float(value: f64, is_float4: bool) -> Result<String, Failure> {
    if !value.is_finite() {
        let word = if value.is_nan() { "NaN" } else { "Infinity" };
        return Ok(format!("{}{word}", if value < 0.0 { "-" } else { "" }));
    }
    let scientific = if is_float4 { format!("{:e}", value as f32) } else { format!("{value:e}") };
    if is_between_two(value, is_float4, &scientific) || is_half_way(value, &scientific) {
        return Err(Failure::undecided("the text of a float"));
    }
    let Some((digits, exponent)) = scientific.split_once('e') else { return Ok(scientific) };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let plain_digits = if is_float4 { 6 } else { 15 };
    Ok(if (-4..plain_digits).contains(&exponent) {
        if is_float4 { format!("{}", value as f32) } else { format!("{value}") }
    } else {
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    })
}

/// Whether the digits lie exactly between two floats, and read back as the right one only because its last bit is
/// even: Postgres then writes one more.
fn is_between_two(value: f64, is_float4: bool, digits: &str) -> bool {
    let (Ok(written), Ok(exact)) = (digits.parse::<BigDecimal>(), BigDecimal::try_from(value)) else { return true };
    let distance = |other: f64| BigDecimal::try_from(other).map(|other| (other - &exact).abs());
    let neighbours = match is_float4 {
        true => [(value as f32).next_up().into(), (value as f32).next_down().into()],
        false => [value.next_up(), value.next_down()],
    };
    let off = (written - &exact).abs() * 2;
    neighbours.into_iter().any(|other| distance(other).is_ok_and(|distance| distance == off))
}

/// Whether the value lies exactly between the digits and their neighbour: which one is taken is a matter of taste.
pub(super) fn is_half_way(value: f64, digits: &str) -> bool {
    let (Ok(written), Ok(exact)) = (digits.parse::<BigDecimal>(), BigDecimal::try_from(value)) else { return true };
    let (_, scale) = written.as_bigint_and_exponent();
    (written - exact).abs() * 2 == BigDecimal::new(1.into(), scale)
}

pub(super) fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(super) fn date(days: i32) -> Result<String, Failure> {
    match days {
        i32::MAX => return Ok("infinity".to_owned()),
        i32::MIN => return Ok("-infinity".to_owned()),
        _ => {}
    }
    let Civil { year, month, day } = Civil::of(days.into());
    if year < 1 {
        return Err(Failure::undecided("a date before Christ"));
    }
    Ok(format!("{year:04}-{month:02}-{day:02}"))
}

fn clock(microseconds: i64) -> String {
    let seconds = microseconds / MICROSECONDS_PER_SECOND;
    format!("{:02}:{:02}:{}", seconds / 3600, seconds / 60 % 60, seconds_text(microseconds))
}

/// Two digits, and as many of the fraction as it takes.
fn seconds_text(microseconds: i64) -> String {
    let text = format!("{:02}", microseconds / MICROSECONDS_PER_SECOND % 60);
    match microseconds % MICROSECONDS_PER_SECOND {
        0 => text,
        fraction => format!("{text}.{}", format!("{fraction:06}").trim_end_matches('0')),
    }
}

pub(super) fn timestamp(microseconds: i64) -> Result<String, Failure> {
    match microseconds {
        i64::MAX => return Ok("infinity".to_owned()),
        i64::MIN => return Ok("-infinity".to_owned()),
        _ => {}
    }
    let days = microseconds.div_euclid(MICROSECONDS_PER_DAY);
    Ok(format!("{} {}", date(days as i32)?, clock(microseconds.rem_euclid(MICROSECONDS_PER_DAY))))
}

fn interval(value: &Interval) -> String {
    let mut text = String::new();
    let mut after_negative = false;
    for (number, unit) in [(value.months / 12, "year"), (value.months % 12, "mon"), (value.days, "day")] {
        if number == 0 {
            continue;
        }
        let sign = if after_negative && number > 0 { "+" } else { "" };
        let plural = if number == 1 { "" } else { "s" };
        let blank = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{blank}{sign}{number} {unit}{plural}");
        after_negative = number < 0;
    }
    if text.is_empty() || value.microseconds != 0 {
        let size = value.microseconds.unsigned_abs();
        let (seconds, million) = (size / 1_000_000, MICROSECONDS_PER_SECOND as u64);
        let sign = match value.microseconds < 0 {
            true => "-",
            false if after_negative => "+",
            false => "",
        };
        let blank = if text.is_empty() { "" } else { " " };
        let rest = seconds_text((size % (60 * million)) as i64);
        let _ = write!(text, "{blank}{sign}{:02}:{:02}:{rest}", seconds / 3600, seconds / 60 % 60);
    }
    text
}

fn array(element: &DatumType, values: &[Value]) -> Result<String, Failure> {
    let mut text = String::from("{");
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        if value.is_null() {
            text.push_str("NULL");
            continue;
        }
        let inner = encode(element, value)?;
        let space = [' ', '\t', '\n', '\r', '\x0b', '\x0c'];
        let special = |character: char| matches!(character, '"' | '\\' | '{' | '}' | ',') || space.contains(&character);
        if inner.is_empty() || inner.eq_ignore_ascii_case("null") || inner.contains(special) {
            text.push('"');
            for character in inner.chars() {
                if matches!(character, '"' | '\\') {
                    text.push('\\');
                }
                text.push(character);
            }
            text.push('"');
        } else {
            text.push_str(&inner);
        }
    }
    text.push('}');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_have_exponents_where_postgres_writes_them() {
        for (value, expected) in [
            (0.1, "0.1"),
            (1e15, "1e+15"),
            (123456789012345.0, "123456789012345"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1.5e300, "-1.5e+300"),
            (-0.0, "-0"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float(value, false).as_deref(), Ok(expected));
        }
        assert_eq!(float(1e6, true).as_deref(), Ok("1e+06"));
        assert_eq!(float(f64::from(0.1f32), true).as_deref(), Ok("0.1"));
        assert!(float(4_611_686_016_279_904_256.0, false).is_err());
    }

    #[test]
    fn intervals_have_signs_where_they_change() {
        let value = Interval { months: -14, days: 3, microseconds: 3_723_500_000 };
        assert_eq!(interval(&value), "-1 years -2 mons +3 days 01:02:03.5");
        assert_eq!(interval(&Interval { months: 0, days: 0, microseconds: 0 }), "00:00:00");
    }

    #[test]
    fn elements_are_quoted_where_they_must_be() {
        let values = ["a", "", "null", "b c", "d\"\\"].map(Value::text);
        let text = array(&DatumType::Text, &values).unwrap();
        assert_eq!(text, r#"{a,"","null","b c","d\"\\"}"#);
    }
}
