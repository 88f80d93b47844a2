//! Replication: one connection to one logical slot, read as raw `pgoutput` frames.
//!
//! Given a conninfo and a slot; gives frames in stream order and keeps the slot's confirmed position.
//! Knows nothing of tables' meaning, subscribers or policies.
//!
//! ```text
//! conninfo ─► transport ─► login ─► connection ─► stream ─► Batch ─► dispatch
//!               tls                    frames        │                   │
//!                                                    └──── Progress ◄────┘
//! ```
//!
//! [`Reader`] keeps a stream running; [`slot`] and [`publication`] say what is wrong, and the statement that mends it.
//! Ordinary SQL connections come from [`Conninfo::connect`], under the same rules for TLS.

mod acquire;
pub mod batch;
pub mod budget;
pub mod budget_watch;
pub mod connection;
pub mod conninfo;
mod copy_data;
mod cursor;
pub mod error;
mod frames;
pub mod hex;
pub mod history;
pub mod logical;
mod login;
pub mod lsn;
pub mod metrics;
pub mod pgoutput;
pub mod pins;
pub mod position;
pub mod progress;
pub mod publication;
pub mod reader;
mod recovery;
pub mod server_error;
pub mod slot;
pub mod slot_making;
mod sql_tls;
mod stopping;
mod stream;
pub mod tls;
mod transport;
pub mod warning;

pub use batch::{Batch, Started, StreamFrame};
pub use budget::{Budget, Rung, SlotPressure};
pub use conninfo::{Conninfo, ConninfoError};
pub use error::Error;
pub use history::History;
pub(crate) use login::output_settings_sql;
pub use lsn::Lsn;
pub use metrics::WalMetrics;
pub use position::{Origin, Position, Stamp};
pub use progress::Progress;
pub use reader::{Config, Handle, Reader, ReaderState, reader};
pub use recovery::Backoff;
pub use server_error::ServerError;
pub use slot::{SlotConfig, SlotMode};
