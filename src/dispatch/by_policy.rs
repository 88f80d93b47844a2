//! Subscriptions found by what a table's policies compare, where their filters lead nowhere.
//!
//! A hundred thousand people who subscribe to one table without a filter, under `user_id = auth.uid()`, would each be
//! judged for every change. Here they stand under the values of their claims, and a change looks up whom its row is for
//! ([`Audience`](crate::authz::policy::Audience)). Whoever is found is judged as everybody else is, but where the ways that
//! lead to people are all that the policies say: then they are decided by having been found.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::access::RoleKey;
use crate::authz::CompiledPlan;
use crate::authz::policy::audience::{Led, Standing};
use crate::authz::policy::{RowValues, Slots, Value};
use crate::authz::tracked::{Moment, Tables};
use crate::change::{Change, OldRow, Operation};
use crate::routing::{BoundSubscription, EventFilter, Matches, Predicate, SubscriptionId, Tested};
use crate::wal::pgoutput::RelationId;

#[derive(Default)]
pub struct ByPolicy {
    tables: HashMap<RelationId, SmallVec<[OfRole; 2]>, RandomState>,
    /// By the subscription's number, which is small and used again.
    placed: Vec<Option<Placed>>,
}

/// The subscriptions of one role to one table.
struct OfRole {
    role: RoleKey,
    plan: Arc<CompiledPlan>,
    everyone: Ids,
    /// For whom a policy holds whatever the row.
    always: Ids,
    by_key: HashMap<Key, Few, RandomState>,
}

/// The way that leads to somebody, and the value.
type Key = (u16, Value);

/// What is known of a subscription without a look at it.
#[derive(Clone, Copy)]
struct Wants {
    event: EventFilter,
    /// There is a filter.
    filtered: bool,
    /// Whoever is led to it need not be judged.
    sure: bool,
}

type Ids = BTreeMap<SubscriptionId, Wants>;
type Found = SmallVec<[(SubscriptionId, Wants); 4]>;

/// Subscriptions at one key. Most people have a key of their own: theirs is where the key is.
enum Few {
    One(SubscriptionId, Wants),
    More(Box<Ids>),
}

impl Few {
    fn insert(&mut self, id: SubscriptionId, wants: Wants) {
        match self {
            Few::One(known, _) if *known == id => {}
            Few::One(known, of_known) => *self = Few::More(Box::new([(*known, *of_known), (id, wants)].into())),
            Few::More(ids) => {
                ids.insert(id, wants);
            }
        }
    }

    /// `true`: none is left.
    fn remove(&mut self, id: SubscriptionId) -> bool {
        match self {
            Few::One(known, _) => *known == id,
            Few::More(ids) => {
                ids.remove(&id);
                ids.is_empty()
            }
        }
    }

    fn add_to(&self, found: &mut Found) {
        match self {
            Few::One(id, wants) => found.push((*id, *wants)),
            Few::More(ids) => add_all(ids, found),
        }
    }
}

fn add_all(ids: &Ids, found: &mut Found) {
    found.extend(ids.iter().map(|(id, wants)| (*id, *wants)));
}

struct Placed {
    relation: RelationId,
    role: RoleKey,
    predicate: Option<Arc<Predicate>>,
    keys: Box<[Key]>,
}

impl ByPolicy {
    /// `false`: the plan has no audience, or the filter leads to fewer; routing is to have it.
    pub fn insert(
        &mut self,
        id: SubscriptionId,
        subscription: &BoundSubscription,
        role: RoleKey,
        plan: &Arc<CompiledPlan>,
        slots: &Slots,
    ) -> bool {
        let Some(audience) = &plan.audience else { return false };
        if subscription.predicate.as_ref().is_some_and(|predicate| predicate.has_equality()) {
            return false;
        }
        let Some(Standing { always, sure, keys }) = audience.standing(slots) else { return false };
        let of_table = self.tables.entry(subscription.relation).or_default();
        // Of another plan: it is about to be placed anew.
        let at = of_table.iter().position(|of_role| of_role.role == role && Arc::ptr_eq(&of_role.plan, plan));
        let at = at.unwrap_or_else(|| {
            let (everyone, always, by_key) = Default::default();
            of_table.push(OfRole { role, plan: Arc::clone(plan), everyone, always, by_key });
            of_table.len() - 1
        });
        let of_role = &mut of_table[at];
        let BoundSubscription { relation, event, predicate, .. } = subscription;
        let wants = Wants { event: *event, filtered: predicate.is_some(), sure };
        of_role.everyone.insert(id, Wants { sure: false, ..wants });
        if always {
            of_role.always.insert(id, wants);
        }
        for key in &keys {
            of_role.by_key.entry(key.clone()).and_modify(|ids| ids.insert(id, wants)).or_insert(Few::One(id, wants));
        }
        let placed = Placed { relation: *relation, role, predicate: predicate.clone(), keys: keys.into() };
        let place = id.0 as usize;
        if self.placed.len() <= place {
            self.placed.resize_with(place + 1, || None);
        }
        self.placed[place] = Some(placed);
        true
    }

    pub fn remove(&mut self, id: SubscriptionId) {
        let Some(placed) = self.placed.get_mut(id.0 as usize).and_then(Option::take) else { return };
        let Some(of_table) = self.tables.get_mut(&placed.relation) else { return };
        let holds = |of_role: &OfRole| of_role.role == placed.role && of_role.everyone.contains_key(&id);
        let Some(at) = of_table.iter().position(holds) else { return };
        let of_role = &mut of_table[at];
        of_role.everyone.remove(&id);
        of_role.always.remove(&id);
        for key in &placed.keys {
            let Some(ids) = of_role.by_key.get_mut(key) else { continue };
            if ids.remove(id) {
                of_role.by_key.remove(key);
            }
        }
        if of_role.everyone.is_empty() {
            of_table.swap_remove(at);
            if of_table.is_empty() {
                self.tables.remove(&placed.relation);
            }
        }
    }

    pub fn has_relation(&self, relation: RelationId) -> bool {
        self.tables.contains_key(&relation)
    }

    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Adds the subscriptions that the change may be for and whose filters it matches; last, as [`Matches::sure_from`]
    /// says, those that it is for.
    pub fn matches(&self, change: &Change, tables: Option<&Tables>, out: &mut Matches) {
        let Some(of_table) = self.tables.get(&change.relation.id) else { return };
        let mut found = Found::new();
        for of_role in of_table {
            of_role.find(change, tables, &mut found);
        }
        found.retain(|(_, wants)| wants.event.accepts(change.operation));
        // Somebody may be led to in several ways.
        found.sort_unstable_by_key(|(id, wants)| (wants.sure, id.0));
        found.dedup_by_key(|(id, _)| *id);
        for (id, wants) in found {
            if wants.sure && out.sure_from == usize::MAX {
                out.sure_from = out.matched.len();
            }
            let predicate = match self.placed.get(id.0 as usize) {
                Some(Some(placed)) if wants.filtered => placed.predicate.as_ref(),
                _ => None,
            };
            match predicate.map(|predicate| (predicate, predicate.test(change))) {
                None | Some((_, Tested::Matched)) => out.matched.push(id),
                Some((_, Tested::NotMatched)) => {}
                Some((predicate, Tested::Undecided)) => {
                    match out.undecided.iter_mut().find(|(known, _)| Arc::ptr_eq(known, predicate)) {
                        Some((_, ids)) => ids.push(id),
                        None => out.undecided.push((Arc::clone(predicate), vec![id])),
                    }
                }
            }
        }
    }
}

impl OfRole {
    fn find(&self, change: &Change, tables: Option<&Tables>, found: &mut Found) {
        let (row, fallback, moment) = match (change.operation, &change.old) {
            (Operation::Delete, _) => (change.known_old(), None, Moment::Before),
            (_, OldRow::Full(old)) => (change.new.as_ref(), Some(old), Moment::After),
            _ => (change.new.as_ref(), None, Moment::After),
        };
        let (Some(row), Some(audience), Some(tables)) = (row, &self.plan.audience, tables) else {
            return add_all(&self.everyone, found);
        };
        let row = RowValues::new(&self.plan.types, row, fallback);
        match audience.led(&row, tables, moment, change.commit_timestamp) {
            Led::Everyone => add_all(&self.everyone, found),
            Led::To(keys) => {
                add_all(&self.always, found);
                for key in &keys {
                    if let Some(ids) = self.by_key.get(key) {
                        ids.add_to(found);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "by_policy_tests.rs"]
mod tests;
