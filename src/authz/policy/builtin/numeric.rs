//! Arithmetic of `numeric`.
//!
//! The scale of a result is what Postgres displays, and part of what `numeric::text` and `jsonb` print.

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::{BigInt, Sign};

use super::{Builtin, error, unexpected};
use crate::authz::policy::decode::numeric_text;
use crate::authz::policy::{Failure, Value};

/// Beyond this many digits Postgres has limits of its own.
const DIGITS_MAX: u64 = 2000;

pub(super) fn value(number: BigDecimal) -> Result<Value, Failure> {
    match number.digits() > DIGITS_MAX || number.as_bigint_and_exponent().1 > DIGITS_MAX as i64 {
        true => Err(Failure::undecided("a number of very many digits")),
        false => Ok(Value::Numeric(number.into())),
    }
}

fn ten_to(exponent: i64) -> BigInt {
    BigInt::from(10).pow(exponent.max(0) as u32)
}

/// The digits, at a scale that is at least the number's own.
fn at_scale(number: &BigDecimal, scale: i64) -> BigInt {
    let (digits, own) = number.as_bigint_and_exponent();
    digits * ten_to(scale - own)
}

/// Both at the greater of their scales.
fn aligned(a: &BigDecimal, b: &BigDecimal) -> (BigInt, BigInt, i64) {
    let scale = a.as_bigint_and_exponent().1.max(b.as_bigint_and_exponent().1);
    (at_scale(a, scale), at_scale(b, scale), scale)
}

/// How a quotient becomes whole.
#[derive(Clone, Copy)]
pub(super) enum Rounding {
    /// To the nearest, halves away from zero.
    Nearest,
    TowardZero,
    Up,
    Down,
}

fn quotient(dividend: &BigInt, divisor: &BigInt, rounding: Rounding) -> BigInt {
    let (whole, rest) = (dividend / divisor, dividend % divisor);
    if rest.sign() == Sign::NoSign {
        return whole;
    }
    let negative = (rest.sign() == Sign::Minus) != (divisor.sign() == Sign::Minus);
    let away = match rounding {
        Rounding::Nearest => rest.magnitude() * 2u32 >= *divisor.magnitude(),
        Rounding::TowardZero => false,
        Rounding::Up => !negative,
        Rounding::Down => negative,
    };
    match (away, negative) {
        (false, _) => whole,
        (true, true) => whole - 1,
        (true, false) => whole + 1,
    }
}

/// At a scale that may be negative (tens, hundreds); the scale that is displayed is not.
pub(super) fn rounded(number: &BigDecimal, scale: i64, rounding: Rounding) -> BigDecimal {
    let (digits, own) = number.as_bigint_and_exponent();
    if scale >= own {
        return BigDecimal::new(digits * ten_to(scale - own), scale);
    }
    let whole = quotient(&digits, &ten_to(own - scale), rounding);
    BigDecimal::new(whole * ten_to(-scale), scale.max(0))
}

/// The nearest integer, if `i64` holds it.
pub(super) fn to_integer(number: &BigDecimal) -> Option<i64> {
    let (digits, _) = rounded(number, 0, Rounding::Nearest).as_bigint_and_exponent();
    i64::try_from(digits).ok()
}

fn two(args: &[Value], operate: fn(&BigDecimal, &BigDecimal) -> Result<BigDecimal, Failure>) -> Result<Value, Failure> {
    match args {
        [Value::Numeric(a), Value::Numeric(b)] => value(operate(a, b)?),
        _ => unexpected(),
    }
}

fn one(args: &[Value], operate: fn(&BigDecimal) -> BigDecimal) -> Result<Value, Failure> {
    match args {
        [Value::Numeric(a)] => value(operate(a)),
        _ => unexpected(),
    }
}

fn add(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, Failure> {
    let (a, b, scale) = aligned(a, b);
    Ok(BigDecimal::new(a + b, scale))
}

fn subtract(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, Failure> {
    let (a, b, scale) = aligned(a, b);
    Ok(BigDecimal::new(a - b, scale))
}

fn multiply(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, Failure> {
    let ((a, scale_a), (b, scale_b)) = (a.as_bigint_and_exponent(), b.as_bigint_and_exponent());
    Ok(BigDecimal::new(a * b, scale_a + scale_b))
}

fn divisor(number: &BigDecimal) -> Result<(), Failure> {
    match number.as_bigint_and_exponent().0.sign() {
        Sign::NoSign => error("division by zero"),
        _ => Ok(()),
    }
}

fn divide(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, Failure> {
    divisor(b)?;
    let scale = quotient_scale(a, b);
    let (a, b, _) = aligned(a, b);
    Ok(BigDecimal::new(quotient(&(a * ten_to(scale)), &b, Rounding::Nearest), scale))
}

/// `select_div_scale`: at least 16 significant digits, counted in Postgres' groups of four, and at least the scale of
/// either operand.
fn quotient_scale(a: &BigDecimal, b: &BigDecimal) -> i64 {
    let ((weight_a, first_a), (weight_b, first_b)) = (leading_group(a), leading_group(b));
    let weight = weight_a - weight_b - i64::from(first_a <= first_b);
    let own = a.as_bigint_and_exponent().1.max(b.as_bigint_and_exponent().1);
    (16 - weight * 4).max(own).clamp(0, 1000)
}

/// The weight and the value of the first group of four digits that is not zero, groups counted from the point.
fn leading_group(number: &BigDecimal) -> (i64, i64) {
    let text = numeric_text(number);
    let unsigned = text.trim_start_matches('-');
    let (integer, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let integer = format!("{}{integer}", "0".repeat((4 - integer.len() % 4) % 4));
    let fraction = format!("{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
    let digits = integer.clone() + &fraction;
    let groups = digits.as_bytes().chunks(4).map(|group| group.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')));
    let first = groups.enumerate().find(|(_, group)| *group != 0);
    first.map_or((0, 0), |(place, group)| ((integer.len() / 4) as i64 - 1 - place as i64, group))
}

/// The sign of the dividend, as with integers.
fn modulo(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, Failure> {
    divisor(b)?;
    let (a, b, scale) = aligned(a, b);
    Ok(BigDecimal::new(a % b, scale))
}

fn to_scale(args: &[Value], rounding: Rounding) -> Result<Value, Failure> {
    match args {
        [Value::Numeric(number), Value::Int(scale)] if scale.abs() <= 1000 => value(rounded(number, *scale, rounding)),
        [Value::Numeric(_), Value::Int(_)] => Err(Failure::undecided("a number of very many digits")),
        _ => unexpected(),
    }
}

/// `numeric(precision, scale)` of the type modifier.
fn modified(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Numeric(number), Value::Int(modifier)] = args else { return unexpected() };
    if *modifier < 4 {
        return Ok(Value::Numeric(number.clone()));
    }
    let (precision, scale) = ((modifier - 4) >> 16 & 0xffff, (modifier - 4) & 0x7ff);
    // Negative scales came with 15.
    if scale > precision || scale > 1000 {
        return Err(Failure::undecided("an unusual scale"));
    }
    let result = rounded(number, scale, Rounding::Nearest);
    let (digits, _) = result.as_bigint_and_exponent();
    if digits.magnitude() >= ten_to(precision).magnitude() {
        return error("numeric field overflow");
    }
    value(result)
}

fn negated(number: &BigDecimal) -> BigDecimal {
    let (digits, scale) = number.as_bigint_and_exponent();
    BigDecimal::new(-digits, scale)
}

fn absolute(number: &BigDecimal) -> BigDecimal {
    match number.as_bigint_and_exponent().0.sign() {
        Sign::Minus => negated(number),
        _ => number.clone(),
    }
}

fn sign(number: &BigDecimal) -> BigDecimal {
    let sign = match number.as_bigint_and_exponent().0.sign() {
        Sign::Minus => -1,
        Sign::NoSign => 0,
        Sign::Plus => 1,
    };
    BigDecimal::new(BigInt::from(sign), 0)
}

pub(super) const TABLE: &[Builtin] = &[
    Builtin::new(1724, "numeric_add", |args| two(args, add)),
    Builtin::new(1725, "numeric_sub", |args| two(args, subtract)),
    Builtin::new(1726, "numeric_mul", |args| two(args, multiply)),
    Builtin::new(1727, "numeric_div", |args| two(args, divide)),
    Builtin::new(1729, "numeric_mod", |args| two(args, modulo)),
    Builtin::new(1728, "mod", |args| two(args, modulo)),
    Builtin::total(1771, "numeric_uminus", |args| one(args, negated)),
    Builtin::total(1704, "numeric_abs", |args| one(args, absolute)),
    Builtin::total(1705, "abs", |args| one(args, absolute)),
    Builtin::total(1706, "sign", |args| one(args, sign)),
    Builtin::total(1711, "ceil", |args| one(args, |number| rounded(number, 0, Rounding::Up))),
    Builtin::total(2167, "ceiling", |args| one(args, |number| rounded(number, 0, Rounding::Up))),
    Builtin::total(1712, "floor", |args| one(args, |number| rounded(number, 0, Rounding::Down))),
    Builtin::total(1708, "round", |args| one(args, |number| rounded(number, 0, Rounding::Nearest))),
    Builtin::total(1710, "trunc", |args| one(args, |number| rounded(number, 0, Rounding::TowardZero))),
    Builtin::new(1707, "round", |args| to_scale(args, Rounding::Nearest)),
    Builtin::new(1709, "trunc", |args| to_scale(args, Rounding::TowardZero)),
    Builtin::new(1703, "numeric", modified),
];
