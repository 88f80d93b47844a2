//! A change of the transaction in work, from the stream's message to whoever listens.

use std::sync::Arc;

use super::{Dispatch, Work};
use crate::catalog::{ColumnSet, Relation};
use crate::change::assembler::Error as StreamFault;
use crate::change::{Change, Layout, OldRow, Operation, Row};
use crate::dispatch::delivery::{Chunk, Context};
use crate::encode;
use crate::routing::Matches;
use crate::wal::Position;
use crate::wal::pgoutput::{Message, OldTuple, RelationId, StreamRelation};

/// A table as the stream describes it, and how its rows are read.
pub(super) struct KnownLayout {
    pub(super) stream: Arc<StreamRelation>,
    pub(super) layout: Arc<Layout>,
    columns_asked: ColumnSet,
}

impl Dispatch {
    pub(super) fn route(
        &mut self,
        message: Message,
        work: &mut Work,
        chunk: &mut Chunk,
        matches: &mut Matches,
    ) -> Result<(), StreamFault> {
        let (relation, operation, new, old) = match message {
            Message::Relation(relation) => {
                self.layouts.remove(&relation.id);
                self.relations.insert(relation);
                return Ok(());
            }
            Message::Insert { relation, new } if self.broadcasts.has(relation) && !work.is_silent => {
                chunk.broadcasts += self.broadcast_row(relation, &new, &work.ticket)?;
                // Also a change of a table, where the user's publication has it.
                (relation, Operation::Insert, Some(new), OldTuple::Absent)
            }
            Message::Logical { .. } if work.is_silent => return Ok(()),
            Message::Logical { content, .. } => {
                chunk.broadcasts += self.broadcast_sent(&content, work);
                return Ok(());
            }
            Message::Insert { relation, new } => (relation, Operation::Insert, Some(new), OldTuple::Absent),
            Message::Update { relation, old, new } => (relation, Operation::Update, Some(new), old),
            Message::Delete { relation, old } => (relation, Operation::Delete, None, old),
            _ => return Ok(()),
        };
        let index = work.index;
        work.index += 1;
        if !self.know_layout(relation)? {
            return Ok(());
        }
        if self.is_doubtful(relation, work.transaction.header.commit_lsn) {
            self.leave_out(relation, work);
            return Ok(());
        }
        let kept = match (&operation, &old) {
            (Operation::Delete, OldTuple::Key(key)) => self.kept_row(relation, key)?,
            _ => None,
        };
        let known = &self.layouts[&relation];
        if !is_published(&known.layout.relation, operation) {
            return Ok(());
        }
        if work.is_kept {
            let (stream, relation) = (Arc::clone(&known.stream), Arc::clone(&known.layout.relation));
            self.keep(work, (operation, new.as_ref(), &old), (&stream, &relation, kept.as_ref()));
        }
        self.replays.worked = Position { lsn: work.transaction.header.commit_lsn, index };
        if work.is_silent {
            return Ok(());
        }
        let known = &self.layouts[&relation];
        let row = |tuple, key_only| Row { layout: Arc::clone(&known.layout), tuple, key_only };
        let change = Change {
            relation: Arc::clone(&known.layout.relation),
            operation,
            new: new.map(|tuple| row(tuple, false)),
            old: match old {
                OldTuple::Absent => OldRow::Absent,
                OldTuple::Key(tuple) => OldRow::Key(row(tuple, true)),
                OldTuple::Full(tuple) => OldRow::Full(row(tuple, false)),
            },
            kept,
            commit_lsn: work.transaction.header.commit_lsn,
            index,
            commit_timestamp: work.transaction.header.commit_timestamp,
        };
        let context = Context {
            catalog: &self.catalog,
            config: &self.config,
            subscribers: &self.subscribers,
            budget: &self.budget,
            columns_asked: &known.columns_asked,
            tables: self.tracking.tables(),
            xid: work.transaction.header.xid,
            sequence: work.transaction.sequence,
            replayed: None,
        };
        if chunk.add(change, &work.ticket, matches, &mut self.access, self.before.as_mut(), &context) {
            self.metrics.changes_matched.inc();
        }
        Ok(())
    }

    /// Makes sure of the layout of a relation's rows; `false`: the catalog does not have the table (it left the
    /// publication, or was dropped, by the end of this transaction), so nobody may see it.
    fn know_layout(&mut self, id: RelationId) -> Result<bool, StreamFault> {
        let stream = self.relations.get(id)?;
        if self.layouts.get(&id).is_some_and(|known| Arc::ptr_eq(&known.stream, stream)) {
            return Ok(true);
        }
        let Some(relation) = self.catalog.relation(id) else { return Ok(false) };
        let mut layout = Layout::new(Arc::clone(relation), stream);
        if let Some(earlier) = self.before.as_ref().and_then(|before| before.catalog.relation(id)) {
            // A row of this transaction may be from before its DDL, which the stream does not say.
            layout.forget(|column| earlier.columns.iter().any(|known| known.name == column.name && !known.is(column)));
        }
        let layout = Arc::new(layout);
        let columns_asked = encode::columns_only_postgres_encodes(&self.catalog, relation, &layout);
        self.layouts.insert(id, KnownLayout { stream: Arc::clone(stream), layout, columns_asked });
        Ok(true)
    }
}

/// Whether the user's publication has the operation. Where a table is in walcast's own as well, the stream has more.
pub(super) fn is_published(relation: &Relation, operation: Operation) -> bool {
    match operation {
        Operation::Insert => relation.publish.insert,
        Operation::Update => relation.publish.update,
        Operation::Delete => relation.publish.delete,
    }
}
