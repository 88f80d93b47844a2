//! How one clause is decided on the text of a value.

use std::cmp::Ordering;
use std::sync::Arc;

use super::bytewise::Form;
use super::like;

/// The answer of a clause on a value that is not NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    True,
    False,
    /// SQL's NULL.
    Unknown,
    /// Only Postgres can say.
    Ask,
}

impl Truth {
    pub(super) fn negated(self) -> Truth {
        match self {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            other => other,
        }
    }
}

impl From<bool> for Truth {
    fn from(answer: bool) -> Truth {
        if answer { Truth::True } else { Truth::False }
    }
}

/// Which results of a comparison make a clause true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Accepts {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Accepts {
    fn contains(self, ordering: Ordering) -> bool {
        match self {
            Accepts::Equal => ordering.is_eq(),
            Accepts::Less => ordering.is_lt(),
            Accepts::LessOrEqual => ordering.is_le(),
            Accepts::Greater => ordering.is_gt(),
            Accepts::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// How a type's text becomes a number of the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scale {
    Integer,
    Float4,
    Float8,
    Date,
    Timestamp,
    Timestamptz,
}

/// A clause without its column and its `not.`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Check {
    /// `is.null`.
    Null,
    /// `is.true`, `is.false`; `None`: `is.unknown`.
    Boolean(Option<bool>),
    Equal {
        form: Form,
        value: Arc<[u8]>,
    },
    /// Values are sorted and distinct. `null`: a NULL among them, which makes a miss unknown.
    OneOf {
        form: Form,
        values: Box<[Arc<[u8]>]>,
        null: bool,
    },
    Number {
        scale: Scale,
        value: i64,
        accepts: Accepts,
    },
    Decimal {
        value: Arc<[u8]>,
        accepts: Accepts,
    },
    /// The order of values is the order of the bytes of their texts.
    Bytes {
        form: Form,
        value: Arc<[u8]>,
        accepts: Accepts,
    },
    /// Enum labels in their order, and the place of the filter's own. A label unknown here was added later.
    Label {
        labels: Box<[Box<str>]>,
        place: u32,
        accepts: Accepts,
    },
    Like {
        pattern: Box<str>,
    },
    /// The pattern as it was given.
    Ilike {
        pattern: Box<str>,
        is_c: bool,
    },
    /// Always Postgres' to decide.
    Ask,
}

impl Check {
    pub(super) fn decide(&self, text: &[u8]) -> Truth {
        match self {
            Check::Null => Truth::False,
            Check::Boolean(wanted) => wanted.is_some_and(|wanted| (text == b"t") == wanted).into(),
            Check::Equal { form, value } => (form.of_text(text) == &**value).into(),
            Check::OneOf { form, values, null } => {
                let found = values.binary_search_by(|value| (**value).cmp(form.of_text(text))).is_ok();
                if !found && *null { Truth::Unknown } else { found.into() }
            }
            Check::Number { scale, value, accepts } => {
                scale.number(text).map_or(Truth::Ask, |number| accepts.contains(number.cmp(value)).into())
            }
            Check::Decimal { value, accepts } => accepts.contains(compare_decimals(text, value)).into(),
            Check::Bytes { form, value, accepts } => accepts.contains(form.of_text(text).cmp(value)).into(),
            Check::Label { labels, place, accepts } => {
                let found = labels.iter().position(|label| label.as_bytes() == text);
                found.map_or(Truth::Ask, |found| accepts.contains((found as u32).cmp(place)).into())
            }
            Check::Like { pattern } => decide_like(text, pattern),
            Check::Ilike { pattern, is_c } => decide_ilike(text, pattern, *is_c),
            Check::Ask => Truth::Ask,
        }
    }

    /// Whether `decide` can answer `Ask`, so that SQL must be at hand.
    pub(super) fn may_ask(&self) -> bool {
        matches!(
            self,
            Check::Ask | Check::Like { .. } | Check::Ilike { .. } | Check::Label { .. } | Check::Number { .. }
        )
    }
}

fn decide_like(text: &[u8], pattern: &str) -> Truth {
    let answer = std::str::from_utf8(text).ok().and_then(|text| like::matches(text, pattern));
    answer.map_or(Truth::Ask, Truth::from)
}

fn decide_ilike(text: &[u8], pattern: &str, is_c: bool) -> Truth {
    let folded = std::str::from_utf8(text).ok().and_then(|text| like::fold(text, is_c)).zip(like::fold(pattern, is_c));
    folded.and_then(|(text, pattern)| like::matches(&text, &pattern)).map_or(Truth::Ask, Truth::from)
}

impl Scale {
    /// `None`: not what Postgres prints under the pinned settings.
    pub(super) fn number(self, text: &[u8]) -> Option<i64> {
        let text = std::str::from_utf8(text).ok()?;
        match self {
            Scale::Integer => text.parse().ok(),
            Scale::Float4 => text.parse::<f32>().ok().map(|value| ordered(value.into())),
            Scale::Float8 => text.parse::<f64>().ok().map(ordered),
            Scale::Date => date(text),
            Scale::Timestamp => timestamp(text, ""),
            Scale::Timestamptz => timestamp(text, "+00"),
        }
    }
}

/// An integer of the float's order in Postgres: both zeros equal, NaN equal to itself and above everything.
fn ordered(value: f64) -> i64 {
    if value.is_nan() {
        return i64::MAX;
    }
    let bits = if value == 0.0 { 0 } else { value.to_bits() as i64 };
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

/// Days since 2000-01-01, as Postgres counts, so that its whole range of timestamps fits.
fn date(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (text, is_bc) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    let mut parts = text.splitn(3, '-').map(|part| part.parse::<i32>().ok().map(i64::from));
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    // There is no year 0: 1 BC comes before 1.
    let year = if is_bc { 1 - year } else { year };
    // Howard Hinnant's days_from_civil: years begin in March, eras have 400 years.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let year_of_era = year.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 730_425)
}

/// Microseconds since 2000-01-01 00:00.
fn timestamp(text: &str, zone: &str) -> Option<i64> {
    let (text, era) = text.strip_suffix(" BC").map_or((text, ""), |text| (text, " BC"));
    let Some((day, time)) = text.split_once(' ') else { return date(text).filter(|_| text.ends_with("infinity")) };
    let days = if era.is_empty() { date(day) } else { date(&format!("{day}{era}")) }?;
    let time = time.strip_suffix(zone)?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = clock.splitn(3, ':').map(|part| part.parse::<u8>().ok().map(i64::from));
    let seconds = parts.next()?? * 3600 + parts.next()?? * 60 + parts.next()??;
    let micros: u32 = format!("{fraction:0<6}").parse().ok()?;
    days.checked_mul(86_400_000_000)?.checked_add(seconds * 1_000_000 + i64::from(micros))
}

/// Compares two outputs of `numeric`: digits, not floats.
fn compare_decimals(a: &[u8], b: &[u8]) -> Ordering {
    rank(a).cmp(&rank(b)).then_with(|| {
        let (negative_a, whole_a, fraction_a) = split(a);
        let (_, whole_b, fraction_b) = split(b);
        // The sign is in the rank; leading zeros are not printed, so longer is larger.
        let magnitude = whole_a
            .len()
            .cmp(&whole_b.len())
            .then_with(|| whole_a.cmp(whole_b))
            .then_with(|| fraction_a.cmp(fraction_b));
        if negative_a { magnitude.reverse() } else { magnitude }
    })
}

/// -Infinity, negative, zero, positive, Infinity, NaN.
fn rank(text: &[u8]) -> u8 {
    match text {
        b"-Infinity" => 0,
        b"Infinity" => 4,
        b"NaN" => 5,
        [b'-', ..] => 1,
        _ if text.iter().all(|byte| matches!(byte, b'0' | b'.')) => 2,
        _ => 3,
    }
}

fn split(text: &[u8]) -> (bool, &[u8], &[u8]) {
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits));
    let digits = Form::Decimal.of_text(digits);
    let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    let fraction = digits.get(point + 1..).unwrap_or_default();
    (negative, &digits[..point], fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_compare_by_value() {
        let ascending = [
            "-Infinity",
            "-100",
            "-99.5",
            "-0.01",
            "0",
            "0.001",
            "0.01",
            "1.5",
            "1.51",
            "99",
            "100",
            "Infinity",
            "NaN",
        ];
        for (at, a) in ascending.iter().enumerate() {
            for (other, b) in ascending.iter().enumerate() {
                assert_eq!(compare_decimals(a.as_bytes(), b.as_bytes()), at.cmp(&other), "{a} {b}");
            }
        }
        assert_eq!(compare_decimals(b"1.50", b"1.5"), Ordering::Equal);
        assert_eq!(compare_decimals(b"0.00", b"0"), Ordering::Equal);
    }

    #[test]
    fn floats_compare_as_postgres_does() {
        let number = |text: &str| Scale::Float8.number(text.as_bytes()).unwrap();
        let ascending = ["-Infinity", "-1e+300", "-1.5", "-5e-324", "0", "5e-324", "0.1", "1e+300", "Infinity", "NaN"];
        assert!(ascending.map(number).is_sorted_by(|a, b| a < b));
        assert_eq!(number("-0"), number("0"));
        assert_eq!(Scale::Float4.number(b"0.1"), Scale::Float4.number(b"0.10000000149"));
    }

    #[test]
    fn dates_and_timestamps_compare_across_eras() {
        let dates = [
            "-infinity",
            "4713-01-01 BC",
            "0001-12-31 BC",
            "0001-01-01",
            "1999-12-31",
            "2024-02-29",
            "2024-03-01",
            "12024-01-01",
            "infinity",
        ];
        assert!(dates.map(|text| date(text).unwrap()).is_sorted_by(|a, b| a < b));
        assert_eq!(date("2000-01-01"), Some(0));
        assert_eq!(date("0001-01-01").unwrap() - date("0001-12-31 BC").unwrap(), 1);
        let stamps = [
            "-infinity",
            "0044-03-15 00:00:00+00 BC",
            "2024-01-01 00:00:00+00",
            "2024-01-01 00:00:00.000001+00",
            "2024-01-01 00:00:00.1+00",
            "294276-12-31 23:59:59.999999+00",
            "infinity",
        ];
        let numbers = stamps.map(|text| Scale::Timestamptz.number(text.as_bytes()).unwrap());
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert_eq!(Scale::Timestamptz.number(b"2024-01-01 00:00:00+02"), None);
    }

    #[test]
    fn a_null_in_the_list_makes_a_miss_unknown() {
        let check = |null| Check::OneOf { form: Form::Whole, values: [Arc::from(&b"a"[..])].into(), null };
        assert_eq!(check(true).decide(b"a"), Truth::True);
        assert_eq!(check(true).decide(b"b"), Truth::Unknown);
        assert_eq!(check(false).decide(b"b"), Truth::False);
    }
}
