//! How far the stream has been read, handed over and confirmed.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::Lsn;

/// Three positions that only move forward: confirmed <= dispatched <= received.
///
/// - *received* is set by the reader: the furthest that any frame or keepalive has named.
/// - *dispatched* is set by dispatch, and by nobody else while a stream runs: the **end** LSN of the last Commit
///   whose transaction has been handed over whole (and before which no commit is undecided). On a quiet publication
///   nothing is committed, but the server's WAL grows: when a `KeepAlive { wal_end }` frame comes and nothing is
///   outstanding - no transaction half read, none undecided - dispatch sets dispatched to that `wal_end`. Frames come
///   in stream order, so everything before the keepalive has then been seen. The reader itself never confirms a
///   keepalive: it cannot know what dispatch still holds.
/// - *confirmed* is what the server was told last. The WAL before it is gone. It trails dispatched as far as
///   [`Progress::hold_from`] says: what can be asked for again must still be there after a restart.
///
/// A stream begins at *dispatched*: transactions after it come (again) whole. Those whose end LSN is at or before
/// dispatched may come too, out of the queue; dispatch drops them.
#[derive(Debug)]
pub struct Progress {
    received: AtomicU64,
    dispatched: AtomicU64,
    confirmed: AtomicU64,
    /// Where the WAL that is held begins; `u64::MAX`: none is held.
    held: AtomicU64,
    moved: Notify,
    /// Until this has been dispatched large transactions are wanted at their commit, not before; `u64::MAX`: for good.
    whole_to: AtomicU64,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            received: AtomicU64::new(0),
            dispatched: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            held: AtomicU64::new(u64::MAX),
            moved: Notify::new(),
            whole_to: AtomicU64::new(0),
        }
    }
}

impl Progress {
    pub fn received(&self) -> Lsn {
        Lsn(self.received.load(Ordering::Acquire))
    }

    pub fn dispatched(&self) -> Lsn {
        Lsn(self.dispatched.load(Ordering::Acquire))
    }

    pub fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Ordering::Acquire))
    }

    /// The reader's: a frame or a keepalive named this position.
    pub fn received_to(&self, position: Lsn) {
        self.received.fetch_max(position.0, Ordering::AcqRel);
    }

    /// Dispatch's: everything before this position has been handed over. A position before the present one changes
    /// nothing.
    pub fn dispatched_to(&self, position: Lsn) {
        debug_assert!(position <= self.received(), "{position} was never received ({})", self.received());
        if self.dispatched.fetch_max(position.0, Ordering::AcqRel) < position.0 {
            // A permit stays if nobody waits: the reader looks at the position before it waits.
            self.moved.notify_one();
        }
    }

    /// From this position on, nothing is confirmed: transactions that end after it come again after a restart. A position
    /// before what is confirmed already changes nothing.
    pub fn hold_from(&self, position: Lsn) {
        self.held.store(position.0, Ordering::Release);
    }

    /// Nothing is held any more: confirmed follows dispatched.
    pub fn release(&self) {
        self.held.store(u64::MAX, Ordering::Release);
    }

    /// Large transactions are wanted at their commit alone. The stream begins again; if dispatch cannot do without, it
    /// passes over all that comes until then.
    pub fn take_whole(&self) {
        self.whole_to.store(u64::MAX, Ordering::Release);
    }

    /// The same up to the end of one of them.
    pub fn take_whole_to(&self, end_lsn: Lsn) {
        self.whole_to.fetch_max(end_lsn.0, Ordering::AcqRel);
    }

    pub fn takes_whole(&self) -> bool {
        self.dispatched().0 < self.whole_to.load(Ordering::Acquire)
    }

    /// A stream begins here: what lies before is no longer to be had.
    pub(super) fn begin(&self, position: Lsn) {
        self.received_to(position);
        self.dispatched_to(position);
        self.confirm();
    }

    /// How far the server may be told.
    pub(crate) fn confirmable(&self) -> Lsn {
        self.dispatched().min(Lsn(self.held.load(Ordering::Acquire)))
    }

    /// What to tell the server; afterwards it counts as confirmed.
    pub(super) fn confirm(&self) -> Lsn {
        // Read first: dispatched may move on between the two, confirmed must not pass it.
        let position = self.confirmable();
        self.confirmed.fetch_max(position.0, Ordering::AcqRel);
        debug_assert!(self.confirmed() <= self.dispatched() && self.dispatched() <= self.received());
        self.confirmed()
    }

    /// Waits until dispatched has reached a position.
    pub(super) async fn until_dispatched(&self, position: Lsn) {
        while self.dispatched() < position {
            self.moved.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_only_move_forward() {
        let progress = Progress::default();
        progress.begin(Lsn(10));
        assert_eq!((progress.received(), progress.dispatched(), progress.confirmed()), (Lsn(10), Lsn(10), Lsn(10)));
        progress.received_to(Lsn(30));
        progress.received_to(Lsn(25));
        progress.dispatched_to(Lsn(20));
        assert_eq!(progress.confirmed(), Lsn(10));
        assert_eq!(progress.confirm(), Lsn(20));
        progress.dispatched_to(Lsn(15));
        progress.begin(Lsn(12));
        assert_eq!((progress.received(), progress.dispatched(), progress.confirmed()), (Lsn(30), Lsn(20), Lsn(20)));
    }

    #[test]
    fn what_is_held_is_not_confirmed() {
        let progress = Progress::default();
        progress.begin(Lsn(10));
        progress.received_to(Lsn(50));
        progress.hold_from(Lsn(20));
        progress.dispatched_to(Lsn(40));
        assert_eq!(progress.confirm(), Lsn(20));
        progress.hold_from(Lsn(15));
        assert_eq!(progress.confirm(), Lsn(20), "what is confirmed is gone");
        progress.release();
        assert_eq!(progress.confirm(), Lsn(40));
    }

    #[tokio::test]
    async fn the_wait_for_dispatch_sees_what_happened_before_it() {
        let progress = Progress::default();
        progress.begin(Lsn(10));
        progress.received_to(Lsn(30));
        progress.dispatched_to(Lsn(20));
        progress.until_dispatched(Lsn(20)).await;
        tokio::join!(progress.until_dispatched(Lsn(30)), async { progress.dispatched_to(Lsn(30)) });
    }
}
