//! What is broadcast, wherever it comes from, and the frames that it becomes (PROTOCOL 2.4).

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::phoenix::{Outgoing, Serializer, v2};

/// A message to everybody on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A JSON object that every receiver gets as it is: text frames `broadcast`, and REST's batch.
    Object(&'a str),
    /// An event with a payload that is not looked into: kind 3, REST's single event, rows of the database. Receivers of
    /// version 2 get it as kind 4, those of version 1 as text, and nothing where it is binary.
    Event {
        event: &'a str,
        payload: EventPayload<'a>,
        /// `meta.id`: the row's id.
        id: Option<&'a str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventPayload<'a> {
    Json(&'a [u8]),
    Binary(&'a [u8]),
}

impl<'a> Content<'a> {
    pub fn payload_bytes(&self) -> usize {
        match self {
            Content::Object(text) => text.len(),
            Content::Event { payload: EventPayload::Json(bytes) | EventPayload::Binary(bytes), .. } => bytes.len(),
        }
    }

    /// By which a copy of what was replayed is known.
    pub fn id(&self) -> Option<&'a str> {
        match self {
            Content::Object(_) => None,
            Content::Event { id, .. } => *id,
        }
    }

    fn encode(&self, serializer: Serializer, topic: &str) -> Option<Bytes> {
        let outgoing = Outgoing { join_ref: None, reference: None, topic, event: "broadcast" };
        match *self {
            Content::Object(payload) => Some(outgoing.encode(serializer, payload)),
            Content::Event { event, payload, id } => {
                let metadata = id.map(|id| meta(id, false)).unwrap_or_default();
                if serializer == Serializer::V2
                    && let Some(frame) = v2::user_broadcast(topic, event, &metadata, payload)
                {
                    return Some(frame);
                }
                // To version 1, and where a name is too long for the one byte that kind 4 has for its length.
                Some(outgoing.encode(serializer, &event_object(event, payload, &metadata)?))
            }
        }
    }
}

/// `meta` of a message from the database.
pub fn meta(id: &str, replayed: bool) -> String {
    let id = serde_json::Value::from(id);
    if replayed { format!("{{\"id\":{id},\"replayed\":true}}") } else { format!("{{\"id\":{id}}}") }
}

/// The payload of a text frame `broadcast`. `None` for what text cannot carry: bytes, and JSON that is none, which the
/// original splices into its frame all the same.
pub fn event_object(event: &str, payload: EventPayload<'_>, meta: &str) -> Option<String> {
    let EventPayload::Json(payload) = payload else { return None };
    let payload = std::str::from_utf8(payload).ok()?;
    serde_json::from_str::<IgnoredAny>(payload).ok()?;
    let event = serde_json::Value::from(event);
    let meta = if meta.is_empty() { String::new() } else { format!(",\"meta\":{meta}") };
    Some(format!("{{\"event\":{event},\"payload\":{payload},\"type\":\"broadcast\"{meta}}}"))
}

/// The frames of one broadcast on one topic: one per serializer, made when the first receiver wants it, then shared.
pub struct Frames<'a> {
    content: &'a Content<'a>,
    topic: &'a str,
    v1: Made,
    v2: Made,
}

enum Made {
    NotYet,
    Frame(Bytes),
    /// There is none for this serializer.
    Never,
}

impl<'a> Frames<'a> {
    /// `topic` with its `realtime:`.
    pub fn new(content: &'a Content<'a>, topic: &'a str) -> Frames<'a> {
        Frames { content, topic, v1: Made::NotYet, v2: Made::NotYet }
    }

    pub fn get(&mut self, serializer: Serializer) -> Option<&Bytes> {
        let made = match serializer {
            Serializer::V1 => &mut self.v1,
            Serializer::V2 => &mut self.v2,
        };
        if let Made::NotYet = made {
            *made = self.content.encode(serializer, self.topic).map_or(Made::Never, Made::Frame);
        }
        match made {
            Made::Frame(frame) => Some(frame),
            Made::NotYet | Made::Never => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(content: Content<'_>, serializer: Serializer) -> Option<Vec<u8>> {
        let mut frames = Frames::new(&content, "realtime:bb");
        let frame = frames.get(serializer)?.clone();
        assert_eq!(frames.get(serializer).unwrap().as_ptr(), frame.as_ptr(), "encoded once");
        let header = if frame[1] == 126 { 4 } else { 2 };
        Some(frame[header..].to_vec())
    }

    fn event<'a>(payload: EventPayload<'a>, id: Option<&'a str>) -> Content<'a> {
        Content::Event { event: "js", payload, id }
    }

    #[test]
    fn an_object_is_echoed_to_both_versions() {
        let content = Content::Object(r#"{"extra": 1.50}"#);
        assert_eq!(
            frame(content, Serializer::V2).unwrap(),
            br#"[null,null,"realtime:bb","broadcast",{"extra": 1.50}]"#
        );
        assert_eq!(
            frame(content, Serializer::V1).unwrap(),
            br#"{"ref":null,"event":"broadcast","payload":{"extra": 1.50},"topic":"realtime:bb"}"#
        );
    }

    #[test]
    fn a_json_event_is_kind_4_or_text() {
        let content = event(EventPayload::Json(br#"{"a":1}"#), None);
        assert_eq!(frame(content, Serializer::V2).unwrap(), b"\x04\x0b\x02\x00\x01realtime:bbjs{\"a\":1}");
        assert_eq!(
            frame(content, Serializer::V1).unwrap(),
            br#"{"ref":null,"event":"broadcast","payload":{"event":"js","payload":{"a":1},"type":"broadcast"},"topic":"realtime:bb"}"#
        );
    }

    #[test]
    fn a_row_carries_its_id() {
        let content = event(EventPayload::Json(b"{}"), Some("x"));
        assert_eq!(frame(content, Serializer::V2).unwrap(), b"\x04\x0b\x02\x0a\x01realtime:bbjs{\"id\":\"x\"}{}");
        let text = String::from_utf8(frame(content, Serializer::V1).unwrap()).unwrap();
        assert!(text.contains(r#""type":"broadcast","meta":{"id":"x"}}"#), "{text}");
    }

    #[test]
    fn bytes_and_what_is_no_json_never_go_to_version_1() {
        let binary = event(EventPayload::Binary(b"\x00\x01"), None);
        assert_eq!(frame(binary, Serializer::V2).unwrap(), b"\x04\x0b\x02\x00\x00realtime:bbjs\x00\x01");
        assert_eq!(frame(binary, Serializer::V1), None);
        for payload in [&b"notjson"[..], b"\xff", b"", b"1,2", b"{}}"] {
            let content = event(EventPayload::Json(payload), None);
            assert!(frame(content, Serializer::V2).is_some());
            assert_eq!(frame(content, Serializer::V1), None);
        }
    }

    #[test]
    fn names_too_long_for_kind_4_go_as_text() {
        let long = "e".repeat(256);
        let content = Content::Event { event: &long, payload: EventPayload::Json(b"{}"), id: None };
        let text = String::from_utf8(frame(content, Serializer::V2).unwrap()).unwrap();
        assert!(text.starts_with(r#"[null,null,"realtime:bb","broadcast",{"event":"eee"#));
        let content = Content::Event { event: &long, payload: EventPayload::Binary(b""), id: None };
        assert_eq!(frame(content, Serializer::V2), None);
    }
}
