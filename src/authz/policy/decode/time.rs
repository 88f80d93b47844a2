//! Points in time and spans of it from text.
//!
//! `2024-02-29`, `2024-02-29 12:34:56.789`, with `T` for the blank, with `Z`, `+02`, `+02:00`, `+0200` behind a
//! `timestamptz`: these mean the same under every DateStyle and TimeZone. Everything else may not.

use super::super::calendar::{Civil, MICROSECONDS_PER_DAY, MICROSECONDS_PER_SECOND, days_in, is_date, is_timestamp};
use super::super::value::Interval;
use super::out_of_range;
use crate::authz::policy::Failure;

/// `DATEVAL_NOEND`, `DATEVAL_NOBEGIN`.
const DATE_INFINITIES: [(&str, i32); 2] = [("infinity", i32::MAX), ("-infinity", i32::MIN)];
const TIMESTAMP_INFINITIES: [(&str, i64); 2] = [("infinity", i64::MAX), ("-infinity", i64::MIN)];

fn unusual() -> Failure {
    Failure::undecided("an unusual spelling of a point in time")
}

pub(super) fn date(text: &str) -> Result<i32, Failure> {
    if let Some((_, value)) = DATE_INFINITIES.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let (days, rest) = leading_date(text)?;
    if !rest.is_empty() {
        return Err(unusual());
    }
    match is_date(days) {
        true => i32::try_from(days).map_err(|_| unusual()),
        false => Err(out_of_range("date")),
    }
}

pub(super) fn time_of_day(text: &str) -> Result<i64, Failure> {
    match clock(text)? {
        (microseconds, "") => Ok(microseconds),
        _ => Err(unusual()),
    }
}

pub(super) fn timestamp(text: &str) -> Result<i64, Failure> {
    match moment(text)? {
        (microseconds, "") => Ok(microseconds),
        _ => Err(unusual()),
    }
}

pub(super) fn timestamptz(text: &str) -> Result<i64, Failure> {
    let (microseconds, rest) = moment(text)?;
    if is_infinite(microseconds) {
        return Ok(microseconds);
    }
    let utc = microseconds - zone(rest)?;
    if is_timestamp(utc) { Ok(utc) } else { Err(out_of_range("timestamp")) }
}

fn is_infinite(microseconds: i64) -> bool {
    TIMESTAMP_INFINITIES.iter().any(|(_, value)| *value == microseconds)
}

/// A date with or without a time of day, and what follows.
fn moment(text: &str) -> Result<(i64, &str), Failure> {
    if let Some((_, value)) = TIMESTAMP_INFINITIES.iter().find(|(word, _)| *word == text) {
        return Ok((*value, ""));
    }
    let (days, rest) = leading_date(text)?;
    let (time, rest) = match rest.strip_prefix(['T', ' ']) {
        Some(rest) => clock(rest)?,
        None if rest.is_empty() => (0, rest),
        None => return Err(unusual()),
    };
    let microseconds = days.checked_mul(MICROSECONDS_PER_DAY).and_then(|day| day.checked_add(time));
    // A zone may still move what is out of range back into it, at the very ends.
    match microseconds {
        Some(microseconds) if is_timestamp(microseconds) => Ok((microseconds, rest)),
        _ => Err(unusual()),
    }
}

/// `YYYY-MM-DD`, or more digits of a year; days since 2000-01-01, and what follows.
fn leading_date(text: &str) -> Result<(i64, &str), Failure> {
    let year_len = text.bytes().take_while(u8::is_ascii_digit).count();
    if !(4..=6).contains(&year_len) {
        return Err(unusual());
    }
    let (year, rest) = text.split_at(year_len);
    let [b'-', _, _, b'-', _, _, ..] = rest.as_bytes() else { return Err(unusual()) };
    let (Some(month), Some(day)) = (two_digits(rest, 1), two_digits(rest, 4)) else { return Err(unusual()) };
    let rest = &rest[6..];
    // A third digit of the day, or an era.
    if rest.starts_with(|next: char| next.is_ascii_digit()) || rest.ends_with("BC") {
        return Err(unusual());
    }
    let year: i64 = year.parse().map_err(|_| unusual())?;
    if year == 0 {
        return Err(unusual());
    }
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        // What follows could still be no date at all, but then it is another error.
        return Err(Failure::Error("date/time field value out of range".into()));
    }
    Ok((Civil { year, month, day }.days(), rest))
}

/// `HH:MM[:SS[.ffffff]]`: microseconds, and what follows.
fn clock(text: &str) -> Result<(i64, &str), Failure> {
    let [_, _, b':', _, _, ..] = text.as_bytes() else { return Err(unusual()) };
    let (Some(hours), Some(minutes)) = (two_digits(text, 0), two_digits(text, 3)) else { return Err(unusual()) };
    let mut rest = &text[5..];
    let (mut seconds, mut fraction) = (0, 0);
    if let Some(after) = rest.strip_prefix(':') {
        seconds = two_digits(after, 0).ok_or_else(unusual)?;
        rest = &after[2..];
        if let Some(after) = rest.strip_prefix('.') {
            let len = after.bytes().take_while(u8::is_ascii_digit).count();
            // More digits are rounded.
            if !(1..=6).contains(&len) {
                return Err(unusual());
            }
            fraction = format!("{:0<6}", &after[..len]).parse().map_err(|_| unusual())?;
            rest = &after[len..];
        }
    }
    if hours > 23 || minutes > 59 || seconds > 59 || rest.starts_with(|next: char| next.is_ascii_digit()) {
        return Err(unusual());
    }
    Ok((((hours * 60 + minutes) * 60 + seconds) * MICROSECONDS_PER_SECOND + fraction, rest))
}

/// How far a zone is ahead of UTC. Without one it would be the session's.
fn zone(text: &str) -> Result<i64, Failure> {
    if text == "Z" {
        return Ok(0);
    }
    let digits = text.strip_prefix(['+', '-']).ok_or_else(unusual)?;
    let minutes_at = match digits.len() {
        2 => None,
        4 => Some(2),
        5 if digits.as_bytes()[2] == b':' => Some(3),
        _ => return Err(unusual()),
    };
    let hours = two_digits(digits, 0).ok_or_else(unusual)?;
    let minutes = match minutes_at {
        Some(at) => two_digits(digits, at).ok_or_else(unusual)?,
        None => 0,
    };
    if hours > 14 || minutes > 59 {
        return Err(unusual());
    }
    let microseconds = (hours * 60 + minutes) * 60 * MICROSECONDS_PER_SECOND;
    Ok(if text.starts_with('-') { -microseconds } else { microseconds })
}

fn two_digits(text: &str, at: usize) -> Option<i64> {
    match text.as_bytes().get(at..at + 2)? {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some(i64::from((tens - b'0') * 10 + ones - b'0')),
        _ => None,
    }
}

/// `1 year 2 mons -3 days +04:05:06.7`, as IntervalStyle `postgres` prints it, and such words as people use.
pub(super) fn interval(text: &str) -> Result<Interval, Failure> {
    let unusual = || Failure::undecided("an unusual spelling of an interval");
    let mut interval = Interval { months: 0, days: 0, microseconds: 0 };
    let mut words = text.split(' ').peekable();
    let mut units_seen: Vec<&str> = Vec::new();
    while let Some(word) = words.next() {
        if word.contains(':') {
            if words.peek().is_some() || units_seen.contains(&"time") {
                return Err(unusual());
            }
            interval.microseconds = span(word).ok_or_else(unusual)?;
            return Ok(interval);
        }
        let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
        if digits.is_empty() || digits.len() > 6 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(unusual());
        }
        let number: i64 = word.parse().map_err(|_| unusual())?;
        let unit = words.next().ok_or_else(unusual)?;
        let kind = match unit.strip_suffix('s').unwrap_or(unit) {
            "year" => "year",
            "mon" | "month" => "month",
            "week" => "week",
            "day" => "day",
            "hour" | "minute" | "min" | "second" | "sec" => "time",
            _ => return Err(unusual()),
        };
        // The same unit twice is an error, or is it.
        if units_seen.contains(&kind) {
            return Err(unusual());
        }
        units_seen.push(kind);
        let seconds = match unit.strip_suffix('s').unwrap_or(unit) {
            "year" => {
                interval.months += number as i32 * 12;
                0
            }
            "mon" | "month" => {
                interval.months += number as i32;
                0
            }
            "week" => {
                interval.days += number as i32 * 7;
                0
            }
            "day" => {
                interval.days += number as i32;
                0
            }
            "hour" => 3600,
            "minute" | "min" => 60,
            _ => 1,
        };
        interval.microseconds += number * seconds * MICROSECONDS_PER_SECOND;
    }
    Ok(interval)
}

/// `[+-]HH:MM:SS[.ffffff]`, of any number of hours.
fn span(word: &str) -> Option<i64> {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let (hours, rest) = unsigned.split_once(':')?;
    if !(2..=8).contains(&hours.len()) || !hours.bytes().all(|byte| byte.is_ascii_digit()) || rest.len() < 5 {
        return None;
    }
    let (within, after) = clock(&format!("00:{rest}")).ok().map(|(within, after)| (within, after.is_empty()))?;
    if !after {
        return None;
    }
    let microseconds = hours.parse::<i64>().ok()? * 3600 * MICROSECONDS_PER_SECOND + within;
    Some(if word.starts_with('-') { -microseconds } else { microseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_printed_and_as_people_write_them() {
        assert_eq!(timestamptz("2000-01-01 00:00:00+00"), Ok(0));
        for text in ["2000-01-02T01:02:03.5Z", "2000-01-02 03:02:03.500+02", "2000-01-01 20:32:03.5-04:30"] {
            assert_eq!(timestamptz(text), Ok(MICROSECONDS_PER_DAY + 3_723_500_000), "{text}");
        }
        assert_eq!(timestamp("infinity"), Ok(i64::MAX));
        assert_eq!(date("1999-12-31"), Ok(-1));
        assert!(matches!(date("2023-02-29"), Err(Failure::Error(_))));
    }

    #[test]
    fn what_depends_on_settings_is_undecided() {
        for text in ["", "now", "2000-01-01 00:00:00", "01/02/2000", "2000-01-01 00:00:00 Europe/Berlin", "24:00:00"] {
            assert!(matches!(timestamptz(text), Err(Failure::Undecided(_))), "{text}");
        }
        assert!(matches!(date("0044-03-15 BC"), Err(Failure::Undecided(_))));
    }

    #[test]
    fn intervals_have_months_days_and_time() {
        let expected = Interval { months: 14, days: -3, microseconds: 14_706_700_000 };
        assert_eq!(interval("1 year 2 mons -3 days +04:05:06.7"), Ok(expected));
        assert_eq!(interval("-00:00:01"), Ok(Interval { months: 0, days: 0, microseconds: -1_000_000 }));
        assert_eq!(interval("2 hours"), Ok(Interval { months: 0, days: 0, microseconds: 7_200_000_000 }));
        assert!(interval("1.5 days").is_err() && interval("P1D").is_err() && interval("infinity").is_err());
    }
}
