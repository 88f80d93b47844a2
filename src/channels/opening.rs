//! How a channel is opened: the join's reply, and what follows it before anything else does (PROTOCOL 3.2).

use std::sync::Arc;

use bytes::Bytes;

use super::hub::Membership;
use super::outbox::{Burst, ChannelOutbox};
use super::phoenix::Address;
use super::subscribe::ChannelId;

/// Handed on by the session, with the frames of a join that was let in: to the server, or, where the join has bindings,
/// to dispatch, which opens the channel when they hold.
#[derive(Clone, Default)]
pub struct Opening {
    /// Where the channel is a member, if it is on a topic.
    pub(super) place: Option<Place>,
    /// The reply, `phx_close` of an older join, what is replayed.
    pub frames: Vec<Bytes>,
    /// "Replication connection established".
    pub(super) ready: Option<Bytes>,
    /// Ids of what is replayed, if that was asked for.
    pub(super) replayed: Option<Vec<Box<str>>>,
    /// Presence is enabled, so its state follows.
    pub(super) state_for: Option<Address>,
}

/// A member of a topic, as somebody else than its session knows it.
#[derive(Clone)]
pub(super) struct Place {
    pub hub: Arc<super::hub::Hub>,
    pub topic: Arc<super::hub::Topic>,
    pub channel: ChannelId,
}

impl Opening {
    /// Frames alone, for a channel that is on no topic.
    pub fn of_frames(frames: Vec<Bytes>) -> Opening {
        Opening { frames, ..Opening::default() }
    }

    pub(super) fn of(membership: &Membership, frames: Vec<Bytes>) -> Opening {
        Opening { place: Some(membership.place()), frames, ..Opening::default() }
    }

    pub(super) fn channel(&self) -> ChannelId {
        self.place.as_ref().map_or(ChannelId(0), |place| place.channel)
    }

    /// Pushes it all. Nothing happens where the channel has been left.
    pub fn open(self) {
        let mut burst = Burst::default();
        if let Some(Place { hub, topic, .. }) = self.place.clone() {
            topic.open(&hub, self, None, &mut burst);
        }
    }

    /// Likewise, with what became of its bindings in its place.
    pub fn open_with(self, outbox: &ChannelOutbox, system: Bytes) {
        let mut burst = Burst::default();
        match self.place.clone() {
            Some(Place { hub, topic, .. }) => topic.open(&hub, self, Some(system), &mut burst),
            None => self.frames.into_iter().chain([system]).for_each(|frame| {
                outbox.queue_joined(frame, 1, &mut burst);
            }),
        }
    }
}
