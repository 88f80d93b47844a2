//! Frames put together to transactions.
//!
//! Nothing is decoded before its Commit but what decides whether a frame must be kept: a transaction is judged as of
//! its commit, so its rows wait, as the bytes that came, in memory or, past a limit, in an unlinked file.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::frame_buffer::{FrameBuffer, FrameReader};
use super::in_progress::InProgress;
use super::metrics::SpillMetrics;
use super::spool::Next;
use super::{TrackedChange, TrackedLog, TransactionHeader};
use crate::catalog::ddl_log;
use crate::wal::pgoutput::{self, Begin, Commit, DecodeError, Message, RelationId, StreamRelation};
use crate::wal::{Lsn, logical};

/// Bounds of one transaction (DESIGN promise 6).
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Up to this many bytes of frames are held in memory: `--transaction-buffer-max`.
    pub memory_bytes_max: usize,
    /// Above that they go to a file of at most this size: `--transaction-spill-max`.
    pub spill_bytes_max: u64,
    /// Changes of tracked tables, which are applied at the Commit as a whole, are held in memory up to this size; past
    /// it those tables are read again.
    pub tracked_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        // 64 MiB hold some 300,000 chat messages; 64 GiB is more than one transaction should ever write. 64 MiB of
        // membership rows are about a million: reading them again takes as long.
        Config { memory_bytes_max: 64 << 20, spill_bytes_max: 64 << 30, tracked_bytes_max: 64 << 20 }
    }
}

/// Why the stream cannot be understood any further.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a pgoutput frame could not be decoded")]
    Decode(#[from] DecodeError),
    #[error("a {0} frame came outside of a transaction")]
    OutsideTransaction(char),
    #[error("a transaction began before the one before it had ended")]
    Nested,
    #[error("transaction {0}, which is in progress, came without its beginning")]
    UnknownInProgress(u32),
    #[error("which broadcasts of the transaction that ends at {0} were rolled back is not said before its commit")]
    Unclear(Lsn),
    #[error("a row of relation {0:?} came before its Relation message")]
    UnknownRelation(RelationId),
    #[error(
        "a transaction of more than {0} bytes does not fit the spill file: raise --transaction-spill-max or split the transaction"
    )]
    TooLarge(u64),
    #[error("the spill file of a large transaction failed")]
    Spill(#[from] io::Error),
}

/// The Relation messages of one replication connection, by OID.
#[derive(Default)]
pub struct Relations(HashMap<RelationId, Arc<StreamRelation>>);

impl Relations {
    pub fn get(&self, id: RelationId) -> Result<&Arc<StreamRelation>, Error> {
        self.0.get(&id).ok_or(Error::UnknownRelation(id))
    }

    pub fn insert(&mut self, relation: StreamRelation) {
        self.0.insert(relation.id, Arc::new(relation));
    }

    /// A new connection describes every relation again.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// A committed transaction, to be read once, in order.
pub struct Transaction {
    pub header: TransactionHeader,
    /// Counts transactions as they begin; a subscription is active from a given one on.
    pub sequence: u64,
    /// What `walcast.ddl_log` says; applied before anything is judged.
    pub ddl_log: DdlLog,
    /// What it did to tracked tables; applied after that.
    pub tracked: TrackedLog,
    /// It came in part before its commit, and these of its rows were too large to be read.
    pub lost: Vec<Option<RelationId>>,
    pub(super) frames: FrameReader,
}

/// What a transaction wrote to `walcast.ddl_log`. Of several rows the last one counts, so only that is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum DdlLog {
    #[default]
    Nothing,
    /// An INSERT or UPDATE.
    Row(Arc<StreamRelation>, Bytes),
    /// A row too large to be read.
    Unread,
}

/// What comes next of a transaction.
#[derive(Debug)]
pub enum Step {
    Message(Message),
    /// Much was read that nobody wants: others should have a turn before more is.
    Later,
    End,
}

impl Transaction {
    /// What comes next, in order; Relation messages are for the caller to remember.
    pub fn step(&mut self) -> Result<Step, Error> {
        Ok(match self.frames.next()? {
            Next::Frame(frame) => Step::Message(pgoutput::decode(frame)?),
            Next::Later => Step::Later,
            Next::End => Step::End,
        })
    }

    /// The next message, however long it takes to find it.
    pub fn next_message(&mut self) -> Result<Option<Message>, Error> {
        loop {
            match self.step()? {
                Step::Message(message) => return Ok(Some(message)),
                Step::Later => {}
                Step::End => return Ok(None),
            }
        }
    }
}

pub(super) struct Open {
    begin: Begin,
    sequence: u64,
    /// It has been handed over before (the stream was started again): read past it.
    skipped: bool,
    frames: FrameBuffer,
    ddl_log: DdlLog,
    tracked: TrackedLog,
}

/// Up to this size a frame is copied when it is kept. It is a slice of a read buffer of 256 KiB: one row kept of every
/// thousand read would keep them all, and none of the bounds would know.
const COPIED_BYTES_MAX: usize = 32 << 10;

/// Of what says that it is `walcast.send`'s, and may be anybody's: more than any limit on payloads should be.
pub(super) const BROADCAST_BYTES_MAX: usize = 32 << 20;

fn kept(frame: Bytes) -> Bytes {
    if frame.len() <= COPIED_BYTES_MAX { Bytes::copy_from_slice(&frame) } else { frame }
}

/// Takes frames in stream order, gives whole transactions.
///
/// ```text
///   idle ──Begin──► open ──Commit──► idle + Transaction
///     ▲               │
///     └──reset()──────┘   (the connection was lost: the transaction comes again, whole)
/// ```
///
/// Large transactions come otherwise, see `in_progress.rs`.
pub struct Assembler {
    pub(super) config: Config,
    pub(super) spill: SpillMetrics,
    pub(super) open: Option<Open>,
    pub(super) in_progress: InProgress,
    sequence: u64,
    /// `walcast.ddl_log`, once a Relation message has described it.
    pub(super) ddl_log: Option<Arc<StreamRelation>>,
    /// walcast's own publication is read. Without it a table of that name is somebody else's, and what it says of
    /// policies is not believed.
    pub(super) trusts_log: bool,
    /// `walcast.send`'s messages are wanted.
    pub(super) takes_broadcasts: bool,
    /// The relations whose changes are gathered apart.
    pub(super) tracked: HashSet<RelationId, RandomState>,
    /// What this connection has described; those rows name it.
    pub(super) described: HashMap<RelationId, Described>,
    /// Relation messages so far, those of transactions in progress too.
    pub(super) described_count: u64,
}

/// A Relation message, and when it came.
pub(super) struct Described {
    relation: Arc<StreamRelation>,
    pub(super) frame: Bytes,
    pub(super) place: u64,
}

impl Assembler {
    pub fn new(config: Config, spill: SpillMetrics) -> Assembler {
        Assembler {
            config,
            spill,
            open: None,
            in_progress: InProgress::default(),
            sequence: 0,
            ddl_log: None,
            trusts_log: false,
            takes_broadcasts: false,
            tracked: HashSet::default(),
            described: HashMap::new(),
            described_count: 0,
        }
    }

    /// From here on the changes of these relations are gathered apart, whoever else wants them. Of a transaction that is
    /// open they are not complete.
    pub fn track(&mut self, relations: impl IntoIterator<Item = RelationId>) {
        self.tracked = relations.into_iter().collect();
    }

    /// Whether frames of a transaction have come whose Commit has not. Not of those in progress: what is confirmed
    /// before their commit does not count for them.
    pub fn is_open(&self) -> bool {
        self.open.is_some() || self.in_progress.is_in_block()
    }

    /// What is held of transactions in progress, in memory and in files.
    pub fn in_progress_bytes(&self) -> u64 {
        self.in_progress.bytes()
    }

    /// The transaction whose Commit has not come, with its sequence and xid.
    pub fn open_transaction(&self) -> Option<(u64, u32)> {
        self.open.as_ref().map(|open| (open.sequence, open.begin.xid))
    }

    /// The first transaction that a subscription made now may see: the next one to begin.
    pub fn next_sequence(&self) -> u64 {
        self.sequence + 1
    }

    /// The connection was lost: what had begun comes again.
    pub fn reset(&mut self) {
        self.open = None;
        self.in_progress = InProgress::default();
    }

    /// From here on transactions have the messages of `walcast.send`, or do not.
    pub fn take_broadcasts(&mut self, takes: bool) {
        self.takes_broadcasts = takes;
    }

    /// A new connection, which describes every relation again.
    pub fn started(&mut self, own_publication: bool) {
        self.reset();
        self.ddl_log = None;
        self.described.clear();
        self.trusts_log = own_publication;
    }

    /// A frame of this relation was too large to be read. `true`: a change is lost that was not handed over before.
    pub fn unread(&mut self, relation: Option<RelationId>) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| !open.skipped) else { return false };
        let is_log = relation.is_some() && self.ddl_log.as_ref().map(|ddl_log| ddl_log.id) == relation;
        if is_log {
            open.ddl_log = DdlLog::Unread;
        } else if relation.map_or(!self.tracked.is_empty(), |relation| self.tracked.contains(&relation)) {
            open.tracked.unread(relation);
        }
        !is_log
    }

    /// Takes one frame. `handed_over(begin)`: this transaction was dispatched before, and its rows are left out.
    /// `wanted(relation, rows)`: somebody may see so many rows of it; the others are not even kept. Gives the transaction at its Commit,
    /// unless something of it [has to be gathered](Assembler::is_gathering) first.
    pub fn push(
        &mut self,
        frame: Bytes,
        handed_over: impl FnOnce(&Begin) -> bool,
        wanted: impl Fn(RelationId, u64) -> bool,
    ) -> Result<Option<Transaction>, Error> {
        debug_assert!(!self.is_gathering(), "what has committed comes first");
        match frame.first() {
            Some(b'E') => self.stream_stop(frame).map(|()| None),
            Some(_) if self.in_progress.is_in_block() => self.block_frame(&frame).map(|()| None),
            Some(b'B') => {
                let Message::Begin(begin) = pgoutput::decode(frame)? else { unreachable!("the tag says Begin") };
                if self.open.is_some() {
                    return Err(Error::Nested);
                }
                self.begin(begin, handed_over);
                Ok(None)
            }
            Some(b'C') => {
                let Message::Commit(commit) = pgoutput::decode(frame)? else { unreachable!("the tag says Commit") };
                self.end(commit).map(Some)
            }
            Some(b'S') => self.stream_start(frame).map(|()| None),
            Some(b'c') => self.stream_commit(frame, handed_over, wanted),
            Some(b'A') => self.stream_abort(frame).map(|()| None),
            _ => self.within(frame, &wanted).map(|()| None),
        }
    }

    /// A transaction begins; `true`: it has been handed over before.
    pub(super) fn begin(&mut self, begin: Begin, handed_over: impl FnOnce(&Begin) -> bool) -> bool {
        self.sequence += 1;
        let (skipped, sequence) = (handed_over(&begin), self.sequence);
        let (frames, ddl_log, tracked) = (FrameBuffer::default(), DdlLog::Nothing, TrackedLog::default());
        self.open = Some(Open { begin, sequence, skipped, frames, ddl_log, tracked });
        skipped
    }

    /// A frame of the transaction that is open.
    pub(super) fn within(&mut self, frame: Bytes, wanted: &impl Fn(RelationId, u64) -> bool) -> Result<(), Error> {
        match frame.first() {
            Some(tag @ (b'I' | b'U' | b'D')) => {
                let Some(relation) = pgoutput::relation_id(&frame) else {
                    // Too short to say: decoding says what is wrong with it.
                    return pgoutput::decode(frame).map(drop).map_err(Error::from);
                };
                let ddl_log = self.ddl_log.as_ref().filter(|ddl_log| ddl_log.id == relation);
                let open = self.open.as_mut().ok_or(Error::OutsideTransaction(char::from(*tag)))?;
                if open.skipped {
                    return Ok(());
                }
                match ddl_log {
                    // Pruning says nothing.
                    Some(_) if *tag == b'D' => {}
                    Some(ddl_log) => open.ddl_log = DdlLog::Row(Arc::clone(ddl_log), kept(frame)),
                    None if !self.tracked.is_empty() && self.tracked.contains(&relation) => {
                        let described = self.described.get(&relation).ok_or(Error::UnknownRelation(relation))?;
                        let described = &described.relation;
                        let frame = kept(frame);
                        let change = TrackedChange::Row(Arc::clone(described), frame.clone());
                        open.tracked.push(change, self.config.tracked_bytes_max);
                        if wanted(relation, 1) {
                            open.frames.push(frame, &self.config, &self.spill)?;
                        }
                    }
                    None if wanted(relation, 1) => open.frames.push(kept(frame), &self.config, &self.spill)?,
                    None => {}
                }
                Ok(())
            }
            Some(b'T') if !self.tracked.is_empty() => {
                let Message::Truncate { relations, .. } = pgoutput::decode(frame)? else {
                    unreachable!("the tag says Truncate")
                };
                let open = self.open.as_mut().ok_or(Error::OutsideTransaction('T'))?;
                if !open.skipped && relations.iter().any(|relation| self.tracked.contains(relation)) {
                    open.tracked.push(TrackedChange::Truncate(relations), self.config.tracked_bytes_max);
                }
                Ok(())
            }
            Some(b'R') => {
                let Message::Relation(relation) = pgoutput::decode(frame.clone())? else {
                    unreachable!("the tag says Relation")
                };
                let open = self.open.as_mut().ok_or(Error::OutsideTransaction('R'))?;
                if ddl_log::is_log(&relation) && self.trusts_log {
                    self.ddl_log = Some(Arc::new(relation));
                    return Ok(());
                }
                let (id, frame) = (relation.id, kept(frame));
                self.described_count += 1;
                let (relation, place) = (Arc::new(relation), self.described_count);
                self.described.insert(id, Described { relation, frame: frame.clone(), place });
                if self.ddl_log.as_ref().is_some_and(|ddl_log| ddl_log.id == id) {
                    self.ddl_log = None; // It has another name now.
                }
                // Even of a skipped transaction: the server describes a relation once per connection.
                open.frames.push(frame, &self.config, &self.spill)?;
                Ok(())
            }
            // Others' are skipped unread, whatever is in them: anybody may emit one.
            Some(b'M') => {
                let open = self.open.as_mut().filter(|open| !open.skipped && self.takes_broadcasts);
                if let Some(open) = open
                    && logical::broadcast(&frame).is_some()
                {
                    match frame.len() <= BROADCAST_BYTES_MAX {
                        true => open.frames.push(kept(frame), &self.config, &self.spill)?,
                        false => {
                            tracing::warn!(bytes = frame.len(), "a logical message is too large to be walcast.send's")
                        }
                    }
                }
                Ok(())
            }
            // Type, Origin and other Truncates deliver nothing (PROTOCOL 4.8), but must be well-formed.
            _ => pgoutput::decode(frame).map(drop).map_err(Error::from),
        }
    }

    pub(super) fn end(&mut self, commit: Commit) -> Result<Transaction, Error> {
        let open = self.open.take().ok_or(Error::OutsideTransaction('C'))?;
        let header = TransactionHeader {
            xid: open.begin.xid,
            commit_lsn: commit.commit_lsn,
            end_lsn: commit.end_lsn,
            commit_timestamp: commit.commit_timestamp,
        };
        let Open { sequence, ddl_log, tracked, frames, .. } = open;
        let frames = frames.into_reader()?;
        Ok(Transaction { header, sequence, ddl_log, tracked, lost: Vec::new(), frames })
    }
}

#[cfg(test)]
#[path = "assembler_tests.rs"]
pub(super) mod tests;
