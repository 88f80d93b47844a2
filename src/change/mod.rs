//! Changes: rows put together from frames, with the catalog that describes them.
//!
//! Given frames in stream order; gives whole [`Transaction`]s at their Commit. Knows no subscribers.

pub mod assembler;
mod frame_buffer;
mod in_progress;
pub mod metrics;
pub mod row;
mod spool;
pub mod tracked_log;

use std::sync::Arc;

pub use assembler::{Assembler, Relations, Transaction};
pub use metrics::SpillMetrics;
pub use row::{Layout, OldRow, Row};
pub use tracked_log::{TrackedChange, TrackedLog};

use crate::catalog::Relation;
use crate::wal::{Lsn, Position};

/// INSERT, UPDATE or DELETE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Insert => "INSERT",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        }
    }
}

/// One changed row.
#[derive(Clone, Debug)]
pub struct Change {
    pub relation: Arc<Relation>,
    pub operation: Operation,
    /// The row after the change; `None` for DELETE.
    pub new: Option<Row>,
    /// The row before it, as far as the replica identity lets the stream carry it; `Absent` for INSERT.
    pub old: OldRow,
    /// Of a DELETE whose old row the stream has in part: more of it, as `--delete-index` has kept it. To judge by, not
    /// to be shown; read as an old row of which other columns are not known.
    pub kept: Option<Row>,
    /// Of its transaction's commit record.
    pub commit_lsn: Lsn,
    /// Its place in the transaction, counted from 0.
    pub index: u32,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub commit_timestamp: i64,
}

impl Change {
    /// The image that filters are evaluated on (PROTOCOL 4.6): the new row, or the old one of a DELETE.
    pub fn filtered_row(&self) -> Option<&Row> {
        self.new.as_ref().or_else(|| self.known_old())
    }

    pub fn position(&self) -> Position {
        Position { lsn: self.commit_lsn, index: self.index }
    }

    /// As much of the old row as is known.
    pub fn known_old(&self) -> Option<&Row> {
        self.kept.as_ref().or_else(|| self.old.row())
    }
}

/// What identifies a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionHeader {
    pub xid: u32,
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub commit_timestamp: i64,
}
