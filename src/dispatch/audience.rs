//! Changes that all go to the same channels, with nothing left to decide.
//!
//! A message in a room goes to everybody in it, and so does the next. Whom a change is for is then worked out once, and
//! what the changes of a chunk come to is built once for all channels that are alike: a channel costs one look at its
//! outbox, however many the changes.

use std::sync::Arc;

use smallvec::SmallVec;

use super::pending::{Content, Delivery, PendingChange, Policy};
use crate::encode::RecordShape;
use crate::routing::SubscriptionId;
use crate::wal::pgoutput::RelationId;

/// Who gets the changes, and which.
pub struct Audience {
    relation: RelationId,
    /// Deletes are routed and shown by other rules.
    is_delete: bool,
    /// What routing found; equal findings of one table in one chunk are an equal audience.
    matched: Vec<SubscriptionId>,
    /// By their places, each once.
    pub members: Vec<Member>,
    pub changes: Vec<SharedChange>,
}

/// A channel that gets them.
pub struct Member {
    pub place: usize,
    /// Client-visible binding ids.
    pub ids: SmallVec<[u32; 4]>,
    pub shape: Arc<RecordShape>,
}

pub struct SharedChange {
    pub change: Arc<PendingChange>,
    pub whole_old: bool,
}

impl Audience {
    /// `None`: a channel gets several frames of one change.
    pub fn new(
        relation: RelationId,
        is_delete: bool,
        matched: &[SubscriptionId],
        members: Vec<Member>,
    ) -> Option<Audience> {
        let is_once = members.windows(2).all(|pair| pair[0].place < pair[1].place);
        let matched = matched.to_vec();
        is_once.then_some(Audience { relation, is_delete, matched, members, changes: Vec::new() })
    }

    pub fn is_of(&self, relation: RelationId, is_delete: bool, matched: &[SubscriptionId]) -> bool {
        self.relation == relation && self.is_delete == is_delete && self.matched == matched
    }

    pub fn deliveries(&self) -> usize {
        self.members.len() * self.changes.len()
    }

    /// What it comes to channel by channel, for where that has to be told apart after all. In commit order.
    pub fn into_deliveries(self) -> impl Iterator<Item = (usize, Delivery)> {
        let Audience { members, changes, .. } = self;
        let of_change = move |change: SharedChange| {
            members.iter().map(|member| (member.place, member.delivery(&change))).collect::<Vec<_>>()
        };
        changes.into_iter().flat_map(of_change)
    }
}

impl Member {
    pub fn delivery(&self, shared: &SharedChange) -> Delivery {
        let policy = Policy::shown(shared.whole_old);
        Delivery {
            change: Arc::clone(&shared.change),
            ids: self.ids.iter().map(|id| (*id, None)).collect(),
            content: Content::Row { shape: Arc::clone(&self.shape), policy },
        }
    }
}
