//! What the reader hands to dispatch.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::Lsn;
use super::history::History;
use super::logical::BroadcastKey;
use super::pgoutput::RelationId;

/// A piece of the stream, in stream order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamFrame {
    /// A stream begins. A transaction that was half read comes again whole: what is held of it is to be dropped.
    Started(Started),
    /// One `pgoutput` message.
    Data { bytes: Bytes, wal_start: Lsn },
    /// The server has sent everything before this position; see [`super::Progress`] for what dispatch makes of it.
    KeepAlive { wal_end: Lsn },
    /// A message above `frame_bytes_max` was thrown away unread: its transaction is incomplete.
    SkippedFrame {
        wal_start: Lsn,
        /// `pgoutput`'s tag: `I`, `U`, `D`, `M`.
        tag: Option<u8>,
        relation: Option<RelationId>,
        /// Within a block of a transaction in progress: the (sub)transaction.
        subxid: Option<u32>,
        bytes: u64,
    },
    /// The stream broke; `Started` follows when it is back.
    Disconnected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Counts the streams of this process, from 1.
    pub generation: u64,
    pub system_identifier: String,
    pub timeline: u32,
    /// Which positions of earlier streams, and of earlier timelines, still mean something.
    pub history: Arc<History>,
    pub server_major: u32,
    /// Where the stream begins: transactions that end after it come, whole.
    pub confirmed: Lsn,
    /// How far the server's WAL had been flushed.
    pub wal_end: Lsn,
    /// Whether walcast's own publication is read as well. Without it `walcast.ddl_log` and tracked tables are silent.
    pub own_publication: bool,
    /// `realtime.messages`, where it may be believed: what is inserted there is broadcast.
    pub messages: Option<RelationId>,
    /// What `walcast.send` signs with; without it logical messages are not asked for.
    pub broadcast_key: Option<BroadcastKey>,
    /// Changes between these positions cannot be had any more: the slot was made anew, or moved on by somebody.
    pub lost: Option<(Lsn, Lsn)>,
}

/// Frames that were read together. Dropping it gives its bytes back to the reader's budget.
#[derive(Debug)]
pub struct Batch {
    pub frames: Vec<StreamFrame>,
    _budget: Option<OwnedSemaphorePermit>,
}

impl Batch {
    /// A batch that counts against no budget.
    pub fn of(frames: Vec<StreamFrame>) -> Batch {
        Batch { frames, _budget: None }
    }

    pub(super) fn within(frames: Vec<StreamFrame>, budget: OwnedSemaphorePermit) -> Batch {
        Batch { frames, _budget: Some(budget) }
    }
}
