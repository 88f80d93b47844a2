//! Transactions whose changes come before their commit does (`streaming 'on'`), block by block, many at a time.
//!
//! ```text
//!   StreamStart ─► frames ─► StreamStop    again and again; others' transactions pass in between
//!   StreamAbort    of a subtransaction: what it wrote is void; of the transaction: it is forgotten
//!   StreamCommit   it begins, is there whole, and ends, all at this place of the stream
//! ```
//!
//! Who wants its rows is asked at the commit: whoever subscribes in the meantime gets them. So all of them are kept, in a
//! file as soon as they are many.
//!
//! What a transaction in progress says of tables holds within it. For what comes after its commit it holds as well, as
//! the server has it, unless the table was described anew outside of it in the meantime.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::assembler::{Assembler, BROADCAST_BYTES_MAX, Config, Error, Transaction};
use super::frame_buffer::FrameReader;
use super::metrics::SpillMetrics;
use super::spool::{Next, Read, Spool, SpoolReader};
use crate::catalog::ddl_log;
use crate::wal::logical;
use crate::wal::pgoutput::{self, Begin, Commit, DecodeError, Fault, Message, RelationId};

/// All of them together are held in memory up to this size, then the largest is written to a file: 10 ms of writing at
/// once, and more than transactions of some ten thousand rows take.
const MEMORY_BYTES_MAX: usize = 16 << 20;

/// One of them.
#[derive(Default)]
struct Streamed {
    spool: Spool,
    /// Subtransactions that were rolled back.
    aborted: HashSet<u32, RandomState>,
    /// How many rows of which tables. One that was truncated has none, perhaps.
    rows: HashMap<RelationId, u64, RandomState>,
    /// The last that was said of a table, and when.
    described: HashMap<RelationId, (u64, Bytes)>,
    /// What was described as `walcast.ddl_log`.
    logs: HashSet<RelationId>,
    has_broadcasts: bool,
    /// The server says of a message in which transaction it was emitted, and not in which subtransaction. One that ends
    /// before the message does not have it; of one that is rolled back after it that is not known.
    is_unclear: bool,
    /// Rows too large to be read, by subtransaction.
    unread: Vec<(u32, Option<RelationId>)>,
}

/// Those that have not ended, by their ids.
#[derive(Default)]
pub(super) struct InProgress {
    transactions: HashMap<u32, Streamed>,
    /// Whose block is being read.
    block: Option<u32>,
    memory_bytes: usize,
    file_bytes: u64,
    committed: Option<Committed>,
}

/// One that has committed, and of which what is applied before anything is judged is being looked for.
struct Committed {
    commit: Commit,
    spool: Option<SpoolReader>,
    /// What is read of it afterwards.
    wanted: HashSet<RelationId, RandomState>,
    has_broadcasts: bool,
    unread: Vec<Option<RelationId>>,
    /// What was said outside of it, later, of tables that it describes: that holds after it again.
    described_since: Vec<Bytes>,
    /// When its tables were described last.
    places: Vec<(RelationId, u64)>,
}

impl InProgress {
    pub(super) fn is_in_block(&self) -> bool {
        self.block.is_some()
    }

    pub(super) fn has_committed(&self) -> bool {
        self.committed.is_some()
    }

    /// What is held of them, in memory and in files.
    pub(super) fn bytes(&self) -> u64 {
        self.memory_bytes as u64 + self.file_bytes
    }

    fn remove(&mut self, xid: u32) -> Option<Streamed> {
        let streamed = self.transactions.remove(&xid)?;
        self.memory_bytes -= streamed.spool.memory_bytes();
        self.file_bytes -= streamed.spool.file_bytes();
        Some(streamed)
    }

    /// The one whose block is being read.
    fn streamed(&mut self) -> Option<&mut Streamed> {
        self.transactions.get_mut(&self.block?)
    }

    fn keep(
        &mut self,
        subxid: u32,
        tag: u8,
        rest: &[u8],
        config: &Config,
        metrics: &SpillMetrics,
    ) -> Result<(), Error> {
        let Some(streamed) = self.streamed() else { return Ok(()) };
        let before = streamed.spool.memory_bytes();
        streamed.spool.push(subxid, tag, rest);
        let (has_piece, pushed) = (streamed.spool.has_piece(), streamed.spool.memory_bytes() - before);
        self.memory_bytes += pushed;
        let written = match self.memory_bytes > config.memory_bytes_max.min(MEMORY_BYTES_MAX) {
            true => self.transactions.values_mut().max_by_key(|streamed| streamed.spool.memory_bytes()),
            false if has_piece => self.streamed(),
            false => None,
        };
        let Some(Streamed { spool, .. }) = written else { return Ok(()) };
        let bytes = spool.memory_bytes();
        spool.write_out(metrics)?;
        self.memory_bytes -= bytes;
        let before = self.file_bytes;
        self.file_bytes += bytes as u64;
        let (bytes, bytes_max) = (self.file_bytes, config.spill_bytes_max);
        if before <= bytes_max / 2 && bytes > bytes_max / 2 {
            tracing::warn!(bytes, bytes_max, "transactions in progress have used half of --transaction-spill-max");
        }
        if bytes > bytes_max { Err(Error::TooLarge(bytes_max)) } else { Ok(()) }
    }
}

impl Assembler {
    pub(super) fn stream_start(&mut self, frame: Bytes) -> Result<(), Error> {
        let Message::StreamStart { xid, is_first } = pgoutput::decode(frame)? else {
            unreachable!("the tag says StreamStart")
        };
        if self.open.is_some() {
            return Err(Error::Nested);
        }
        if is_first {
            // What an earlier one of this number had is not its.
            self.in_progress.remove(xid);
            self.in_progress.transactions.insert(xid, Streamed::default());
        } else if !self.in_progress.transactions.contains_key(&xid) {
            return Err(Error::UnknownInProgress(xid));
        }
        self.in_progress.block = Some(xid);
        Ok(())
    }

    pub(super) fn stream_stop(&mut self, frame: Bytes) -> Result<(), Error> {
        pgoutput::decode(frame)?;
        self.in_progress.block.take().map(drop).ok_or(Error::OutsideTransaction('E'))
    }

    /// A frame within a block.
    pub(super) fn block_frame(&mut self, frame: &Bytes) -> Result<(), Error> {
        if pgoutput::tag(frame) == Some(b'O') {
            // The only one without an id.
            return pgoutput::decode(frame.clone()).map(drop).map_err(Error::from);
        }
        let (subxid, tag, rest) = pgoutput::in_block(frame)?;
        let outside = || Bytes::from([&[tag], rest].concat());
        let place = self.described_count + 1;
        let (takes_broadcasts, trusts_log) = (self.takes_broadcasts, self.trusts_log);
        let Some(streamed) = self.in_progress.streamed() else {
            return Err(Error::OutsideTransaction(char::from(tag)));
        };
        match tag {
            b'I' | b'U' | b'D' => match rest.first_chunk() {
                Some(relation) => *streamed.rows.entry(RelationId(u32::from_be_bytes(*relation))).or_default() += 1,
                // Too short to say: decoding says what is wrong with it.
                None => return pgoutput::decode(outside()).map(drop).map_err(Error::from),
            },
            b'T' => {
                let Message::Truncate { relations, .. } = pgoutput::decode(outside())? else {
                    unreachable!("the tag says Truncate")
                };
                for relation in relations {
                    streamed.rows.entry(relation).or_default();
                }
            }
            b'R' => {
                let frame = outside();
                let Message::Relation(relation) = pgoutput::decode(frame.clone())? else {
                    unreachable!("the tag says Relation")
                };
                if trusts_log && ddl_log::is_log(&relation) {
                    streamed.logs.insert(relation.id);
                }
                streamed.described.insert(relation.id, (place, frame));
                self.described_count = place;
            }
            b'M' => {
                if !takes_broadcasts || logical::broadcast(&outside()).is_none() {
                    return Ok(());
                }
                if frame.len() > BROADCAST_BYTES_MAX {
                    tracing::warn!(bytes = frame.len(), "a logical message is too large to be walcast.send's");
                    return Ok(());
                }
                streamed.has_broadcasts = true;
            }
            b'Y' => return pgoutput::decode(outside()).map(drop).map_err(Error::from),
            tag => return Err(DecodeError { offset: 0, what: Fault::Unknown("message tag in a block", tag) }.into()),
        }
        self.in_progress.keep(subxid, tag, rest, &self.config, &self.spill)
    }

    /// A row within a block was too large to be read; who is told is known at the commit.
    pub fn unread_in_block(&mut self, subxid: u32, relation: Option<RelationId>) {
        if let Some(streamed) = self.in_progress.streamed() {
            streamed.unread.push((subxid, relation));
        }
    }

    pub(super) fn stream_abort(&mut self, frame: Bytes) -> Result<(), Error> {
        let Message::StreamAbort { xid, subxid } = pgoutput::decode(frame)? else {
            unreachable!("the tag says StreamAbort")
        };
        if xid == subxid {
            self.in_progress.remove(xid);
        } else if let Some(streamed) = self.in_progress.transactions.get_mut(&xid) {
            streamed.aborted.insert(subxid);
            streamed.is_unclear |= streamed.has_broadcasts;
        }
        Ok(())
    }

    /// Gives the transaction, or nothing: what is applied first has to be found, see [`Assembler::gather`].
    pub(super) fn stream_commit(
        &mut self,
        frame: Bytes,
        handed_over: impl FnOnce(&Begin) -> bool,
        wanted: impl Fn(RelationId, u64) -> bool,
    ) -> Result<Option<Transaction>, Error> {
        let Message::StreamCommit { xid, commit } = pgoutput::decode(frame)? else {
            unreachable!("the tag says StreamCommit")
        };
        if self.open.is_some() {
            return Err(Error::Nested);
        }
        let streamed = self.in_progress.remove(xid).ok_or(Error::UnknownInProgress(xid))?;
        let Commit { commit_lsn: final_lsn, commit_timestamp, .. } = commit;
        let is_skipped = self.begin(Begin { final_lsn, commit_timestamp, xid }, handed_over);
        if streamed.is_unclear && !is_skipped {
            return Err(Error::Unclear(commit.end_lsn));
        }
        let Streamed { spool, aborted, rows, described, logs, has_broadcasts, unread, .. } = streamed;
        let (described_since, places) = self.described_since(&described);
        let unread = unread.into_iter().filter(|(subxid, _)| !aborted.contains(subxid)).map(|(_, relation)| relation);
        let mut committed = Committed {
            commit,
            spool: None,
            wanted: HashSet::default(),
            has_broadcasts,
            unread: unread.collect(),
            described_since,
            places,
        };
        let mut changes = HashSet::default();
        if !is_skipped {
            let is_log = |relation| {
                logs.contains(&relation) || self.ddl_log.as_ref().is_some_and(|ddl_log| ddl_log.id == relation)
            };
            for (relation, rows) in rows {
                if is_log(relation) || self.tracked.contains(&relation) {
                    changes.insert(relation);
                }
                if !is_log(relation) && wanted(relation, rows) {
                    committed.wanted.insert(relation);
                }
            }
            committed.spool = Some(spool.into_reader(aborted)?);
        }
        if !changes.is_empty() {
            committed.spool = committed.spool.map(|spool| spool.only(Read::Changes(changes))).transpose()?;
            self.in_progress.committed = Some(committed);
            return Ok(None);
        }
        for (_, frame) in described.into_values() {
            self.within(frame, &|_, _| false)?;
        }
        self.end_committed(committed).map(Some)
    }

    /// What was said since of tables that a transaction describes; and when they were described last.
    fn described_since(&self, described: &HashMap<RelationId, (u64, Bytes)>) -> (Vec<Bytes>, Vec<(RelationId, u64)>) {
        let mut since = Vec::new();
        let places = described.iter().map(|(id, (place, _))| {
            let known = self.described.get(id).filter(|known| known.place > *place);
            since.extend(known.map(|known| known.frame.clone()));
            (*id, known.map_or(*place, |known| known.place))
        });
        let places = places.collect();
        (since, places)
    }

    /// Whether [`Assembler::gather`] has to be called before another frame is pushed.
    pub fn is_gathering(&self) -> bool {
        self.in_progress.has_committed()
    }

    /// Looks through a piece of a transaction that came before its commit, for what it did to `walcast.ddl_log` and to
    /// tracked tables, as if that came now. Gives the transaction at its end.
    pub fn gather(&mut self) -> Result<Option<Transaction>, Error> {
        let Some(mut committed) = self.in_progress.committed.take() else { return Ok(None) };
        while let Some(spool) = &mut committed.spool {
            match spool.next()? {
                Next::Frame(frame) => self.within(frame, &|_, _| false)?,
                Next::Later => {
                    self.in_progress.committed = Some(committed);
                    return Ok(None);
                }
                Next::End => break,
            }
        }
        self.end_committed(committed).map(Some)
    }

    fn end_committed(&mut self, committed: Committed) -> Result<Transaction, Error> {
        let Committed { commit, spool, wanted, has_broadcasts, unread, described_since, places } = committed;
        for frame in &described_since {
            self.within(frame.clone(), &|_, _| false)?;
        }
        for (id, place) in places {
            if let Some(described) = self.described.get_mut(&id) {
                described.place = place;
            }
        }
        let lost = unread.into_iter().filter(|relation| self.unread(*relation)).collect();
        let transaction = self.end(commit)?;
        Ok(match spool.filter(|_| has_broadcasts || !wanted.is_empty()) {
            Some(spool) => {
                let frames = FrameReader::spooled(spool.only(Read::Rows(wanted))?, described_since);
                Transaction { lost, frames, ..transaction }
            }
            None => Transaction { lost, ..transaction },
        })
    }
}

#[cfg(test)]
#[path = "in_progress_tests.rs"]
mod tests;
