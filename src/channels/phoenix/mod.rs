//! The two serializers of Phoenix: frames to [`Incoming`], and [`Outgoing`] to frames.
//!
//! Refs are kept as the raw JSON that the client sent and echoed as they came. Payloads stay raw too: whoever needs one
//! parses it, and most need none. Unknown and malformed frames are dropped, never answered and never fatal (PROTOCOL 2).

pub mod v1;
pub mod v2;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::frame::TextFrame;

/// A ref longer than this is nobody's: the binary frames cannot carry one either. A join's ref is kept for as long as
/// the channel is, so it must have a limit.
const REF_BYTES_MAX: usize = 255;

/// Which wire format a socket speaks: the `vsn` of its upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Serializer {
    /// `vsn=1.0.0`: one object per text frame.
    V1,
    /// `vsn=2.0.0`: arrays in text frames, and binary frames.
    V2,
}

/// A frame from the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming<'a> {
    /// Raw JSON; `None` is null or absent.
    pub join_ref: Option<Cow<'a, str>>,
    /// Raw JSON; `None` is null.
    pub reference: Option<Cow<'a, str>>,
    pub topic: Cow<'a, str>,
    pub event: Cow<'a, str>,
    pub payload: Payload<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Payload<'a> {
    /// The raw text of a JSON value.
    Json(&'a str),
    /// Kind 3: a broadcast whose payload the server never reads.
    UserBroadcast { event: &'a str, json: bool, bytes: &'a [u8] },
    /// Kind 0, of plain Phoenix; no official client sends it.
    Binary(&'a [u8]),
}

impl Payload<'_> {
    pub fn len(&self) -> usize {
        match self {
            Payload::Json(text) => text.len(),
            Payload::UserBroadcast { bytes, .. } | Payload::Binary(bytes) => bytes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Serializer {
    pub fn decode_text(self, text: &str) -> Option<Incoming<'_>> {
        match self {
            Serializer::V1 => v1::decode(text),
            Serializer::V2 => v2::decode(text),
        }
    }

    pub fn decode_binary(self, bytes: &[u8]) -> Option<Incoming<'_>> {
        match self {
            // Version 1 has no binary frames; they are dropped.
            Serializer::V1 => None,
            Serializer::V2 => v2::decode_binary(bytes),
        }
    }
}

/// A frame for the client, but for its payload.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Raw JSON. Version 1 never shows it.
    pub join_ref: Option<&'a str>,
    /// Raw JSON.
    pub reference: Option<&'a str>,
    pub topic: &'a str,
    pub event: &'a str,
}

impl Outgoing<'_> {
    /// The frame around a payload of raw JSON.
    pub fn encode(&self, serializer: Serializer, payload: &str) -> Bytes {
        self.encode_with(serializer, payload.len(), |frame| frame.push(payload)).finish()
    }

    pub fn encode_with(
        &self,
        serializer: Serializer,
        payload_bytes: usize,
        payload: impl FnOnce(&mut TextFrame),
    ) -> TextFrame {
        let refs = self.join_ref.map_or(4, str::len) + self.reference.map_or(4, str::len);
        // 64: the punctuation and keys of version 1; topics that need escapes make the buffer grow once.
        let mut frame = TextFrame::with_capacity(64 + refs + self.topic.len() + self.event.len() + payload_bytes);
        match serializer {
            Serializer::V1 => v1::write(self, &mut frame, payload),
            Serializer::V2 => v2::write(self, &mut frame, payload),
        }
        frame
    }
}

/// How a channel is spoken to: what its frames say besides event and payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// With its `realtime:`.
    pub topic: Arc<str>,
    /// The raw JSON of the join's `join_ref`; for version 1, whose frames have none, of its `ref`.
    pub join_ref: Option<Arc<str>>,
    pub serializer: Serializer,
}

impl Address {
    /// The topic without `realtime:`, as system messages name the channel.
    pub fn subtopic(&self) -> &str {
        self.topic.strip_prefix(super::topic::PREFIX).unwrap_or(&self.topic)
    }
}

/// Null reads as no ref. `Err` when it is too long to be one.
fn reference_of(raw: &RawValue) -> Result<Option<Cow<'_, str>>, RefTooLong> {
    match raw.get() {
        "null" => Ok(None),
        text if text.len() > REF_BYTES_MAX => Err(RefTooLong),
        text => Ok(Some(Cow::Borrowed(text))),
    }
}

struct RefTooLong;
