//! Every text and code that a client can see, and the frames that carry them (PROTOCOL 3.1, 3.2, 8).
//!
//! Texts are Supabase's to the byte wherever it has one. `hint`, a fifth key of system messages, names the remedy where
//! one can be named; clients ignore it, people read it.

use bytes::Bytes;
use smallvec::SmallVec;

use super::phoenix::{Address, Outgoing, Serializer};
use crate::change::Operation;

/// Reasons of refused joins: `{"status":"error","response":{"reason":..}}`. Those about tokens are `TokenError`'s.
pub mod join_reason {
    pub const UNMATCHED_TOPIC: &str = "unmatched topic";
    pub const TOPIC_NAME_REQUIRED: &str = "TopicNameRequired: You must provide a topic name";
    pub const TOO_MANY_CHANNELS: &str = "ChannelRateLimitReached: Too many channels";
    pub const TOO_MANY_USERS: &str = "ConnectionRateLimitReached: Too many connected users";
    pub const TOO_MANY_JOINS: &str = "ClientJoinRateLimitReached: Too many joins per second";
    pub const REPLAY_NEEDS_PRIVATE: &str = "UnableToReplayMessages: Replay is not allowed for public channels";
    pub const REPLAY_PARAMS: &str = "UnableToReplayMessages: Replay params are not valid";
    pub const REPLAY_FAILED: &str = "UnableToReplayMessages: Realtime was unable to replay messages";
    pub const PRIVATE_ONLY: &str = "PrivateOnly: This project only allows private channels";
    pub const NO_DATABASE: &str = "UnableToConnectToProject: Realtime was unable to connect to the project database";
    pub const CANCELLED: &str = "QueryCanceled: Query was cancelled, please try again";
    pub const RESTARTING: &str = "RealtimeRestarting: Realtime is restarting, please standby";
    /// Ours: Supabase has no such limits.
    pub const TOPIC_NAME_TOO_LONG: &str = "TopicNameTooLong: The topic name has more than 4096 bytes";
    pub const TOO_MANY_MEMBERS: &str = "MemberLimitReached: Too many members in this channel";
    pub const TOO_MANY_BINDINGS: &str = "PostgresChangesLimitReached: Too many postgres_changes in one channel";

    pub fn unauthorized(subtopic: &str) -> String {
        format!("Unauthorized: You do not have permissions to read from this Channel topic: {subtopic}")
    }

    /// Elixir's own words for what should not be there.
    pub fn malformed_config(error: impl std::fmt::Display) -> String {
        format!("UnknownErrorOnChannel: {error}")
    }
}

/// Messages of `system` frames that the channels send by themselves.
pub mod message {
    pub const SUBSCRIBED: &str = "Subscribed to PostgreSQL";
    pub const DISCONNECT: &str = "Server requested disconnect";
    /// Ours: Supabase drops in silence.
    pub const SLOW_CONSUMER: &str = "Messages were not read fast enough, some were not delivered";
    pub const SLOW_CONSUMER_HINT: &str =
        "Read what changed in between from the database after rejoining; subscribe with a filter to receive less";
    pub const TOO_MANY_MESSAGES: &str = "Too many messages per second";
    pub const TOO_MANY_PRESENCE_MESSAGES: &str = "Too many presence messages per second";
    pub const CLIENT_PRESENCE_RATE: &str = "Client presence rate limit exceeded";
    pub const TRACK_TOO_LARGE: &str = "Track message size exceeded";
    pub const REPLICATION_READY: &str = "Replication connection established";
    pub const REPLICATION_LATE: &str = "Replication connection was not established in time";
    pub const REPLAY_FAILED: &str = "Realtime was unable to replay messages";

    pub fn no_read(subtopic: &str) -> String {
        format!("You do not have permissions to read from this Channel topic: {subtopic}")
    }

    /// One of two grants is gone.
    pub fn no_longer_read(subtopic: &str) -> String {
        format!("You no longer have permission to read from this Channel topic: {subtopic}")
    }
}

/// Reasons of refused broadcasts and presences.
pub mod push_reason {
    pub const TRACK_NOT_A_MAP: &str = "Presence track payload must be a map";
    /// Ours: the original crashes on it, or passes it on to clients that cannot read it.
    pub const BROADCAST_NOT_A_MAP: &str = "Broadcast payload must be a map";
    /// Ours: Supabase has no such limits.
    pub const TOO_MANY_MESSAGES: &str = "MessageRateLimitReached: Too many messages per minute";

    pub fn message_too_large(bytes_max: usize) -> String {
        format!("MessageSizeLimitReached: A message may have {bytes_max} bytes")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    Error,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Error => "error",
        }
    }
}

/// Which part of the server a `system` message speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    PostgresChanges,
    /// An error of this one is followed by `phx_close`.
    System,
}

impl Extension {
    pub fn as_str(self) -> &'static str {
        match self {
            Extension::PostgresChanges => "postgres_changes",
            Extension::System => "system",
        }
    }
}

/// A reply. `response` is raw JSON.
pub fn reply(
    serializer: Serializer,
    join_ref: Option<&str>,
    reference: Option<&str>,
    topic: &str,
    status: Status,
    response: &str,
) -> Bytes {
    let outgoing = Outgoing { join_ref, reference, topic, event: "phx_reply" };
    let payload_bytes = 40 + response.len();
    let frame = outgoing.encode_with(serializer, payload_bytes, |frame| {
        frame.push("{\"status\":\"");
        frame.push(status.as_str());
        frame.push("\",\"response\":");
        frame.push(response);
        frame.push("}");
    });
    frame.finish()
}

/// The response of an error reply.
pub fn reason(reason: &str) -> String {
    format!("{{\"reason\":{}}}", json_string(reason))
}

pub fn phx_close(address: &Address) -> Bytes {
    terminal(address, "phx_close", "{}")
}

pub fn phx_error(address: &Address) -> Bytes {
    terminal(address, "phx_error", r#"{"reason":"channel_crash"}"#)
}

/// Its ref is the join's: that is how clients tell that it is not about an older join (PROTOCOL 2.2).
fn terminal(address: &Address, event: &str, payload: &str) -> Bytes {
    let join_ref = address.join_ref.as_deref();
    Outgoing { join_ref, reference: join_ref, topic: &address.topic, event }.encode(address.serializer, payload)
}

/// A push to this channel alone; `payload` is raw JSON.
pub fn push(address: &Address, event: &str, payload: &str) -> Bytes {
    Outgoing { join_ref: address.join_ref.as_deref(), reference: None, topic: &address.topic, event }
        .encode(address.serializer, payload)
}

/// "Subscribed to PostgreSQL".
pub fn subscribed(address: &Address, hint: Option<&str>) -> Bytes {
    system(address, Extension::PostgresChanges, Status::Ok, message::SUBSCRIBED, hint)
}

/// What became of resuming a channel. Positions are as clients keep them.
pub struct Resumption<'a> {
    /// Where the client was; `None`: nobody knew it.
    pub from: Option<&'a str>,
    /// Where it is now.
    pub position: &'a str,
    /// Why something is missing.
    pub missing: Option<&'a str>,
    /// Why it is not remembered.
    pub refused: Option<&'a str>,
}

/// Sent behind what was replayed, to channels that ask for it only. The key `resume` is ours.
pub fn resumed(address: &Address, resumption: &Resumption<'_>) -> Bytes {
    let Resumption { from, position, missing, refused } = *resumption;
    let (state, status, text) = match (missing, refused, from) {
        (Some(reason), ..) => ("gap", Status::Error, format!("Resumed with a gap: {reason}")),
        (None, Some(why), _) => ("refused", Status::Error, format!("This channel cannot be resumed: {why}")),
        (None, None, Some(_)) => ("complete", Status::Ok, "Resumed: nothing is missing".to_owned()),
        (None, None, None) => ("started", Status::Ok, "This channel can be resumed".to_owned()),
    };
    let hint = missing.map(|_| "Read what you show from the database again");
    let mut payload = system_payload(Extension::PostgresChanges, status, &text, Some(address.subtopic()), hint);
    payload.pop();
    payload += &format!(r#","resume":{{"state":"{state}""#);
    for (key, value) in [("from", from), ("position", Some(position)), ("reason", missing.or(refused))] {
        if let Some(value) = value {
            payload += &format!(",\"{key}\":{}", json_string(value));
        }
    }
    payload += "}}";
    push(address, "system", &payload)
}

/// A subscription that was refused or that fell silent. The channel stays joined.
pub fn postgres_changes_error(address: &Address, message: &str, hint: Option<&str>) -> Bytes {
    system(address, Extension::PostgresChanges, Status::Error, message, hint)
}

/// A `system` message of a channel.
pub fn system(address: &Address, extension: Extension, status: Status, message: &str, hint: Option<&str>) -> Bytes {
    let payload = system_payload(extension, status, message, Some(address.subtopic()), hint);
    push(address, "system", &payload)
}

/// The goodbye to a channel before the server closes the socket. Not followed by `phx_close`, which clients take for
/// good: after the socket's close they come back. It has no `channel`.
pub fn disconnect(address: &Address) -> Bytes {
    let payload = system_payload(Extension::System, Status::Ok, message::DISCONNECT, None, None);
    fan_out(address, "system").encode(address.serializer, &payload)
}

/// The goodbye to a channel whose client reads too slowly; without `phx_close` for the same reason.
pub fn slow_consumer(address: &Address) -> Bytes {
    let (text, hint) = (message::SLOW_CONSUMER, Some(message::SLOW_CONSUMER_HINT));
    let payload = system_payload(Extension::System, Status::Error, text, Some(address.subtopic()), hint);
    fan_out(address, "system").encode(address.serializer, &payload)
}

fn system_payload(
    extension: Extension,
    status: Status,
    message: &str,
    channel: Option<&str>,
    hint: Option<&str>,
) -> String {
    let (status, extension) = (status.as_str(), extension.as_str());
    let message = json_string(message);
    let mut payload = format!(r#"{{"message":{message},"status":"{status}","extension":"{extension}""#);
    for (key, value) in [("channel", channel), ("hint", hint)] {
        if let Some(value) = value {
            payload += &format!(",\"{key}\":{}", json_string(value));
        }
    }
    payload.push('}');
    payload
}

/// How an event's frame is shaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventShape {
    Standard,
    /// The bare change, under the name of its operation.
    Legacy(Operation),
}

/// A change for a channel. `data` is shared, not copied: only the few bytes around it are this channel's own.
pub fn postgres_changes_frame(address: &Address, shape: EventShape, ids: &[u32], data: &Bytes) -> SmallVec<[Bytes; 3]> {
    let event = match shape {
        EventShape::Standard => "postgres_changes",
        EventShape::Legacy(operation) => operation.as_str(),
    };
    let own_bytes = 24 + 10 * ids.len();
    let frame = fan_out(address, event).encode_with(address.serializer, own_bytes, |frame| match shape {
        EventShape::Legacy(_) => frame.splice(data.clone()),
        EventShape::Standard => {
            frame.push("{\"data\":");
            frame.splice(data.clone());
            frame.push(",\"ids\":[");
            for (index, id) in ids.iter().enumerate() {
                if index > 0 {
                    frame.push(",");
                }
                frame.push_number(u64::from(*id));
            }
            frame.push("]}");
        }
    });
    SmallVec::from_buf(frame.finish_shared())
}

/// What goes to many channels alike carries no refs.
fn fan_out<'a>(address: &'a Address, event: &'a str) -> Outgoing<'a> {
    Outgoing { join_ref: None, reference: None, topic: &address.topic, event }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(serializer: Serializer) -> Address {
        Address { topic: "realtime:p1".into(), join_ref: Some("\"1\"".into()), serializer }
    }

    /// The payload of a frame shorter than 64 KiB.
    fn text(frame: &[u8]) -> &str {
        let header = if frame[1] == 126 { 4 } else { 2 };
        std::str::from_utf8(&frame[header..]).unwrap()
    }

    #[test]
    fn subscribed_reads_as_recorded() {
        assert_eq!(
            text(&subscribed(&address(Serializer::V2), None)),
            r#"["1",null,"realtime:p1","system",{"message":"Subscribed to PostgreSQL","status":"ok","extension":"postgres_changes","channel":"p1"}]"#
        );
        assert_eq!(
            text(&subscribed(&address(Serializer::V1), None)),
            r#"{"ref":null,"event":"system","payload":{"message":"Subscribed to PostgreSQL","status":"ok","extension":"postgres_changes","channel":"p1"},"topic":"realtime:p1"}"#
        );
    }

    #[test]
    fn a_hint_is_the_fifth_key() {
        let frame = postgres_changes_error(&address(Serializer::V2), "no \"x\"", Some("do y"));
        assert_eq!(
            text(&frame),
            r#"["1",null,"realtime:p1","system",{"message":"no \"x\"","status":"error","extension":"postgres_changes","channel":"p1","hint":"do y"}]"#
        );
    }

    #[test]
    fn phx_close_has_the_joins_ref_twice() {
        assert_eq!(text(&phx_close(&address(Serializer::V2))), r#"["1","1","realtime:p1","phx_close",{}]"#);
        assert_eq!(
            text(&phx_close(&address(Serializer::V1))),
            r#"{"ref":"1","event":"phx_close","payload":{},"topic":"realtime:p1"}"#
        );
        assert_eq!(
            text(&phx_error(&address(Serializer::V2))),
            r#"["1","1","realtime:p1","phx_error",{"reason":"channel_crash"}]"#
        );
    }

    #[test]
    fn the_goodbye_reads_as_recorded() {
        assert_eq!(
            text(&disconnect(&address(Serializer::V2))),
            r#"[null,null,"realtime:p1","system",{"message":"Server requested disconnect","status":"ok","extension":"system"}]"#
        );
    }

    #[test]
    fn a_change_is_spliced_into_the_channels_own_frame() {
        let data = Bytes::from_static(br#"{"type":"INSERT"}"#);
        let frame = postgres_changes_frame(&address(Serializer::V2), EventShape::Standard, &[7202714, 5], &data);
        assert_eq!(frame[1].as_ptr(), data.as_ptr());
        assert_eq!(
            text(&frame.concat()),
            r#"[null,null,"realtime:p1","postgres_changes",{"data":{"type":"INSERT"},"ids":[7202714,5]}]"#
        );
        let frame = postgres_changes_frame(&address(Serializer::V1), EventShape::Standard, &[1], &data);
        assert_eq!(
            text(&frame.concat()),
            r#"{"ref":null,"event":"postgres_changes","payload":{"data":{"type":"INSERT"},"ids":[1]},"topic":"realtime:p1"}"#
        );
    }

    #[test]
    fn a_legacy_channel_gets_the_bare_change() {
        let data = Bytes::from_static(br#"{"type":"DELETE"}"#);
        let shape = EventShape::Legacy(Operation::Delete);
        let frame = postgres_changes_frame(&address(Serializer::V2), shape, &[1], &data);
        assert_eq!(text(&frame.concat()), r#"[null,null,"realtime:p1","DELETE",{"type":"DELETE"}]"#);
    }
}
