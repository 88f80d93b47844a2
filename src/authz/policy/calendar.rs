//! Days and months, counted as Postgres counts them.

pub(super) const MICROSECONDS_PER_SECOND: i64 = 1_000_000;
pub(super) const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;
/// Days from 1970-01-01 to 2000-01-01.
pub(super) const DAYS_1970_TO_2000: i64 = 10_957;
/// From 0000-03-01, where the years below begin, to 2000-01-01.
const DAYS_TO_2000: i64 = 730_425;
/// Days in the 400 years after which the calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;
/// `MIN_TIMESTAMP`, 4714-11-24 BC.
const TIMESTAMP_MIN: i64 = -211_813_488_000_000_000;
/// `END_TIMESTAMP`, 294277-01-01.
const TIMESTAMP_END: i64 = 9_223_371_331_200_000_000;
/// Day 0 of the Julian calendar.
const DATE_MIN: i64 = -2_451_545;
/// `DATE_END_JULIAN` less that of 2000-01-01.
const DATE_END: i64 = 2_147_483_494 - 2_451_545;

/// A day of the (proleptic) Gregorian calendar; year 0 is 1 BC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) day: i64,
}

impl Civil {
    /// Of a day counted from 2000-01-01. Years that begin in March have their leap day last, so that months are
    /// found by a straight line (153 days in five of them).
    pub(super) fn of(days: i64) -> Civil {
        let days = days + DAYS_TO_2000;
        let (era, day_of_era) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Civil { year: year_of_era + era * 400 + i64::from(month <= 2), month, day }
    }

    /// Days since 2000-01-01.
    pub(super) fn days(&self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let march_month = (self.month + 9) % 12;
        let day_of_year = (153 * march_month + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * DAYS_PER_ERA + day_of_era - DAYS_TO_2000
    }

    /// The same day some months later, or that month's last.
    pub(super) fn plus_months(&self, months: i64) -> Civil {
        let month = self.year * 12 + self.month - 1 + months;
        let (year, month) = (month.div_euclid(12), month.rem_euclid(12) + 1);
        Civil { year, month, day: self.day.min(days_in(year, month)) }
    }
}

pub(super) fn days_in(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap),
        _ => 31,
    }
}

/// `IS_VALID_TIMESTAMP`.
pub(super) fn is_timestamp(microseconds: i64) -> bool {
    (TIMESTAMP_MIN..TIMESTAMP_END).contains(&microseconds)
}

/// `IS_VALID_DATE`.
pub(super) fn is_date(days: i64) -> bool {
    (DATE_MIN..DATE_END).contains(&days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_two_ways_to_say_the_same() {
        assert_eq!(Civil::of(0), Civil { year: 2000, month: 1, day: 1 });
        assert_eq!(Civil { year: 1970, month: 1, day: 1 }.days(), -DAYS_1970_TO_2000);
        for days in (-3_000_000..3_000_000).step_by(97) {
            assert_eq!(Civil::of(days).days(), days);
        }
    }

    #[test]
    fn months_end_where_they_end() {
        let january = Civil { year: 2024, month: 1, day: 31 };
        assert_eq!(january.plus_months(1), Civil { year: 2024, month: 2, day: 29 });
        assert_eq!(january.plus_months(-11), Civil { year: 2023, month: 2, day: 28 });
        assert_eq!(january.plus_months(12), Civil { year: 2025, month: 1, day: 31 });
    }
}
