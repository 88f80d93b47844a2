//! Who is subscribed to what.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;

use super::access::{AccessTable, RoleKey};
use super::pending::Delivery;
use crate::authz::Identity;
use crate::catalog::{Catalog, ColumnSet};
use crate::channels::outbox::Outbox;
use crate::channels::phoenix::Address;
use crate::channels::subscribe::{ChannelId, EventShapeKind, Subscribe};
use crate::routing::{
    BindError, Binding, BindingError, Bound, BoundSubscription, Casts, SubscriptionId, SubscriptionIndex,
};
use crate::wal::pgoutput::RelationId;

/// A channel with its bindings.
pub struct Subscriber {
    pub channel: ChannelId,
    pub address: Address,
    pub shape: EventShapeKind,
    pub identity: Arc<Identity>,
    pub role: RoleKey,
    pub outbox: Outbox,
    alive: Arc<AtomicBool>,
    bindings: Vec<(u32, Result<Binding, BindingError>)>,
    casts: Arc<Casts>,
    number: u64,
    entries: SmallVec<[usize; 1]>,
    /// Deliveries that wait, in commit order.
    pub queue: VecDeque<Delivery>,
    /// Relations whose policies failed and about which the client has been told.
    pub told: SmallVec<[RelationId; 1]>,
}

impl Subscriber {
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }
}

/// One bound subscription.
pub struct Entry {
    pub subscriber: usize,
    /// The id that the client knows the binding by.
    pub client_id: u32,
    pub select: Option<ColumnSet>,
    /// The first transaction that it may see.
    pub active_from: u64,
}

/// What came of binding a channel's items to the catalog. One bad item disables all (PROTOCOL 4.5).
pub enum Bind {
    Ready(Vec<(u32, BoundSubscription)>),
    NeedsCasts,
    /// The text for the client; for an item that matches no table, which.
    Refused { message: String, unmatched: Option<Binding> },
}

#[derive(Default)]
pub struct Subscribers {
    channels: Slab<Subscriber>,
    by_channel: HashMap<ChannelId, usize, RandomState>,
    entries: Slab<Entry>,
    identities: HashSet<Arc<Identity>, RandomState>,
    pub index: SubscriptionIndex,
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

    pub fn len(&self) -> usize {
        self.channels.len()
    }

    pub fn subscriptions(&self) -> usize {
        self.entries.len()
    }

    pub fn places(&self) -> Vec<usize> {
        self.channels.iter().map(|(place, _)| place).collect()
    }

    /// Adds a channel, or gives it another identity (a token refresh): what it waits for stays in its queue, and its
    /// bindings hold until they are replaced. `None`: a later subscribe of the channel was here before.
    pub fn insert(
        &mut self,
        subscribe: Subscribe,
        casts: Arc<Casts>,
        number: u64,
        access: &mut AccessTable,
    ) -> Option<usize> {
        let identity = self.intern(subscribe.identity);
        let role = access.role(&identity.role);
        let known = self.by_channel.get(&subscribe.channel).copied();
        if known.is_some_and(|place| self.channels[place].number > number) {
            return None;
        }
        let subscriber = Subscriber {
            channel: subscribe.channel,
            address: subscribe.address,
            shape: subscribe.shape,
            identity,
            role,
            outbox: subscribe.outbox,
            alive: subscribe.alive,
            bindings: subscribe.bindings,
            casts,
            number,
            entries: SmallVec::new(),
            queue: VecDeque::new(),
            told: SmallVec::new(),
        };
        let place = match known {
            Some(place) => {
                let queue = std::mem::take(&mut self.channels[place].queue);
                let entries = std::mem::take(&mut self.channels[place].entries);
                self.channels[place] = Subscriber { queue, entries, ..subscriber };
                place
            }
            None => {
                let place = self.channels.insert(subscriber);
                self.by_channel.insert(self.channels[place].channel, place);
                place
            }
        };
        Some(place)
    }

    pub fn remove(&mut self, channel: ChannelId) {
        if let Some(place) = self.by_channel.remove(&channel) {
            self.unbind(place);
            self.channels.remove(place);
        }
    }

    /// Equal identities are one question: keep one of each.
    fn intern(&mut self, identity: Arc<Identity>) -> Arc<Identity> {
        if let Some(known) = self.identities.get(&identity) {
            return Arc::clone(known);
        }
        // Now and then the ones that nobody has any more are let go; doubling keeps that linear overall.
        if self.identities.len() == self.identities.capacity() {
            self.identities.retain(|identity| Arc::strong_count(identity) > 1);
        }
        self.identities.insert(Arc::clone(&identity));
        identity
    }

    /// Binds a channel's items to a catalog, without changing anything.
    pub fn bind(&self, place: usize, catalog: &Catalog) -> Bind {
        let subscriber = &self.channels[place];
        bind(&subscriber.bindings, catalog, &subscriber.identity.role, &subscriber.casts)
    }

    /// Puts what [`Subscribers::bind`] gave in place of what the channel had. Bindings that were active stay active, so
    /// that no change falls between the old ones and the new ones; the first ones are active from `active_from` on.
    pub fn replace(&mut self, place: usize, bound: Vec<(u32, BoundSubscription)>, active_from: u64) {
        let active = self.channels[place].entries.iter().map(|entry| self.entries[*entry].active_from).min();
        let active_from = active.unwrap_or(active_from);
        self.unbind(place);
        for (client_id, subscription) in bound {
            let select = subscription.select.clone();
            let entry = self.entries.insert(Entry { subscriber: place, client_id, select, active_from });
            self.index.insert(SubscriptionId(entry as u64), &subscription);
            self.channels[place].entries.push(entry);
        }
    }

    pub fn unbind(&mut self, place: usize) {
        for entry in std::mem::take(&mut self.channels[place].entries) {
            self.index.remove(SubscriptionId(entry as u64));
            self.entries.remove(entry);
        }
    }

    /// What it would take to subscribe the channel again.
    pub fn subscribe_again(&self, place: usize) -> Subscribe {
        let subscriber = &self.channels[place];
        Subscribe {
            channel: subscriber.channel,
            address: subscriber.address.clone(),
            shape: subscriber.shape,
            identity: Arc::clone(&subscriber.identity),
            bindings: subscriber.bindings.clone(),
            outbox: subscriber.outbox.clone(),
            on_active: Vec::new(),
            alive: Arc::clone(&subscriber.alive),
        }
    }

    pub fn bindings(&self, place: usize) -> usize {
        self.channels[place].bindings.len()
    }
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
