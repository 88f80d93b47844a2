//! One channel as dispatch knows it.

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use super::access::RoleKey;
use super::pending::Queued;
use super::replays::Resuming;
use crate::authz::Identity;
use crate::channels::opening::Opening;
use crate::channels::outbox::ChannelOutbox;
use crate::channels::phoenix::Address;
use crate::channels::subscribe::{ChannelId, EventShapeKind};
use crate::routing::{Binding, BindingError, Casts};
use crate::wal::pgoutput::RelationId;

/// A channel with its bindings.
pub struct Subscriber {
    pub channel: ChannelId,
    pub address: Address,
    pub shape: EventShapeKind,
    pub identity: Arc<Identity>,
    pub role: RoleKey,
    pub outbox: ChannelOutbox,
    pub(super) bindings: Vec<(u32, Result<Binding, BindingError>)>,
    pub(super) casts: Arc<Casts>,
    pub(super) number: u64,
    pub(super) entries: SmallVec<[usize; 1]>,
    /// The reply to the join and what follows it, while they wait (see [`super::unseen`]); deliveries queue behind it.
    pub held: Option<Held>,
    /// Deliveries that wait, in commit order.
    pub queue: VecDeque<Queued>,
    /// What the client has been told of.
    pub told: SmallVec<[(RelationId, NotShown); 1]>,
    /// Why the bindings are refused, as the client was told.
    pub refused: Option<Box<str>>,
    /// It is owed what it missed.
    pub resuming: Option<Box<Resuming>>,
}

impl Subscriber {
    /// What is decided for it is noted, whether or not it can be sent.
    pub fn is_noted(&self) -> bool {
        self.resuming.as_ref().is_some_and(|resuming| resuming.log.is_some())
    }

    /// Tells whoever acknowledges what has not been queued for it. Called where the head of the queue is another, and what
    /// was before it is in the outbox.
    pub fn say_what_waits(&self) {
        let Some(resuming) = &self.resuming else { return };
        let head = self.queue.front().map(|queued| queued.delivery.change.change.position().lsn);
        resuming.link.waits_from(head);
    }
}

/// What opens a channel, and what its `system` message says.
pub struct Held {
    pub on_active: Option<Box<Opening>>,
    pub message: Option<String>,
    pub hint: Option<String>,
}

/// Why events of a table are not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotShown {
    /// A policy or filter could not be evaluated.
    Undecided,
    /// The row could not be turned to JSON.
    NotEncoded,
    /// It is from before the table was altered, while the stream was not read.
    LeftOut,
}
