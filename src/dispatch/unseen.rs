//! Transactions that dispatch has read and that other sessions may not see yet.
//!
//! The walsender sends a transaction once it is flushed; the backend that commits it leaves the list of running ones
//! later. Somebody who joins in between would miss it: it was dispatched before his join, and his SELECT after the
//! join's reply does not find it. So a reply waits until one snapshot sees everything that the subscription does not
//! get; what commits after the reply then either reaches the subscription or was seen by any SELECT that follows it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::catalog::Snapshot;
use crate::catalog::watcher::WatcherHandle;
use crate::channels::subscribe::ChannelId;

/// Above this many a snapshot is asked for although nobody joins; it leaves as many as there are sessions at most.
const PRUNED_ABOVE: usize = 4096;
/// Between two snapshots that did not see everything. Ordinarily a transaction is visible within a millisecond.
const PAUSE: Duration = Duration::from_millis(1);
/// With a synchronous standby that hangs it takes as long as that does; clients give a join ten seconds.
pub const WAIT_MAX: Duration = Duration::from_secs(5);

/// A channel whose reply waits.
#[derive(Debug)]
struct Waiting {
    /// Not its place in the table, which may be another channel's by the time an answer is here.
    channel: ChannelId,
    /// It does not get transactions up to this one.
    barrier: u64,
    since: Instant,
}

/// Why a reply leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Everything before it is visible.
    Visible,
    /// It waited for [`WAIT_MAX`]: its client is told to read again.
    Overdue,
}

#[derive(Default)]
pub struct Unseen {
    watcher: Option<WatcherHandle>,
    /// By the order in which they began in the stream.
    transactions: VecDeque<(u64, u32)>,
    waiting: VecDeque<Waiting>,
    asked: Option<oneshot::Receiver<Snapshot>>,
    /// When the next snapshot may be asked for.
    rests_until: Option<Instant>,
}

impl Unseen {
    /// Without a watcher nobody can be asked, and nothing waits.
    pub fn new(watcher: Option<WatcherHandle>) -> Unseen {
        Unseen { watcher, ..Unseen::default() }
    }

    /// A transaction was read, in part or whole.
    pub fn read(&mut self, sequence: u64, xid: u32) {
        if self.watcher.is_none() || self.transactions.back().is_some_and(|(last, _)| *last >= sequence) {
            return;
        }
        self.transactions.push_back((sequence, xid));
        if self.transactions.len() > PRUNED_ABOVE {
            self.ask();
        }
    }

    /// Whether the reply of a channel that does not get transactions up to `barrier` has to wait; it is then named by
    /// [`Unseen::next`].
    pub fn holds(&mut self, channel: ChannelId, barrier: u64, now: Instant) -> bool {
        if self.transactions.front().is_none_or(|(sequence, _)| *sequence > barrier) {
            return false;
        }
        self.waiting.push_back(Waiting { channel, barrier, since: now });
        // A snapshot that is on its way was taken before.
        self.ask();
        true
    }

    fn ask(&mut self) {
        if self.asked.is_none()
            && self.rests_until.is_none()
            && let Some(watcher) = &self.watcher
        {
            self.asked = Some(watcher.snapshot());
        }
    }

    /// The channels whose replies are to leave next; pending while there are none. Safe to cancel.
    pub async fn next(&mut self) -> Vec<(ChannelId, Release)> {
        loop {
            let overdue = self.waiting.front().map(|waiting| waiting.since + WAIT_MAX);
            let snapshot = async {
                match &mut self.asked {
                    Some(asked) => asked.await,
                    None => std::future::pending().await,
                }
            };
            let rest = self.rests_until;
            tokio::select! {
                biased;
                snapshot = snapshot => {
                    self.asked = None;
                    if let Ok(snapshot) = snapshot {
                        self.transactions.retain(|(_, xid)| !snapshot.sees(*xid));
                    }
                    if !self.waiting.is_empty() || self.transactions.len() > PRUNED_ABOVE {
                        self.rests_until = Some(Instant::now() + PAUSE);
                    }
                }
                () = until(rest) => {
                    self.rests_until = None;
                    if !self.waiting.is_empty() || self.transactions.len() > PRUNED_ABOVE {
                        self.ask();
                    }
                    continue;
                }
                () = until(overdue) => {}
            }
            let released = self.release(Instant::now());
            if !released.is_empty() {
                return released;
            }
        }
    }

    fn release(&mut self, now: Instant) -> Vec<(ChannelId, Release)> {
        let first = self.transactions.front().map(|(sequence, _)| *sequence);
        let mut released = Vec::new();
        self.waiting.retain(|waiting| {
            let visible = first.is_none_or(|first| first > waiting.barrier);
            let overdue = now.duration_since(waiting.since) >= WAIT_MAX;
            if visible || overdue {
                let why = if visible { Release::Visible } else { Release::Overdue };
                released.push((waiting.channel, why));
            }
            !visible && !overdue
        });
        released
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEVEN: ChannelId = ChannelId(7);

    fn unseen(transactions: &[(u64, u32)]) -> Unseen {
        Unseen { transactions: transactions.iter().copied().collect(), ..Unseen::default() }
    }

    /// A snapshot as if it had just been asked for.
    fn answered(unseen: &mut Unseen, snapshot: &str) {
        let (answer, asked) = oneshot::channel();
        answer.send(snapshot.parse().unwrap()).unwrap();
        unseen.asked = Some(asked);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_waits_until_what_its_channel_does_not_get_is_visible() {
        let mut unseen = unseen(&[(1, 100), (2, 101), (3, 102)]);
        assert!(unseen.holds(SEVEN, 2, Instant::now()));
        // 101 is still running for everybody else.
        answered(&mut unseen, "101:103:101");
        let waits = tokio::time::timeout(Duration::from_millis(100), unseen.next()).await;
        assert!(waits.is_err());
        answered(&mut unseen, "102:103:102");
        assert_eq!(unseen.next().await, [(SEVEN, Release::Visible)]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_transactions_that_it_gets() {
        let mut unseen = unseen(&[(5, 100)]);
        assert!(!unseen.holds(SEVEN, 4, Instant::now()));
        assert!(unseen.holds(SEVEN, 5, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_that_hangs_does_not_hold_a_join_for_ever() {
        let mut unseen = unseen(&[(1, 100)]);
        let start = Instant::now();
        assert!(unseen.holds(SEVEN, 1, start));
        assert_eq!(unseen.next().await, [(SEVEN, Release::Overdue)]);
        assert_eq!(start.elapsed(), WAIT_MAX);
    }
}
