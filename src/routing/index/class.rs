//! The subscriptions to one table and one event.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Matches;
use crate::catalog::ColumnIndex;
use crate::routing::bytewise::Form;
use crate::routing::predicate::{Equality, Image, Outcome, Predicate};
use crate::routing::slab::Slab;
use crate::routing::subscription::SubscriptionId;
use crate::wal::pgoutput::Datum;

/// Subscriptions that match together. A change reads the ids alone, and reads them in one go.
#[derive(Debug, Default)]
struct Entries {
    ids: SmallVec<[SubscriptionId; 2]>,
    /// Their places in the index' members.
    members: SmallVec<[u32; 4]>,
}

#[derive(Debug, Default)]
pub(super) struct Class {
    /// Subscriptions without a filter.
    plain: Entries,
    groups: Slab<Group>,
    by_predicate: HashMap<Arc<Predicate>, u32, foldhash::fast::RandomState>,
    /// Groups that no equality leads to.
    scan: Vec<u32>,
    columns: Vec<Buckets>,
}

/// The subscriptions that share a predicate.
#[derive(Debug)]
struct Group {
    entries: Entries,
    /// The bucket says it all: there is no other test. Known here so that a match need not look at the predicate.
    is_equality: bool,
    predicate: Arc<Predicate>,
    /// Where the group stands in each of its buckets, in the order of the predicate's values; or in the scan list.
    places: SmallVec<[u32; 1]>,
}

/// The buckets of one column.
#[derive(Debug)]
struct Buckets {
    column: ColumnIndex,
    form: Form,
    by_value: HashMap<Key, SmallVec<[u32; 2]>, foldhash::fast::RandomState>,
}

/// A value, in the table itself up to the length of a UUID: following a pointer would cost more than comparing.
type Key = SmallVec<[u8; 36]>;

impl Class {
    /// The predicate as it is already known here.
    pub(super) fn interned(&self, predicate: &Arc<Predicate>) -> Option<Arc<Predicate>> {
        self.by_predicate.get_key_value(predicate).map(|(known, _)| known.clone())
    }

    /// The group of a predicate, made if there is none.
    pub(super) fn group_of(&mut self, predicate: Arc<Predicate>) -> u32 {
        if let Some(group) = self.by_predicate.get(&predicate) {
            return *group;
        }
        let is_equality = predicate.equality().is_some() && predicate.tests.len() == 1;
        let (entries, places) = (Entries::default(), SmallVec::new());
        let group = self.groups.insert(Group { entries, is_equality, predicate: predicate.clone(), places });
        let places = self.link(group, &predicate);
        self.groups.get_mut(group).places = places;
        self.by_predicate.insert(predicate, group);
        group
    }

    /// Puts a group where changes will find it.
    fn link(&mut self, group: u32, predicate: &Predicate) -> SmallVec<[u32; 1]> {
        let Some(Equality { column, form, values }) = predicate.equality() else {
            self.scan.push(group);
            return SmallVec::from_elem((self.scan.len() - 1) as u32, 1);
        };
        if values.is_empty() {
            // `in.()`: nothing ever matches it.
            return SmallVec::new();
        }
        let at = self.columns.iter().position(|buckets| buckets.column == column);
        let at = at.unwrap_or_else(|| {
            self.columns.push(Buckets { column, form, by_value: HashMap::default() });
            self.columns.len() - 1
        });
        let join = |value: &Arc<[u8]>| {
            let bucket = self.columns[at].by_value.entry(Key::from_slice(value)).or_default();
            bucket.push(group);
            (bucket.len() - 1) as u32
        };
        values.iter().map(join).collect()
    }

    /// Adds a subscription; the answer is its position.
    pub(super) fn add(&mut self, group: Option<u32>, id: SubscriptionId, member: u32) -> u32 {
        self.entries_mut(group).push(id, member)
    }

    /// Removes the subscription at a position; the answer is the member that has moved there.
    pub(super) fn take_out(&mut self, group: Option<u32>, position: u32) -> Option<u32> {
        let entries = self.entries_mut(group);
        let moved = entries.take_out(position as usize);
        let is_empty = entries.ids.is_empty();
        if let (Some(group), true) = (group, is_empty) {
            self.remove_group(group);
        }
        moved
    }

    fn entries_mut(&mut self, group: Option<u32>) -> &mut Entries {
        match group {
            None => &mut self.plain,
            Some(group) => &mut self.groups.get_mut(group).entries,
        }
    }

    fn remove_group(&mut self, group: u32) {
        let Some(Group { predicate, places, .. }) = self.groups.remove(group) else { return };
        self.by_predicate.remove(&predicate);
        let Some(Equality { column, values, .. }) = predicate.equality() else {
            let place = places[0];
            self.scan.swap_remove(place as usize);
            if let Some(moved) = self.scan.get(place as usize) {
                self.groups.get_mut(*moved).places[0] = place;
            }
            return;
        };
        let Some(at) = self.columns.iter().position(|buckets| buckets.column == column) else { return };
        for (value, place) in values.iter().zip(places) {
            let Some(bucket) = self.columns[at].by_value.get_mut(&value[..]) else { continue };
            bucket.swap_remove(place as usize);
            if let Some(moved) = bucket.get(place as usize) {
                self.groups.get_mut(*moved).move_to(value, place);
            } else if bucket.is_empty() {
                self.columns[at].by_value.remove(&value[..]);
            }
        }
        if self.columns[at].by_value.is_empty() {
            self.columns.swap_remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.plain.ids.is_empty() && self.groups.is_empty()
    }

    pub(super) fn matches(&self, image: Option<Image<'_>>, out: &mut Matches) {
        out.matched.extend_from_slice(&self.plain.ids);
        // Without any row image nothing can be said of a filter.
        let Some(image) = image else { return };
        for buckets in &self.columns {
            let Datum::Text(text) = image.datum(buckets.column) else { continue };
            for group in buckets.by_value.get(buckets.form.of_text(text)).into_iter().flatten() {
                self.groups.get(*group).judge(image, true, out);
            }
        }
        for group in &self.scan {
            self.groups.get(*group).judge(image, false, out);
        }
    }

    pub(super) fn everyone(&self) -> impl Iterator<Item = SubscriptionId> {
        let filtered = self.groups.iter().flat_map(|group| &group.entries.ids);
        self.plain.ids.iter().chain(filtered).copied()
    }
}

impl Group {
    fn judge(&self, image: Image<'_>, found_by_bucket: bool, out: &mut Matches) {
        let outcome = match found_by_bucket && self.is_equality {
            true => Outcome::Matched,
            false => self.predicate.evaluate(image, found_by_bucket),
        };
        match outcome {
            Outcome::NotMatched => {}
            Outcome::Matched => out.matched.extend_from_slice(&self.entries.ids),
            Outcome::Undecided => out.undecided.push((self.predicate.clone(), self.entries.ids.to_vec())),
        }
    }

    /// Notes that the group has moved in the bucket of one of its values.
    fn move_to(&mut self, value: &Arc<[u8]>, place: u32) {
        let values = self.predicate.equality().map(|equality| equality.values).unwrap_or_default();
        if let Ok(at) = values.binary_search(value) {
            self.places[at] = place;
        }
    }
}

impl Entries {
    fn push(&mut self, id: SubscriptionId, member: u32) -> u32 {
        self.ids.push(id);
        self.members.push(member);
        (self.ids.len() - 1) as u32
    }

    /// The last one moves to the position of the one that leaves; the answer is its member.
    fn take_out(&mut self, position: usize) -> Option<u32> {
        self.ids.swap_remove(position);
        self.members.swap_remove(position);
        self.members.get(position).copied()
    }
}
