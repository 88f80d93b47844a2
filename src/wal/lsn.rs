//! A position in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A byte position in the WAL, printed as Postgres prints `pg_lsn`: `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    pub const ZERO: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The text was not two hexadecimal halves of at most 32 bits each, joined by a slash.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a WAL position: {0:?} (expected something like 16/B374D848)")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseLsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(malformed)?;
        let half = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if !plain {
                return Err(malformed());
            }
            u32::from_str_radix(digits, 16).map_err(|_| malformed())
        };
        Ok(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_as_pg_lsn_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!(Lsn(1).to_string(), "0/1");
    }

    #[test]
    fn refuses_what_pg_lsn_refuses() {
        for text in ["", "/", "1", "1/", "/1", "G/1", "1/123456789", "+1/1", "1/1/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
