//! What dispatch is told: a channel's wish for `postgres_changes`, and the end of it.

use std::sync::Arc;

use super::opening::Opening;
use super::outbox::ChannelOutbox;
use super::phoenix::Address;
use crate::authz::Identity;
use crate::resume::Link;
use crate::routing::{Binding, BindingError};

/// One join of one topic on one socket. Never used again: a rejoin has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub u64);

/// How a channel's events are shaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventShapeKind {
    /// Event `postgres_changes`, payload `{"data":..,"ids":[..]}`.
    Standard,
    /// Event `INSERT`, `UPDATE` or `DELETE`, payload the bare change: channels joined without a config.
    Legacy,
}

/// A request to be sent what matches. It is live before the join's reply leaves (DESIGN 8).
///
/// A `Subscribe` with the id of a channel that is subscribed already replaces its bindings and identity in one step: a
/// refreshed token. The old ones hold until the new ones do, so that no change falls between them.
#[derive(Clone)]
pub struct Subscribe {
    pub channel: ChannelId,
    pub address: Address,
    pub shape: EventShapeKind,
    pub identity: Arc<Identity>,
    /// By the id that the client was told. One that is refused refuses them all (PROTOCOL 4.5).
    pub bindings: Vec<(u32, Result<Binding, BindingError>)>,
    /// Closed from the moment the channel is left: what is on its way to it then is not pushed any more.
    pub outbox: ChannelOutbox,
    /// Opened first, when the subscription is live and before anything else of it: the join's reply and what follows it.
    /// `None` where the channel is open already: a refreshed token.
    pub on_active: Option<Box<Opening>>,
    /// What it asks to be sent of what it missed; with a join alone.
    pub resume: Option<Arc<Link>>,
}

/// Who takes subscriptions: dispatch, or a test. Commands are taken in order, and taking one never waits.
pub trait SubscriptionSink: Send + Sync {
    fn subscribe(&self, subscribe: Subscribe);
    fn unsubscribe(&self, channel: ChannelId);
}
