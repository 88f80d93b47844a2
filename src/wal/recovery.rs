//! What to do when the stream fails: pure, so that every case can be told without a server.

use std::time::Duration;

use super::Lsn;
use super::error::Error;

/// Between attempts: from the least, doubling, to the most, each with jitter so that relays do not come in step.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub least: Duration,
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { least: Duration::from_millis(100), most: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// `jitter` in 0..1 takes up to half of the delay away.
    pub(super) fn delay(&self, attempt: u32, jitter: f64) -> Duration {
        let full = self.least.saturating_mul(1 << attempt.min(20)).min(self.most);
        full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0).max(self.least)
    }
}

/// So often may an error come at the same position before it is called stuck.
const SAME_POSITION_MAX: u32 = 3;

/// How long walcast's own publication is left out at first, and at the most, before both are tried again.
const ALONE: Backoff = Backoff { least: Duration::from_secs(1), most: Duration::from_secs(300) };

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// CopyBoth had begun.
    pub streaming: bool,
    /// It read something, or stood for a while: what was wrong before is over.
    pub progressed: bool,
    /// Walcast's own publication was read, too.
    pub own_publication: bool,
    pub received: Lsn,
    pub dispatched: Lsn,
}

#[derive(Debug)]
pub(super) enum Verdict {
    Retry {
        error: Error,
        delay: Duration,
    },
    /// The same, but without walcast's own publication until the stream has passed this position.
    RetryAlone {
        error: Error,
        delay: Duration,
        past: Lsn,
    },
    GiveUp(Error),
}

/// What earlier attempts have taught.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    backoff: Backoff,
    attempts: u32,
    /// The error that came last in a stream, where, and how often in a row.
    recurring: Option<(String, Lsn, u32)>,
    fallbacks: u32,
    alone_past: Option<Lsn>,
}

impl Recovery {
    pub(super) fn new(backoff: Backoff) -> Self {
        Recovery { backoff, ..Recovery::default() }
    }

    /// Up to where walcast's own publication must be left out.
    pub(super) fn alone_past(&self) -> Option<Lsn> {
        self.alone_past
    }

    /// How long a stream with the user's publication alone lasts before both are tried again.
    pub(super) fn alone_for(&self) -> Duration {
        ALONE.delay(self.fallbacks.saturating_sub(1), 0.0)
    }

    /// The last error lies in the WAL, and is going to come again.
    pub(super) fn recurs(&self) -> bool {
        self.recurring.is_some()
    }

    /// Both are tried again.
    pub(super) fn both_again(&mut self) {
        self.alone_past = None;
    }

    pub(super) fn judge(&mut self, error: Error, attempt: Attempt, jitter: f64) -> Verdict {
        if attempt.progressed {
            self.attempts = 0;
        }
        let delay = self.backoff.delay(self.attempts, jitter);
        self.attempts = self.attempts.saturating_add(1);
        if !attempt.streaming {
            return match error.is_transient() {
                true => Verdict::Retry { error, delay },
                false => Verdict::GiveUp(error),
            };
        }
        let Some((key, position)) = position_of(&error, attempt) else {
            return Verdict::Retry { error, delay };
        };
        if attempt.own_publication && blames_publications(&error) {
            self.recurring = None;
            self.fallbacks = self.fallbacks.saturating_add(1);
            self.alone_past = Some(position);
            return Verdict::RetryAlone { error, delay, past: position };
        }
        let attempts = match self.recurring.take() {
            Some((last, at, attempts)) if last == key && at == position => attempts + 1,
            _ => 1,
        };
        if attempts >= SAME_POSITION_MAX {
            return Verdict::GiveUp(Error::Stuck { position, attempts, source: Box::new(error) });
        }
        self.recurring = Some((key, position, attempts));
        Verdict::Retry { error, delay }
    }
}

/// What identifies an error that lies in the WAL rather than in the network, and where it lies.
fn position_of(error: &Error, attempt: Attempt) -> Option<(String, Lsn)> {
    match error {
        Error::Server(server) if !server.is_transient() => {
            let position = server.associated_lsn().unwrap_or(attempt.received);
            Some((server.sqlstate.clone(), position))
        }
        Error::Undecodable { position, source } => Some((source.to_string(), *position)),
        Error::Malformed(source) => Some((source.to_string(), attempt.dispatched)),
        Error::Protocol(what) => Some((what.clone(), attempt.dispatched)),
        _ => None,
    }
}

/// Errors of pgoutput that walcast's own publication may be the cause of: it did not exist at that point of history
/// (14 to 17), or a table is in both publications with different column lists (15 and newer).
fn blames_publications(error: &Error) -> bool {
    matches!(error.sqlstate(), Some("42704" | "0A000" | "22023"))
}

#[cfg(test)]
mod tests {
    use super::super::server_error::ServerError;
    use super::*;

    fn server(sqlstate: &str, position: &str) -> Error {
        let context = Some(format!("in the change callback, associated LSN {position}"));
        ServerError { sqlstate: sqlstate.into(), context, ..Default::default() }.into()
    }

    const ATTEMPT: Attempt =
        Attempt { streaming: true, progressed: false, own_publication: true, received: Lsn(50), dispatched: Lsn(40) };

    #[test]
    fn delays_double_within_their_bounds() {
        let backoff = Backoff::default();
        let delays: Vec<_> = [0, 1, 2, 7, 60].map(|attempt| backoff.delay(attempt, 0.0).as_millis()).into();
        assert_eq!(delays, [100, 200, 400, 10_000, 10_000]);
        assert_eq!(backoff.delay(7, 1.0), Duration::from_secs(5));
        assert_eq!(backoff.delay(0, 1.0), Duration::from_millis(100));
    }

    #[test]
    fn a_refusal_before_the_stream_is_final_and_a_broken_network_is_not() {
        let before = Attempt { streaming: false, ..ATTEMPT };
        let mut recovery = Recovery::default();
        assert!(matches!(recovery.judge(server("28P01", ""), before, 0.0), Verdict::GiveUp(_)));
        for _ in 0..10 {
            assert!(matches!(recovery.judge(Error::Closed, before, 0.0), Verdict::Retry { .. }));
        }
        let Verdict::Retry { delay, .. } = recovery.judge(Error::Closed, before, 0.0) else { panic!() };
        assert_eq!(delay, Duration::from_secs(10));
        let progressed = Attempt { progressed: true, ..ATTEMPT };
        let Verdict::Retry { delay, .. } = recovery.judge(Error::Closed, progressed, 0.0) else { panic!() };
        assert_eq!(delay, Duration::from_millis(100));
    }

    #[test]
    fn an_error_that_recurs_at_the_same_position_is_stuck() {
        let mut recovery = Recovery::default();
        let mut judge = |position: &str| recovery.judge(server("XX000", position), ATTEMPT, 0.0);
        assert!(matches!(judge("0/10"), Verdict::Retry { .. }));
        assert!(matches!(judge("0/10"), Verdict::Retry { .. }));
        assert!(matches!(judge("0/20"), Verdict::Retry { .. }), "it got further");
        assert!(matches!(judge("0/20"), Verdict::Retry { .. }));
        let Verdict::GiveUp(error) = judge("0/20") else { panic!() };
        assert!(matches!(error, Error::Stuck { position: Lsn(0x20), attempts: 3, .. }));
        assert!(error.to_string().contains("walcast slot skip"));
        assert!(!error.is_transient());
    }

    #[test]
    fn walcasts_own_publication_is_left_out_where_it_may_be_the_cause() {
        let mut recovery = Recovery::default();
        let verdict = recovery.judge(server("42704", "0/10"), ATTEMPT, 0.0);
        assert!(matches!(verdict, Verdict::RetryAlone { past: Lsn(0x10), .. }), "{verdict:?}");
        assert_eq!(recovery.alone_past(), Some(Lsn(0x10)));
        assert_eq!(recovery.alone_for(), Duration::from_secs(1));
        // Alone, the same error is the user's publication's, and counts.
        let alone = Attempt { own_publication: false, ..ATTEMPT };
        assert!(matches!(recovery.judge(server("42704", "0/10"), alone, 0.0), Verdict::Retry { .. }));
        recovery.both_again();
        assert_eq!(recovery.alone_past(), None);
        recovery.judge(server("0A000", "0/30"), ATTEMPT, 0.0);
        assert_eq!(recovery.alone_for(), Duration::from_secs(2));
    }
}
