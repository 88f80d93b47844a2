//! One socket's Phoenix session: the client's frames in, actions out. No I/O and no clock.
//!
//! ```text
//!            phx_join ok                    phx_leave: reply, phx_close
//!   (none) ──────────────► joined ────────────────────────────────────────► (none)
//!     ▲  │                 │    ▲ │   token refused or expired: system error, phx_close
//!     │  │ refused: reply  │    └─┘   access_token: bound anew, no reply
//!     └──┘                 │
//!                          └─ phx_join: the old channel ends; new reply, then phx_close of the old
//! ```
//!
//! A join with bindings is answered by dispatch, when they hold: its reply travels in [`Subscribe::on_active`].
//!
//! Broadcast and Presence are not served yet. A broadcast is acknowledged where the channel asked for that, and goes to
//! nobody; `presence_state` is empty; tracking is refused; private channels are refused, as nobody can say who may
//! read them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use smallvec::SmallVec;

use super::channel::Channel;
use super::close::CloseReason;
use super::join::{JoinRequest, is_opaque_key};
use super::limits::Seat;
use super::lobby::Lobby;
use super::outbox::Outbox;
use super::phoenix::{Address, Incoming, Payload, Serializer};
use super::subscribe::{ChannelId, Subscribe};
use super::system::{self, Extension, Status, join_reason, message};
use super::topic::{self, Topic};
use crate::authz::Claims;

/// Both clocks, read once per input.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub instant: Instant,
    pub wall: SystemTime,
}

/// What happens to a session.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    /// A deadline has come.
    Tick,
    /// The server is going to close the socket: channels are told, as far as they are to be told.
    Goodbye(CloseReason),
    /// The socket is no more.
    Gone,
}

/// What the server does for it, in this order.
pub enum Action {
    /// Push this frame.
    Send(Bytes),
    Subscribe(Box<Subscribe>),
    Unsubscribe(ChannelId),
    /// Close the socket when what was sent before has been written.
    Close(CloseReason),
}

pub struct Session {
    lobby: Arc<Lobby>,
    serializer: Serializer,
    /// Not pushed to here; handed on to dispatch.
    outbox: Outbox,
    upgrade_token: Arc<str>,
    seat: Option<Seat>,
    /// Few, so that looking one up is a walk.
    channels: SmallVec<[Channel; 1]>,
    /// Replies that are held back, soonest first.
    delayed: Vec<(Instant, Bytes)>,
}

/// Above this many replies held back the soonest goes out early: the back-off must not become a queue without limit.
const DELAYED_MAX: usize = 100;

/// A refused join.
struct Refusal {
    reason: Cow<'static, str>,
    closes: Option<CloseReason>,
}

impl<T: Into<Cow<'static, str>>> From<T> for Refusal {
    fn from(reason: T) -> Refusal {
        Refusal { reason: reason.into(), closes: None }
    }
}

/// A join that is let in.
struct Admission {
    request: JoinRequest,
    token: Arc<str>,
    claims: Arc<Claims>,
}

impl Session {
    /// `upgrade_token` has been verified: it is what joins without a token of their own use.
    pub fn new(lobby: Arc<Lobby>, serializer: Serializer, outbox: Outbox, upgrade_token: Arc<str>) -> Session {
        let (channels, delayed) = (SmallVec::new(), Vec::new());
        Session { lobby, serializer, outbox, upgrade_token, seat: None, channels, delayed }
    }

    pub fn handle(&mut self, input: Input<'_>, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Text(text) => self.receive(self.serializer.decode_text(text), text.len(), now, &mut actions),
            Input::Binary(bytes) => self.receive(self.serializer.decode_binary(bytes), bytes.len(), now, &mut actions),
            Input::Tick => self.tick(now, &mut actions),
            Input::Goodbye(reason) => self.say_goodbye(reason, &mut actions),
            Input::Gone => self.leave_everything(&mut actions),
        }
        actions
    }

    /// When to send the next `Tick`.
    pub fn next_deadline(&self) -> Option<Instant> {
        let checks = self.channels.iter().map(|channel| channel.token_check_at);
        checks.chain(self.delayed.first().map(|(at, _)| *at)).min()
    }

    fn receive(&mut self, incoming: Option<Incoming<'_>>, bytes: usize, now: Now, actions: &mut Vec<Action>) {
        self.lobby.metrics.frames_in.inc();
        self.lobby.metrics.bytes_in.inc_by(bytes as u64);
        let Some(incoming) = incoming else {
            self.lobby.metrics.frames_malformed.inc();
            tracing::debug!(bytes, "A malformed frame was dropped");
            return;
        };
        let place = self.channels.iter().position(|channel| *channel.address.topic == *incoming.topic);
        match (&*incoming.event, place) {
            ("heartbeat", _) if incoming.topic == topic::PHOENIX => {
                actions.push(self.reply(&incoming, None, Status::Ok, "{}"));
            }
            ("phx_join", _) => self.join(&incoming, place, now, actions),
            ("phx_leave", Some(place)) => self.leave(&incoming, place, actions),
            ("phx_leave", None) => {
                actions.push(self.reply(&incoming, incoming.join_ref.as_deref(), Status::Ok, "{}"));
            }
            (_, None) => actions.push(self.unmatched(&incoming)),
            ("access_token", Some(place)) => self.renew_token(&incoming, place, now, actions),
            ("broadcast", Some(place)) => self.broadcast(&incoming, place, actions),
            ("presence", Some(place)) => {
                let response = system::reason(message::PRESENCE_UNAVAILABLE);
                actions.push(self.reply_on(&incoming, place, Status::Error, &response));
            }
            // Unknown events are ignored (PROTOCOL 3.3).
            (_, Some(_)) => {}
        }
    }

    /// An older join of the topic ends whatever becomes of the new one.
    fn join(&mut self, incoming: &Incoming<'_>, place: Option<usize>, now: Now, actions: &mut Vec<Action>) {
        let subtopic = match Topic::parse(&incoming.topic) {
            Topic::Unmatched => return actions.push(self.unmatched(incoming)),
            Topic::Channel(subtopic) => Ok(subtopic),
            Topic::Nameless => Err(join_reason::TOPIC_NAME_REQUIRED.into()),
            Topic::TooLong => Err(join_reason::TOPIC_NAME_TOO_LONG.into()),
        };
        let payload = match incoming.payload {
            // Refs and topic came through, so this is a number that no float holds, or nesting beyond reason.
            Payload::Json(text) => serde_json::from_str(text).ok(),
            _ => None,
        };
        let Some(payload) = payload else {
            self.lobby.metrics.frames_malformed.inc();
            return;
        };
        let old = place.map(|place| system::phx_close(&self.remove(place, actions).address));
        let admission = subtopic.and_then(|subtopic| self.admit(payload, subtopic, now));
        match admission {
            Ok(admission) => self.enter(incoming, admission, old, now, actions),
            Err(refusal) => {
                self.refuse(incoming, &refusal, now, actions);
                actions.extend(old.map(Action::Send));
                actions.extend(refusal.closes.map(Action::Close));
            }
        }
    }

    /// In the order of PROTOCOL 3.1: the first failure wins.
    fn admit(&mut self, payload: Value, subtopic: &str, now: Now) -> Result<Admission, Refusal> {
        let request = JoinRequest::parse(payload, subtopic).map_err(join_reason::malformed_config)?;
        let limits = &self.lobby.gate.limits;
        if self.seat.is_none() && self.lobby.gate.is_crowded() {
            return Err(join_reason::TOO_MANY_USERS.into());
        }
        if !self.lobby.gate.take_join(now.instant) {
            return Err(Refusal { reason: join_reason::TOO_MANY_JOINS.into(), closes: Some(CloseReason::JoinRate) });
        }
        if self.channels.len() >= limits.channels_per_connection_max {
            return Err(join_reason::TOO_MANY_CHANNELS.into());
        }
        if request.wanted.items().len() > limits.bindings_per_channel_max {
            return Err(join_reason::TOO_MANY_BINDINGS.into());
        }
        let token = request.token.as_deref().map_or_else(|| self.upgrade_token.clone(), |token| self.intern(token));
        let claims = self.lobby.verifier.verify(&token, now.wall).map_err(|error| error.join_reason())?;
        if request.private {
            // Fail closed: nothing evaluates the policies of realtime.messages yet.
            return Err(join_reason::unauthorized(subtopic).into());
        }
        if request.replay {
            return Err(join_reason::REPLAY_NEEDS_PRIVATE.into());
        }
        if self.seat.is_none() {
            self.seat = Some(self.lobby.gate.take_seat().ok_or(join_reason::TOO_MANY_USERS)?);
        }
        Ok(Admission { request, token, claims })
    }

    fn enter(
        &mut self,
        incoming: &Incoming<'_>,
        Admission { request, token, claims }: Admission,
        old: Option<Bytes>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let join_ref: Option<Arc<str>> = incoming.join_ref.as_deref().map(Arc::from);
        let shown = match self.serializer {
            Serializer::V2 => join_ref.clone(),
            // Version 1 knows a join by its ref; clients send both alike, or no join_ref at all.
            Serializer::V1 if incoming.reference == incoming.join_ref => join_ref.clone(),
            Serializer::V1 => incoming.reference.as_deref().map(Arc::from),
        };
        let address = Address { topic: Arc::from(&*incoming.topic), join_ref: shown, serializer: self.serializer };
        let reply = self.reply_frame(incoming, join_ref.as_deref(), Status::Ok, &request.wanted.response());
        let presence = request.presence_enabled.then(|| system::push(&address, "presence_state", "{}"));
        let frames: Vec<Bytes> = [Some(reply), old, presence].into_iter().flatten().collect();

        let id = self.lobby.next_channel_id();
        let JoinRequest { broadcast, wanted, .. } = request;
        let channel = Channel::new(id, address, join_ref, broadcast, wanted, (token, claims), now);
        if channel.has_bindings() {
            actions.push(Action::Subscribe(channel.subscribe(&self.outbox, frames)));
        } else {
            actions.extend(frames.into_iter().map(Action::Send));
        }
        self.channels.push(channel);
        self.lobby.metrics.channels.inc();
        self.lobby.metrics.joins.inc();
    }

    fn refuse(&mut self, incoming: &Incoming<'_>, refusal: &Refusal, now: Now, actions: &mut Vec<Action>) {
        self.lobby.metrics.joins_refused.inc();
        tracing::debug!(topic = &*incoming.topic, reason = &*refusal.reason, "A join was refused");
        let response = system::reason(&refusal.reason);
        let frame = self.reply_frame(incoming, incoming.join_ref.as_deref(), Status::Error, &response);
        if self.lobby.join_error_backoff.is_zero() || refusal.closes.is_some() {
            return actions.push(Action::Send(frame));
        }
        if self.delayed.len() >= DELAYED_MAX {
            actions.push(Action::Send(self.delayed.remove(0).1));
        }
        // The back-off is the same for all, so this is the last to go.
        self.delayed.push((now.instant + self.lobby.join_error_backoff, frame));
    }

    fn leave(&mut self, incoming: &Incoming<'_>, place: usize, actions: &mut Vec<Action>) {
        if !self.channels[place].is_meant_by(incoming.join_ref.as_deref()) {
            return;
        }
        actions.push(self.reply_on(incoming, place, Status::Ok, "{}"));
        let channel = self.remove(place, actions);
        actions.push(Action::Send(system::phx_close(&channel.address)));
    }

    /// Never answered. Nothing happens when there is no token in it, or the one that the channel has.
    fn renew_token(&mut self, incoming: &Incoming<'_>, place: usize, now: Now, actions: &mut Vec<Action>) {
        let Payload::Json(payload) = incoming.payload else { return };
        let Ok(payload) = serde_json::from_str::<Value>(payload) else { return };
        let Some(token) = payload.get("access_token").and_then(Value::as_str) else { return };
        if is_opaque_key(token) || *self.channels[place].token == *token {
            return;
        }
        let token = self.intern(token);
        match self.lobby.verifier.verify(&token, now.wall) {
            Ok(claims) => {
                let channel = &mut self.channels[place];
                channel.renew(token, claims, now);
                if channel.has_bindings() {
                    actions.push(Action::Subscribe(channel.subscribe(&self.outbox, Vec::new())));
                }
            }
            Err(error) => self.end_for_token(place, &error.system_text(), actions),
        }
    }

    fn tick(&mut self, now: Now, actions: &mut Vec<Action>) {
        let due = self.delayed.partition_point(|(at, _)| *at <= now.instant);
        actions.extend(self.delayed.drain(..due).map(|(_, frame)| Action::Send(frame)));
        // Backwards, since ending one removes it.
        for place in (0..self.channels.len()).rev() {
            let channel = &self.channels[place];
            if channel.token_check_at > now.instant {
                continue;
            }
            let token = channel.token.clone();
            match self.lobby.verifier.verify(&token, now.wall) {
                Ok(claims) => self.channels[place].renew(token, claims, now),
                Err(error) => self.end_for_token(place, &error.system_text(), actions),
            }
        }
    }

    /// The channel ends, the socket stays (PROTOCOL 5).
    fn end_for_token(&mut self, place: usize, text: &str, actions: &mut Vec<Action>) {
        self.lobby.metrics.tokens_refused.inc();
        let channel = self.remove(place, actions);
        let error = system::system(&channel.address, Extension::System, Status::Error, text, None);
        actions.extend([error, system::phx_close(&channel.address)].map(Action::Send));
    }

    fn broadcast(&mut self, incoming: &Incoming<'_>, place: usize, actions: &mut Vec<Action>) {
        if !self.channels[place].broadcast.ack {
            return;
        }
        let (status, response) = match incoming.payload.len() > self.lobby.gate.limits.payload_bytes_max {
            true => (Status::Error, "\"payload_size_exceeded\""),
            false => (Status::Ok, "{}"),
        };
        actions.push(self.reply_on(incoming, place, status, response));
    }

    fn say_goodbye(&mut self, reason: CloseReason, actions: &mut Vec<Action>) {
        let (status, text, hint) = match reason {
            CloseReason::Shutdown => (Status::Ok, message::DISCONNECT, None),
            CloseReason::SlowConsumer => (Status::Error, message::SLOW_CONSUMER, Some(message::SLOW_CONSUMER_HINT)),
            _ => return,
        };
        let frames = self.channels.iter().map(|channel| system::goodbye(&channel.address, status, text, hint));
        actions.extend(frames.map(Action::Send));
    }

    fn leave_everything(&mut self, actions: &mut Vec<Action>) {
        while !self.channels.is_empty() {
            self.remove(self.channels.len() - 1, actions);
        }
    }

    /// Nothing more is pushed to the channel from here on.
    fn remove(&mut self, place: usize, actions: &mut Vec<Action>) -> Channel {
        let channel = self.channels.remove(place);
        if channel.has_bindings() {
            actions.push(Action::Unsubscribe(channel.id));
        }
        channel.end();
        self.lobby.metrics.channels.dec();
        if self.channels.is_empty() {
            self.seat = None;
        }
        channel
    }

    /// The channels of a socket mostly have one token between them.
    fn intern(&self, token: &str) -> Arc<str> {
        let known = self.channels.iter().map(|channel| &channel.token).chain([&self.upgrade_token]);
        known.into_iter().find(|known| ***known == *token).cloned().unwrap_or_else(|| Arc::from(token))
    }

    fn unmatched(&self, incoming: &Incoming<'_>) -> Action {
        self.reply(incoming, None, Status::Error, &system::reason(join_reason::UNMATCHED_TOPIC))
    }

    /// A reply in a channel's name, whatever join_ref the request had.
    fn reply_on(&self, incoming: &Incoming<'_>, place: usize, status: Status, response: &str) -> Action {
        self.reply(incoming, self.channels[place].join_ref.as_deref(), status, response)
    }

    fn reply(&self, incoming: &Incoming<'_>, join_ref: Option<&str>, status: Status, response: &str) -> Action {
        Action::Send(self.reply_frame(incoming, join_ref, status, response))
    }

    fn reply_frame(&self, incoming: &Incoming<'_>, join_ref: Option<&str>, status: Status, response: &str) -> Bytes {
        let reference = incoming.reference.as_deref();
        system::reply(self.serializer, join_ref, reference, &incoming.topic, status, response)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.channels.iter().for_each(Channel::end);
        self.lobby.metrics.channels.dec_by(self.channels.len() as i64);
    }
}

#[cfg(test)]
mod tests;
