//! Who is subscribed to what.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;

use super::access::{AccessTable, RoleKey, Selection};
use super::by_policy::ByPolicy;
use super::replays::{Resuming, Stage};
use super::subscriber::Subscriber;
use crate::authz::policy::Slots;
use crate::authz::tracked::Tables;
use crate::authz::{CompiledPlan, Identity, Plan};
use crate::catalog::{Catalog, ColumnSet};
use crate::change::Change;
use crate::channels::opening::Opening;
use crate::channels::phoenix::Address;
use crate::channels::subscribe::{ChannelId, Subscribe};
use crate::routing::{
    BindError, Binding, BindingError, Bound, BoundSubscription, Casts, EventFilter, Matches, SubscriptionId,
    SubscriptionIndex,
};
use crate::wal::Position;
use crate::wal::pgoutput::RelationId;

/// One bound subscription, with all of its channel that a change is judged by: no more than memory gives at once.
pub struct Entry {
    /// The channel's place.
    subscriber: u32,
    /// The id that the client knows the binding by.
    pub client_id: u32,
    /// The channel's.
    pub role: RoleKey,
    pub event: EventFilter,
    pub selection: Arc<Selection>,
    /// The first transaction that it may see; `u64::MAX`: what it is sent is replayed.
    pub active_from: u64,
    /// What was kept after this is replayed to it.
    pub owed_after: Option<Box<Position>>,
    /// The table's program, and what that knows of the identity.
    judged_by: Option<(Arc<CompiledPlan>, Arc<Slots>)>,
    pub relation: RelationId,
    /// Its place in the relation's audience.
    position: u32,
}

/// A line of the cache.
const _: () = assert!(size_of::<Entry>() <= 64);

impl Entry {
    pub fn place(&self) -> usize {
        self.subscriber as usize
    }

    /// What a table's program knows of the identity; `None`: the bindings were made for another plan, or identity.
    pub fn slots(&self, plan: &Arc<CompiledPlan>) -> Option<&Arc<Slots>> {
        self.judged_by.as_ref().filter(|(known, _)| Arc::ptr_eq(known, plan)).map(|(_, slots)| slots)
    }
}

/// Who subscribes to a table, by role.
type Audience = SmallVec<[(RoleKey, Vec<SubscriptionId>); 2]>;

/// Another identity or other bindings for a channel that is known, or a new channel.
pub enum Inserted {
    /// Its place, and how the channel is opened when it is bound.
    At(usize, Option<Box<Opening>>),
    /// A refreshed token overtook its join, which waits for Postgres: it is kept until the join is here.
    Early,
    /// A later subscribe of the channel was here before.
    Outdated,
}

/// What came of binding a channel's items to the catalog. One bad item disables all (PROTOCOL 4.5).
pub enum Bind {
    Ready(Vec<(u32, BoundSubscription)>),
    NeedsCasts,
    /// The text for the client; for an item that matches no table, which.
    Refused {
        message: String,
        unmatched: Option<Binding>,
    },
}

#[derive(Default)]
pub struct Subscribers {
    channels: Slab<Subscriber>,
    by_channel: HashMap<ChannelId, usize, RandomState>,
    entries: Slab<Entry>,
    identities: HashSet<Arc<Identity>, RandomState>,
    /// Channels of one topic have the same one, so that equal frames are told by its address.
    topics: HashSet<Arc<str>, RandomState>,
    selections: HashSet<Arc<Selection>, RandomState>,
    early: HashMap<ChannelId, (Subscribe, Arc<Casts>, u64), RandomState>,
    audiences: HashMap<RelationId, Audience, RandomState>,
    pub index: SubscriptionIndex,
    /// Those that kept changes are being replayed to.
    owed: SubscriptionIndex,
    /// Channels that may come back for what they missed.
    resumable: usize,
    /// Those of them that their table's policies lead to, and routing does not.
    pub by_policy: ByPolicy,
    /// The columns that filters have looked at, by table; grows only.
    filtered: HashMap<RelationId, ColumnSet, RandomState>,
}

impl Subscribers {
    pub fn get(&self, place: usize) -> Option<&Subscriber> {
        self.channels.get(place)
    }

    pub fn get_mut(&mut self, place: usize) -> Option<&mut Subscriber> {
        self.channels.get_mut(place)
    }

    pub fn entry(&self, id: SubscriptionId) -> &Entry {
        &self.entries[id.0 as usize]
    }

    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    pub fn subscriptions(&self) -> usize {
        self.entries.len()
    }

    pub fn places(&self) -> Vec<usize> {
        self.channels.iter().map(|(place, _)| place).collect()
    }

    /// Everybody who subscribes to a table, whatever the filter: the audience of error rows (PROTOCOL 4.4).
    pub fn audience(&self, relation: RelationId) -> &[(RoleKey, Vec<SubscriptionId>)] {
        self.audiences.get(&relation).map_or(&[], |audience| audience)
    }

    /// Who subscribes to what: tables and roles.
    pub fn audiences(&self) -> impl Iterator<Item = (RelationId, RoleKey)> {
        self.audiences.iter().flat_map(|(relation, audience)| audience.iter().map(|(role, _)| (*relation, *role)))
    }

    /// The columns that filters on a table look at.
    pub fn filter_columns(&self, relation: RelationId) -> ColumnSet {
        self.filtered.get(&relation).cloned().unwrap_or_default()
    }

    /// `true`: there are new ones.
    fn note_filter(&mut self, subscription: &BoundSubscription) -> bool {
        let Some(predicate) = &subscription.predicate else { return false };
        let known = self.filtered.entry(subscription.relation).or_default();
        if predicate.columns().all(|column| known.contains(column)) {
            return false;
        }
        *known = known.iter().chain(predicate.columns()).collect();
        true
    }

    /// Whether anybody wants anything of a table.
    pub fn want(&self, relation: RelationId) -> bool {
        self.index.has_relation(relation) || self.by_policy.has_relation(relation)
    }

    /// The subscriptions that a change matches, whoever may see it.
    /// Without `tables` nobody is left out for what policies say.
    pub fn matches(&self, change: &Change, tables: Option<&Tables>, out: &mut Matches) {
        self.index.matches(change, out);
        self.by_policy.matches(change, tables, out);
    }

    /// The same of those that kept changes are replayed to. Policies are asked about each.
    pub fn matches_of_owed(&self, change: &Change, out: &mut Matches) {
        self.owed.matches(change, out);
    }

    pub fn resumable(&self) -> usize {
        self.resumable
    }

    /// The channels that subscribe to a table.
    pub fn places_of(&self, relation: RelationId) -> Vec<usize> {
        let entries = self.audience(relation).iter().flat_map(|(_, entries)| entries);
        let mut places: Vec<usize> = entries.map(|id| self.entry(*id).place()).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Adds a channel, or gives it another identity (a token refresh): what it waits for stays in its queue, and its
    /// bindings hold until they are replaced.
    pub fn insert(
        &mut self,
        subscribe: Subscribe,
        casts: Arc<Casts>,
        number: u64,
        access: &mut AccessTable,
    ) -> Inserted {
        let known = self.by_channel.get(&subscribe.channel).copied();
        match known {
            Some(place) if self.channels[place].number > number => return Inserted::Outdated,
            // Only a join brings a reply along.
            None if subscribe.on_active.is_none() => {
                let early = self.early.entry(subscribe.channel);
                let early = early.or_insert_with(|| (subscribe.clone(), Arc::clone(&casts), number));
                if early.2 < number {
                    *early = (subscribe, casts, number);
                }
                return Inserted::Early;
            }
            _ => {}
        }
        let identity = intern(&mut self.identities, subscribe.identity);
        let topic = intern(&mut self.topics, subscribe.address.topic);
        let role = access.role(&identity.role);
        let mut subscriber = Subscriber {
            channel: subscribe.channel,
            address: Address { topic, ..subscribe.address },
            shape: subscribe.shape,
            identity,
            role,
            outbox: subscribe.outbox,
            bindings: subscribe.bindings,
            casts,
            number,
            entries: SmallVec::new(),
            held: None,
            queue: VecDeque::new(),
            told: SmallVec::new(),
            refused: None,
            resuming: None,
        };
        let on_active = subscribe.on_active;
        let place = match known {
            Some(place) => {
                let before = &mut self.channels[place];
                subscriber.queue = std::mem::take(&mut before.queue);
                subscriber.entries = std::mem::take(&mut before.entries);
                // The reply of its join may still wait; without it the client would never be joined.
                subscriber.held = before.held.take();
                subscriber.resuming = before.resuming.take();
                // Whoever it is now is judged, whatever the bindings were made for.
                for entry in &subscriber.entries {
                    let entry = &mut self.entries[*entry];
                    (entry.role, entry.judged_by) = (role, None);
                }
                *before = subscriber;
                place
            }
            None => {
                let place = self.channels.insert(subscriber);
                self.by_channel.insert(self.channels[place].channel, place);
                place
            }
        };
        Inserted::At(place, on_active)
    }

    pub fn place_of(&self, channel: ChannelId) -> Option<usize> {
        self.by_channel.get(&channel).copied()
    }

    /// What came for a channel before its join did.
    pub fn take_early(&mut self, channel: ChannelId) -> Option<(Subscribe, Arc<Casts>, u64)> {
        if self.by_channel.contains_key(&channel) { self.early.remove(&channel) } else { None }
    }

    pub fn remove(&mut self, channel: ChannelId) {
        self.early.remove(&channel);
        if let Some(place) = self.by_channel.remove(&channel) {
            self.unbind(place);
            let removed = self.channels.remove(place);
            self.resumable -= usize::from(removed.resuming.is_some());
        }
    }

    /// The channel's socket is gone; it stays subscribed.
    pub fn park(&mut self, channel: ChannelId) {
        self.by_channel.remove(&channel);
    }

    /// Takes a parked channel away.
    pub fn remove_parked(&mut self, place: usize) {
        self.unbind(place);
        let removed = self.channels.remove(place);
        self.resumable -= usize::from(removed.resuming.is_some());
    }

    pub fn entries(&self, place: usize) -> impl Iterator<Item = &Entry> {
        self.channels[place].entries.iter().map(|entry| &self.entries[*entry])
    }

    /// The ids that the client knows the bindings by.
    pub fn binding_ids(&self, place: usize) -> impl Iterator<Item = u32> {
        self.channels[place].bindings.iter().map(|(id, _)| *id)
    }

    /// The channel is owed what it missed.
    pub fn resume(&mut self, place: usize, resuming: Resuming) {
        let before = self.channels[place].resuming.replace(Box::new(resuming));
        self.resumable += usize::from(before.is_none());
    }

    /// Binds a channel's items to a catalog, without changing anything.
    pub fn bind(&self, place: usize, catalog: &Catalog) -> Bind {
        let subscriber = &self.channels[place];
        bind(&subscriber.bindings, catalog, &subscriber.identity.role, &subscriber.casts)
    }

    /// Puts what [`Subscribers::bind`] gave in place of what the channel had. Bindings that were active stay active, so
    /// that no change falls between the old ones and the new ones; the first ones are active from `active_from` on.
    pub fn replace(
        &mut self,
        place: usize,
        bound: Vec<(u32, BoundSubscription)>,
        active_from: u64,
        catalog: &Catalog,
        access: &mut AccessTable,
    ) {
        let active = self.channels[place].entries.iter().map(|entry| self.entries[*entry].active_from);
        let active_from = active.filter(|from| *from != u64::MAX).min().unwrap_or(active_from);
        let stage = self.channels[place].resuming.as_ref().map_or(Stage::Live, |resuming| resuming.stage);
        self.unbind(place);
        let role = self.channels[place].role;
        let identity = Arc::clone(&self.channels[place].identity);
        for (client_id, subscription) in bound {
            let BoundSubscription { relation, event, .. } = subscription;
            if self.note_filter(&subscription) {
                access.needs_changed();
            }
            let audience = self.audiences.entry(relation).or_default();
            let of_role = audience.iter().position(|(known, _)| *known == role).unwrap_or_else(|| {
                audience.push((role, Vec::new()));
                audience.len() - 1
            });
            let list = &mut audience[of_role].1;
            let position = list.len() as u32;
            let selection = Selection { columns: subscription.select.clone(), positions: subscription.positions };
            let entry = Entry {
                subscriber: place as u32,
                client_id,
                selection: intern(&mut self.selections, selection.into()),
                active_from: if stage == Stage::Live { active_from } else { u64::MAX },
                owed_after: match (&self.channels[place].resuming, stage) {
                    (Some(resuming), Stage::Replaying) => Some(resuming.owed_after(client_id).into()),
                    _ => None,
                },
                judged_by: None,
                relation,
                event,
                role,
                position,
            };
            let entry = self.entries.insert(entry);
            let id = SubscriptionId(entry as u32);
            list.push(id);
            self.channels[place].entries.push(entry);
            match stage {
                Stage::Live => {}
                Stage::Replaying => {
                    self.owed.insert(id, &subscription);
                    continue;
                }
                Stage::Waiting => continue,
            }
            let plan = catalog.relation(relation).map(|table| access.access(catalog, table, role));
            let placed = match plan.as_ref().map(|access| &access.plan) {
                Some(Plan::Compiled(plan)) => {
                    let slots = access.people.slots(plan, &identity);
                    self.entries[entry].judged_by = Some((Arc::clone(plan), Arc::clone(slots)));
                    self.by_policy.insert(id, &subscription, role, plan, slots)
                }
                _ => false,
            };
            if !placed {
                self.index.insert(id, &subscription);
            }
        }
        self.channels[place].refused = None;
    }

    /// The channel has no bindings any more; what is on its way to it arrives.
    pub fn unbind(&mut self, place: usize) {
        for entry in std::mem::take(&mut self.channels[place].entries) {
            let id = SubscriptionId(entry as u32);
            self.index.remove(id);
            self.owed.remove(id);
            self.by_policy.remove(id);
            let entry = self.entries.remove(entry);
            self.leave_audience(id, &entry);
        }
    }

    fn leave_audience(&mut self, id: SubscriptionId, entry: &Entry) {
        let Some(audience) = self.audiences.get_mut(&entry.relation) else { return };
        // The channel may have another role by now.
        let stands_in = |list: &[SubscriptionId]| list.get(entry.position as usize) == Some(&id);
        let Some(of_role) = audience.iter().position(|(_, list)| stands_in(list)) else { return };
        let list = &mut audience[of_role].1;
        list.swap_remove(entry.position as usize);
        if let Some(moved) = list.get(entry.position as usize) {
            self.entries[moved.0 as usize].position = entry.position;
        }
        if list.is_empty() {
            audience.swap_remove(of_role);
            if audience.is_empty() {
                self.audiences.remove(&entry.relation);
            }
        }
    }

    /// Takes the channel's bindings away. `true`: the client is to be told, it does not know this yet.
    pub fn refuse(&mut self, place: usize, why: &str) -> bool {
        self.unbind(place);
        let subscriber = &mut self.channels[place];
        let news = subscriber.refused.as_deref() != Some(why);
        subscriber.refused = Some(why.into());
        news
    }

    /// What it would take to subscribe the channel again, and the number of what it repeats: a refreshed token that is
    /// on its way already must win.
    pub fn subscribe_again(&self, place: usize) -> (Subscribe, u64) {
        let subscriber = &self.channels[place];
        let again = Subscribe {
            channel: subscriber.channel,
            address: subscriber.address.clone(),
            shape: subscriber.shape,
            identity: Arc::clone(&subscriber.identity),
            bindings: subscriber.bindings.clone(),
            outbox: subscriber.outbox.clone(),
            on_active: None,
            resume: None,
        };
        (again, subscriber.number)
    }

    pub fn bindings(&self, place: usize) -> usize {
        self.channels[place].bindings.len()
    }
}

/// Equal identities are one question, equal topics one frame: keep one of each.
fn intern<T: Eq + Hash + ?Sized>(all: &mut HashSet<Arc<T>, RandomState>, value: Arc<T>) -> Arc<T> {
    if let Some(known) = all.get(&value) {
        return Arc::clone(known);
    }
    // Now and then the ones that nobody has any more are let go; doubling keeps that linear overall.
    if all.len() == all.capacity() {
        all.retain(|value| Arc::strong_count(value) > 1);
    }
    all.insert(Arc::clone(&value));
    value
}

/// Binds all items of a channel, or none.
pub fn bind(items: &[(u32, Result<Binding, BindingError>)], catalog: &Catalog, role: &str, casts: &Casts) -> Bind {
    let mut ready = Vec::new();
    let mut needs_casts = false;
    // Texts of items that cannot be parsed come before those of the catalog, whatever the order (PROTOCOL 4.5).
    for (_, item) in items {
        if let Err(error) = item {
            return Bind::Refused { message: error.to_string(), unmatched: None };
        }
    }
    for (client_id, item) in items {
        let Ok(binding) = item else { continue };
        match crate::routing::bind(binding, catalog, role, casts) {
            Bound::Ready(subscriptions) => ready.extend(subscriptions.into_iter().map(|s| (*client_id, s))),
            Bound::NeedsCasts(_) => needs_casts = true,
            Bound::Refused(error) => {
                let unmatched = matches!(error, BindError::NothingMatches(_)).then(|| binding.clone());
                return Bind::Refused { message: error.to_string(), unmatched };
            }
        }
    }
    if needs_casts { Bind::NeedsCasts } else { Bind::Ready(ready) }
}

#[cfg(test)]
#[path = "subscribers_tests.rs"]
mod tests;
