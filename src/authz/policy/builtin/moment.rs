//! Functions of dates, timestamps and intervals.

use bigdecimal::BigDecimal;

use super::Depends::Utc;
use super::{Builtin, error, unexpected};
use crate::authz::policy::calendar::{
    Civil, DAYS_1970_TO_2000, MICROSECONDS_PER_DAY, MICROSECONDS_PER_SECOND, is_date, is_timestamp,
};
use crate::authz::policy::value::Interval;
use crate::authz::policy::{Failure, Value};

const HOUR: i64 = 3600 * MICROSECONDS_PER_SECOND;
const MINUTE: i64 = 60 * MICROSECONDS_PER_SECOND;

/// Of a timestamp or a timestamptz in UTC, or of a date's midnight.
fn microseconds(value: &Value) -> Result<i64, Failure> {
    match value {
        Value::Timestamp(microseconds) | Value::Timestamptz(microseconds) => Ok(*microseconds),
        Value::Date(i32::MAX) => Ok(i64::MAX),
        Value::Date(i32::MIN) => Ok(i64::MIN),
        Value::Date(days) => i64::from(*days)
            .checked_mul(MICROSECONDS_PER_DAY)
            .map_or_else(|| error("date out of range for timestamp"), checked),
        _ => unexpected(),
    }
}

fn is_infinite(microseconds: i64) -> bool {
    matches!(microseconds, i64::MIN | i64::MAX)
}

fn checked(microseconds: i64) -> Result<i64, Failure> {
    if is_timestamp(microseconds) { Ok(microseconds) } else { error("timestamp out of range") }
}

fn civil(microseconds: i64) -> (Civil, i64) {
    let days = microseconds.div_euclid(MICROSECONDS_PER_DAY);
    (Civil::of(days), microseconds.rem_euclid(MICROSECONDS_PER_DAY))
}

/// Months first, then days, then time, as Postgres adds them; each has to stay within the calendar.
fn plus(at: i64, interval: &Interval, sign: i64) -> Result<i64, Failure> {
    if is_infinite(at) {
        return Ok(at);
    }
    let mut at = at;
    if interval.months != 0 {
        let (date, time) = civil(at);
        let days = date.plus_months(i64::from(interval.months) * sign).days();
        at = days
            .checked_mul(MICROSECONDS_PER_DAY)
            .and_then(|day| day.checked_add(time))
            .map_or_else(out_of_range, checked)?;
    }
    if interval.days != 0 {
        let days = i64::from(interval.days) * sign * MICROSECONDS_PER_DAY;
        at = at.checked_add(days).map_or_else(out_of_range, checked)?;
    }
    let time = interval.microseconds.checked_mul(sign);
    time.and_then(|time| at.checked_add(time)).map_or_else(out_of_range, checked)
}

fn out_of_range<T>() -> Result<T, Failure> {
    error("timestamp out of range")
}

fn shifted(args: &[Value], sign: i64) -> Result<Value, Failure> {
    let (at, interval) = match args {
        [at, Value::Interval(interval)] | [Value::Interval(interval), at] => (at, interval),
        _ => return unexpected(),
    };
    let sum = plus(microseconds(at)?, interval, sign)?;
    Ok(if matches!(at, Value::Timestamptz(_)) { Value::Timestamptz(sum) } else { Value::Timestamp(sum) })
}

/// Whole days and what is left of one.
fn between(args: &[Value]) -> Result<Value, Failure> {
    let [a, b] = args else { return unexpected() };
    let (a, b) = (microseconds(a)?, microseconds(b)?);
    if is_infinite(a) || is_infinite(b) {
        return Err(Failure::undecided("a span that is not finite"));
    }
    // It is an error of newer versions only.
    let span = a.checked_sub(b).ok_or_else(|| Failure::undecided("a span out of range"))?;
    let (days, microseconds) = (span / MICROSECONDS_PER_DAY, span % MICROSECONDS_PER_DAY);
    Ok(Value::Interval(Interval { months: 0, days: days as i32, microseconds }))
}

fn days_later(args: &[Value], sign: i64) -> Result<Value, Failure> {
    let (date, days) = match args {
        [Value::Date(date), Value::Int(days)] | [Value::Int(days), Value::Date(date)] => (*date, *days),
        _ => return unexpected(),
    };
    if matches!(date, i32::MIN | i32::MAX) {
        return Ok(Value::Date(date));
    }
    let sum = i64::from(date) + days * sign;
    match i32::try_from(sum) {
        Ok(date) if is_date(sum) => Ok(Value::Date(date)),
        _ => error("date out of range"),
    }
}

fn days_between(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Date(a), Value::Date(b)] => match [a, b].iter().any(|date| matches!(**date, i32::MIN | i32::MAX)) {
            true => error("cannot subtract infinite dates"),
            false => Ok(Value::Int(i64::from(*a) - i64::from(*b))),
        },
        _ => unexpected(),
    }
}

fn intervals(args: &[Value], sign: i32) -> Result<Value, Failure> {
    let [Value::Interval(a), Value::Interval(b)] = args else { return unexpected() };
    let part = |a: i32, b: i32| if sign > 0 { a.checked_add(b) } else { a.checked_sub(b) };
    let time = |a: i64, b: i64| if sign > 0 { a.checked_add(b) } else { a.checked_sub(b) };
    let sum = || {
        Some(Interval {
            months: part(a.months, b.months)?,
            days: part(a.days, b.days)?,
            microseconds: time(a.microseconds, b.microseconds)?,
        })
    };
    sum().map(Value::Interval).ok_or_else(|| Failure::Error("interval out of range".into()))
}

fn negated(args: &[Value]) -> Result<Value, Failure> {
    let zero = Value::Interval(Interval { months: 0, days: 0, microseconds: 0 });
    match args {
        [interval] => intervals(&[zero, interval.clone()], -1),
        _ => unexpected(),
    }
}

fn to_date(args: &[Value]) -> Result<Value, Failure> {
    let [at] = args else { return unexpected() };
    Ok(Value::Date(match microseconds(at)? {
        i64::MAX => i32::MAX,
        i64::MIN => i32::MIN,
        at => at.div_euclid(MICROSECONDS_PER_DAY) as i32,
    }))
}

fn to_timestamp(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [at] => microseconds(at).map(Value::Timestamp),
        _ => unexpected(),
    }
}

fn to_timestamptz(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [at] => microseconds(at).map(Value::Timestamptz),
        _ => unexpected(),
    }
}

/// A point in infinity has no time of day: NULL.
fn to_time(args: &[Value]) -> Result<Value, Failure> {
    let [at] = args else { return unexpected() };
    let at = microseconds(at)?;
    Ok(if is_infinite(at) { Value::Null } else { Value::Time(at.rem_euclid(MICROSECONDS_PER_DAY)) })
}

fn date_and_time(args: &[Value]) -> Result<Value, Failure> {
    let (date, time) = match args {
        [date @ Value::Date(_), Value::Time(time)] | [Value::Time(time), date @ Value::Date(_)] => (date, time),
        _ => return unexpected(),
    };
    let midnight = microseconds(date)?;
    if is_infinite(midnight) {
        return Ok(Value::Timestamp(midnight));
    }
    midnight.checked_add(*time).map_or_else(out_of_range, checked).map(Value::Timestamp)
}

/// `at AT TIME ZONE 'UTC'`.
fn in_utc(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Text(zone), at] = args else { return unexpected() };
    if !zone.eq_ignore_ascii_case("utc") {
        return Err(Failure::undecided("a time zone other than UTC"));
    }
    match at {
        Value::Timestamp(at) => Ok(Value::Timestamptz(*at)),
        Value::Timestamptz(at) => Ok(Value::Timestamp(*at)),
        _ => unexpected(),
    }
}

/// `to_timestamp(seconds since 1970)`.
fn from_epoch(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Float(bits)] = args else { return unexpected() };
    let seconds = f64::from_bits(*bits);
    if seconds.is_infinite() {
        return Ok(Value::Timestamptz(if seconds > 0.0 { i64::MAX } else { i64::MIN }));
    }
    if seconds.is_nan() {
        return error("timestamp cannot be NaN");
    }
    let since_2000 = seconds - (DAYS_1970_TO_2000 * 86_400) as f64;
    let microseconds = (since_2000 * 1_000_000.0).round_ties_even();
    match microseconds.abs() < i64::MAX as f64 {
        true => checked(microseconds as i64).map(Value::Timestamptz),
        false => out_of_range(),
    }
}

/// The parts that have one whole number, by their names.
fn part(date: &Civil, time: i64, name: &str) -> Option<i64> {
    let day_of_week = (date.days() + 6).rem_euclid(7);
    Some(match name {
        "year" if date.year > 0 => date.year,
        "quarter" => (date.month - 1) / 3 + 1,
        "month" => date.month,
        "day" => date.day,
        "hour" => time / HOUR,
        "minute" => time / MINUTE % 60,
        "dow" => day_of_week,
        "isodow" => (day_of_week + 6) % 7 + 1,
        "doy" => date.days() - Civil { year: date.year, month: 1, day: 1 }.days() + 1,
        _ => return None,
    })
}

/// A part of a point in time: its digits and their scale.
fn extracted(name: &str, value: &Value) -> Result<(i128, i64), Failure> {
    let unknown = || Failure::undecided("an unusual part of a point in time");
    if let Value::Interval(interval) = value {
        return interval_part(name, interval).ok_or_else(unknown);
    }
    if let Value::Time(time) = value {
        return match name {
            "hour" | "minute" => Ok((part(&Civil::of(0), *time, name).ok_or_else(unknown)?.into(), 0)),
            "second" => Ok(((time % MINUTE).into(), 6)),
            "epoch" => Ok(((*time).into(), 6)),
            _ => Err(unknown()),
        };
    }
    if let Value::Date(days) = value {
        return match (name, *days) {
            (_, i32::MIN | i32::MAX) | ("hour" | "minute" | "second", _) => Err(unknown()),
            ("epoch", days) => Ok(((i128::from(days) + i128::from(DAYS_1970_TO_2000)) * 86_400, 0)),
            (_, days) => Ok((part(&Civil::of(days.into()), 0, name).ok_or_else(unknown)?.into(), 0)),
        };
    }
    let at = microseconds(value)?;
    if is_infinite(at) {
        return Err(unknown());
    }
    let (date, time) = civil(at);
    match name {
        // Where that does not fit, Postgres calculates otherwise.
        "epoch" => Ok((at.checked_add(DAYS_1970_TO_2000 * MICROSECONDS_PER_DAY).ok_or_else(unknown)?.into(), 6)),
        "second" => Ok(((time % MINUTE).into(), 6)),
        _ => Ok((part(&date, time, name).ok_or_else(unknown)?.into(), 0)),
    }
}

/// A year has 365.25 days here, a month 30.
fn interval_part(name: &str, interval: &Interval) -> Option<(i128, i64)> {
    let time = i128::from(interval.microseconds);
    Some(match name {
        "year" => ((interval.months / 12).into(), 0),
        "month" => ((interval.months % 12).into(), 0),
        "day" => (interval.days.into(), 0),
        "hour" => (time / i128::from(HOUR), 0),
        "minute" => (time / i128::from(MINUTE) % 60, 0),
        "second" => (time % i128::from(MINUTE), 6),
        "epoch" => {
            let years = i128::from(interval.months / 12) * 31_557_600;
            let days = (i128::from(interval.months % 12) * 30 + i128::from(interval.days)) * 86_400;
            ((years + days) * 1_000_000 + time, 6)
        }
        _ => return None,
    })
}

fn extract(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Text(name), value] = args else { return unexpected() };
    let (digits, scale) = extracted(&name.to_ascii_lowercase(), value)?;
    Ok(Value::Numeric(BigDecimal::new(digits.into(), scale).into()))
}

/// The same as a float.
fn date_part(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Text(name), value] = args else { return unexpected() };
    let (digits, scale) = extracted(&name.to_ascii_lowercase(), value)?;
    let number = match scale {
        0 => digits as f64,
        // Beyond 2^53 Postgres adds up parts that are rounded one by one.
        _ if digits.unsigned_abs() > 1 << 53 => return Err(Failure::undecided("a time far away, as a float")),
        _ if name.eq_ignore_ascii_case("second") => {
            (digits / 1_000_000) as f64 + (digits % 1_000_000) as f64 / 1_000_000.0
        }
        _ if matches!(value, Value::Interval(_)) && digits % 1_000_000 != 0 => {
            return Err(Failure::undecided("an interval's epoch, as a float"));
        }
        _ => digits as f64 / 1_000_000.0,
    };
    Ok(Value::Float(number.to_bits()))
}

fn truncate(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Text(unit), at] = args else { return unexpected() };
    let value = microseconds(at)?;
    let truncated = if is_infinite(value) { value } else { truncated(&unit.to_ascii_lowercase(), value)? };
    Ok(if matches!(at, Value::Timestamptz(_)) { Value::Timestamptz(truncated) } else { Value::Timestamp(truncated) })
}

fn truncated(unit: &str, at: i64) -> Result<i64, Failure> {
    let (date, _) = civil(at);
    let midnight = |days: i64| days.checked_mul(MICROSECONDS_PER_DAY).map_or_else(out_of_range, checked);
    let first = |month: i64| midnight(Civil { year: date.year, month, day: 1 }.days());
    let down_to = |step: i64| checked(at - at.rem_euclid(step));
    match unit {
        "second" => down_to(MICROSECONDS_PER_SECOND),
        "minute" => down_to(MINUTE),
        "hour" => down_to(HOUR),
        "day" => down_to(MICROSECONDS_PER_DAY),
        // 2000-01-01 was a Saturday.
        "week" => midnight(date.days() - (date.days() + 5).rem_euclid(7)),
        "month" => first(date.month),
        "quarter" => first((date.month - 1) / 3 * 3 + 1),
        "year" => first(1),
        _ => Err(Failure::undecided("an unusual part of a point in time")),
    }
}

pub(super) const TABLE: &[Builtin] = &[
    Builtin::new(1141, "date_pli", |args| days_later(args, 1)),
    Builtin::new(1142, "date_mii", |args| days_later(args, -1)),
    Builtin::new(2550, "integer_pl_date", |args| days_later(args, 1)),
    Builtin::new(1140, "date_mi", days_between),
    Builtin::new(2071, "date_pl_interval", |args| shifted(args, 1)),
    Builtin::new(2072, "date_mi_interval", |args| shifted(args, -1)),
    Builtin::new(2546, "interval_pl_date", |args| shifted(args, 1)),
    Builtin::new(2032, "timestamp_pl_interval", |args| shifted(args, 1)),
    Builtin::new(2033, "timestamp_mi_interval", |args| shifted(args, -1)),
    Builtin::new(2548, "interval_pl_timestamp", |args| shifted(args, 1)),
    Builtin::new(1189, "timestamptz_pl_interval", |args| shifted(args, 1)).depends(Utc),
    Builtin::new(1190, "timestamptz_mi_interval", |args| shifted(args, -1)).depends(Utc),
    Builtin::new(2549, "interval_pl_timestamptz", |args| shifted(args, 1)).depends(Utc),
    Builtin::new(2031, "timestamp_mi", between),
    Builtin::new(1188, "timestamptz_mi", between),
    Builtin::new(1169, "interval_pl", |args| intervals(args, 1)),
    Builtin::new(1170, "interval_mi", |args| intervals(args, -1)),
    Builtin::new(1168, "interval_um", negated),
    Builtin::new(2029, "date", to_date),
    Builtin::new(1178, "date", to_date).depends(Utc),
    Builtin::new(2024, "timestamp", to_timestamp),
    Builtin::new(2027, "timestamp", to_timestamp).depends(Utc),
    Builtin::new(2025, "timestamp", date_and_time),
    Builtin::new(1272, "datetime_pl", date_and_time),
    Builtin::new(1174, "timestamptz", to_timestamptz).depends(Utc),
    Builtin::new(2028, "timestamptz", to_timestamptz).depends(Utc),
    Builtin::total(1316, "time", to_time),
    Builtin::total(2019, "time", to_time).depends(Utc),
    Builtin::new(1159, "timezone", in_utc),
    Builtin::new(2069, "timezone", in_utc),
    Builtin::new(1158, "to_timestamp", from_epoch),
    Builtin::new(6199, "extract", extract),
    Builtin::new(6200, "extract", extract),
    Builtin::new(6202, "extract", extract),
    Builtin::new(6203, "extract", extract).depends(Utc),
    Builtin::new(6204, "extract", extract),
    Builtin::new(1385, "date_part", date_part),
    Builtin::new(2021, "date_part", date_part),
    Builtin::new(1171, "date_part", date_part).depends(Utc),
    Builtin::new(1172, "date_part", date_part),
    Builtin::new(2020, "date_trunc", truncate),
    Builtin::new(1217, "date_trunc", truncate).depends(Utc),
];
