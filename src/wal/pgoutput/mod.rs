//! The `pgoutput` protocol, version 2 with `streaming 'on'` (manual: "Logical Replication Message Formats").
//!
//! No sockets and no clock. Decoding is total: every byte string gives a message or a typed error with an offset.

pub mod decode;
pub mod encode;
pub mod message;

pub use super::cursor::{DecodeError, Fault};
pub use decode::{commit_end, decode, in_block, relation_id, tag};
pub use encode::{encode, encode_in_block};
pub use message::{Begin, Commit, Datum, Field, Message, OldTuple, RelationColumn, RelationId, StreamRelation, Tuple};
