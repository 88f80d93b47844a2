//! Replication: one connection to one logical slot, read as raw `pgoutput` frames.
//!
//! Given a conninfo and a slot; gives frames in stream order and keeps the slot's confirmed position.
//! Knows nothing of tables' meaning, subscribers or policies.

mod cursor;
pub mod lsn;
pub mod pgoutput;

pub use lsn::Lsn;
