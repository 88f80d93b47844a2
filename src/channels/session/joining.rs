//! Joins: who is let in, and how the others are told.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::{Action, Now, Session};
use crate::authz::Claims;
use crate::channels::channel::Channel;
use crate::channels::close::CloseReason;
use crate::channels::join::JoinRequest;
use crate::channels::phoenix::{Address, Incoming, Payload, Serializer};
use crate::channels::system::{self, Status, join_reason};
use crate::channels::topic::Topic;

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
    /// An older join of the topic ends whatever becomes of the new one.
    pub(super) fn join(&mut self, incoming: &Incoming<'_>, place: Option<usize>, now: Now, actions: &mut Vec<Action>) {
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
        let claims = self.lobby.services.verifier.verify(&token, now.wall).map_err(|error| error.join_reason())?;
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
        let channel = Channel::new(id, address, join_ref, request, (token, claims), &self.outbox, now);
        if channel.has_bindings() {
            actions.push(Action::Subscribe(channel.subscribe(frames)));
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
}
