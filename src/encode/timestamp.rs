//! Points in time.

use super::escape::{clean_prefix_len, write_string_body};

/// `2024-02-29`.
const DATE_LEN: usize = 10;

/// Appends a `timestamp` (`2024-02-29 12:34:56.1`, `0044-03-15 00:00:00 BC`, `infinity`) with XSD's `T`.
pub(super) fn write_timestamp(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let time = write_date_and_t(text, out);
    write_string_body(time, out);
    out.push(b'"');
}

/// Appends a `timestamptz` (`2024-02-29 10:34:56+00`), whose zone gets minutes too.
pub(super) fn write_timestamptz(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    // Years of four digits in UTC, as nearly all are, have everything at its place.
    if text.get(DATE_LEN) == Some(&b' ') && text.ends_with(b"+00") && clean_prefix_len(text) == text.len() {
        out.extend_from_slice(&text[..DATE_LEN]);
        out.push(b'T');
        out.extend_from_slice(&text[DATE_LEN + 1..]);
        out.extend_from_slice(b":00\"");
        return;
    }
    let time = write_date_and_t(text, out);
    let zone = time.iter().position(|byte| matches!(byte, b'+' | b'-')).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone);
    write_string_body(time, out);
    let era = zone.iter().position(|byte| *byte == b' ').unwrap_or(zone.len());
    let (zone, era) = zone.split_at(era);
    write_string_body(zone, out);
    if !zone.is_empty() && !zone.contains(&b':') {
        out.extend_from_slice(b":00");
    }
    write_string_body(era, out);
    out.push(b'"');
}

/// Writes up to the `T`; gives what comes after it, or nothing where there is no time of day.
fn write_date_and_t<'a>(text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let Some(space) = text.iter().position(|byte| *byte == b' ') else {
        write_string_body(text, out);
        return &[];
    };
    write_string_body(&text[..space], out);
    out.push(b'T');
    &text[space + 1..]
}

const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;
/// From 0000-03-01, where the calendar below begins, to 2000-01-01.
const DAYS_TO_2000: i64 = 730_425;
/// Days in the 400 years after which the calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;

/// Appends `2026-11-20T11:28:20.557Z` for microseconds since 2000-01-01 00:00 UTC: exactly three digits, the rest is
/// cut off, not rounded (PROTOCOL 4.1).
pub(super) fn write_commit_timestamp(microseconds: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_date(microseconds.div_euclid(MICROSECONDS_PER_DAY) + DAYS_TO_2000);
    let milliseconds = microseconds.rem_euclid(MICROSECONDS_PER_DAY) / 1000;
    let fits = (0..10_000).contains(&year);
    if !fits {
        out.extend_from_slice(itoa::Buffer::new().format(year).as_bytes());
    }
    // Filled in one place and copied once.
    let mut text = *b"0000-00-00T00:00:00.000Z";
    set_digits(&mut text[0..4], year);
    set_digits(&mut text[5..7], month);
    set_digits(&mut text[8..10], day);
    set_digits(&mut text[11..13], milliseconds / 3_600_000);
    set_digits(&mut text[14..16], milliseconds / 60_000 % 60);
    set_digits(&mut text[17..19], milliseconds / 1000 % 60);
    set_digits(&mut text[20..23], milliseconds % 1000);
    out.extend_from_slice(if fits { &text } else { &text[4..] });
}

/// Year, month and day of a day counted from 0000-03-01. Years that begin in March have their leap day last, so that
/// months are found by a straight line (153 days in five of them).
fn civil_date(days: i64) -> (i64, i64, i64) {
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Writes the number's last digits over `digits`.
fn set_digits(digits: &mut [u8], number: i64) {
    let mut rest = number.unsigned_abs() as u32;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn timestamps_get_a_t() {
        for (input, expected) in [
            ("2024-02-29 12:34:56.1", "2024-02-29T12:34:56.1"),
            ("0044-03-15 00:00:00 BC", "0044-03-15T00:00:00 BC"),
            ("-infinity", "-infinity"),
        ] {
            assert_eq!(text(|out| write_timestamp(input.as_bytes(), out)), format!("\"{expected}\""));
        }
    }

    #[test]
    fn zones_get_minutes() {
        for (input, expected) in [
            ("2024-02-29 10:34:56.123456+00", "2024-02-29T10:34:56.123456+00:00"),
            ("12024-01-01 00:00:00+00", "12024-01-01T00:00:00+00:00"),
            ("2024-01-01 00:00:00+05:30", "2024-01-01T00:00:00+05:30"),
            ("0044-03-15 00:00:00+00 BC", "0044-03-15T00:00:00+00:00 BC"),
            ("infinity", "infinity"),
            ("-infinity", "-infinity"),
            ("", ""),
        ] {
            assert_eq!(text(|out| write_timestamptz(input.as_bytes(), out)), format!("\"{expected}\""));
        }
    }

    #[test]
    fn commit_timestamps_have_three_digits_and_are_cut() {
        let commit = |microseconds| text(|out| write_commit_timestamp(microseconds, out));
        assert_eq!(commit(0), "2000-01-01T00:00:00.000Z");
        // 2026-11-20 11:28:20.557999, as `extract(epoch from ..)` counts it.
        assert_eq!(commit((1_795_174_100 - 946_684_800) * 1_000_000 + 557_999), "2026-11-20T11:28:20.557Z");
        assert_eq!(commit((951_782_399 - 946_684_800) * 1_000_000), "2000-02-28T23:59:59.000Z");
        assert_eq!(commit((951_782_400 - 946_684_800) * 1_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(commit(-1), "1999-12-31T23:59:59.999Z");
    }

    #[test]
    fn no_count_of_microseconds_panics() {
        for microseconds in [i64::MIN, i64::MAX, i64::MIN + 1] {
            assert!(text(|out| write_commit_timestamp(microseconds, out)).ends_with('Z'));
        }
    }
}
