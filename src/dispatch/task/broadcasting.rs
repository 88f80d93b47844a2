//! Broadcasts from the database, at their places in the stream.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{Dispatch, Work};
use crate::authz::TopicAuthority;
use crate::change::assembler::Error as StreamFault;
use crate::dispatch::broadcasts::{Answered, BroadcastSink, Delivering};
use crate::dispatch::pending::Ticket;
use crate::wal::pgoutput::{RelationId, Tuple};

impl Dispatch {
    /// Gives who broadcasts; without it nothing of the database is. `carried` says whether the stream has the messages.
    pub fn broadcast_with(&mut self, sink: Arc<dyn BroadcastSink>, carried: Arc<AtomicBool>) {
        self.broadcasts.set_sink(sink, carried);
    }

    /// Gives who judges what `walcast.send` sends to private topics; without it that is refused.
    pub fn authorize_broadcasts_with(&mut self, authority: Arc<dyn TopicAuthority>) {
        self.broadcasts.set_authority(authority);
    }

    pub(super) fn broadcast_row(
        &mut self,
        relation: RelationId,
        new: &Tuple,
        ticket: &Arc<Ticket>,
    ) -> Result<usize, StreamFault> {
        self.begin_burst();
        let mut delivering = Delivering { ticket, budget: &self.budget, burst: &mut self.burst };
        self.broadcasts.insert(relation, new, &self.relations, &mut delivering)
    }

    pub(super) fn broadcast_sent(&mut self, content: &[u8], work: &Work) -> usize {
        self.begin_burst();
        let mut delivering = Delivering { ticket: &work.ticket, budget: &self.budget, burst: &mut self.burst };
        self.broadcasts.logical(content, work.transaction.header.xid, &mut delivering)
    }

    pub(super) fn broadcast_answered(&mut self, answered: Answered) {
        self.begin_burst();
        self.broadcasts.answered(answered, &mut self.burst);
    }

    pub(super) fn take_broadcast_answers(&mut self) {
        while self.broadcasts.is_waiting()
            && let Some(answered) = self.broadcasts.next().now_or_never()
        {
            self.broadcast_answered(answered);
        }
    }

    fn begin_burst(&mut self) {
        if self.burst.is_empty() {
            self.burst_since = Instant::now();
        }
    }
}
