//! Joins: who is let in, and how the others are told.
//!
//! ```text
//!                 private: read?                        replay?
//!   phx_join ──────────────────────► on the topic ────────────────► Opening: reply, replayed, system, presence
//!       │             │              (held back)         │
//!       └─────────────┴──────── refused: reply ◄─────────┘
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::private::Pending;
use super::{Action, Now, Session};
use crate::authz::{Claims, TopicError, TopicGrant, TopicRight};
use crate::channels::broadcast::{EventPayload, event_object, meta};
use crate::channels::channel::{Channel, Joined, ReadyWait, Rights};
use crate::channels::close::CloseReason;
use crate::channels::diary::LogLevel;
use crate::channels::join::JoinRequest;
use crate::channels::opening::Opening;
use crate::channels::phoenix::{Address, Incoming, Payload, Serializer, v2};
use crate::channels::question::Question;
use crate::channels::replay::{ReplayError, ReplayRequest, Replayed, ReplayedPayload};
use crate::channels::system::{self, Extension, Status, join_reason, message};
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

/// What of a join's frame its answer needs.
struct Head {
    topic: Arc<str>,
    join_ref: Option<Arc<str>>,
    reference: Option<Arc<str>>,
}

/// A join that waits for an answer.
pub(super) struct Joining {
    head: Head,
    /// `phx_close` of an older join of the topic.
    old: Option<Bytes>,
    stage: Stage,
}

enum Stage {
    Read(Admission),
    /// It is on its topic already, so that nothing falls between what is replayed and what is live.
    Replay {
        channel: Box<Channel>,
        response: String,
        ready: bool,
    },
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
        let head = Head {
            topic: Arc::from(&*incoming.topic),
            join_ref: incoming.join_ref.as_deref().map(Arc::from),
            reference: incoming.reference.as_deref().map(Arc::from),
        };
        let admission = match subtopic.and_then(|subtopic| self.admit(payload, subtopic, now)) {
            Ok(admission) => admission,
            Err(refusal) => return self.refuse(&head, old, &refusal, now, actions),
        };
        if !admission.request.private {
            return self.enter(head, old, admission, None, now, actions);
        }
        let subtopic = subtopic_of(&head.topic);
        let presence = admission.request.presence_enabled;
        match self.ask(&admission.claims, subtopic, TopicRight::Read, presence) {
            Some(asked) => {
                let joining = Joining { head, old, stage: Stage::Read(admission) };
                self.wait(Question::Topic(asked), Pending::Join(joining), actions);
            }
            None => {
                self.lobby.metrics.reads_denied.inc();
                let refusal = join_reason::unauthorized(subtopic).into();
                self.refuse(&head, old, &refusal, now, actions);
            }
        }
    }

    /// In the order of PROTOCOL 3.1: the first failure wins.
    fn admit(&mut self, payload: Value, subtopic: &str, now: Now) -> Result<Admission, Refusal> {
        let request = JoinRequest::parse(payload, subtopic).map_err(join_reason::malformed_config)?;
        let limits = &self.lobby.gate.limits;
        if self.lobby.private_only && !request.private {
            return Err(join_reason::PRIVATE_ONLY.into());
        }
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
        if request.replay.is_some() && !request.private {
            return Err(join_reason::REPLAY_NEEDS_PRIVATE.into());
        }
        Ok(Admission { request, token, claims })
    }

    pub(super) fn join_answered(
        &mut self,
        joining: Joining,
        answer: Result<TopicGrant, TopicError>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Joining { head, old, stage: Stage::Read(admission) } = joining else {
            debug_assert!(false, "a join is asked about reading once, and first");
            return;
        };
        let refusal: Refusal = match answer {
            Ok(grant) if grant.broadcast || grant.presence => {
                let rights = Rights::read(grant, admission.request.presence_enabled);
                return self.enter(head, old, admission, Some(rights), now, actions);
            }
            Ok(_) => {
                self.lobby.metrics.reads_denied.inc();
                join_reason::unauthorized(subtopic_of(&head.topic)).into()
            }
            Err(TopicError::Unavailable) => join_reason::NO_DATABASE.into(),
            Err(TopicError::Cancelled) => join_reason::CANCELLED.into(),
        };
        self.refuse(&head, old, &refusal, now, actions);
    }

    /// On the topic from here on, with all that comes held back until the reply.
    fn enter(
        &mut self,
        head: Head,
        old: Option<Bytes>,
        admission: Admission,
        rights: Option<Rights>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Admission { request, token, claims } = admission;
        // Params that are no params are told only to who may read (PROTOCOL 3.1).
        if request.replay.is_some_and(|replay| replay.since.is_none()) {
            return self.refuse(&head, old, &join_reason::REPLAY_PARAMS.into(), now, actions);
        }
        if self.seat.is_none() {
            self.seat = self.lobby.gate.take_seat();
            if self.seat.is_none() {
                return self.refuse(&head, old, &join_reason::TOO_MANY_USERS.into(), now, actions);
            }
        }
        let shown = match self.serializer {
            Serializer::V2 => head.join_ref.clone(),
            // Version 1 knows a join by its ref; clients send both alike, or no join_ref at all.
            Serializer::V1 if head.reference == head.join_ref => head.join_ref.clone(),
            Serializer::V1 => head.reference.clone(),
        };
        let address = Address { topic: Arc::clone(&head.topic), join_ref: shown, serializer: self.serializer };
        let (response, ready) = (request.wanted.response(), request.replication_ready);
        let replay = request.replay.filter(|_| rights.is_some_and(|rights| rights.hears));
        let join_ref = head.join_ref.clone();
        let joined = Joined { address, join_ref, request, token, claims, rights };
        let Ok(channel) = Channel::enter(&self.lobby, &self.outbox, joined, now) else {
            return self.refuse(&head, old, &join_reason::TOO_MANY_MEMBERS.into(), now, actions);
        };
        let channel = Box::new(channel);
        let Some((since, limit)) = replay.and_then(|replay| Some((replay.since?, replay.limit))) else {
            return self.open(head, old, channel, &response, ready, None, now, actions);
        };
        self.lobby.metrics.replays.inc();
        let Some(replayer) = &self.lobby.services.replayer else {
            return self.refuse(&head, old, &join_reason::REPLAY_FAILED.into(), now, actions);
        };
        let topic = subtopic_of(&head.topic).into();
        let asked = replayer.replay(ReplayRequest { topic, since, limit });
        let stage = Stage::Replay { channel, response, ready };
        self.wait(Question::Replay(asked), Pending::Join(Joining { head, old, stage }), actions);
    }

    pub(super) fn replay_answered(
        &mut self,
        joining: Joining,
        answer: Result<Vec<Replayed>, ReplayError>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Joining { head, old, stage: Stage::Replay { channel, response, ready } } = joining else {
            debug_assert!(false, "a replay comes after the right to read");
            return;
        };
        let reason = match answer {
            Ok(replayed) => return self.open(head, old, channel, &response, ready, Some(replayed), now, actions),
            Err(ReplayError::BadParams) => join_reason::REPLAY_PARAMS,
            Err(ReplayError::Failed) => join_reason::REPLAY_FAILED,
        };
        drop(channel);
        self.refuse(&head, old, &reason.into(), now, actions);
    }

    /// Everything is known: the reply and what follows it leave, at once or when the bindings hold.
    #[expect(clippy::too_many_arguments, reason = "what a join has come to, from two places")]
    fn open(
        &mut self,
        head: Head,
        old: Option<Bytes>,
        mut channel: Box<Channel>,
        response: &str,
        ready: bool,
        replayed: Option<Vec<Replayed>>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let reply = self.answer(&head, Status::Ok, response);
        let mut opening = Opening::of(&channel.membership, [Some(reply), old].into_iter().flatten().collect());
        if let Some(replayed) = replayed {
            let bytes_max = self.lobby.outbox_config.spill_bytes_max / 2;
            let (frames, ids) = newest(&channel.address, replayed, bytes_max);
            self.lobby.metrics.messages_replayed.inc_by(ids.len() as u64);
            opening.frames.extend(frames);
            opening.replayed = Some(ids);
        }
        if ready {
            if self.lobby.services.replication.load(std::sync::atomic::Ordering::Relaxed) {
                opening.ready = Some(replication_ready(&channel.address));
            } else {
                channel.ready = Some(Box::new(ReadyWait::new(now.instant)));
            }
        }
        let may_watch = channel.rights.is_none_or(|rights| rights.watches == Some(true));
        opening.state_for = (channel.presence_enabled && may_watch).then(|| channel.address.clone());
        actions.push(match channel.has_bindings() {
            true => Action::Subscribe(channel.subscribe(Some(Box::new(opening)))),
            false => Action::Open(Box::new(opening)),
        });
        self.log(LogLevel::Info, &channel.address.topic, "joined", now);
        self.channels.push(channel);
        self.lobby.metrics.channels.inc();
        self.lobby.metrics.joins.inc();
    }

    fn refuse(&mut self, head: &Head, old: Option<Bytes>, refusal: &Refusal, now: Now, actions: &mut Vec<Action>) {
        self.lobby.metrics.joins_refused.inc();
        self.log(LogLevel::Warning, &head.topic, &format!("a join was refused: {}", refusal.reason), now);
        if self.channels.is_empty() {
            self.seat = None;
        }
        let frame = self.answer(head, Status::Error, &system::reason(&refusal.reason));
        if self.lobby.join_error_backoff.is_zero() || refusal.closes.is_some() {
            actions.push(Action::Send(frame));
        } else {
            if self.delayed.len() >= DELAYED_MAX {
                actions.push(Action::Send(self.delayed.remove(0).1));
            }
            // The back-off is the same for all, so this is the last to go.
            self.delayed.push((now.instant + self.lobby.join_error_backoff, frame));
        }
        actions.extend(old.map(Action::Send));
        actions.extend(refusal.closes.map(Action::Close));
    }

    fn answer(&self, head: &Head, status: Status, response: &str) -> Bytes {
        let (join_ref, reference) = (head.join_ref.as_deref(), head.reference.as_deref());
        system::reply(self.serializer, join_ref, reference, &head.topic, status, response)
    }
}

pub(super) fn replication_ready(address: &Address) -> Bytes {
    system::system(address, Extension::System, Status::Ok, message::REPLICATION_READY, None)
}

/// Their frames and ids, oldest first. 25 of the largest messages are several times what may be on its way to a socket, and
/// one that asks for them would be closed whenever it came: then there are the newest of them.
fn newest(address: &Address, replayed: Vec<Replayed>, bytes_max: usize) -> (Vec<Bytes>, Vec<Box<str>>) {
    let (mut frames, mut ids, mut room) = (Vec::new(), Vec::new(), bytes_max);
    for message in replayed.into_iter().rev() {
        let frame = replayed_frame(address, &message);
        let Some(left) = room.checked_sub(frame.as_ref().map_or(0, Bytes::len)) else {
            tracing::debug!(bytes_max, "More is to be replayed than a socket may be sent at once");
            break;
        };
        room = left;
        frames.extend(frame);
        ids.push(message.id);
    }
    frames.reverse();
    ids.reverse();
    (frames, ids)
}

/// To the channel alone, and JSON as text to both versions (PROTOCOL 3.7). Bytes are for version 2.
fn replayed_frame(address: &Address, Replayed { id, event, payload }: &Replayed) -> Option<Bytes> {
    let meta = meta(id, true);
    match payload {
        ReplayedPayload::Json(json) => {
            let payload = event_object(event, EventPayload::Json(json.as_bytes()), &meta)?;
            Some(system::push(address, "broadcast", &payload))
        }
        ReplayedPayload::Binary(bytes) if address.serializer == Serializer::V2 => {
            v2::user_broadcast(&address.topic, event, &meta, EventPayload::Binary(bytes))
        }
        ReplayedPayload::Binary(_) => None,
    }
}

fn subtopic_of(topic: &str) -> &str {
    topic.strip_prefix(crate::channels::topic::PREFIX).unwrap_or(topic)
}
