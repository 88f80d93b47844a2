//! Filter values that are plainly valid: their canonical text without asking Postgres.
//!
//! `None` is never "invalid": it is "let Postgres say", who also words the error.

use crate::catalog::PgType;

/// Longer numbers are Postgres' to judge.
const NUMERIC_DIGITS_MAX: usize = 1000;

/// `NAMEDATALEN - 1`.
const NAME_BYTES_MAX: usize = 63;

/// What `select text::type::text` gives for a built-in type, if that is plain.
pub(super) fn canonical(pg_type: &PgType, text: &str) -> Option<String> {
    if pg_type.schema != "pg_catalog" {
        return None;
    }
    match pg_type.name.as_str() {
        "text" | "varchar" | "bpchar" => Some(text.to_owned()),
        "name" => Some(name(text).to_owned()),
        "bool" => boolean(text).map(str::to_owned),
        "int2" => integer(text, i16::MIN.into(), i16::MAX.into()),
        "int4" => integer(text, i32::MIN.into(), i32::MAX.into()),
        "int8" => integer(text, i64::MIN, i64::MAX),
        "oid" => integer(text, 0, u32::MAX.into()),
        "uuid" => uuid(text),
        "numeric" => numeric(text),
        "float4" => {
            float(text).filter(|text| text.parse::<f32>().is_ok_and(|value| is_plain_float(value.into(), text)))
        }
        "float8" => float(text).filter(|text| text.parse::<f64>().is_ok_and(|value| is_plain_float(value, text))),
        "date" => date(text).map(str::to_owned),
        "timestamp" => timestamp(text),
        "timestamptz" => timestamp(without_zone(text)?).map(|text| format!("{text}+00")),
        "bytea" => bytea(text),
        _ => None,
    }
}

/// Longer names are cut, at a character's border.
fn name(text: &str) -> &str {
    let mut end = text.len().min(NAME_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn boolean(text: &str) -> Option<&'static str> {
    match text {
        "true" | "t" => Some("t"),
        "false" | "f" => Some("f"),
        _ => None,
    }
}

fn integer(text: &str, min: i64, max: i64) -> Option<String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let value: i64 = is_digits(digits).then(|| text.parse().ok())??;
    (min <= value && value <= max).then(|| value.to_string())
}

fn uuid(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let plain = bytes.len() == 36
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    plain.then(|| text.to_ascii_lowercase())
}

fn numeric(text: &str) -> Option<String> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, f)| (whole, Some(f)));
    if digits.len() > NUMERIC_DIGITS_MAX || !is_digits(whole) || !fraction.is_none_or(is_digits) {
        return None;
    }
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let is_zero = whole == "0" && fraction.is_none_or(|fraction| fraction.bytes().all(|digit| digit == b'0'));
    let sign = if is_zero { "" } else { sign };
    Some(fraction.map_or_else(|| format!("{sign}{whole}"), |fraction| format!("{sign}{whole}.{fraction}")))
}

/// A float as it was written: its shortest form is not needed, only its value.
fn float(text: &str) -> Option<String> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let digits = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, f)| (whole, Some(f)));
    let exponent_is_plain = exponent.is_none_or(|exponent| is_digits(exponent.trim_start_matches(['-', '+'])));
    let plain = is_digits(whole) && fraction.is_none_or(is_digits) && exponent_is_plain;
    (plain && text.parse::<f64>().is_ok()).then(|| text.to_owned())
}

/// Neither overflow nor underflow, both of which Postgres reports.
fn is_plain_float(value: f64, text: &str) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    value.is_finite() && (value != 0.0 || !mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9')))
}

/// `YYYY-MM-DD` in the years 1 to 9999.
fn date(text: &str) -> Option<&str> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text.as_bytes() else { return None };
    let number = |digits: &[&u8]| {
        digits
            .iter()
            .try_fold(0u32, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u32::from(**digit - b'0')))
    };
    let (year, month, day) = (number(&[y1, y2, y3, y4])?, number(&[m1, m2])?, number(&[d1, d2])?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    (year > 0 && (1..=days).contains(&day)).then_some(text)
}

/// `YYYY-MM-DD[(T| )HH:MM[:SS[.ffffff]]]`, as it is printed.
fn timestamp(text: &str) -> Option<String> {
    let day = date(text.get(..10)?)?;
    let time = match text.get(10..)?.strip_prefix(['T', ' ']) {
        Some(time) => time,
        None if text.len() == 10 => "00:00:00",
        None => return None,
    };
    let (clock, fraction) = time.split_once('.').map_or((time, ""), |(clock, fraction)| (clock, fraction));
    if time.ends_with('.') || fraction.len() > 6 || (!fraction.is_empty() && !is_digits(fraction)) {
        return None;
    }
    let two = |text: &str, max: u32| {
        let plain = text.len() == 2 && is_digits(text) && text.parse::<u32>().is_ok_and(|value| value <= max);
        plain.then_some(())
    };
    two(clock.get(..2)?, 23)?;
    two(clock.get(3..5)?, 59)?;
    let seconds = match clock.len() {
        // A fraction needs seconds in front of it.
        5 if fraction.is_empty() && !time.contains('.') => ":00",
        8 => clock.get(5..)?,
        _ => return None,
    };
    two(seconds.get(1..)?, 59)?;
    if clock.as_bytes()[2] != b':' || !seconds.starts_with(':') {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{day} {}{seconds}{point}{fraction}", &clock[..5]))
}

/// Sessions are pinned to UTC, so that no zone is UTC too; other offsets are Postgres' to add.
fn without_zone(text: &str) -> Option<&str> {
    let has_time = text.len() > 10;
    ["Z", "+00:00", "+00"].into_iter().find_map(|zone| text.strip_suffix(zone).filter(|_| has_time)).or(Some(text))
}

fn bytea(text: &str) -> Option<String> {
    let digits = text.strip_prefix("\\x")?;
    let plain = digits.len() % 2 == 0 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| text.to_ascii_lowercase())
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::TypeKind;

    fn of(type_name: &str, text: &str) -> Option<String> {
        let pg_type = PgType {
            oid: 1,
            schema: "pg_catalog".into(),
            name: type_name.into(),
            sql_name: type_name.into(),
            kind: TypeKind::Base,
            has_json_cast: false,
        };
        canonical(&pg_type, text)
    }

    #[test]
    fn plain_values_have_their_canonical_text() {
        for (type_name, text, expected) in [
            ("bool", "true", "t"),
            ("int4", "01", "1"),
            ("int4", "-0", "0"),
            ("int2", "-32768", "-32768"),
            ("oid", "4294967295", "4294967295"),
            ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            ("numeric", "-007.50", "-7.50"),
            ("numeric", "-0.0", "0.0"),
            ("timestamp", "2024-01-01", "2024-01-01 00:00:00"),
            ("timestamp", "2024-02-29T12:34", "2024-02-29 12:34:00"),
            ("timestamptz", "2024-02-29T10:34:56.120Z", "2024-02-29 10:34:56.12+00"),
            ("timestamptz", "2024-02-29 10:34:56+00:00", "2024-02-29 10:34:56+00"),
            ("bytea", "\\xDEADbeef", "\\xdeadbeef"),
        ] {
            assert_eq!(of(type_name, text).as_deref(), Some(expected), "{type_name} {text}");
        }
        assert_eq!(of("name", &"é".repeat(40)).unwrap().len(), 62);
    }

    #[test]
    fn everything_else_is_left_to_postgres() {
        for (type_name, text) in [
            ("bool", "yes"),
            ("int4", "abc"),
            ("int4", " 1"),
            ("int4", "2147483648"),
            ("int8", "9223372036854775808"),
            ("oid", "-1"),
            ("uuid", "notauuid"),
            ("numeric", "1e5"),
            ("numeric", "1."),
            ("float8", "1e400"),
            ("float8", "1e-400"),
            ("float4", "1e39"),
            ("float8", "nan"),
            ("date", "2023-02-29"),
            ("date", "0000-01-01"),
            ("timestamp", "2024-01-01T24:00"),
            ("timestamp", "2024-01-01T10:00Z"),
            ("timestamp", "2024-01-01T10:00:60"),
            ("timestamptz", "2024-01-01T10:00+02"),
            ("timestamptz", "2024-01-01T10:00:00.1234567Z"),
            ("bytea", "\\xabc"),
            ("interval", "1 day"),
        ] {
            assert_eq!(of(type_name, text), None, "{type_name} {text}");
        }
    }
}
