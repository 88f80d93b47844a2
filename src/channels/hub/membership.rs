//! A channel's place on its topic, held by its session. Dropping it is leaving.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::presence::Presence;
use super::{Broadcasted, Hub, Subject, Topic};
use crate::channels::broadcast::Content;
use crate::channels::opening::{Opening, Place};
use crate::channels::outbox::Burst;
use crate::channels::subscribe::ChannelId;

/// The topic has as many members as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

pub struct Membership {
    hub: Arc<Hub>,
    topic: Arc<Topic>,
    channel: ChannelId,
    /// The key under which it is present.
    tracked: Option<Arc<str>>,
    /// Its socket was lost: whoever this is may come back, and is not said to have left before the grace is over.
    may_return: Option<Subject>,
}

impl Membership {
    pub(super) fn new(hub: Arc<Hub>, topic: Arc<Topic>, channel: ChannelId) -> Membership {
        Membership { hub, topic, channel, tracked: None, may_return: None }
    }

    pub(in crate::channels) fn place(&self) -> Place {
        Place { hub: Arc::clone(&self.hub), topic: Arc::clone(&self.topic), channel: self.channel }
    }

    /// A client's message, to everybody but itself unless it asked for its own. Above the rate it is delivered still, and
    /// closes each channel that gets it (PROTOCOL 8).
    pub fn broadcast(&self, content: &Content<'_>, own: bool, now: Instant) -> Broadcasted {
        let is_over = self.hub.events.is_over(now);
        let from = (!own).then_some(self.channel);
        let mut burst = Burst::default();
        let delivered = self.topic.lock().broadcast(&self.hub, &self.topic.name, content, from, is_over, &mut burst);
        burst.let_go();
        self.hub.metrics.broadcasts.inc();
        self.hub.events.add(1 + delivered as u64, now);
        if is_over {
            self.hub.metrics.broadcasts_over_rate.inc();
            return Broadcasted::TooMany;
        }
        Broadcasted::To(delivered)
    }

    /// More presence events per second than allowed, over all channels.
    pub fn presence_is_over(&self, now: Instant) -> bool {
        self.hub.presence_events.is_over(now)
    }

    /// Presents it under `key`, or changes what it shows. `payload`: the raw JSON object.
    pub fn track(&mut self, key: &Arc<str>, subject: Subject, payload: &str, now: Instant) {
        let mut burst = Burst::default();
        let mut state = self.topic.lock();
        let presence = state.presence.get_or_insert_default();
        let before = presence.len();
        let diff = presence.track(key, self.channel, subject, payload, || self.hub.next_ref());
        self.hub.metrics.presences.inc_by((presence.len() - before) as i64);
        self.tracked = Some(Arc::clone(key));
        if let Some(diff) = diff {
            state.tell_diff(&self.hub, &self.topic.name, &diff, now, &mut burst);
        }
        drop(state);
        self.hub.presence_events.add(1, now);
    }

    pub fn untrack(&mut self, now: Instant) {
        let Some(key) = self.tracked.take() else { return };
        let mut burst = Burst::default();
        let mut state = self.topic.lock();
        if let Some(diff) = remove(&self.hub, &mut state.presence, |presence| presence.untrack(&key, self.channel)) {
            state.tell_diff(&self.hub, &self.topic.name, &diff, now, &mut burst);
        }
    }

    /// What reaches it from now on: another token, or the first track.
    pub fn permit(&self, hears: bool, watches: bool) {
        if let Some(member) = self.topic.lock().members.get_mut(self.channel) {
            (member.hears, member.watches) = (hears, watches);
        }
    }

    /// Its join has been answered.
    pub fn is_open(&self) -> bool {
        self.topic.lock().members.get_mut(self.channel).is_some_and(|member| !member.is_waiting)
    }

    /// Its socket was lost, as opposed to a channel that its client leaves or that is closed.
    pub fn may_return(&mut self, subject: Subject) {
        self.may_return = Some(subject);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut burst = Burst::default();
        let mut state = self.topic.lock();
        let mut diff = None;
        if let Some(key) = &self.tracked {
            let lingers = self.may_return.filter(|_| self.hub.graces.are_given());
            let presence = lingers.zip(state.presence.as_mut());
            if presence.is_some_and(|(subject, presence)| presence.linger(key, self.channel, subject)) {
                self.hub.graces.add(&self.topic, key, self.channel, now);
            } else {
                diff = remove(&self.hub, &mut state.presence, |presence| presence.untrack(key, self.channel));
            }
        }
        state.members.remove(self.channel);
        if let Some(diff) = diff {
            state.tell_diff(&self.hub, &self.topic.name, &diff, now, &mut burst);
        }
        let is_empty = state.is_empty();
        drop(state);
        if is_empty {
            self.hub.free(&self.topic);
        }
    }
}

/// Takes a presence away; the last one takes the map with it.
pub(super) fn remove(
    hub: &Hub,
    presence: &mut Option<Box<Presence>>,
    remove: impl FnOnce(&mut Presence) -> Option<String>,
) -> Option<String> {
    let all = presence.as_mut()?;
    let diff = remove(all)?;
    hub.metrics.presences.dec();
    if all.len() == 0 {
        *presence = None;
    }
    Some(diff)
}

impl Topic {
    pub(in crate::channels) fn open(&self, hub: &Hub, opening: Opening, system: Option<Bytes>, burst: &mut Burst) {
        self.lock().open(hub, self, opening, system, burst);
    }
}
