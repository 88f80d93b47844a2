//! A row of `realtime.messages`, read where it lies.

use std::borrow::Cow;

use crate::wal::hex;
use crate::wal::pgoutput::{Datum, StreamRelation, Tuple};

/// The lengths of a frame of kind 4 are bytes (PROTOCOL 2.3), and its topic has `realtime:` before it.
const EVENT_BYTES_MAX: usize = 255;
const TOPIC_BYTES_MAX: usize = 255 - "realtime:".len();

/// What is broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) private: bool,
    pub(super) topic: &'a str,
    pub(super) event: &'a str,
    pub(super) id: &'a str,
    pub(super) payload: Cow<'a, [u8]>,
    pub(super) is_binary: bool,
}

/// Why something of the database is not broadcast, whoever it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    #[error("its topic, event, private, id, inserted_at or payload is NULL, or not in the publication")]
    Incomplete,
    #[error("its topic or event is longer than a frame can say")]
    TooLong,
    #[error("its payload is above the limit")]
    TooLarge,
    #[error("there are more events a second than allowed")]
    TooMany,
}

impl Dropped {
    pub fn label(self) -> &'static str {
        match self {
            Dropped::Incomplete => "incomplete",
            Dropped::TooLong => "too_long",
            Dropped::TooLarge => "too_large",
            Dropped::TooMany => "too_many",
        }
    }
}

impl Message<'_> {
    pub(super) fn is_sayable(&self) -> bool {
        self.event.len() <= EVENT_BYTES_MAX && self.topic.len() <= TOPIC_BYTES_MAX
    }
}

/// Where the columns stand in the stream's rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    topic: usize,
    event: usize,
    private: usize,
    id: usize,
    inserted_at: usize,
    payload: usize,
    binary_payload: usize,
}

impl Columns {
    pub(super) fn of(stream: &StreamRelation) -> Columns {
        // A column that is not there is beyond the end of every row.
        let place = |name: &str| stream.columns.iter().position(|column| column.name == name).unwrap_or(usize::MAX);
        Columns {
            topic: place("topic"),
            event: place("event"),
            private: place("private"),
            id: place("id"),
            inserted_at: place("inserted_at"),
            payload: place("payload"),
            binary_payload: place("binary_payload"),
        }
    }

    /// The payload is the column's text as it is; a binary one wins.
    pub(super) fn message<'a>(&self, new: &'a Tuple) -> Result<Message<'a>, Dropped> {
        let value = |place| match new.get(place) {
            Datum::Text(text) => Some(text),
            Datum::Null | Datum::Missing | Datum::UnchangedToast => None,
        };
        let text = |place| value(place).and_then(|value| std::str::from_utf8(value).ok()).ok_or(Dropped::Incomplete);
        value(self.inserted_at).ok_or(Dropped::Incomplete)?;
        let binary = value(self.binary_payload);
        let payload = match binary {
            Some(bytea) => Cow::Owned(hex::bytea(bytea).ok_or(Dropped::Incomplete)?),
            None => Cow::Borrowed(value(self.payload).ok_or(Dropped::Incomplete)?),
        };
        let message = Message {
            private: text(self.private)? == "t",
            topic: text(self.topic)?,
            event: text(self.event)?,
            id: text(self.id)?,
            payload,
            is_binary: binary.is_some(),
        };
        if message.is_sayable() { Ok(message) } else { Err(Dropped::TooLong) }
    }
}
