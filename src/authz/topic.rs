//! Who may read from and write to a private channel: the policies of `realtime.messages` (PROTOCOL 5).
//!
//! The question is what Postgres would answer of a probe row under the role, the claims, `realtime.topic` and
//! `request.headers`: SELECT policies for reading, INSERT policies (WITH CHECK) for writing. A policy that raises an error
//! grants nothing.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::policy::decode::decode;
use super::policy::failure::Undecided;
use super::policy::{Failure, Row, RowTypes, Value};
use super::{Identity, RowText};
use crate::catalog::{ColumnIndex, Relation};

/// May this person read this topic, or write to it?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicQuestion {
    pub identity: Arc<Identity>,
    /// Without `realtime:`: what `realtime.topic()` returns.
    pub topic: Arc<str>,
    /// A JSON object's text: what `current_setting('request.headers')` returns.
    pub headers: Arc<str>,
    pub right: TopicRight,
    /// Whether presence is asked about too; broadcast always is.
    pub presence: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopicRight {
    Read,
    Write,
}

/// What is granted, by the `extension` of the probe row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicGrant {
    pub broadcast: bool,
    /// `false` where it was not asked about.
    pub presence: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// `realtime.messages` is not there, or there is no login to ask with.
    #[error("Realtime was unable to connect to the project database")]
    Unavailable,
    /// It took longer than the limit, or was cancelled.
    #[error("Query was cancelled, please try again")]
    Cancelled,
}

/// Who answers such questions: dispatch, or a test. Asking never waits; a receiver that is dropped takes nothing with it.
pub trait TopicAuthority: Send + Sync {
    fn ask(&self, question: TopicQuestion) -> oneshot::Receiver<Result<TopicGrant, TopicError>>;
}

/// Which row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    Broadcast,
    Presence,
}

impl Extension {
    fn name(self) -> &'static str {
        match self {
            Extension::Broadcast => "broadcast",
            Extension::Presence => "presence",
        }
    }
}

impl TopicQuestion {
    /// The rows that it is about.
    pub fn extensions(&self) -> &'static [Extension] {
        if self.presence { &[Extension::Broadcast, Extension::Presence] } else { &[Extension::Broadcast] }
    }
}

impl TopicGrant {
    /// Everything that was asked about.
    pub fn all_of(question: &TopicQuestion) -> TopicGrant {
        TopicGrant { broadcast: true, presence: question.presence }
    }

    pub fn set(&mut self, extension: Extension, granted: bool) {
        match extension {
            Extension::Broadcast => self.broadcast = granted,
            Extension::Presence => self.presence = granted,
        }
    }
}

/// The row of `realtime.messages` that the policies are asked about. Everything but the topic and the extension is as
/// the table's defaults make it, in the original too: `private` is false.
pub struct Probe(Box<[Cell]>);

enum Cell {
    Text {
        text: String,
        value: Result<Value, Failure>,
    },
    Null(Value),
    /// As a default makes it, when Postgres is asked; there is no value here.
    Default(String),
    /// A column that nobody knows here.
    Unknown,
}

impl Probe {
    pub fn of(relation: &Relation, types: &RowTypes, topic: &str, extension: Extension) -> Probe {
        let cell = |index: ColumnIndex| {
            let column = relation.column(index);
            let text = |text: &str| {
                let unknown = || Failure::undecided("a value of an unknown type");
                let value = types.get(index).ok_or_else(unknown).and_then(|of| decode(of, text));
                Cell::Text { text: text.to_owned(), value }
            };
            match column.name.as_str() {
                "topic" => text(topic),
                "extension" => text(extension.name()),
                "private" => text("f"),
                "payload" | "event" | "binary_payload" => Cell::Null(Value::Null),
                // Read by Postgres when it is asked: the time of that transaction, as in a default.
                "inserted_at" | "updated_at" => Cell::Default("now".to_owned()),
                "id" => Cell::Default(random_uuid()),
                _ => Cell::Unknown,
            }
        };
        Probe(relation.indices().map(cell).collect())
    }

    /// For Postgres.
    pub fn text(&self) -> RowText {
        let field = |cell: &Cell| match cell {
            Cell::Text { text, .. } | Cell::Default(text) => Some(Some(text.clone())),
            Cell::Null(_) => Some(None),
            Cell::Unknown => None,
        };
        RowText::of_fields(self.0.iter().map(field))
    }
}

impl Row for Probe {
    fn value(&self, column: ColumnIndex) -> Result<&Value, Failure> {
        match self.0.get(usize::from(column.0)) {
            Some(Cell::Text { value, .. }) => value.as_ref().map_err(Clone::clone),
            Some(Cell::Null(null)) => Ok(null),
            Some(Cell::Default(_) | Cell::Unknown) | None => Err(Failure::Undecided(Undecided::ColumnMissing(column))),
        }
    }
}

fn random_uuid() -> String {
    // Version 4, variant 1 (RFC 9562).
    let bits = rand::random::<u128>() & !(0xf000 << 64 | 0xc000 << 48) | (0x4000 << 64 | 0x8000 << 48);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
