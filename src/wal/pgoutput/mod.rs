//! The `pgoutput` protocol, version 1 (manual: "Logical Replication Message Formats").
//!
//! No sockets and no clock. Decoding is total: every byte string gives a message or a typed error with an offset.

pub mod message;

pub use message::{Datum, Field, RelationColumn, RelationId, StreamRelation, Tuple};
