//! Who is on which topic: the only thing that sockets share. Sharded, with short locks.
//!
//! ```text
//!   Session ── enter ──► Membership (dropped: left) ── broadcast, track ──► Topic ──► outboxes of its members
//!   Opening ── open ───────────────────────────────────────────────────────► Topic
//!   REST, the database ── Hub::broadcast ── shard ─────────────────────────► Topic
//! ```
//!
//! Promises:
//! - A member is in from the moment its join was let in, and nothing reaches it before the join's reply: what comes in
//!   between is held, and follows the reply and what is replayed.
//! - State and diffs of presence change under one lock of the topic: no diff is lost, doubled, or overtakes another.
//! - Entering and leaving are a session's own, in its order, and dropping a [`Membership`] is leaving: nobody is left
//!   behind. A topic goes with its last member.
//!
//! Order of locks: shard, topic, outbox. Woken is outside of all of them ([`Burst`]).

mod grace;
mod members;
mod membership;
mod meter;
mod presence;
mod state;
#[cfg(test)]
mod stress_tests;
#[cfg(test)]
mod tests;

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use self::grace::Graces;
pub use self::membership::{Full, Membership};
pub use self::meter::Meter;
use self::presence::Ref;
use self::state::State;
use super::broadcast::Content;
use super::limits::Limits;
use super::metrics::Metrics;
use super::outbox::{Burst, ChannelOutbox};
use super::phoenix::Serializer;
use super::subscribe::ChannelId;
use super::topic::PREFIX;

/// Public and private channels of one name are two topics (PROTOCOL 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicKey<'a> {
    pub private: bool,
    /// Without `realtime:`.
    pub subtopic: &'a str,
}

/// What became of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broadcasted {
    /// Queued for so many channels.
    To(usize),
    /// Its payload is above the limit.
    TooLarge,
    /// More events per second than allowed.
    TooMany,
}

/// Who enters.
pub struct Entrant {
    pub channel: ChannelId,
    pub outbox: ChannelOutbox,
    pub serializer: Serializer,
    /// Broadcasts reach it.
    pub hears: bool,
    /// Diffs of presence reach it.
    pub watches: bool,
}

/// Of all topics, so that two of them rarely want the same lock.
const SHARDS: usize = 64;

pub struct Hub {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    limits: Limits,
    metrics: Arc<Metrics>,
    /// Broadcasts: each send and each delivery.
    events: Meter,
    /// Tracks, states and deliveries of diffs.
    presence_events: Meter,
    graces: Graces,
    refs: AtomicU64,
    refs_salt: u32,
}

#[derive(Default)]
struct Shard(HashTable<Arc<Topic>>);

/// A topic with members.
pub(super) struct Topic {
    private: bool,
    /// With its `realtime:`.
    name: Arc<str>,
    hash: u64,
    state: Mutex<State>,
}

impl Hub {
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Hub {
        Hub {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            events: Meter::new(limits.events_per_second_max),
            presence_events: Meter::new(limits.presence_events_per_second_max),
            graces: Graces::new(limits.presence_grace),
            limits,
            metrics,
            refs: AtomicU64::new(rand::random()),
            refs_salt: rand::random(),
        }
    }

    /// Gives a message to everybody on the topic but `from`. In order: what one caller broadcasts later is received
    /// later. The burst holds the waking of their sockets until it is let go.
    pub fn broadcast(
        &self,
        topic: TopicKey<'_>,
        content: &Content<'_>,
        from: Option<ChannelId>,
        burst: &mut Burst,
    ) -> Broadcasted {
        if content.payload_bytes() > self.limits.payload_bytes_max {
            self.metrics.broadcasts_too_large.inc();
            return Broadcasted::TooLarge;
        }
        let now = Instant::now();
        if self.events.is_over(now) {
            self.metrics.broadcasts_over_rate.inc();
            return Broadcasted::TooMany;
        }
        self.metrics.broadcasts.inc();
        let delivered = match self.find(topic) {
            Some(topic) => topic.lock().broadcast(self, &topic.name, content, from, false, burst),
            None => 0,
        };
        self.events.add(1 + delivered as u64, now);
        Broadcasted::To(delivered)
    }

    /// How many events there are per second, as far as they are counted: only where they are limited.
    pub fn events_per_second(&self) -> f64 {
        self.events.average(Instant::now())
    }

    pub fn events_per_second_max(&self) -> Option<u32> {
        self.limits.events_per_second_max
    }

    /// Counts what a client sent that is no broadcast.
    pub fn count_event(&self, now: Instant) {
        self.events.add(1, now);
    }

    /// Topics with a member, or with somebody who may come back.
    pub fn topics(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).0.len()).sum()
    }

    /// `topic` with its `realtime:`. It is waiting until it is opened.
    pub fn enter(self: &Arc<Self>, private: bool, topic: &Arc<str>, entrant: Entrant) -> Result<Membership, Full> {
        let channel = entrant.channel;
        let mut entrant = Some(entrant);
        loop {
            let found = self.find_or_make(private, topic);
            let mut state = found.lock();
            // Freed between the two locks: there is another of the name by now, or will be.
            if state.is_dead {
                continue;
            }
            if self.limits.members_per_channel_max.is_some_and(|max| state.members.len() >= max) {
                return Err(Full);
            }
            if let Some(entrant) = entrant.take() {
                state.members.insert(entrant);
            }
            drop(state);
            return Ok(Membership::new(Arc::clone(self), found, channel));
        }
    }

    fn find(&self, key: TopicKey<'_>) -> Option<Arc<Topic>> {
        let hash = self.hash(key.private, key.subtopic);
        let shard = lock(self.shard(hash));
        shard.0.find(hash, |topic| topic.is(key.private, key.subtopic)).cloned()
    }

    fn find_or_make(&self, private: bool, name: &Arc<str>) -> Arc<Topic> {
        let subtopic = name.strip_prefix(PREFIX).unwrap_or(name);
        let hash = self.hash(private, subtopic);
        let mut shard = lock(self.shard(hash));
        let entry = shard.0.entry(hash, |topic| topic.is(private, subtopic), |topic| topic.hash);
        let entry = entry.or_insert_with(|| {
            self.metrics.topics.inc();
            Arc::new(Topic { private, name: Arc::clone(name), hash, state: Mutex::default() })
        });
        Arc::clone(entry.get())
    }

    /// Frees a topic that nobody is on any more.
    fn free(&self, topic: &Arc<Topic>) {
        let mut shard = lock(self.shard(topic.hash));
        let mut state = topic.lock();
        if state.is_dead || !state.is_empty() {
            return;
        }
        state.is_dead = true;
        drop(state);
        if let Ok(entry) = shard.0.find_entry(topic.hash, |other| Arc::ptr_eq(other, topic)) {
            entry.remove();
            self.metrics.topics.dec();
        }
        // Names of topics come and go; a table that a crowd has grown is given back.
        let (len, capacity) = (shard.0.len(), shard.0.capacity());
        if capacity > 64 && len * 4 < capacity {
            shard.0.shrink_to(len * 2, |topic| topic.hash);
        }
    }

    fn hash(&self, private: bool, subtopic: &str) -> u64 {
        self.hasher.hash_one((private, subtopic))
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // The table itself uses the lowest and the highest bits.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    fn next_ref(&self) -> Ref {
        Ref::new(self.refs.fetch_add(1, Ordering::Relaxed), self.refs_salt)
    }

    /// A person, as far as two are told apart: who is the same may take over what he left.
    pub fn subject(&self, sub: Option<&str>, role: &str, token: &str) -> Subject {
        // An empty one is nobody's: it would make all who have it one person.
        Subject(match sub.filter(|sub| !sub.is_empty()) {
            Some(sub) => self.hasher.hash_one(("sub", sub)),
            None => self.hasher.hash_one((role, token)),
        })
    }
}

/// Whom messages and presences are counted for: the `sub` claim, or for tokens without one role and token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject(pub u64);

/// With the default limits, and metrics of its own: for tests.
impl Default for Hub {
    fn default() -> Self {
        Hub::new(Limits::default(), Arc::default())
    }
}

impl Topic {
    fn is(&self, private: bool, subtopic: &str) -> bool {
        self.private == private && self.name.strip_prefix(PREFIX) == Some(subtopic)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding one; were that to change, members would still be members.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
