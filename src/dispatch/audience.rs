//! Changes that all go to the same channels, with nothing left to decide.
//!
//! A message in a room goes to everybody in it, and so does the next. Whom a change is for is then worked out once, and
//! what the changes of a chunk come to is built once for all channels that are alike: a channel costs one look at its
//! outbox, however many the changes.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Deletes;
use super::access::{Access, AccessTable};
use super::delivery::{Chunk, Context, Projection};
use super::grouping::Group;
use super::pending::{ComputedRows, Content, Delivery, PendingChange, Policy, Ticket, frame_bytes};
use super::texts::Texts;
use crate::authz::Plan;
use crate::change::{Change, OldRow, Operation};
use crate::encode::RecordShape;
use crate::routing::{Matches, SubscriptionId};
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

impl Chunk {
    /// Gives the change to the same channels as the changes before it, or to those that can be the first such audience.
    /// Gives it back where that is not so, or there is something to decide.
    pub(super) fn share(
        &mut self,
        change: Change,
        may_share: bool,
        ticket: &Arc<Ticket>,
        matches: &Matches,
        access: &mut AccessTable,
        context: &Context<'_>,
    ) -> Option<Change> {
        let (relation, is_delete) = (change.relation.id, change.operation == Operation::Delete);
        let is_known = match &self.audience {
            _ if !may_share => return Some(change),
            Some(audience) if !audience.is_of(relation, is_delete, &matches.matched) => return Some(change),
            known => known.is_some(),
        };
        if !is_known {
            let Some(audience) = self.audience_of(&change, matches, access, context) else { return Some(change) };
            self.audience = Some(audience);
        }
        self.bytes += frame_bytes(&change);
        let whole_old = matches!(change.old, OldRow::Full(_));
        let computed = ComputedRows::default();
        let change = Arc::new(PendingChange::new(change, Arc::clone(ticket), computed, context.budget));
        self.audience.as_mut()?.changes.push(SharedChange { change, whole_old });
        None
    }

    /// `None`: not all who matched are shown the row without more ado.
    fn audience_of(
        &mut self,
        change: &Change,
        matches: &Matches,
        access: &mut AccessTable,
        context: &Context<'_>,
    ) -> Option<Audience> {
        let (relation, is_delete) = (&change.relation, change.operation == Operation::Delete);
        let is_shown = |access: &Access| match access.row_security {
            true => matches!(access.plan, Plan::Open) && !(is_delete && context.config.deletes == Deletes::None),
            false => true,
        };
        // Mostly one role stands for all: a table with policies costs no more than this look.
        let role = context.subscribers.entry(*matches.matched.first()?).role;
        if !is_shown(&access.access(context.catalog, relation, role)) {
            return None;
        }
        let groups = self.group(change, matches, &mut Texts::default(), context);
        let mut members = Vec::with_capacity(groups.len());
        let mut known: Option<(Projection<'_>, Arc<RecordShape>)> = None;
        for Group { entry, ids, .. } in groups {
            let projection: Projection<'_> = (entry.role, &entry.selection);
            let shape = match &known {
                Some((same, shape)) if *same == projection => Arc::clone(shape),
                _ => {
                    let access_of_role = access.access(context.catalog, relation, projection.0);
                    if !is_shown(&access_of_role) || (!is_delete && access_of_role.is_error_row()) {
                        return None;
                    }
                    let shape = access.shape(context.catalog, relation, &access_of_role.visible, &entry.selection);
                    known = Some((projection, Arc::clone(&shape)));
                    shape
                }
            };
            let ids = ids.into_iter().map(|(id, _)| id).collect();
            members.push(Member { place: entry.place(), ids, shape });
        }
        if members.is_empty() {
            return None;
        }
        Audience::new(relation.id, is_delete, &matches.matched, members)
    }

    /// Turns what is shared into deliveries like all others: something else comes after it.
    pub(super) fn tell_apart(&mut self) {
        if let Some(audience) = self.audience.take() {
            self.deliveries.extend(audience.into_deliveries().map(|(place, delivery)| (place, Some(delivery))));
        }
    }

    /// How much there is to deliver.
    pub fn delivery_count(&self) -> usize {
        self.deliveries.len() + self.audience.as_ref().map_or(0, Audience::deliveries)
    }
}
