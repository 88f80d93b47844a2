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
//! A join with bindings is answered by dispatch, when they hold: its [`Opening`] travels in [`Subscribe::on_active`].
//! What only policies can say is asked ([`Action::Wait`]), and nothing more is read from the client until it is answered.

mod broadcasting;
mod joining;
mod presence;
mod private;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use smallvec::SmallVec;

use super::channel::Channel;
use super::close::CloseReason;
use super::diary::LogLevel;
use super::frame;
use super::join::is_opaque_key;
use super::limits::Seat;
use super::lobby::Lobby;
use super::opening::Opening;
use super::outbox::{Expulsion, Outbox};
use super::phoenix::{Incoming, Payload, Serializer};
use super::question::{Answer, Question};
use super::subscribe::{ChannelId, Subscribe};
use super::system::{self, Extension, Status, join_reason, message};
use super::topic;
use crate::authz::Claims;

/// Both clocks, read once per input.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub instant: Instant,
    pub wall: SystemTime,
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    /// The answer to a ping, perhaps to one that nobody has sent.
    Pong(&'a [u8]),
    /// A deadline has come, or a channel is to be looked after.
    Tick,
    /// What it waited for.
    Answered(Answer),
    /// The server is going to close the socket: channels are told, as far as they are to be told.
    Goodbye(CloseReason),
    /// The socket is no more.
    Gone,
}

/// What the server does for it, in this order.
pub enum Action {
    /// Push this frame.
    Send(Bytes),
    /// Open a channel that is joined.
    Open(Box<Opening>),
    /// Read nothing more from the client until this is answered.
    Wait(Question),
    Subscribe(Box<Subscribe>),
    Unsubscribe(ChannelId),
    /// Close the socket when what was sent before has been written.
    Close(CloseReason),
}

pub struct Session {
    lobby: Arc<Lobby>,
    serializer: Serializer,
    log_level: LogLevel,
    /// Not pushed to here; its channels hand it on to dispatch.
    outbox: Outbox,
    upgrade_token: Arc<str>,
    seat: Option<Seat>,
    /// Few, so that looking one up is a walk. Boxed: a socket without a channel pays for none.
    channels: SmallVec<[Box<Channel>; 1]>,
    /// Replies that are held back, soonest first.
    delayed: Vec<(Instant, Bytes)>,
    /// The `x-` headers of the upgrade, as policies read them.
    headers: Arc<str>,
    pending: Option<Box<private::Pending>>,
    /// Pings that were sent.
    ping_count: u64,
    /// A frame is looked at for the second time, with what it needed known.
    is_again: bool,
}

/// A frame as it came.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

impl Session {
    /// `upgrade_token` has been verified: it is what joins without a token of their own use.
    /// `headers`: a JSON object of the upgrade's headers that policies may read.
    pub fn new(
        lobby: Arc<Lobby>,
        serializer: Serializer,
        outbox: Outbox,
        upgrade_token: Arc<str>,
        headers: Arc<str>,
    ) -> Session {
        Session {
            lobby,
            serializer,
            log_level: LogLevel::default(),
            outbox,
            upgrade_token,
            seat: None,
            channels: SmallVec::new(),
            delayed: Vec::new(),
            headers,
            pending: None,
            ping_count: 0,
            is_again: false,
        }
    }

    pub fn with_log_level(mut self, level: LogLevel) -> Session {
        self.log_level = level;
        self
    }

    /// Logs what is of no interest but to whoever asked for it.
    fn log(&self, level: LogLevel, topic: &str, what: &str, now: Now) {
        match level {
            _ if self.log_level < level || !self.lobby.diary.has_room(now.instant) => {
                tracing::debug!(topic, what, "a client")
            }
            LogLevel::Info => tracing::info!(topic, what, "a client that asked to be logged"),
            LogLevel::Warning | LogLevel::Error => tracing::warn!(topic, what, "a client that asked to be logged"),
        }
    }

    pub fn handle(&mut self, input: Input<'_>, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Text(text) => self.take(Raw::Text(text), text.len(), now, &mut actions),
            Input::Binary(bytes) => self.take(Raw::Binary(bytes), bytes.len(), now, &mut actions),
            Input::Pong(payload) => self.take_pong(payload),
            Input::Answered(answer) => self.answered(answer, now, &mut actions),
            Input::Tick => self.tick(now, &mut actions),
            Input::Goodbye(reason) => self.say_goodbye(reason, &mut actions),
            Input::Gone => self.leave_everything(&mut actions),
        }
        actions
    }

    /// When to send the next `Tick`.
    pub fn next_deadline(&self) -> Option<Instant> {
        let checks = self.channels.iter().map(|channel| channel.deadline());
        checks.chain(self.delayed.first().map(|(at, _)| *at)).min()
    }

    fn take(&mut self, raw: Raw<'_>, bytes: usize, now: Now, actions: &mut Vec<Action>) {
        self.lobby.metrics.frames_in.inc();
        self.lobby.metrics.bytes_in.inc_by(bytes as u64);
        self.end_expelled(actions);
        self.receive(raw, now, actions);
    }

    fn receive(&mut self, raw: Raw<'_>, now: Now, actions: &mut Vec<Action>) {
        let Some(incoming) = raw.decode(self.serializer) else {
            self.lobby.metrics.frames_malformed.inc();
            self.log(LogLevel::Warning, "", "a malformed frame was dropped", now);
            return;
        };
        let place = self.channels.iter().position(|channel| *channel.address.topic == *incoming.topic);
        match (&*incoming.event, place) {
            ("heartbeat", _) if incoming.topic == topic::PHOENIX => {
                let ping = self.note_heartbeat(&incoming);
                actions.push(self.reply(&incoming, None, Status::Ok, "{}"));
                actions.extend(ping.map(Action::Send));
            }
            ("phx_join", _) => self.join(&incoming, place, now, actions),
            ("phx_leave", Some(place)) => self.leave(&incoming, place, actions),
            ("phx_leave", None) => {
                actions.push(self.reply(&incoming, incoming.join_ref.as_deref(), Status::Ok, "{}"));
            }
            (_, None) => actions.push(self.unmatched(&incoming)),
            ("access_token", Some(place)) => self.renew_token(&incoming, place, now, actions),
            ("broadcast", Some(place)) => self.broadcast(&incoming, raw, place, now, actions),
            ("presence", Some(place)) => self.presence(&incoming, raw, place, now, actions),
            // Unknown events are counted and ignored (PROTOCOL 3.3).
            (_, Some(_)) => self.lobby.hub.count_event(now.instant),
        }
    }

    /// A client that waits for the reply to one heartbeat before it sends the next has handled, by then, all that was
    /// queued before that reply (PROTOCOL 3.4). One without a ref waits for nothing. Gives a ping, for those to whom a
    /// pong is enough.
    fn note_heartbeat(&mut self, incoming: &Incoming<'_>) -> Option<Bytes> {
        let ledger = self.lobby.services.ledger.as_ref()?;
        if self.channels.iter().all(|channel| channel.resume.is_none()) {
            return None;
        }
        // Read before the reply is queued.
        let routed = ledger.routed();
        // Not the position: that need not move from one ping to the next.
        let number = self.ping_count + 1;
        let mut is_pinged = false;
        for link in self.channels.iter().filter_map(|channel| channel.resume.as_ref()) {
            if incoming.reference.is_some() {
                link.heartbeat(routed);
            }
            is_pinged |= link.ping(number, routed);
        }
        self.ping_count += u64::from(is_pinged);
        is_pinged.then(|| frame::ping(number))
    }

    fn take_pong(&self, payload: &[u8]) {
        let Ok(number) = payload.try_into() else { return };
        let number = u64::from_be_bytes(number);
        self.channels.iter().filter_map(|channel| channel.resume.as_ref()).for_each(|link| link.pong(number));
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
            Ok(claims) if self.channels[place].rights.is_some() => self.ask_to_renew(place, token, claims, actions),
            Ok(claims) => self.renewed(place, token, claims, now, actions),
            Err(error) => self.end_for_token(place, &error.system_text(), actions),
        }
    }

    fn renewed(&mut self, place: usize, token: Arc<str>, claims: Arc<Claims>, now: Now, actions: &mut Vec<Action>) {
        let channel = &mut self.channels[place];
        channel.renew(token, claims, now);
        if channel.has_bindings() {
            actions.push(Action::Subscribe(channel.subscribe(None)));
        }
    }

    fn tick(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.end_expelled(actions);
        let due = self.delayed.partition_point(|(at, _)| *at <= now.instant);
        actions.extend(self.delayed.drain(..due).map(|(_, frame)| Action::Send(frame)));
        // Backwards, since ending one removes it.
        for place in (0..self.channels.len()).rev() {
            if self.channels[place].deadline() > now.instant {
                continue;
            }
            if self.channels[place].token_check_at <= now.instant {
                let token = self.channels[place].token.clone();
                match self.lobby.services.verifier.verify(&token, now.wall) {
                    Ok(claims) => self.channels[place].renew(token, claims, now),
                    Err(error) => {
                        self.end_for_token(place, &error.system_text(), actions);
                        continue;
                    }
                }
            }
            self.look_for_replication(place, now, actions);
        }
    }

    /// Told once, when broadcasts from the database come in; or when they did not in time, and then the channel ends.
    fn look_for_replication(&mut self, place: usize, now: Now, actions: &mut Vec<Action>) {
        let channel = &mut self.channels[place];
        let Some(ready) = &mut channel.ready else { return };
        if ready.next > now.instant {
            return;
        }
        ready.wait_on(now.instant);
        let is_late = ready.until <= now.instant;
        let has_begun = self.lobby.services.replication.load(Ordering::Relaxed);
        if has_begun && channel.membership.is_open() {
            channel.ready = None;
            actions.push(Action::Send(joining::replication_ready(&channel.address)));
        } else if is_late {
            self.end_with_error(place, message::REPLICATION_LATE, actions);
        }
    }

    /// Channels that somebody else found to have had too much.
    fn end_expelled(&mut self, actions: &mut Vec<Action>) {
        for place in (0..self.channels.len()).rev() {
            let text = match self.channels[place].expulsion() {
                None => continue,
                Some(Expulsion::TooManyMessages) => message::TOO_MANY_MESSAGES,
                Some(Expulsion::TooManyPresenceEvents) => message::TOO_MANY_PRESENCE_MESSAGES,
                Some(Expulsion::ReplayOverrun) => message::REPLAY_FAILED,
            };
            self.lobby.metrics.channels_expelled.inc();
            self.end_with_error(place, text, actions);
        }
    }

    fn end_for_token(&mut self, place: usize, text: &str, actions: &mut Vec<Action>) {
        self.lobby.metrics.tokens_refused.inc();
        self.end_with_error(place, text, actions);
    }

    /// The channel ends, the socket stays (PROTOCOL 3.2).
    fn end_with_error(&mut self, place: usize, text: &str, actions: &mut Vec<Action>) {
        let channel = self.remove(place, actions);
        let error = system::system(&channel.address, Extension::System, Status::Error, text, None);
        actions.extend([error, system::phx_close(&channel.address)].map(Action::Send));
    }

    fn say_goodbye(&mut self, reason: CloseReason, actions: &mut Vec<Action>) {
        let told = match reason {
            CloseReason::Shutdown => system::disconnect,
            CloseReason::SlowConsumer => system::slow_consumer,
            _ => return,
        };
        actions.extend(self.channels.iter().map(|channel| Action::Send(told(&channel.address))));
    }

    /// The socket is gone, and its client may come back.
    fn leave_everything(&mut self, actions: &mut Vec<Action>) {
        self.pending = None;
        for channel in &mut self.channels {
            let subject = channel.subject(&self.lobby);
            channel.membership.may_return(subject);
        }
        while !self.channels.is_empty() {
            self.remove(self.channels.len() - 1, actions);
        }
    }

    /// Nothing more is pushed to the channel from here on.
    fn remove(&mut self, place: usize, actions: &mut Vec<Action>) -> Box<Channel> {
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
        self.channels.iter().for_each(|channel| channel.end());
        self.lobby.metrics.channels.dec_by(self.channels.len() as i64);
    }
}

#[cfg(test)]
mod tests;
