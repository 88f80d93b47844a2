//! The members of one topic.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::Entrant;
use crate::channels::outbox::ChannelOutbox;
use crate::channels::phoenix::Serializer;
use crate::channels::subscribe::ChannelId;

/// Most topics are so small that looking at each member is quicker than a map, and smaller.
const SCANNED_MAX: usize = 16;

/// What may wait for one member to be opened: some thousand cursor moves, or what an outbox takes.
const HELD_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
pub struct Members {
    list: Vec<Member>,
    /// Where in the list they are, once it has been long.
    places: HashMap<ChannelId, u32, RandomState>,
}

pub struct Member {
    pub channel: ChannelId,
    pub outbox: ChannelOutbox,
    pub serializer: Serializer,
    pub hears: bool,
    pub watches: bool,
    /// Its join has not been answered yet.
    pub is_waiting: bool,
    /// What few members have.
    pub extra: Option<Box<Extra>>,
}

#[derive(Default)]
pub struct Extra {
    /// Broadcasts that came while it was waiting, each with its `meta.id`.
    pub held: Vec<(Option<Box<str>>, Bytes)>,
    held_bytes: usize,
    /// More came than is held. What there was before the join's reply is promised to nobody but who asked for a replay.
    pub overrun: bool,
    /// Ids of what was replayed: a live copy of it may be on its way still. Each comes once, and there are 25 at most.
    pub replayed: Vec<Box<str>>,
}

impl Members {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn insert(&mut self, Entrant { channel, outbox, serializer, hears, watches }: Entrant) {
        debug_assert!(self.place(channel).is_none(), "a channel enters once");
        self.list.push(Member { channel, outbox, serializer, hears, watches, is_waiting: true, extra: None });
        if !self.places.is_empty() {
            self.places.insert(channel, self.list.len() as u32 - 1);
        } else if self.list.len() > SCANNED_MAX {
            self.places = self.list.iter().zip(0..).map(|(member, place)| (member.channel, place)).collect();
        }
    }

    pub fn remove(&mut self, channel: ChannelId) -> bool {
        let Some(place) = self.place(channel) else { return false };
        self.list.swap_remove(place);
        if !self.places.is_empty() {
            self.places.remove(&channel);
            if let Some(moved) = self.list.get(place) {
                self.places.insert(moved.channel, place as u32);
            }
        }
        // A crowd leaves no room behind that is never used again.
        if self.list.capacity() > 64 && self.list.len() * 4 < self.list.capacity() {
            self.list.shrink_to(self.list.len() * 2);
            self.places.shrink_to(self.list.len() * 2);
        }
        if self.list.is_empty() {
            *self = Members::default();
        }
        true
    }

    pub fn get_mut(&mut self, channel: ChannelId) -> Option<&mut Member> {
        let place = self.place(channel)?;
        self.list.get_mut(place)
    }

    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Member> {
        self.list.iter_mut()
    }

    fn place(&self, channel: ChannelId) -> Option<usize> {
        if self.places.is_empty() {
            self.list.iter().position(|member| member.channel == channel)
        } else {
            self.places.get(&channel).map(|place| *place as usize)
        }
    }
}

impl Member {
    pub fn hold(&mut self, id: Option<&str>, frame: Bytes) {
        let extra = self.extra.get_or_insert_default();
        extra.held_bytes += frame.len();
        if extra.overrun || extra.held_bytes > HELD_BYTES_MAX {
            extra.held = Vec::new();
            extra.overrun = true;
        } else {
            extra.held.push((id.map(Box::from), frame));
        }
    }

    /// Whether the message with this id is a live copy of one that was replayed.
    pub fn has_got(&mut self, id: Option<&str>) -> bool {
        let (Some(extra), Some(id)) = (&mut self.extra, id) else { return false };
        let Some(place) = extra.replayed.iter().position(|replayed| **replayed == *id) else { return false };
        extra.replayed.swap_remove(place);
        if extra.replayed.is_empty() {
            self.extra = None;
        }
        true
    }
}
