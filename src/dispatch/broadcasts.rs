//! Broadcast from the database: rows of `realtime.messages`, and what `walcast.send` says, each at its place in the order
//! of commits.
//!
//! A row is broadcast as it comes: whoever could insert it was judged by Postgres. What `walcast.send` says must be signed,
//! be of the transaction that it stands in and, for a private topic, be allowed to its sender by the policies for writing.
//! That may be a question to Postgres, for which only its own topic waits: order is kept per topic.

mod message;
mod metrics;
mod send;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use foldhash::fast::RandomState;

pub use self::message::Dropped;
use self::message::{Columns, Message};
pub use self::metrics::BroadcastMetrics;
use self::metrics::Words;
pub use self::send::Refused;
pub use self::waiting::Answered;
use self::waiting::Waiting;
use super::pending::Ticket;
use crate::authz::TopicAuthority;
use crate::catalog::{Catalog, Followed, Relation};
use crate::change::Relations;
use crate::change::assembler::Error as StreamFault;
use crate::channels::hub::{Broadcasted, Hub, TopicKey};
use crate::channels::outbox::Burst;
use crate::channels::{Content, EventPayload};
use crate::wal::Started;
use crate::wal::logical::BroadcastKey;
use crate::wal::pgoutput::{RelationId, StreamRelation, Tuple};

/// Who gives a message to everybody on a topic: the hub, or a test.
pub trait BroadcastSink: Send + Sync {
    fn broadcast(&self, topic: TopicKey<'_>, content: &Content<'_>, burst: &mut Burst) -> Broadcasted;
}

impl BroadcastSink for Hub {
    fn broadcast(&self, topic: TopicKey<'_>, content: &Content<'_>, burst: &mut Burst) -> Broadcasted {
        Hub::broadcast(self, topic, content, None, burst)
    }
}

/// What a message is delivered with.
pub struct Delivering<'a> {
    pub ticket: &'a Arc<Ticket>,
    pub budget: &'a Arc<AtomicUsize>,
    pub burst: &'a mut Burst,
}

pub struct Broadcasts {
    sink: Option<Arc<dyn BroadcastSink>>,
    authority: Option<Arc<dyn TopicAuthority>>,
    /// Whether the stream that runs carries `realtime.messages`: what channels with `replication_ready` wait for.
    carried: Arc<AtomicBool>,
    /// Of the stream that runs: the table that may be believed, and the key of `walcast.send`.
    messages: Option<RelationId>,
    key: Option<BroadcastKey>,
    /// What the stream names the table: its partitions, or itself.
    names: HashSet<RelationId, RandomState>,
    columns: HashMap<RelationId, (Arc<StreamRelation>, Columns), RandomState>,
    waiting: Waiting,
    metrics: BroadcastMetrics,
    words: Words,
}

impl Broadcasts {
    pub fn new(metrics: BroadcastMetrics) -> Broadcasts {
        Broadcasts {
            sink: None,
            authority: None,
            carried: Arc::default(),
            messages: None,
            key: None,
            names: HashSet::default(),
            columns: HashMap::default(),
            waiting: Waiting::default(),
            metrics,
            words: Words::default(),
        }
    }

    pub fn set_sink(&mut self, sink: Arc<dyn BroadcastSink>, carried: Arc<AtomicBool>) {
        (self.sink, self.carried) = (Some(sink), carried);
    }

    pub fn set_authority(&mut self, authority: Arc<dyn TopicAuthority>) {
        self.authority = Some(authority);
    }

    /// A new connection; `false`: what `walcast.send` says is not wanted.
    pub fn started(&mut self, started: &Started, catalog: &Catalog) -> bool {
        (self.messages, self.key) = (started.messages, started.broadcast_key.clone());
        self.columns.clear();
        self.catalog_changed(catalog);
        self.key.is_some() && self.sink.is_some()
    }

    pub fn disconnected(&mut self) {
        self.carried.store(false, Ordering::Relaxed);
    }

    /// Partitions come and go. Each change of the catalog is applied before the changes of its transaction, so that a
    /// partition is known before its first row.
    pub fn catalog_changed(&mut self, catalog: &Catalog) {
        let relation = self.messages.and_then(|id| catalog.any_relation(id)).filter(|_| self.sink.is_some());
        self.names = relation.map(names).unwrap_or_default();
        let is_carried = |relation: &&Arc<Relation>| matches!(relation.followed, Followed::Whole | Followed::InPart);
        self.carried.store(relation.as_ref().is_some_and(is_carried), Ordering::Relaxed);
    }

    /// Whether rows of this relation are messages.
    pub fn has(&self, relation: RelationId) -> bool {
        self.names.contains(&relation)
    }

    /// Broadcasts an inserted row. Gives how many channels it was queued for.
    pub fn insert(
        &mut self,
        relation: RelationId,
        new: &Tuple,
        relations: &Relations,
        delivering: &mut Delivering<'_>,
    ) -> Result<usize, StreamFault> {
        let stream = relations.get(relation)?;
        let columns = match self.columns.get(&relation) {
            Some((known, columns)) if Arc::ptr_eq(known, stream) => *columns,
            _ => {
                let columns = Columns::of(stream);
                self.columns.insert(relation, (Arc::clone(stream), columns));
                columns
            }
        };
        Ok(match columns.message(new) {
            Ok(message) => self.deliver(&message, delivering),
            Err(why) => self.dropped(why),
        })
    }

    /// In the order of its topic: behind what waits there.
    fn deliver(&mut self, message: &Message<'_>, delivering: &mut Delivering<'_>) -> usize {
        if message.private && self.waiting.has(message.topic) {
            self.waiting.push_allowed(message, delivering.ticket, delivering.budget);
            return 0;
        }
        self.broadcast(message, delivering.burst)
    }

    fn broadcast(&mut self, message: &Message<'_>, burst: &mut Burst) -> usize {
        let Some(sink) = &self.sink else { return 0 };
        let payload = match message.is_binary {
            true => EventPayload::Binary(&message.payload),
            false => EventPayload::Json(&message.payload),
        };
        let content = Content::Event { event: message.event, payload, id: Some(message.id) };
        match sink.broadcast(TopicKey { private: message.private, subtopic: message.topic }, &content, burst) {
            Broadcasted::To(channels) => {
                self.metrics.broadcast.inc();
                channels
            }
            Broadcasted::TooLarge => self.dropped(Dropped::TooLarge),
            Broadcasted::TooMany => self.dropped(Dropped::TooMany),
        }
    }

    fn dropped(&mut self, why: Dropped) -> usize {
        self.metrics.dropped(why);
        if let Some(others) = self.words.may_say(why.label()) {
            tracing::error!(code = "UnableToBroadcastChanges", %why, others, "a message of the database is not broadcast");
        }
        0
    }
}

fn names(relation: &Arc<Relation>) -> HashSet<RelationId, RandomState> {
    relation.leaves.iter().copied().chain([relation.id]).collect()
}
