//! From a change to the subscriptions that it matches.
//!
//! Per table and event: subscriptions without a filter in a plain list, those with an equality in hash buckets
//! (column, value), the others in a scan list. Subscriptions with equal predicates form one group, which is evaluated
//! once per change. A change costs what its candidates cost, not what all subscriptions cost.

mod bucket;
mod class;

use std::collections::HashMap;
use std::sync::Arc;

use self::class::Class;
use super::BoundSubscription;
use super::predicate::{Image, Predicate};
use super::slab::Slab;
use super::subscription::{EventFilter, SubscriptionId};
use crate::change::{Change, OldRow, Operation};
use crate::wal::pgoutput::RelationId;

/// All bound subscriptions.
#[derive(Debug, Default)]
pub struct SubscriptionIndex {
    relations: HashMap<RelationId, Classes, foldhash::fast::RandomState>,
    /// Where each subscription stands, so that removing it needs no search.
    members: Slab<Member>,
    /// The first member of a subscription; a wildcard binding has one per table.
    heads: HashMap<SubscriptionId, u32, foldhash::fast::RandomState>,
}

/// By [`slot`]: a table's subscriptions to any event, and to each single one.
type Classes = [Option<Box<Class>>; 4];

#[derive(Debug)]
struct Member {
    relation: RelationId,
    slot: u8,
    /// `None`: in the plain list.
    group: Option<u32>,
    position: u32,
    /// The next member of the same subscription.
    next: Option<u32>,
}

/// The answer of [`SubscriptionIndex::matches`]; to be used again for the next change.
#[derive(Clone, Debug)]
pub struct Matches {
    pub matched: Vec<SubscriptionId>,
    /// Those from here on may see the row: they were found by what their policies say.
    pub sure_from: usize,
    /// What could be tested here passes; the predicate's SQL decides. A predicate appears once.
    pub undecided: Vec<(Arc<Predicate>, Vec<SubscriptionId>)>,
}

impl Default for Matches {
    fn default() -> Matches {
        Matches { matched: Vec::new(), sure_from: usize::MAX, undecided: Vec::new() }
    }
}

fn slot(event: EventFilter) -> u8 {
    match event {
        EventFilter::Any => 0,
        EventFilter::Only(Operation::Insert) => 1,
        EventFilter::Only(Operation::Update) => 2,
        EventFilter::Only(Operation::Delete) => 3,
    }
}

impl SubscriptionIndex {
    /// May be called several times for one subscription: once for each table of a wildcard binding.
    pub fn insert(&mut self, id: SubscriptionId, subscription: &BoundSubscription) {
        let slot = slot(subscription.event);
        let classes = self.relations.entry(subscription.relation).or_default();
        // Equal predicates share one allocation, whatever the event.
        let known = |predicate: &Arc<Predicate>| classes.iter().flatten().find_map(|class| class.interned(predicate));
        let predicate = subscription.predicate.as_ref().map(|new| known(new).unwrap_or_else(|| new.clone()));
        let class = classes[usize::from(slot)].get_or_insert_default();
        let next = self.heads.get(&id).copied();
        let (relation, group) = (subscription.relation, predicate.map(|predicate| class.group_of(predicate)));
        let member = self.members.insert(Member { relation, slot, group, position: 0, next });
        self.members.get_mut(member).position = class.add(group, id, member);
        self.heads.insert(id, member);
    }

    pub fn remove(&mut self, id: SubscriptionId) {
        let mut next = self.heads.remove(&id);
        while let Some(member) = next.and_then(|place| self.members.remove(place)) {
            next = member.next;
            self.take_out(&member);
        }
    }

    fn take_out(&mut self, member: &Member) {
        let Some(classes) = self.relations.get_mut(&member.relation) else { return };
        let class = &mut classes[usize::from(member.slot)];
        let Some(inner) = class else { return };
        if let Some(moved) = inner.take_out(member.group, member.position) {
            self.members.get_mut(moved).position = member.position;
        }
        if inner.is_empty() {
            *class = None;
            if classes.iter().all(Option::is_none) {
                self.relations.remove(&member.relation);
            }
        }
    }

    /// Finds the subscriptions that a change matches. Clears `out` first.
    pub fn matches(&self, change: &Change, out: &mut Matches) {
        out.matched.clear();
        out.sure_from = usize::MAX;
        out.undecided.clear();
        let Some(classes) = self.relations.get(&change.relation.id) else { return };
        let fallback = match (&change.new, &change.old) {
            (Some(_), OldRow::Full(row)) => Some(row),
            _ => None,
        };
        let image = change.filtered_row().map(|row| Image { row, fallback });
        for class in interested(classes, change.operation) {
            class.matches(image, out);
        }
        merge_equal(&mut out.undecided);
    }

    /// Everybody who wants this operation of this table, whatever the filter: the audience of error rows
    /// (PROTOCOL 4.4). Appends.
    pub fn everyone(&self, relation: RelationId, operation: Operation, out: &mut Vec<SubscriptionId>) {
        let classes = self.relations.get(&relation);
        for class in classes.into_iter().flat_map(|classes| interested(classes, operation)) {
            out.extend(class.everyone());
        }
    }

    /// Whether anybody wants anything of this table.
    pub fn has_relation(&self, relation: RelationId) -> bool {
        self.relations.contains_key(&relation)
    }

    /// The number of subscriptions.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }
}

fn interested(classes: &Classes, operation: Operation) -> impl Iterator<Item = &Class> {
    [EventFilter::Any, EventFilter::Only(operation)]
        .into_iter()
        .filter_map(|event| classes[usize::from(slot(event))].as_deref())
}

/// A predicate may have been found for both "any event" and this one: it is to be asked once.
fn merge_equal(undecided: &mut Vec<(Arc<Predicate>, Vec<SubscriptionId>)>) {
    if undecided.len() < 2 {
        return;
    }
    undecided.sort_by_key(|(predicate, _)| Arc::as_ptr(predicate).addr());
    undecided.dedup_by(|(later, ids), (earlier, into)| {
        let equal = Arc::ptr_eq(later, earlier);
        if equal {
            into.append(ids);
        }
        equal
    });
}

#[cfg(test)]
mod tests;
