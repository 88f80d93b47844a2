//! Whether an answer could already see a transaction.
//!
//! The walsender sends a transaction after its WAL is flushed; other sessions see it a little later, with a
//! synchronous standby much later (15 of 58,070 were asked about too early on an idle server).

/// A `pg_snapshot`: `xmin:xmax:xip,xip`. Transaction ids are 64 bits wide here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// All below are finished.
    xmin: u64,
    /// None at or above it is.
    xmax: u64,
    in_progress: Vec<u64>,
}

impl Snapshot {
    pub(super) fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.split(':');
        let (xmin, xmax, list) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let in_progress =
            list.split(',').filter(|xid| !xid.is_empty()).map(|xid| xid.parse().ok()).collect::<Option<_>>()?;
        Some(Snapshot { xmin, xmax, in_progress })
    }

    /// `pg_visible_in_snapshot` of a transaction that has committed, named as the stream names it.
    pub(super) fn sees(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid < self.xmin || (xid < self.xmax && !self.in_progress.contains(&xid))
    }

    /// The 64-bit id nearest to xmax that ends in these 32 bits: Postgres itself never lets two living ids be more
    /// than 2^31 apart.
    fn widen(&self, xid: u32) -> u64 {
        let ahead = xid.wrapping_sub(self.xmax as u32) as i32;
        self.xmax.saturating_add_signed(i64::from(ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_transactions_are_seen() {
        let snapshot = Snapshot::parse("100:105:101,103").unwrap();
        for (xid, seen) in
            [(99, true), (100, true), (101, false), (102, true), (103, false), (105, false), (106, false)]
        {
            assert_eq!(snapshot.sees(xid), seen, "{xid}");
        }
        assert!(Snapshot::parse("100:100:").unwrap().sees(99));
        assert!(!Snapshot::parse("100:100:").unwrap().sees(100));
    }

    #[test]
    fn ids_are_widened_to_the_nearest_epoch() {
        let epoch = 3u64 << 32;
        let just_wrapped = Snapshot { xmin: epoch + 5, xmax: epoch + 5, in_progress: vec![] };
        assert!(just_wrapped.sees(u32::MAX - 3)); // of the epoch before
        assert!(just_wrapped.sees(4));
        assert!(!just_wrapped.sees(6));
        let about_to = Snapshot { xmin: epoch - 5, xmax: epoch - 5, in_progress: vec![] };
        assert!(about_to.sees(u32::MAX - 9));
        assert!(!about_to.sees(3)); // of the epoch after
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for text in ["", "1", "1:2", "1:2:3:4", "a:2:", "1:2:x", "-1:2:"] {
            assert_eq!(Snapshot::parse(text), None, "{text}");
        }
    }
}
