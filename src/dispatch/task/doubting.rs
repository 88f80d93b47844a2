//! Changes of tables that were altered while nobody read the stream.
//!
//! What they were at the time is not known, so nobody is shown anything of such changes: what had a column's name then may be
//! what nobody was ever to see. Whoever would have got them is told: of a gap up to the last of them, if he is being sent what
//! he missed, and otherwise that they are not shown.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Dispatch, Work};
use crate::catalog::{Altered, Relation};
use crate::dispatch::replays::Stage;
use crate::dispatch::ring::Missing;
use crate::dispatch::subscriber::NotShown;
use crate::wal::batch::Started;
use crate::wal::pgoutput::RelationId;
use crate::wal::{Lsn, Position};

/// What was altered before the catalog was read, and after what the stream began with.
#[derive(Default)]
pub(super) struct Doubt {
    altered: Altered,
    /// How far the database was when the stream began. All that is doubtful had been committed by then, but for what the
    /// server had not written yet.
    wal_end: Lsn,
    /// The stream may have generated columns.
    has_generated: bool,
    left_out: HashMap<RelationId, LeftOut>,
    /// How many channels have been bound.
    bound_count: u64,
}

/// Of one table.
#[derive(Default)]
struct LeftOut {
    /// The last transaction of which something was.
    at: Position,
    /// How many channels had been bound when it was last told; `None`: it was for those alone who come back.
    told: Option<u64>,
}

impl Doubt {
    pub(super) fn started(&mut self, started: &Started) {
        (self.wal_end, self.has_generated) = (started.wal_end, started.server_major >= 18);
    }

    /// Positions mean something else, and columns, too.
    pub(super) fn forget(&mut self) {
        (self.altered, self.left_out) = (Altered::default(), HashMap::new());
    }

    /// The stream has told the catalog's state as of a transaction that ends there.
    pub(super) fn told(&mut self, end_lsn: Lsn) {
        self.altered.told(end_lsn);
    }

    /// A channel more is sent what is committed.
    pub(super) fn bound(&mut self) {
        self.bound_count += 1;
    }

    /// Whether a change of the table that has not been read yet may be left out.
    fn may_leave_out(&self, id: RelationId, reached: Position) -> bool {
        // No commit that comes is before that.
        let next = Lsn(reached.lsn.0.saturating_add(1));
        reached < Position::through(self.wal_end) && !self.altered.columns(id, next).is_empty()
    }
}

impl Dispatch {
    /// Gives what was altered before the catalog was read, and after what the stream is going to begin with.
    pub fn doubt(&mut self, altered: Altered) {
        self.doubt.altered = altered;
    }

    /// Whether a column's name may have been another one's in that transaction. The layout is known.
    pub(super) fn is_doubtful(&self, id: RelationId, commit_lsn: Lsn) -> bool {
        let altered = self.doubt.altered.columns(id, commit_lsn);
        let Some(known) = self.layouts.get(&id).filter(|_| !altered.is_empty()) else { return false };
        !known.layout.is_certain(&known.stream, altered, self.doubt.has_generated)
    }

    /// Whether more may be left out of what the channel at a place missed: how far a gap goes is not known yet.
    pub(super) fn is_in_doubt(&self, place: usize) -> bool {
        let reached = self.reached();
        self.subscribers.entries(place).any(|entry| self.doubt.may_leave_out(entry.relation, reached))
    }

    /// The last transaction of which something was left out that the channel at a place listens to.
    pub(super) fn left_out_until(&self, place: usize) -> Position {
        let left_out = self.subscribers.entries(place).filter_map(|entry| self.doubt.left_out.get(&entry.relation));
        left_out.map(|left_out| left_out.at).max().unwrap_or(Position::START)
    }

    pub(super) fn leave_out(&mut self, id: RelationId, work: &Work) {
        let Some(relation) = self.layouts.get(&id).map(|known| Arc::clone(&known.layout.relation)) else { return };
        let at = Position::end_of(work.transaction.header.commit_lsn);
        if !self.doubt.left_out.contains_key(&id) {
            let relation = relation.sql_name();
            tracing::warn!(
                relation,
                "the table was altered while the stream was not read: what came before is not shown"
            );
        }
        let left_out = self.doubt.left_out.entry(id).or_default();
        if left_out.at < at {
            left_out.at = at;
            if work.is_kept {
                // A relay that begins behind it must not say that there was nothing.
                self.replays.unsettled.push_back(work.transaction.header.end_lsn);
            }
            self.tell_replaying(id, at);
        }
        // What was handed over before is for those alone who come back.
        if !work.is_silent {
            self.tell_left_out(id, &relation, at);
        }
    }

    /// Those who are being sent what they missed, and had not been told to wait for it (see `is_in_doubt`).
    fn tell_replaying(&mut self, id: RelationId, at: Position) {
        if self.replays.is_idle() {
            return;
        }
        for place in self.subscribers.places_of(id) {
            let resuming = self.subscribers.get(place).and_then(|subscriber| subscriber.resuming.as_deref());
            if resuming.is_some_and(|resuming| resuming.stage == Stage::Replaying) && self.tell_altered(place, at) {
                self.rebind_resuming(place);
            }
        }
    }

    /// Of a gap up to there, if the channel is owed something before it. `true`: it was told.
    pub(super) fn tell_altered(&mut self, place: usize, until: Position) -> bool {
        let resuming = self.subscribers.get_mut(place).and_then(|subscriber| subscriber.resuming.as_mut());
        let Some(resuming) = resuming.filter(|resuming| resuming.oldest() < until) else { return false };
        resuming.missing.get_or_insert(Missing::Altered);
        self.tell_gap(place, until);
        true
    }

    /// Whoever has been told reads again, and finds all of it: it was committed before the relay began.
    fn tell_left_out(&mut self, id: RelationId, relation: &Relation, at: Position) {
        let bound = Some(self.doubt.bound_count);
        let left_out = self.doubt.left_out.entry(id).or_default();
        if std::mem::replace(&mut left_out.told, bound) == bound {
            return;
        }
        for place in self.subscribers.places_of(id) {
            let Some(subscriber) = self.subscribers.get(place) else { continue };
            let is_open = subscriber.outbox.is_open();
            match subscriber.resuming.as_deref() {
                // What was asked for is told as a gap.
                Some(resuming) if resuming.stage != Stage::Live => {
                    if resuming.owed.len() < self.subscribers.bindings(place) {
                        self.tell(place, relation, NotShown::LeftOut);
                    }
                }
                Some(resuming) if !resuming.is_direct && resuming.oldest() >= at => {}
                _ => {
                    if self.tell(place, relation, NotShown::LeftOut) || !is_open {
                        self.note_missing(place, Missing::Altered);
                    }
                }
            }
        }
    }
}
