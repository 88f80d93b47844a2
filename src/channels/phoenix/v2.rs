//! Version 2.0.0: `[join_ref, ref, topic, event, payload]`, and binary frames (PROTOCOL 2.2, 2.3).

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserializer;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Incoming, Outgoing, Payload, reference_of};
use crate::channels::broadcast::EventPayload;
use crate::channels::frame::{self, TextFrame};

const KIND_PUSH: u8 = 0;
const KIND_USER_BROADCAST_PUSH: u8 = 3;
const KIND_USER_BROADCAST: u8 = 4;

const ENCODING_BINARY: u8 = 0;
const ENCODING_JSON: u8 = 1;

pub fn decode(text: &str) -> Option<Incoming<'_>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let incoming = deserializer.deserialize_seq(Array).ok()??;
    deserializer.end().ok()?;
    Some(incoming)
}

struct Array;

impl<'a> Visitor<'a> for Array {
    /// `None`: an array, but not one of ours.
    type Value = Option<Incoming<'a>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of five")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let incoming = read(&mut array)?;
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(incoming)
    }
}

fn read<'a, A: SeqAccess<'a>>(array: &mut A) -> Result<Option<Incoming<'a>>, A::Error> {
    let Some(join_ref) = array.next_element::<&'a RawValue>()? else { return Ok(None) };
    let Some(reference) = array.next_element::<&'a RawValue>()? else { return Ok(None) };
    let Some(topic) = array.next_element::<Text<'a>>()? else { return Ok(None) };
    let Some(event) = array.next_element::<Text<'a>>()? else { return Ok(None) };
    let Some(payload) = array.next_element::<&'a RawValue>()? else { return Ok(None) };
    let (Ok(join_ref), Ok(reference)) = (reference_of(join_ref), reference_of(reference)) else { return Ok(None) };
    Ok(Some(Incoming { join_ref, reference, topic: topic.0, event: event.0, payload: Payload::Json(payload.get()) }))
}

/// A string, borrowed where it has no escapes (a plain `Cow` would always own).
#[derive(serde::Deserialize)]
pub(in crate::channels) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Kind 3, which realtime-js sends for every broadcast, and kind 0 of plain Phoenix. Sizes are bytes of UTF-8; kind 3's
/// metadata is discarded, as the original does.
pub fn decode_binary(bytes: &[u8]) -> Option<Incoming<'_>> {
    match *bytes {
        [KIND_USER_BROADCAST_PUSH, join_ref, reference, topic, event, metadata, encoding, ref rest @ ..] => {
            let (join_ref, rest) = take(rest, join_ref)?;
            let (reference, rest) = take(rest, reference)?;
            let (topic, rest) = take(rest, topic)?;
            let (event, rest) = take(rest, event)?;
            let (_, bytes) = take(rest, metadata)?;
            let payload = Payload::UserBroadcast { event, json: encoding != ENCODING_BINARY, bytes };
            Some(from_binary(join_ref, reference, topic, "broadcast", payload))
        }
        [KIND_PUSH, join_ref, reference, topic, event, ref rest @ ..] => {
            let (join_ref, rest) = take(rest, join_ref)?;
            let (reference, rest) = take(rest, reference)?;
            let (topic, rest) = take(rest, topic)?;
            let (event, bytes) = take(rest, event)?;
            Some(from_binary(join_ref, reference, topic, event, Payload::Binary(bytes)))
        }
        _ => None,
    }
}

fn from_binary<'a>(
    join_ref: &'a str,
    reference: &'a str,
    topic: &'a str,
    event: &'a str,
    payload: Payload<'a>,
) -> Incoming<'a> {
    let quoted = |text: &str| (!text.is_empty()).then(|| Cow::Owned(serde_json::Value::from(text).to_string()));
    Incoming {
        join_ref: quoted(join_ref),
        reference: quoted(reference),
        topic: Cow::Borrowed(topic),
        event: Cow::Borrowed(event),
        payload,
    }
}

fn take(bytes: &[u8], length: u8) -> Option<(&str, &[u8])> {
    let (text, rest) = bytes.split_at_checked(usize::from(length))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

/// Kind 4, the only binary frame that clients read. `None` when a name has more than 255 bytes.
pub fn user_broadcast(topic: &str, event: &str, metadata: &str, payload: EventPayload<'_>) -> Option<Bytes> {
    let length = |text: &str| u8::try_from(text.len()).ok();
    let (encoding, bytes) = match payload {
        EventPayload::Json(bytes) => (ENCODING_JSON, bytes),
        EventPayload::Binary(bytes) => (ENCODING_BINARY, bytes),
    };
    let head = [KIND_USER_BROADCAST, length(topic)?, length(event)?, length(metadata)?, encoding];
    Some(frame::binary(&[&head, topic.as_bytes(), event.as_bytes(), metadata.as_bytes(), bytes]))
}

pub fn write(outgoing: &Outgoing<'_>, frame: &mut TextFrame, payload: impl FnOnce(&mut TextFrame)) {
    frame.push("[");
    frame.push(outgoing.join_ref.unwrap_or("null"));
    frame.push(",");
    frame.push(outgoing.reference.unwrap_or("null"));
    frame.push(",");
    frame.push_json(outgoing.topic);
    frame.push(",");
    frame.push_json(outgoing.event);
    frame.push(",");
    payload(frame);
    frame.push("]");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_array_of_five_is_dropped() {
        for malformed in [
            "hello",
            "",
            "{}",
            "[]",
            "null",
            "123",
            r#"[null,"1","phoenix"]"#,
            r#"[null,"1","phoenix","heartbeat"]"#,
            r#"[null,"1",null,"heartbeat",{}]"#,
            r#"[null,"1","phoenix",5,{}]"#,
            r#"[null,"1","phoenix","heartbeat",{}] []"#,
            r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":7}"#,
        ] {
            assert_eq!(decode(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn elements_past_the_fifth_are_ignored() {
        let incoming = decode(r#"["1",7,"t","e",{"a":1},{"more":[]},null]"#).unwrap();
        assert_eq!(incoming.join_ref.as_deref(), Some("\"1\""));
        assert_eq!(incoming.reference.as_deref(), Some("7"));
        assert_eq!(incoming.payload, Payload::Json(r#"{"a":1}"#));
        assert!(matches!(incoming.topic, Cow::Borrowed("t")));
    }

    #[test]
    fn a_user_broadcast_is_read_whatever_its_metadata() {
        let mut frame = vec![3, 0, 1, 10, 3, 2, 1];
        frame.extend_from_slice(b"5realtime:acur{}{\"x\":1}");
        let incoming = decode_binary(&frame).unwrap();
        assert_eq!(incoming.join_ref, None);
        assert_eq!(incoming.reference.as_deref(), Some("\"5\""));
        assert_eq!(incoming.topic, "realtime:a");
        assert_eq!(incoming.event, "broadcast");
        let payload = Payload::UserBroadcast { event: "cur", json: true, bytes: b"{\"x\":1}" };
        assert_eq!(incoming.payload, payload);
    }

    #[test]
    fn a_plain_push_is_read() {
        let incoming = decode_binary(b"\x00\x01\x01\x01\x0112te\xff\x00").unwrap();
        assert_eq!((&*incoming.topic, &*incoming.event), ("t", "e"));
        assert_eq!(incoming.payload, Payload::Binary(b"\xff\x00"));
    }

    #[test]
    fn no_prefix_of_a_binary_frame_and_no_garbage_is_read_past_its_end() {
        let whole = b"\x03\x01\x01\x02\x02\x02\x0112ttee{}";
        assert!(decode_binary(whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(decode_binary(&whole[..length]), None);
        }
        for garbage in [&b"\x00"[..], b"\xff\x00", b"\x03\x01", b"\xde\xad\xbe\xef", b"\x00\x00\x00\x01\x00\xff"] {
            assert_eq!(decode_binary(garbage), None);
        }
    }
}
