//! Changes of tables that were altered while nobody read the stream.
//!
//! What they were at the time is not known, so nobody is shown anything of such changes: what had a column's name then may be
//! what nobody was ever to see. Whoever would have got them is told of a gap.

use std::sync::Arc;

use super::{Dispatch, Work};
use crate::catalog::Altered;
use crate::dispatch::ring::Missing;
use crate::dispatch::subscribers::NotShown;
use crate::wal::pgoutput::RelationId;
use crate::wal::{Lsn, Position};

impl Dispatch {
    /// Gives what was altered before the catalog was read, and after what the stream is going to begin with.
    pub fn doubt(&mut self, altered: Altered) {
        self.altered = altered;
    }

    /// Whether a column's name may have been another one's in that transaction. The layout is known.
    pub(super) fn is_doubtful(&self, id: RelationId, commit_lsn: Lsn) -> bool {
        let altered = self.altered.columns(id, commit_lsn);
        let Some(known) = self.layouts.get(&id).filter(|_| !altered.is_empty()) else { return false };
        !known.layout.is_certain(&known.stream, altered)
    }

    pub(super) fn leave_out(&mut self, id: RelationId, work: &Work) {
        let header = work.transaction.header;
        if work.is_kept {
            self.replays.ring.has_hole(Position::end_of(header.commit_lsn), header.end_lsn, Missing::Altered);
        }
        let Some(relation) = self.layouts.get(&id).map(|known| Arc::clone(&known.layout.relation)) else { return };
        if !self.left_out.contains_key(&id) {
            let relation = relation.sql_name();
            tracing::warn!(
                relation,
                "the table was altered while the stream was not read: what came before is not shown"
            );
        }
        // What was handed over before is for those alone who come back, and whom the hole is for.
        if work.is_silent {
            self.left_out.entry(id).or_insert(u64::MAX);
            return;
        }
        // Whoever has been told reads again, and finds all of it: it was committed before the relay began.
        if self.left_out.insert(id, self.bound_count) == Some(self.bound_count) {
            return;
        }
        for place in self.subscribers.places_of(id) {
            let is_open = self.subscribers.get(place).is_some_and(|subscriber| subscriber.outbox.is_open());
            if self.tell(place, &relation, NotShown::LeftOut) || !is_open {
                self.note_missing(place, Missing::Altered);
            }
        }
    }
}
