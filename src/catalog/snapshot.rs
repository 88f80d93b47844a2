//! Which transactions a reading of the database could see.

use std::fmt;
use std::str::FromStr;

/// `pg_current_snapshot()`: every transaction below `xmin` had ended, none from `xmax` on, and of those between them
/// all but the ones in progress.
///
/// The stream may be ahead of it: the walsender sends a transaction once it is flushed, the backend that committed it
/// leaves the list of running transactions later (much later with a synchronous standby). What was read because of
/// transaction X counts only if X is visible in the snapshot that it was read in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

impl Snapshot {
    /// `pg_visible_in_snapshot(xid, self)`, for the 32 bits of an `xid` that a Begin carries.
    ///
    /// The upper half is taken so that the transaction lies within 2^31 of `xmax`, where every transaction that
    /// Postgres can still compare lies.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    fn widen(&self, xid: u32) -> u64 {
        let distance = i64::from(xid.wrapping_sub(self.xmax as u32) as i32);
        self.xmax.saturating_add_signed(distance)
    }
}

/// The text was not that of a `pg_snapshot`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot: {0:?} (expected something like 10:20:10,14,15)")]
pub struct ParseSnapshotError(String);

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || -> Option<Snapshot> {
            let mut parts = text.splitn(3, ':');
            let xmin = parts.next()?.parse().ok()?;
            let xmax = parts.next()?.parse().ok()?;
            let list = parts.next()?;
            let mut in_progress = list
                .split(',')
                .filter(|xid| !xid.is_empty())
                .map(|xid| xid.parse().ok())
                .collect::<Option<Vec<u64>>>()?;
            in_progress.sort_unstable();
            Some(Snapshot { xmin, xmax, in_progress })
        };
        parse().ok_or_else(|| ParseSnapshotError(text.to_owned()))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (place, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn sees_what_had_ended_and_nothing_else() {
        let seen: Vec<u32> = (8..22).filter(|xid| snapshot("10:20:10,14,15").sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 16, 17, 18, 19]);
    }

    #[test]
    fn sees_across_a_wraparound_of_the_32_bit_counter() {
        // xmax is 5 transactions into the second epoch.
        let xmax = (1u64 << 32) + 5;
        let late = snapshot(&format!("{}:{xmax}:{}", xmax - 10, xmax - 10));
        assert!(late.sees(4));
        assert!(!late.sees(5), "xmax itself");
        assert!(!late.sees((xmax - 10) as u32), "in progress since before the wraparound");
        assert!(late.sees((xmax - 11) as u32));
        assert!(late.sees(3_000_000_000), "old, of the first epoch");
        assert!(!late.sees(1_000_000_000), "ahead, of the second epoch");
    }

    #[test]
    fn prints_what_it_reads_and_refuses_the_rest() {
        for text in ["10:20:10,14,15", "10:10:"] {
            assert_eq!(snapshot(text).to_string(), text);
        }
        for text in ["", "1", "1:2", "a:2:", "1:2:x", "-1:2:"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }
}
