//! One joined topic of one socket.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::hub::{Entrant, Full, Membership, Subject};
use super::join::{BroadcastOptions, JoinRequest, Wanted};
use super::lobby::Lobby;
use super::opening::Opening;
use super::outbox::{ChannelOutbox, Expulsion, Outbox};
use super::phoenix::Address;
use super::presence::OwnPresence;
use super::session::Now;
use super::subscribe::{ChannelId, EventShapeKind, Subscribe};
use crate::authz::{Claims, TopicGrant};
use crate::resume::{Holder, Link};

/// A token is looked at again at least this often, in case it no longer verifies (PROTOCOL 5).
const TOKEN_CHECK_INTERVAL: Duration = Duration::from_secs(300);

/// A check that came a little early by one clock or another is not repeated in a tight loop.
const TOKEN_CHECK_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// How often it is looked whether broadcasts from the database come in, and for how long (PROTOCOL 3.8).
const READY_INTERVAL: Duration = Duration::from_millis(500);
const READY_WAIT_MAX: Duration = Duration::from_secs(60);

/// What is kept of a join.
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
    /// `None`: a public channel, where everybody may do everything.
    pub rights: Option<Rights>,
    /// Asked for at the join, or by a track.
    pub presence_enabled: bool,
    pub presence_key: Option<Box<str>>,
    /// From the first presence message on.
    pub presence: Option<Box<OwnPresence>>,
    /// It waits to be told that broadcasts from the database come in.
    pub ready: Option<Box<ReadyWait>>,
    pub membership: Membership,
    /// It may be resumed.
    pub resume: Option<Arc<Link>>,
    /// Handed to dispatch and to the hub, whose pushes end with the channel.
    outbox: ChannelOutbox,
}

/// What the policies of `realtime.messages` say, as far as they have been asked; until the token changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Broadcasts may be read.
    pub hears: bool,
    /// Presence may be read; `None`: not asked.
    pub watches: Option<bool>,
    pub write: Option<TopicGrant>,
}

#[derive(Clone, Copy, Debug)]
pub struct ReadyWait {
    pub next: Instant,
    pub until: Instant,
}

impl ReadyWait {
    pub fn new(now: Instant) -> ReadyWait {
        ReadyWait { next: now + READY_INTERVAL, until: now + READY_WAIT_MAX }
    }

    pub fn wait_on(&mut self, now: Instant) {
        self.next = now + READY_INTERVAL;
    }
}

impl Rights {
    /// What a question about reading came to.
    pub fn read(grant: TopicGrant, presence: bool) -> Rights {
        Rights { hears: grant.broadcast, watches: presence.then_some(grant.presence), write: None }
    }
}

/// Everything that a join has come to.
pub struct Joined {
    pub address: Address,
    pub join_ref: Option<Arc<str>>,
    pub request: JoinRequest,
    pub token: Arc<str>,
    pub claims: Arc<Claims>,
    pub rights: Option<Rights>,
}

impl Channel {
    /// Puts it on its topic, where it waits for its [`Opening`].
    pub fn enter(lobby: &Lobby, outbox: &Outbox, joined: Joined, now: Now) -> Result<Channel, Full> {
        let Joined { address, join_ref, request, token, claims, rights } = joined;
        let (id, outbox) = (lobby.next_channel_id(), ChannelOutbox::new(outbox));
        let entrant = Entrant {
            channel: id,
            outbox: outbox.clone(),
            serializer: address.serializer,
            hears: rights.is_none_or(|rights| rights.hears),
            watches: rights.is_none_or(|rights| rights.watches == Some(true)),
        };
        let membership = lobby.hub.enter(rights.is_some(), &address.topic, entrant)?;
        let JoinRequest { broadcast, wanted, presence_enabled, presence_key, .. } = request;
        let asks = if lobby.services.ledger.is_some() { wanted.asks(&claims) } else { Vec::new() };
        let resume = (!asks.is_empty()).then(|| Arc::new(Link::new(asks)));
        Ok(Channel {
            id,
            address,
            join_ref,
            broadcast,
            wanted,
            token_check_at: next_token_check(&claims, now),
            token,
            claims,
            rights,
            presence_enabled,
            presence_key,
            presence: None,
            ready: None,
            membership,
            resume,
            outbox,
        })
    }

    pub fn has_bindings(&self) -> bool {
        !self.wanted.items().is_empty()
    }

    /// What dispatch is told to make the channel's bindings hold, under the token that it has now.
    pub fn subscribe(&self, on_active: Option<Box<Opening>>) -> Box<Subscribe> {
        let shape = match self.wanted {
            Wanted::Items(_) => EventShapeKind::Standard,
            Wanted::Legacy(_) => EventShapeKind::Legacy,
        };
        let identity = self.claims.identity();
        let resume = self.resume.as_ref().filter(|_| on_active.is_some()).cloned();
        Box::new(Subscribe {
            channel: self.id,
            address: self.address.clone(),
            shape,
            identity: Arc::new(identity),
            bindings: self.wanted.bindings(self.address.subtopic()),
            outbox: self.outbox.clone(),
            on_active,
            resume,
        })
    }

    pub fn renew(&mut self, token: Arc<str>, claims: Arc<Claims>, now: Now) {
        let holder = |claims: &Claims| Holder::of(&claims.identity());
        if let Some(link) = self.resume.take_if(|_| holder(&claims) != holder(&self.claims)) {
            link.revoke();
        }
        self.token_check_at = next_token_check(&claims, now);
        self.token = token;
        self.claims = claims;
    }

    /// When it next has something to do by itself.
    pub fn deadline(&self) -> Instant {
        self.ready.as_ref().map_or(self.token_check_at, |ready| ready.next.min(self.token_check_at))
    }

    /// The `watches` that members go by: on a public channel everybody does.
    pub fn permit(&mut self, rights: Rights) {
        self.rights = Some(rights);
        self.membership.permit(rights.hears, rights.watches == Some(true));
    }

    /// As it counts for limits per person.
    pub fn subject(&self, lobby: &Lobby) -> Subject {
        lobby.hub.subject(self.claims.sub.as_deref(), &self.claims.role, &self.token)
    }

    pub fn expulsion(&self) -> Option<Expulsion> {
        self.outbox.expulsion()
    }

    pub fn outbox(&self) -> &ChannelOutbox {
        &self.outbox
    }

    /// Nobody pushes anything more to it from here on.
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
