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

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) id: SubscriptionId,
    /// Its place in the index' members.
    pub(super) member: u32,
}

#[derive(Debug, Default)]
pub(super) struct Class {
    /// Subscriptions without a filter.
    plain: Vec<Entry>,
    groups: Slab<Group>,
    by_predicate: HashMap<Arc<Predicate>, u32, foldhash::fast::RandomState>,
    /// Groups that no equality leads to.
    scan: Vec<u32>,
    columns: Vec<Buckets>,
}

/// The subscriptions that share a predicate.
#[derive(Debug)]
struct Group {
    predicate: Arc<Predicate>,
    entries: SmallVec<[Entry; 1]>,
    /// Where the group stands in each of its buckets, in the order of the predicate's values; or in the scan list.
    places: SmallVec<[u32; 1]>,
}

/// The buckets of one column.
#[derive(Debug)]
struct Buckets {
    column: ColumnIndex,
    form: Form,
    by_value: HashMap<Arc<[u8]>, SmallVec<[u32; 2]>, foldhash::fast::RandomState>,
}

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
        let group = self.groups.insert(Group {
            predicate: predicate.clone(),
            entries: SmallVec::new(),
            places: SmallVec::new(),
        });
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
            let bucket = self.columns[at].by_value.entry(value.clone()).or_default();
            bucket.push(group);
            (bucket.len() - 1) as u32
        };
        values.iter().map(join).collect()
    }

    /// Adds a subscription; the answer is its position.
    pub(super) fn add(&mut self, group: Option<u32>, entry: Entry) -> u32 {
        match group {
            None => push(&mut self.plain, entry),
            Some(group) => {
                let entries = &mut self.groups.get_mut(group).entries;
                entries.push(entry);
                (entries.len() - 1) as u32
            }
        }
    }

    /// Removes the subscription at a position; the answer is the one that has moved there.
    pub(super) fn take_out(&mut self, group: Option<u32>, position: u32) -> Option<Entry> {
        let at = position as usize;
        let Some(group) = group else {
            self.plain.swap_remove(at);
            return self.plain.get(at).copied();
        };
        let entries = &mut self.groups.get_mut(group).entries;
        entries.swap_remove(at);
        let moved = entries.get(at).copied();
        if entries.is_empty() {
            self.remove_group(group);
        }
        moved
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
            let Some(bucket) = self.columns[at].by_value.get_mut(value) else { continue };
            bucket.swap_remove(place as usize);
            if let Some(moved) = bucket.get(place as usize) {
                self.groups.get_mut(*moved).move_to(value, place);
            } else if bucket.is_empty() {
                self.columns[at].by_value.remove(value);
            }
        }
        if self.columns[at].by_value.is_empty() {
            self.columns.swap_remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.groups.is_empty()
    }

    pub(super) fn matches(&self, image: Option<Image<'_>>, out: &mut Matches) {
        out.matched.extend(self.plain.iter().map(|entry| entry.id));
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
        self.plain.iter().chain(self.groups.iter().flat_map(|group| &group.entries)).map(|entry| entry.id)
    }
}

impl Group {
    fn judge(&self, image: Image<'_>, found_by_bucket: bool, out: &mut Matches) {
        match self.predicate.evaluate(image, found_by_bucket) {
            Outcome::NotMatched => {}
            Outcome::Matched => out.matched.extend(self.entries.iter().map(|entry| entry.id)),
            Outcome::Undecided => {
                let ids = self.entries.iter().map(|entry| entry.id).collect();
                out.undecided.push((self.predicate.clone(), ids));
            }
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

fn push(entries: &mut Vec<Entry>, entry: Entry) -> u32 {
    entries.push(entry);
    (entries.len() - 1) as u32
}
