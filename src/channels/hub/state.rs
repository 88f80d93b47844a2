//! What a topic is while somebody is on it: members and presence, behind one lock.

use std::time::Instant;

use bytes::Bytes;

use super::members::Members;
use super::presence::Presence;
use super::{Hub, Topic};
use crate::channels::broadcast::{Content, Frames};
use crate::channels::opening::Opening;
use crate::channels::outbox::{Burst, Expulsion, Pushed};
use crate::channels::phoenix::{Outgoing, Serializer};
use crate::channels::subscribe::ChannelId;

#[derive(Default)]
pub struct State {
    pub members: Members,
    /// Few topics have any.
    pub presence: Option<Box<Presence>>,
    /// No longer in its shard.
    pub is_dead: bool,
}

impl State {
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.presence.is_none()
    }

    /// To every member that hears, but `from`; to those that wait, later. `expels`: they are closed after it.
    pub fn broadcast(
        &mut self,
        hub: &Hub,
        topic: &str,
        content: &Content<'_>,
        from: Option<ChannelId>,
        expels: bool,
        burst: &mut Burst,
    ) -> usize {
        let id = content.id();
        let mut frames = Frames::new(content, topic);
        let (mut delivered, mut undeliverable) = (0, 0);
        for member in self.members.iter_mut() {
            if !member.hears || Some(member.channel) == from {
                continue;
            }
            let Some(frame) = frames.get(member.serializer) else {
                undeliverable += 1;
                continue;
            };
            if member.is_waiting {
                member.hold(id, frame.clone());
            } else if member.extra.is_some() && member.has_got(id) {
                continue;
            } else if member.outbox.queue_joined(frame.clone(), 1, burst) == Pushed::Closed {
                continue;
            }
            if expels {
                member.outbox.expel(Expulsion::TooManyMessages, burst);
            }
            delivered += 1;
        }
        hub.metrics.broadcasts_delivered.inc_by(delivered as u64);
        if undeliverable > 0 {
            hub.metrics.broadcasts_undeliverable.inc_by(undeliverable);
        }
        delivered
    }

    /// A diff to every member that watches. Those that wait are given the state when they are opened.
    pub fn tell_diff(&mut self, hub: &Hub, topic: &str, diff: &str, now: Instant, burst: &mut Burst) {
        let outgoing = Outgoing { join_ref: None, reference: None, topic, event: "presence_diff" };
        let mut frames: [Option<Bytes>; 2] = [None, None];
        let mut delivered = 0;
        for member in self.members.iter_mut().filter(|member| member.watches && !member.is_waiting) {
            let place = match member.serializer {
                Serializer::V1 => 0,
                Serializer::V2 => 1,
            };
            let frame = frames[place].get_or_insert_with(|| outgoing.encode(member.serializer, diff));
            if member.outbox.queue_joined(frame.clone(), 1, burst) != Pushed::Closed {
                delivered += 1;
            }
        }
        hub.metrics.presence_diffs_delivered.inc_by(delivered);
        hub.presence_events.add(delivered, now);
    }

    /// The join's reply and what belongs to it, then what was held meanwhile.
    pub fn open(&mut self, hub: &Hub, topic: &Topic, opening: Opening, system: Option<Bytes>, burst: &mut Burst) {
        let Some(member) = self.members.get_mut(opening.channel()) else { return };
        if !member.is_waiting {
            return;
        }
        member.is_waiting = false;
        let outbox = member.outbox.clone();
        let mut push = |frame: Bytes| outbox.queue_joined(frame, 1, burst);
        let Opening { frames, ready, replayed, state_for, .. } = opening;
        frames.into_iter().chain(system).chain(ready).for_each(|frame| {
            push(frame);
        });
        let now = Instant::now();
        let mut expelled = None;
        if let Some(address) = state_for {
            if hub.presence_events.is_over(now) {
                expelled = Some(Expulsion::TooManyPresenceEvents);
            } else {
                hub.presence_events.add(1, now);
                let outgoing = Outgoing {
                    join_ref: address.join_ref.as_deref(),
                    reference: None,
                    topic: &topic.name,
                    event: "presence_state",
                };
                let bytes = self.presence.as_ref().map_or(2, |presence| presence.bytes());
                let frame = outgoing.encode_with(address.serializer, bytes, |frame| match &self.presence {
                    Some(presence) => presence.write_state(frame),
                    None => frame.push("{}"),
                });
                push(frame.finish());
            }
        }
        let extra = member.extra.take();
        let asked_replay = replayed.is_some();
        let mut replayed = replayed.unwrap_or_default();
        if let Some(extra) = extra {
            if extra.overrun && asked_replay {
                expelled = expelled.or(Some(Expulsion::ReplayOverrun));
            }
            for (id, frame) in extra.held {
                match id.and_then(|id| replayed.iter().position(|replayed| *replayed == id)) {
                    Some(place) => drop(replayed.swap_remove(place)),
                    None => drop(push(frame)),
                }
            }
        }
        if !replayed.is_empty() {
            member.extra.get_or_insert_default().replayed = replayed;
        }
        if let Some(why) = expelled {
            outbox.expel(why, burst);
        }
    }
}
