//! One joined topic of one socket.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::join::{BroadcastOptions, JoinRequest, Wanted};
use super::outbox::{ChannelOutbox, Outbox};
use super::phoenix::Address;
use super::session::Now;
use super::subscribe::{ChannelId, EventShapeKind, Subscribe};
use crate::authz::Claims;

/// A token is looked at again at least this often, in case it no longer verifies (PROTOCOL 5).
const TOKEN_CHECK_INTERVAL: Duration = Duration::from_secs(300);

/// A check that came a little early by one clock or another is not repeated in a tight loop.
const TOKEN_CHECK_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// What is kept of a join. Broadcast and presence will add their own here.
pub struct Channel {
    pub id: ChannelId,
    pub address: Address,
    /// The join's `join_ref` as it came, which a stale `phx_leave` differs from.
    pub join_ref: Option<Arc<str>>,
    pub broadcast: BroadcastOptions,
    pub wanted: Wanted,
    /// Shared between the channels of a socket: most have the same.
    pub token: Arc<str>,
    pub claims: Arc<Claims>,
    pub token_check_at: Instant,
    /// Handed to dispatch, whose pushes end with the channel.
    outbox: ChannelOutbox,
}

impl Channel {
    pub fn new(
        id: ChannelId,
        address: Address,
        join_ref: Option<Arc<str>>,
        request: JoinRequest,
        (token, claims): (Arc<str>, Arc<Claims>),
        outbox: &Outbox,
        now: Now,
    ) -> Channel {
        let token_check_at = next_token_check(&claims, now);
        let JoinRequest { broadcast, wanted, .. } = request;
        let outbox = ChannelOutbox::new(outbox);
        Channel { id, address, join_ref, broadcast, wanted, token, claims, token_check_at, outbox }
    }

    pub fn has_bindings(&self) -> bool {
        !self.wanted.items().is_empty()
    }

    /// What dispatch is told to make the channel's bindings hold, under the token that it has now.
    pub fn subscribe(&self, on_active: Vec<Bytes>) -> Box<Subscribe> {
        let shape = match self.wanted {
            Wanted::Items(_) => EventShapeKind::Standard,
            Wanted::Legacy(_) => EventShapeKind::Legacy,
        };
        let identity = self.claims.identity();
        Box::new(Subscribe {
            channel: self.id,
            address: self.address.clone(),
            shape,
            identity: Arc::new(identity),
            bindings: self.wanted.bindings(self.address.subtopic()),
            outbox: self.outbox.clone(),
            on_active,
        })
    }

    pub fn renew(&mut self, token: Arc<str>, claims: Arc<Claims>, now: Now) {
        self.token_check_at = next_token_check(&claims, now);
        self.token = token;
        self.claims = claims;
    }

    /// Dispatch pushes nothing more to it from here on.
    pub fn end(&self) {
        self.outbox.end();
    }

    /// A leave with another join's ref is about an older join of the topic (PROTOCOL 3.3); one without is taken.
    pub fn is_meant_by(&self, join_ref: Option<&str>) -> bool {
        match (join_ref, self.join_ref.as_deref()) {
            (None | Some("\"\""), _) | (_, None) => true,
            (Some(asked), Some(own)) => asked == own,
        }
    }
}

/// `min(5 minutes, exp - now)`.
fn next_token_check(claims: &Claims, now: Now) -> Instant {
    let expiry = UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp.max(0) as u64));
    let left = expiry.map_or(TOKEN_CHECK_INTERVAL, |expiry| duration_until(expiry, now.wall));
    now.instant + left.clamp(TOKEN_CHECK_INTERVAL_MIN, TOKEN_CHECK_INTERVAL)
}

fn duration_until(later: SystemTime, now: SystemTime) -> Duration {
    later.duration_since(now).unwrap_or_default()
}
