//! The subscriptions to one table and one event.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Matches;
use super::bucket::{Bucket, Buckets, Key};
use crate::routing::predicate::{Equality, Image, Outcome, Predicate};
use crate::routing::slab::Slab;
use crate::routing::subscription::SubscriptionId;
use crate::wal::pgoutput::Datum;

#[derive(Debug, Default)]
pub(super) struct Class {
    /// Subscriptions without a filter, and their places in the index' members.
    plain: Vec<SubscriptionId>,
    plain_members: Vec<u32>,
    groups: Slab<Group>,
    by_predicate: HashMap<Arc<Predicate>, u32, foldhash::fast::RandomState>,
    /// Groups that no equality leads to.
    scan: Vec<u32>,
    columns: Vec<Buckets>,
}

/// The subscriptions that share a predicate.
#[derive(Debug)]
struct Group {
    /// Empty where the bucket has them.
    ids: SmallVec<[SubscriptionId; 4]>,
    /// Their places in the index' members.
    members: SmallVec<[u32; 4]>,
    by_bucket: ByBucket,
    predicate: Arc<Predicate>,
    /// Where the group stands in each of its buckets, in the order of the predicate's values; or in the scan list.
    places: SmallVec<[u32; 1]>,
}

/// How much a bucket says of a group. Known here so that a match need not look at the predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByBucket {
    /// All, and the bucket has the group's ids: a match does not come here.
    Ids,
    /// All: there is no other test.
    Decided,
    /// There are other tests, or there is no bucket.
    Candidate,
}

impl Class {
    /// The predicate as it is already known here.
    pub(super) fn interned(&self, predicate: &Arc<Predicate>) -> Option<Arc<Predicate>> {
        self.by_predicate.get_key_value(predicate).map(|(known, _)| known.clone())
    }

    /// The group of a predicate, made if there is none. The caller adds a subscription to it.
    pub(super) fn group_of(&mut self, predicate: Arc<Predicate>) -> u32 {
        if let Some(group) = self.by_predicate.get(&predicate) {
            return *group;
        }
        let group = self.groups.insert(Group {
            ids: SmallVec::new(),
            members: SmallVec::new(),
            by_bucket: ByBucket::Candidate,
            predicate: predicate.clone(),
            places: SmallVec::new(),
        });
        let (by_bucket, places) = self.link(group, &predicate);
        let linked = self.groups.get_mut(group);
        (linked.by_bucket, linked.places) = (by_bucket, places);
        self.by_predicate.insert(predicate, group);
        group
    }

    /// Puts a group where changes will find it.
    fn link(&mut self, group: u32, predicate: &Predicate) -> (ByBucket, SmallVec<[u32; 1]>) {
        let Some(Equality { column, form, values }) = predicate.equality() else {
            self.scan.push(group);
            return (ByBucket::Candidate, SmallVec::from_elem((self.scan.len() - 1) as u32, 1));
        };
        let by_bucket = if predicate.tests.len() == 1 { ByBucket::Decided } else { ByBucket::Candidate };
        if values.is_empty() {
            // `in.()`: nothing ever matches it.
            return (by_bucket, SmallVec::new());
        }
        let at = self.columns.iter().position(|buckets| buckets.column == column);
        let at = at.unwrap_or_else(|| {
            self.columns.push(Buckets { column, form, by_value: HashMap::default() });
            self.columns.len() - 1
        });
        let by_value = &mut self.columns[at].by_value;
        if let ([value], ByBucket::Decided) = (values, by_bucket) {
            let bucket = by_value.entry(Key::new(value)).or_default();
            // `eq.a` and `in.(a)` are two predicates: the first one to come has the place.
            if bucket.ids.is_empty() {
                return (ByBucket::Ids, SmallVec::new());
            }
        }
        let join = |value: &Arc<[u8]>| by_value.entry(Key::new(value)).or_default().add(group);
        (by_bucket, values.iter().map(join).collect())
    }

    /// Adds a subscription; the answer is its position.
    pub(super) fn add(&mut self, group: Option<u32>, id: SubscriptionId, member: u32) -> u32 {
        let Some(group) = group else {
            self.plain.push(id);
            self.plain_members.push(member);
            return (self.plain.len() - 1) as u32;
        };
        let group = self.groups.get_mut(group);
        group.members.push(member);
        match group.by_bucket {
            ByBucket::Ids => bucket_with_ids(&mut self.columns, &group.predicate).ids.push(id),
            ByBucket::Decided | ByBucket::Candidate => group.ids.push(id),
        }
        (group.members.len() - 1) as u32
    }

    /// Removes the subscription at a position, to which the last one moves; the answer is the member of that one.
    pub(super) fn take_out(&mut self, group: Option<u32>, position: u32) -> Option<u32> {
        let position = position as usize;
        let Some(at) = group else {
            self.plain.swap_remove(position);
            self.plain_members.swap_remove(position);
            return self.plain_members.get(position).copied();
        };
        let group = self.groups.get_mut(at);
        group.members.swap_remove(position);
        match group.by_bucket {
            ByBucket::Ids => bucket_with_ids(&mut self.columns, &group.predicate).ids.swap_remove(position),
            ByBucket::Decided | ByBucket::Candidate => group.ids.swap_remove(position),
        };
        let moved = group.members.get(position).copied();
        if group.members.is_empty() {
            self.remove_group(at);
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
        let by_value = &mut self.columns[at].by_value;
        for (index, value) in values.iter().enumerate() {
            let Some(bucket) = by_value.get_mut(&value[..]) else { continue };
            // It has none where the bucket had its ids.
            if let Some(place) = places.get(index)
                && let Some(moved) = bucket.take_out(*place)
            {
                self.groups.get_mut(moved).move_to(value, *place);
            }
            if bucket.is_empty() {
                by_value.remove(&value[..]);
            }
        }
        if by_value.is_empty() {
            self.columns.swap_remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.groups.is_empty()
    }

    pub(super) fn matches(&self, image: Option<Image<'_>>, out: &mut Matches) {
        out.matched.extend_from_slice(&self.plain);
        // Without any row image nothing can be said of a filter.
        let Some(image) = image else { return };
        for buckets in &self.columns {
            let Datum::Text(text) = image.datum(buckets.column) else { continue };
            let Some(bucket) = buckets.by_value.get(buckets.form.of_text(text)) else { continue };
            out.matched.extend_from_slice(&bucket.ids);
            for group in bucket.groups() {
                self.groups.get(*group).judge(image, true, out);
            }
        }
        for group in &self.scan {
            self.groups.get(*group).judge(image, false, out);
        }
    }

    pub(super) fn everyone(&self) -> impl Iterator<Item = SubscriptionId> {
        let grouped = self.groups.iter().flat_map(|group| &group.ids);
        let in_buckets =
            self.columns.iter().flat_map(|buckets| buckets.by_value.values()).flat_map(|bucket| &bucket.ids);
        self.plain.iter().chain(grouped).chain(in_buckets).copied()
    }
}

/// The bucket that has the ids of the group with this predicate.
fn bucket_with_ids<'a>(columns: &'a mut [Buckets], predicate: &Predicate) -> &'a mut Bucket {
    let bucket = predicate.equality().and_then(|Equality { column, values, .. }| {
        let buckets = columns.iter_mut().find(|buckets| buckets.column == column)?;
        buckets.by_value.get_mut(&values.first()?[..])
    });
    bucket.expect("a bucket is kept while it has ids or is being given the first one")
}

impl Group {
    fn judge(&self, image: Image<'_>, found_by_bucket: bool, out: &mut Matches) {
        let outcome = match found_by_bucket && self.by_bucket != ByBucket::Candidate {
            true => Outcome::Matched,
            false => self.predicate.evaluate(image, found_by_bucket),
        };
        match outcome {
            Outcome::NotMatched => {}
            Outcome::Matched => out.matched.extend_from_slice(&self.ids),
            Outcome::Undecided => out.undecided.push((self.predicate.clone(), self.ids.to_vec())),
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
