//! What a transaction did to tracked tables, gathered as it comes: it is applied before anything of the transaction is
//! judged, and the transaction itself, perhaps in a file, is read only once.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::wal::pgoutput::{RelationId, StreamRelation};

/// One change, as it came.
#[derive(Clone, Debug, PartialEq)]
pub enum TrackedChange {
    /// A row's frame, and what its relation was when it was written.
    Row(Arc<StreamRelation>, Bytes),
    Truncate(Vec<RelationId>),
}

impl TrackedChange {
    /// The relations that it is about.
    pub fn relations(&self) -> &[RelationId] {
        match self {
            TrackedChange::Row(relation, _) => std::slice::from_ref(&relation.id),
            TrackedChange::Truncate(relations) => relations,
        }
    }

    pub fn bytes(&self) -> usize {
        size_of::<TrackedChange>()
            + match self {
                TrackedChange::Row(_, frame) => frame.len(),
                TrackedChange::Truncate(relations) => size_of_val(&relations[..]),
            }
    }
}

/// The changes of one transaction, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrackedLog {
    pub changes: Vec<TrackedChange>,
    /// Tables whose changes are not all here: they were too many, or one of them was too large to be read.
    pub missed: BTreeSet<RelationId>,
    /// Of any table something may be missing.
    pub all_missed: bool,
    pub(crate) bytes: usize,
}

impl TrackedLog {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.missed.is_empty() && !self.all_missed
    }

    pub(super) fn push(&mut self, change: TrackedChange, bytes_max: usize) {
        // A table of which something is missing has to be read again anyway.
        if change.relations().iter().all(|relation| self.missed.contains(relation)) {
            return;
        }
        self.bytes += change.bytes();
        self.changes.push(change);
        if self.bytes > bytes_max {
            let changes = std::mem::take(&mut self.changes);
            self.missed.extend(changes.iter().flat_map(TrackedChange::relations));
            self.bytes = 0;
        }
    }

    pub(super) fn unread(&mut self, relation: Option<RelationId>) {
        match relation {
            Some(relation) => drop(self.missed.insert(relation)),
            None => self.all_missed = true,
        }
    }
}
