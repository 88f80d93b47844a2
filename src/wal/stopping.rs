//! Recognises a server that shuts down and waits for us.

use std::time::Duration;

use tokio::time::Instant;

use super::Lsn;

/// In a fast shutdown the walsender sends what is left and then asks, again and again, until everything is confirmed:
/// a slot that trails holds the shutdown up for ever (ASSUMPTIONS 2). At no other time does it ask twice in a row at
/// the same position within a moment, because we report every second.
#[derive(Debug, Default)]
pub(super) struct StoppingWatch {
    /// Since when, how often and where it has been asking.
    asking: Option<(Instant, u32, Lsn)>,
}

/// Both must be reached: a number alone could be a burst that waited in a buffer while dispatch held us up, a time
/// alone two single questions.
const ASKED_MIN: u32 = 20;
const ASKED_FOR: Duration = Duration::from_millis(200);

/// Two questions further apart than this do not belong together.
const APART: Duration = Duration::from_secs(1);

impl StoppingWatch {
    /// Something else has come.
    pub(super) fn data(&mut self) {
        self.asking = None;
    }

    /// A reply was asked for. True: the server is shutting down and waits for a confirmation that we cannot give.
    pub(super) fn asked(&mut self, wal_end: Lsn, confirmable: Lsn, now: Instant) -> bool {
        if confirmable >= wal_end {
            // The reply confirms everything: nobody waits for us.
            self.asking = None;
            return false;
        }
        let (since, times, at) = self.asking.get_or_insert((now, 0, wal_end));
        if *at != wal_end || now.duration_since(*since) > APART * (*times + 1) {
            (*since, *times, *at) = (now, 0, wal_end);
        }
        *times += 1;
        *times >= ASKED_MIN && now.duration_since(*since) >= ASKED_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is recognised after being asked so often, so far apart.
    fn recognised(times: u32, apart: Duration, dispatched: Lsn) -> bool {
        let mut watch = StoppingWatch::default();
        let start = Instant::now();
        (0..times).any(|n| watch.asked(Lsn(100), dispatched, start + apart * n))
    }

    #[test]
    fn a_storm_while_we_trail_is_a_shutdown() {
        assert!(recognised(50, Duration::from_millis(5), Lsn(99)));
        assert!(!recognised(19, Duration::from_millis(50), Lsn(99)), "too few");
        assert!(!recognised(1000, Duration::from_micros(40), Lsn(99)), "a burst");
        assert!(!recognised(5000, Duration::from_millis(5), Lsn(100)), "nothing is outstanding");
        assert!(!recognised(10, Duration::from_secs(30), Lsn(99)), "an idle server's questions");
    }

    #[test]
    fn a_position_that_moves_is_no_storm() {
        let mut watch = StoppingWatch::default();
        let start = Instant::now();
        for n in 0..1000 {
            assert!(!watch.asked(Lsn(100 + u64::from(n)), Lsn(99), start + Duration::from_millis(5) * n));
        }
        for n in 0..1000 {
            watch.data();
            assert!(!watch.asked(Lsn(5000), Lsn(99), start + Duration::from_millis(5) * n));
        }
    }
}
