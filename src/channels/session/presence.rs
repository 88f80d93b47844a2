//! `presence`: track and untrack (PROTOCOL 3.3).

use std::sync::Arc;

use serde_json::Value;

use super::{Action, Now, Raw, Session};
use crate::channels::outbox::Burst;
use crate::channels::phoenix::{Incoming, Payload};
use crate::channels::presence::OwnPresence;
use crate::channels::raw_object;
use crate::channels::system::{self, Status, message, push_reason};

#[derive(Clone, Copy)]
enum Call<'a> {
    Track(&'a str),
    Untrack,
    /// No inner event: taken, and nothing done.
    Nothing,
    Unknown,
}

/// The inner event is read whatever its case.
fn parse(payload: &str) -> Call<'_> {
    let Some(pairs) = raw_object::parse(payload) else { return Call::Unknown };
    let event = match raw_object::get(&pairs, "event").map(serde_json::from_str) {
        None | Some(Ok(Value::Null)) => return Call::Nothing,
        Some(Ok(Value::String(event))) => event,
        Some(_) => return Call::Unknown,
    };
    match event.to_ascii_lowercase().as_str() {
        "track" => Call::Track(raw_object::get(&pairs, "payload").unwrap_or("{}")),
        "untrack" => Call::Untrack,
        _ => Call::Unknown,
    }
}

impl Session {
    pub(super) fn presence(
        &mut self,
        incoming: &Incoming<'_>,
        raw: Raw<'_>,
        place: usize,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Payload::Json(payload) = incoming.payload else {
            self.lobby.metrics.frames_malformed.inc();
            return;
        };
        let call = parse(payload);
        // Told to everybody who comes, so it must be what every reader of JSON takes. The parts that were looked at are
        // JSON, so this has halves of surrogate pairs, numbers that no float holds, or nesting beyond reason.
        if let Call::Track(payload) = call
            && serde_json::from_str::<Value>(payload).is_err()
        {
            self.lobby.metrics.frames_malformed.inc();
            return;
        }
        if let Call::Track(_) | Call::Untrack = call
            && !self.is_again
        {
            let limits = &self.lobby.gate.limits;
            let (max, window) = (limits.presence_calls_max, limits.presence_window);
            if !self.own_presence(place).call(max, window, now.instant) {
                self.lobby.metrics.channels_expelled.inc();
                return self.end_with_error(place, message::CLIENT_PRESENCE_RATE, actions);
            }
        }
        let ok = (Status::Ok, "{}".to_owned());
        let (status, response) = match call {
            Call::Track(payload) => {
                if self.channels[place].membership.presence_is_over(now.instant) {
                    self.lobby.metrics.channels_expelled.inc();
                    return self.end_with_error(place, message::TOO_MANY_PRESENCE_MESSAGES, actions);
                }
                if payload.len() > self.lobby.gate.limits.payload_bytes_max {
                    return self.end_with_error(place, message::TRACK_TOO_LARGE, actions);
                }
                match self.may_track(payload, raw, place, actions) {
                    None => return,
                    Some(Err(reason)) => (Status::Error, reason),
                    Some(Ok(())) => ok,
                }
            }
            Call::Untrack | Call::Nothing => ok,
            Call::Unknown => (Status::Error, "{}".to_owned()),
        };
        // The reply, and behind it one's own diff: the original has them in either order, mostly in this.
        let mut burst = Burst::default();
        let reply = self.reply_frame(incoming, self.channels[place].join_ref.as_deref(), status, &response);
        self.channels[place].outbox().queue_joined(reply, 1, &mut burst);
        match call {
            Call::Track(payload) if status == Status::Ok => self.track(payload, place, now, &mut burst),
            Call::Untrack => self.channels[place].membership.untrack(now.instant, &mut burst),
            _ => {}
        }
    }

    /// `None`: it is looked at again when the answer is there. Otherwise whether, and if not, what is replied.
    fn may_track(
        &mut self,
        payload: &str,
        raw: Raw<'_>,
        place: usize,
        actions: &mut Vec<Action>,
    ) -> Option<Result<(), String>> {
        if !payload.starts_with('{') {
            return Some(Err(system::reason(push_reason::TRACK_NOT_A_MAP)));
        }
        let Some(rights) = self.channels[place].rights else { return Some(Ok(())) };
        match rights.write {
            // Whether it may see presence is asked only here, and not where a broadcast has asked about writing before
            // (PROTOCOL 5).
            None if rights.watches.is_none() => self.ask_to_watch(raw, place, actions),
            None => self.ask_to_write(raw, place, actions),
            Some(grant) if grant.presence => return Some(Ok(())),
            Some(_) => {
                self.lobby.metrics.writes_denied.inc();
                return Some(Err("{}".to_owned()));
            }
        }
        None
    }

    fn track(&mut self, payload: &str, place: usize, now: Now, burst: &mut Burst) {
        let key = Arc::clone(&self.own_presence(place).key);
        let subject = self.channels[place].subject(&self.lobby);
        let channel = &mut self.channels[place];
        channel.presence_enabled = true;
        channel.membership.track(&key, subject, payload, now.instant, burst);
    }

    fn own_presence(&mut self, place: usize) -> &mut OwnPresence {
        let channel = &mut self.channels[place];
        channel.presence.get_or_insert_with(|| Box::new(OwnPresence::new(channel.presence_key.take().as_deref())))
    }
}
