//! Numbers from text.

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::{BigInt, Sign};

use super::{SPACE, invalid, out_of_range};
use crate::authz::policy::Failure;

/// Numbers of more digits are Postgres' to work with.
const DIGITS_MAX: i64 = 1000;

pub(super) fn integer(text: &str, min: i64, max: i64) -> Result<i64, Failure> {
    let word = text.trim_matches(SPACE);
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(not_a_number(digits, "integer"));
    }
    // More digits than `i64` has are out of range too.
    let value: i64 = word.parse().map_err(|_| out_of_range("integer"))?;
    if (min..=max).contains(&value) { Ok(value) } else { Err(out_of_range("integer")) }
}

/// `oidin` reads with `strtoul`, which takes signs, and since 16 reads what begins with 0 as octal: only other digits
/// are sure.
pub(super) fn oid(text: &str) -> Result<i64, Failure> {
    let digits = text.trim_matches(SPACE);
    if digits.starts_with(['+', '-']) || (digits.len() > 1 && digits.starts_with('0')) {
        return Err(Failure::undecided("an oid with a sign or a leading zero"));
    }
    integer(digits, 0, u32::MAX.into())
}

/// Words and spellings that only some versions know are not errors for sure.
fn not_a_number(digits: &str, of: &'static str) -> Failure {
    let underscored = digits.contains('_');
    let other_base = digits.starts_with("0x")
        || digits.starts_with("0X")
        || digits.starts_with("0o")
        || digits.starts_with("0O")
        || digits.starts_with("0b")
        || digits.starts_with("0B");
    let word = digits.to_ascii_lowercase();
    // `numeric_in` of some versions reads the exponent with `strtol`, which passes over blanks.
    let spaced = word.contains('e') && word.contains(SPACE);
    if underscored || other_base || spaced || word.starts_with("nan") || word.starts_with("inf") {
        return Failure::undecided("an unusual spelling of a number");
    }
    invalid(of)
}

/// Sign, digits before and after the point, and the exponent of what both `numeric` and the floats take.
struct Decimal<'a> {
    negative: bool,
    integer: &'a str,
    fraction: &'a str,
    exponent: i64,
}

impl<'a> Decimal<'a> {
    fn parse(word: &'a str) -> Option<Decimal<'a>> {
        let negative = word.starts_with('-');
        let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (unsigned, None),
        };
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(integer) || !is_digits(fraction) || (integer.is_empty() && fraction.is_empty()) {
            return None;
        }
        let exponent = match exponent {
            None => 0,
            Some(text) => {
                let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
                if digits.is_empty() || !is_digits(digits) {
                    return None;
                }
                let size: i64 = digits.parse().unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
                if text.starts_with('-') { -size } else { size }
            }
        };
        Some(Decimal { negative, integer, fraction, exponent })
    }

    fn is_zero(&self) -> bool {
        self.integer.bytes().chain(self.fraction.bytes()).all(|digit| digit == b'0')
    }
}

/// The scale of what is given is what Postgres displays: never negative.
pub(in crate::authz::policy) fn numeric(text: &str) -> Result<BigDecimal, Failure> {
    let word = text.trim_matches(SPACE);
    let Some(decimal) = Decimal::parse(word) else {
        return Err(not_a_number(word.trim_start_matches(['+', '-']), "numeric"));
    };
    let digits = (decimal.integer.len() + decimal.fraction.len()) as i64;
    if digits > DIGITS_MAX || decimal.exponent.abs() > DIGITS_MAX {
        return Err(Failure::undecided("a number of very many digits"));
    }
    let mut all = String::with_capacity(digits as usize + 1);
    all.push_str(decimal.integer);
    all.push_str(decimal.fraction);
    let mut scale = decimal.fraction.len() as i64 - decimal.exponent;
    if scale < 0 {
        all.extend(std::iter::repeat_n('0', -scale as usize));
        scale = 0;
    }
    let magnitude = match all.parse::<u64>() {
        Ok(small) => BigInt::from(small),
        Err(_) => all.parse::<BigInt>().map_err(|_| invalid("numeric"))?,
    };
    Ok(BigDecimal::new(if decimal.negative { -magnitude } else { magnitude }, scale))
}

/// `numeric_out`: all digits of the scale.
pub(in crate::authz::policy) fn numeric_text(number: &BigDecimal) -> String {
    let (digits, scale) = number.as_bigint_and_exponent();
    let negative = digits.sign() == Sign::Minus;
    let mut text = digits.magnitude().to_string();
    if scale > 0 {
        let scale = scale as usize;
        if text.len() <= scale {
            text.insert_str(0, &"0".repeat(scale + 1 - text.len()));
        }
        text.insert(text.len() - scale, '.');
    }
    if negative {
        text.insert(0, '-');
    }
    text
}

pub(in crate::authz::policy) fn float8(text: &str) -> Result<f64, Failure> {
    let word = text.trim_matches(SPACE);
    if let Some(value) = special(word) {
        return Ok(value);
    }
    let decimal = Decimal::parse(word).ok_or_else(|| not_a_float(word))?;
    let value: f64 = word.parse().map_err(|_| Failure::undecided("an unusual spelling of a number"))?;
    if value.is_infinite() || (value == 0.0 && !decimal.is_zero()) {
        return Err(out_of_range("double precision"));
    }
    Ok(value)
}

/// Widened, as it is kept.
pub(in crate::authz::policy) fn float4(text: &str) -> Result<f64, Failure> {
    let word = text.trim_matches(SPACE);
    if let Some(value) = special(word) {
        return Ok(value);
    }
    let decimal = Decimal::parse(word).ok_or_else(|| not_a_float(word))?;
    let value: f32 = word.parse().map_err(|_| Failure::undecided("an unusual spelling of a number"))?;
    if value.is_infinite() || (value == 0.0 && !decimal.is_zero()) {
        return Err(out_of_range("real"));
    }
    Ok(value.into())
}

/// As `float8out` prints them.
fn special(word: &str) -> Option<f64> {
    match word {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// `strtod` takes more than is taken here, and what follows it is then an error or not.
fn not_a_float(word: &str) -> Failure {
    not_a_number(word.trim_start_matches(['+', '-']), "double precision")
}
