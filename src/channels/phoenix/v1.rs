//! Version 1.0.0: `{"topic":..,"event":..,"payload":..,"ref":..,"join_ref":..}` (PROTOCOL 2.1).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Incoming, Outgoing, Payload, reference_of};
use crate::channels::frame::TextFrame;

/// `payload` and `ref` must be there, whatever they hold; `join_ref` need not.
#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow, rename = "ref")]
    reference: &'a RawValue,
    #[serde(borrow)]
    join_ref: Option<&'a RawValue>,
}

pub fn decode(text: &str) -> Option<Incoming<'_>> {
    // A derived struct also reads from an array, which is version 2's shape and not ours.
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let object: Object<'_> = serde_json::from_str(text).ok()?;
    Some(Incoming {
        join_ref: object.join_ref.map_or(Ok(None), reference_of).ok()?,
        reference: reference_of(object.reference).ok()?,
        topic: object.topic,
        event: object.event,
        payload: Payload::Json(object.payload.get()),
    })
}

/// In the order of the original: ref, event, payload, topic. `ref` is there even when null: python's validators ask for it.
pub fn write(outgoing: &Outgoing<'_>, frame: &mut TextFrame, payload: impl FnOnce(&mut TextFrame)) {
    frame.push("{\"ref\":");
    frame.push(outgoing.reference.unwrap_or("null"));
    frame.push(",\"event\":");
    frame.push_json(outgoing.event);
    frame.push(",\"payload\":");
    payload(frame);
    frame.push(",\"topic\":");
    frame.push_json(outgoing.topic);
    frame.push("}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misses_a_key_or_is_no_object_is_dropped() {
        for malformed in [
            "hello",
            "",
            "{}",
            "[]",
            "null",
            "123",
            r#"{"topic":"phoenix"}"#,
            r#"{"topic":"phoenix","event":"heartbeat","payload":{}}"#,
            r#"{"topic":null,"event":"heartbeat","payload":{},"ref":"1"}"#,
            r#"[null,"1","phoenix"]"#,
            r#"["phoenix","heartbeat",{},"1","1"]"#,
            r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"} x"#,
        ] {
            assert_eq!(decode(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn refs_of_any_json_type_are_kept_as_they_came() {
        let ref_of = |text: &str| decode(text).unwrap().reference.map(Cow::into_owned);
        assert_eq!(ref_of(r#"{"topic":"t","event":"e","payload":{},"ref":7}"#).as_deref(), Some("7"));
        assert_eq!(ref_of(r#"{"topic":"t","event":"e","payload":{},"ref":{"a": 1}}"#).as_deref(), Some(r#"{"a": 1}"#));
        assert_eq!(ref_of(r#"{"topic":"t","event":"e","payload":null,"ref":null}"#), None);
    }

    #[test]
    fn a_ref_that_nobody_would_send_drops_the_frame() {
        let long = "x".repeat(300);
        assert_eq!(decode(&format!(r#"{{"topic":"t","event":"e","payload":{{}},"ref":"{long}"}}"#)), None);
    }

    #[test]
    fn unknown_keys_and_escapes_are_read() {
        let text = r#"{"x":1,"topic":"a\"b","event":"e","payload":{"a":[1]},"ref":"1","join_ref":"2"}"#;
        let incoming = decode(text).unwrap();
        assert_eq!(incoming.topic, "a\"b");
        assert_eq!(incoming.join_ref.as_deref(), Some("\"2\""));
        assert_eq!(incoming.payload, Payload::Json(r#"{"a":[1]}"#));
    }
}
