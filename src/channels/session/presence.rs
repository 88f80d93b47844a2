//! `presence`: track and untrack (PROTOCOL 3.3).

use std::sync::Arc;

use serde_json::Value;

use super::{Action, Now, Raw, Session};
use crate::channels::phoenix::{Incoming, Payload};
use crate::channels::presence::OwnPresence;
use crate::channels::raw_object;
use crate::channels::system::{self, Status, message, push_reason};

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
        let (status, response) = match call {
            Call::Track(payload) => {
                if self.channels[place].membership.presence_is_over(now.instant) {
                    self.lobby.metrics.channels_expelled.inc();
                    return self.end_with_error(place, message::TOO_MANY_PRESENCE_MESSAGES, actions);
                }
                if payload.len() > self.lobby.gate.limits.payload_bytes_max {
                    return self.end_with_error(place, message::TRACK_TOO_LARGE, actions);
                }
                match self.track(payload, raw, place, now, actions) {
                    Tracked::Asked => return,
                    Tracked::Done => (Status::Ok, "{}".to_owned()),
                    Tracked::NotAMap => (Status::Error, system::reason(push_reason::TRACK_NOT_A_MAP)),
                    Tracked::Denied => (Status::Error, "{}".to_owned()),
                }
            }
            Call::Untrack => {
                self.channels[place].membership.untrack(now.instant);
                (Status::Ok, "{}".to_owned())
            }
            Call::Nothing => (Status::Ok, "{}".to_owned()),
            Call::Unknown => (Status::Error, "{}".to_owned()),
        };
        actions.push(self.reply_on(incoming, place, status, &response));
    }

    fn track(&mut self, payload: &str, raw: Raw<'_>, place: usize, now: Now, actions: &mut Vec<Action>) -> Tracked {
        if !payload.starts_with('{') {
            return Tracked::NotAMap;
        }
        if let Some(rights) = self.channels[place].rights {
            match rights.write {
                // Whether it may see presence is asked only here, and not where a broadcast has asked about writing
                // before (PROTOCOL 5).
                None if rights.watches.is_none() => {
                    self.ask_to_watch(raw, place, actions);
                    return Tracked::Asked;
                }
                None => {
                    self.ask_to_write(raw, place, actions);
                    return Tracked::Asked;
                }
                Some(grant) if !grant.presence => {
                    self.lobby.metrics.writes_denied.inc();
                    return Tracked::Denied;
                }
                Some(_) => {}
            }
        }
        let key = Arc::clone(&self.own_presence(place).key);
        let subject = self.channels[place].subject(&self.lobby);
        let channel = &mut self.channels[place];
        channel.presence_enabled = true;
        channel.membership.track(&key, subject, payload, now.instant);
        Tracked::Done
    }

    fn own_presence(&mut self, place: usize) -> &mut OwnPresence {
        let channel = &mut self.channels[place];
        channel.presence.get_or_insert_with(|| Box::new(OwnPresence::new(channel.presence_key.take().as_deref())))
    }
}

enum Tracked {
    Done,
    /// It is looked at again when the answer is there.
    Asked,
    NotAMap,
    Denied,
}
