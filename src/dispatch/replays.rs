//! Who is owed what was missed, and how far they have got.
//!
//! ```text
//!   join ──► Waiting ──► Replaying ──► Live ──► parked, its socket being gone
//!     │         ▲            │          ▲          │
//!     │         └────────────┘          │          │
//!     │      (its outbox is full)       │          │
//!     └── with the keys of a channel that is known ◄
//! ```
//!
//! A channel that is parked goes on being decided for, as of each change's commit, and whoever comes back with its keys is
//! sent what was decided. Everybody else, after a restart or with a position alone, is judged by what holds at the return.
//!
//! Those who replay do so together: one pass over the kept changes, routed by an index of their own, so that a storm of
//! reconnects costs what is delivered. What is committed meanwhile is kept, too, and reached by the pass: whoever has
//! come to the end has missed nothing, and is live from the next change on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio::time::Instant;

use super::ring::{Missing, Ring};
use super::sent::SentLog;
use crate::channels::subscribe::{ChannelId, Subscribe};
use crate::resume::{Config, Ledger, Link, ResumeKey, ResumeMetrics};
use crate::routing::Casts;
use crate::wal::budget::{Rung, SlotPressure};
use crate::wal::history::History;
use crate::wal::{Lsn, Origin, Position};

/// How often it is looked whether it is written down that changes are no longer kept.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How soon full outboxes are looked at again.
pub const RETRY: Duration = Duration::from_millis(10);

/// So many channels without a socket are decided for; then the one that has been gone for longest is judged anew when it
/// comes back.
pub const PARKED_MAX: usize = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Waiting,
    Replaying,
    Live,
}

/// What a channel asks to be sent of what it missed.
pub struct Resuming {
    pub link: Arc<Link>,
    pub stage: Stage,
    /// By the id that the client knows the binding by: what comes after it is owed. Bindings that did not ask are owed
    /// what comes after the join.
    pub owed: SmallVec<[(u32, Position); 1]>,
    pub joined_at: Position,
    /// Where the oldest of them was; `None`: all of them are new.
    pub from: Option<Position>,
    pub missing: Option<Missing>,
    /// What it was, or should have been, told of since it was live, and how far the stream had come: whoever has
    /// acknowledged more knows.
    pub told: Option<(Position, Missing)>,
    /// Why a binding is not remembered.
    pub refused: Option<Box<str>>,
    /// When so many more of its deliveries have been decided the client is told that it has all up to here.
    pub announcement: Option<(usize, Position)>,
    /// The last change that it was sent as it was decided.
    pub sent: Position,
    /// The keys of its bindings, if each has one: whoever comes back with the same is the same channel.
    pub keys: Option<Arc<[ResumeKey]>>,
    /// What was decided for it since it was live.
    pub log: Option<SentLog>,
    /// The log became too long while it was being sent: the rest is replayed from here.
    pub fall_back_from: Option<Position>,
    /// What is decided is sent at once: nothing of the log waits before it.
    pub is_direct: bool,
    /// Its socket is gone.
    pub is_parked: bool,
}

impl Resuming {
    pub fn new(link: Arc<Link>, joined_at: Position) -> Resuming {
        Resuming {
            link,
            stage: Stage::Live,
            owed: SmallVec::new(),
            joined_at,
            from: None,
            missing: None,
            told: None,
            refused: None,
            announcement: None,
            sent: Position::START,
            keys: None,
            log: None,
            fall_back_from: None,
            is_direct: true,
            is_parked: false,
        }
    }

    /// All that it is owed has been queued up to there. What it is to be told first holds that back.
    pub fn say_replayed(&self, at: Position) {
        if self.missing.is_none() {
            self.link.replayed_to(at);
        }
    }

    pub fn owed_after(&self, binding: u32) -> Position {
        let owed = self.owed.iter().find(|(id, _)| *id == binding);
        owed.map_or(self.joined_at, |(_, position)| *position)
    }

    /// Before this, nothing is owed.
    pub fn oldest(&self) -> Position {
        self.owed.iter().map(|(_, position)| *position).min().unwrap_or(self.joined_at)
    }

    /// It cannot be live before this: a client may know more than has been read again after a restart.
    pub fn newest(&self) -> Position {
        self.owed.iter().map(|(_, position)| *position).max().unwrap_or(self.joined_at)
    }
}

/// One walk over the kept changes.
pub struct Pass {
    /// The number of the next change.
    pub cursor: u64,
    pub members: Vec<ChannelId>,
}

/// All that dispatch has for resuming.
pub struct Replays {
    pub config: Config,
    pub ring: Ring,
    pub ledger: Arc<Ledger>,
    pub metrics: ResumeMetrics,
    /// Who is looked at next, whether he may join the pass.
    pub waiting: Vec<ChannelId>,
    /// Who is owed what the pass has left behind: their turn comes when it has ended.
    pub behind: Vec<ChannelId>,
    /// Whose outboxes are full, or whose joins are not answered yet. In a storm they are too many to be looked at in every
    /// turn.
    pub stalled: Vec<ChannelId>,
    /// Joins from before there was a stream: nobody knows of which history positions are. With casts and number. By their
    /// channels, oldest first: clients that are not answered join again, all of them within seconds.
    pub before_history: BTreeMap<ChannelId, (Subscribe, Arc<Casts>, u64)>,
    /// Whose logs are being sent.
    pub draining: Vec<ChannelId>,
    /// By their keys: who has what was decided for them.
    pub holders: HashMap<Arc<[ResumeKey]>, usize, RandomState>,
    /// Channels whose sockets are gone, oldest first: since when, and their places.
    pub parked: VecDeque<(Instant, usize, ChannelId)>,
    pub pass: Option<Pass>,
    /// When those who are stalled are looked at again.
    pub retry_at: Option<Instant>,
    /// Since when nobody resumes.
    pub unused_since: Instant,
    pub origin: Arc<Origin>,
    pub history: Arc<History>,
    /// How near the slot is to what it may cost.
    pub pressure: watch::Receiver<SlotPressure>,
    /// What had been handed over before this process began is kept, and sent to nobody else.
    pub silent_until: Lsn,
    /// There was no change between it and the start of the stream, as far as is known.
    pub before_start: Option<Lsn>,
    /// The last change that was routed, or the end of its transaction.
    pub worked: Position,
    /// How far the database was when the stream began.
    pub wal_end: Lsn,
    /// A change of the transaction that is being read was not read.
    pub has_skipped: bool,
    /// Ends of transactions with kept changes that are not handed over yet, oldest first.
    pub unsettled: VecDeque<Lsn>,
}

impl Replays {
    pub fn new(config: Config, ledger: Arc<Ledger>, metrics: ResumeMetrics) -> Replays {
        Replays {
            config,
            ring: Ring::new(config),
            ledger,
            metrics,
            waiting: Vec::new(),
            behind: Vec::new(),
            stalled: Vec::new(),
            before_history: BTreeMap::new(),
            draining: Vec::new(),
            holders: HashMap::default(),
            parked: VecDeque::new(),
            pass: None,
            retry_at: None,
            unused_since: Instant::now(),
            origin: Arc::default(),
            history: Arc::default(),
            pressure: watch::Sender::new(SlotPressure::default()).subscribe(),
            silent_until: Lsn::ZERO,
            before_start: None,
            worked: Position::START,
            wal_end: Lsn::ZERO,
            has_skipped: false,
            unsettled: VecDeque::new(),
        }
    }

    /// Nobody can resume.
    pub fn disabled() -> Replays {
        let config = Config { retention: Duration::ZERO, ..Config::default() };
        let metrics = ResumeMetrics::default();
        Replays::new(config, Arc::new(Ledger::new(metrics.clone())), metrics)
    }

    pub fn is_enabled(&self) -> bool {
        !self.config.retention.is_zero()
    }

    /// The slot holds so much that what a restart would need is let go.
    pub fn must_let_go(&self) -> bool {
        self.pressure.borrow().rung >= Rung::GiveUpPromises
    }

    /// It holds more than it may, whatever for.
    pub fn is_over_budget(&self) -> bool {
        self.pressure.borrow().rung >= Rung::Exceeded
    }

    pub fn is_idle(&self) -> bool {
        let nobody = [&self.waiting, &self.behind, &self.stalled, &self.draining].iter().all(|list| list.is_empty());
        nobody && self.pass.is_none()
    }

    pub fn knows_history(&self) -> bool {
        !self.origin.system_identifier.is_empty()
    }

    /// Nothing can be sent to it at present.
    pub fn stall(&mut self, channel: ChannelId) {
        self.stalled.push(channel);
        self.retry_at.get_or_insert_with(|| Instant::now() + RETRY);
    }

    /// Those who were stalled, if it is time.
    pub fn take_stalled(&mut self) -> Vec<ChannelId> {
        match self.retry_at.take_if(|at| *at <= Instant::now()) {
            Some(_) => std::mem::take(&mut self.stalled),
            None => Vec::new(),
        }
    }

    /// When there is something to do although nothing comes.
    pub fn next_deadline(&self) -> Option<Instant> {
        let expires = self.ring.expires_at(!self.is_idle());
        let parked = self.parked.front().map(|(since, ..)| *since + self.config.retention);
        // What is waited for then is written down elsewhere, or cannot be.
        let unused = self.ring.is_on().then(|| match self.ledger.is_keeping() {
            true => self.unused_since + self.config.retention,
            false => Instant::now() + LOOK_AGAIN,
        });
        [self.retry_at, expires, parked, unused].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::Position;

    /// What is written down may never be: the database has no tables for it, or is not there.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_looked_at_without_pause() {
        let metrics = ResumeMetrics::default();
        let ledger = Arc::new(Ledger::new(metrics.clone()));
        let mut replays = Replays::new(Config::default(), Arc::clone(&ledger), metrics);
        replays.ring.turn_on(1, Position::START, Lsn::ZERO);
        ledger.keep(true);
        assert_eq!(replays.next_deadline(), Some(Instant::now() + Config::default().retention));
        tokio::time::advance(2 * Config::default().retention).await;
        ledger.keep(false);
        assert!(replays.next_deadline().unwrap() > Instant::now());
    }
}
