//! `broadcast`: who may, how much, how often, and to whom (PROTOCOL 3.3, 8).

use super::{Action, Now, Raw, Session};
use crate::channels::broadcast::{Content, EventPayload};
use crate::channels::phoenix::{Incoming, Payload};
use crate::channels::system::{self, Status, push_reason};

impl Session {
    pub(super) fn broadcast(
        &mut self,
        incoming: &Incoming<'_>,
        raw: Raw<'_>,
        place: usize,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let content = match incoming.payload {
            Payload::Json(text) => Content::Object(text),
            Payload::UserBroadcast { event, json: true, bytes } => {
                Content::Event { event, payload: EventPayload::Json(bytes), id: None }
            }
            Payload::UserBroadcast { event, json: false, bytes } => {
                Content::Event { event, payload: EventPayload::Binary(bytes), id: None }
            }
            // Kind 0. The original makes of it a frame that no official client reads.
            Payload::Binary(_) => {
                self.lobby.metrics.frames_malformed.inc();
                return;
            }
        };
        if let Some(rights) = self.channels[place].rights {
            match rights.write {
                None => return self.ask_to_write(raw, place, actions),
                // Without a word, acknowledged or not: the client runs into its timeout.
                Some(grant) if !grant.broadcast => {
                    self.lobby.metrics.writes_denied.inc();
                    return;
                }
                Some(_) => {}
            }
        }
        let lobby = &self.lobby;
        let (limits, channel) = (&lobby.gate.limits, &self.channels[place]);
        let bytes = content.payload_bytes();
        if bytes > limits.payload_bytes_max {
            lobby.metrics.broadcasts_too_large.inc();
            if channel.broadcast.ack {
                actions.push(self.reply_on(incoming, place, Status::Error, "\"payload_size_exceeded\""));
            }
            return;
        }
        // Our own limits are told even to who asked for no acknowledgement: nobody would find out otherwise.
        let refusal = match limits.message_bytes_max {
            Some(max) if bytes > max => Some(push_reason::message_too_large(max)),
            _ if lobby.quotas.are_limited() && !lobby.quotas.take(channel.subject(lobby), now.instant) => {
                Some(push_reason::TOO_MANY_MESSAGES.to_owned())
            }
            _ => None,
        };
        if let Some(refusal) = refusal {
            lobby.metrics.broadcasts_refused.inc();
            return actions.push(self.reply_on(incoming, place, Status::Error, &system::reason(&refusal)));
        }
        if let Content::Object(text) = content
            && !text.starts_with('{')
        {
            lobby.metrics.broadcasts_refused.inc();
            if channel.broadcast.ack {
                let reason = system::reason(push_reason::BROADCAST_NOT_A_MAP);
                actions.push(self.reply_on(incoming, place, Status::Error, &reason));
            }
            return;
        }
        channel.membership.broadcast(&content, channel.broadcast.own, now.instant);
        if channel.broadcast.ack {
            actions.push(self.reply_on(incoming, place, Status::Ok, "{}"));
        }
    }
}
