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

mod joining;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use smallvec::SmallVec;

use super::channel::Channel;
use super::close::CloseReason;
use super::join::is_opaque_key;
use super::limits::Seat;
use super::lobby::Lobby;
use super::outbox::Outbox;
use super::phoenix::{Incoming, Payload, Serializer};
use super::subscribe::{ChannelId, Subscribe};
use super::system::{self, Extension, Status, join_reason, message};
use super::topic;

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
    /// Not pushed to here; its channels hand it on to dispatch.
    outbox: Outbox,
    upgrade_token: Arc<str>,
    seat: Option<Seat>,
    /// Few, so that looking one up is a walk.
    channels: SmallVec<[Channel; 1]>,
    /// Replies that are held back, soonest first.
    delayed: Vec<(Instant, Bytes)>,
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
        match self.lobby.services.verifier.verify(&token, now.wall) {
            Ok(claims) => {
                let channel = &mut self.channels[place];
                channel.renew(token, claims, now);
                if channel.has_bindings() {
                    actions.push(Action::Subscribe(channel.subscribe(Vec::new())));
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
            match self.lobby.services.verifier.verify(&token, now.wall) {
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
        let told = match reason {
            CloseReason::Shutdown => system::disconnect,
            CloseReason::SlowConsumer => system::slow_consumer,
            _ => return,
        };
        actions.extend(self.channels.iter().map(|channel| Action::Send(told(&channel.address))));
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
