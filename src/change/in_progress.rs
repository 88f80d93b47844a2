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

use super::assembler::{Assembler, BROADCAST_BYTES_MAX, Error, FrameReader, Transaction};
use super::spool::Spool;
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
    aborted: HashSet<u32>,
    /// How many rows of which tables. One that was truncated has none, perhaps.
    rows: HashMap<RelationId, u64>,
    /// The last that was said of a table, and when.
    described: HashMap<RelationId, (u64, Bytes)>,
    has_log: bool,
    has_broadcasts: bool,
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
}

impl InProgress {
    pub(super) fn is_in_block(&self) -> bool {
        self.block.is_some()
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

    fn keep(&mut self, subxid: u32, tag: u8, rest: &[u8], limits: (usize, u64)) -> Result<(), Error> {
        let (memory_bytes_max, file_bytes_max) = limits;
        let Some(streamed) = self.streamed() else { return Ok(()) };
        let before = streamed.spool.memory_bytes();
        streamed.spool.push(subxid, tag, rest);
        let (has_piece, pushed) = (streamed.spool.has_piece(), streamed.spool.memory_bytes() - before);
        self.memory_bytes += pushed;
        let written = match self.memory_bytes > memory_bytes_max {
            true => self.transactions.values_mut().max_by_key(|streamed| streamed.spool.memory_bytes()),
            false if has_piece => self.streamed(),
            false => None,
        };
        if let Some(Streamed { spool, .. }) = written {
            let bytes = spool.memory_bytes();
            spool.write_out()?;
            self.memory_bytes -= bytes;
            self.file_bytes += bytes as u64;
            if self.file_bytes > file_bytes_max {
                return Err(Error::TooLarge(file_bytes_max));
            }
        }
        Ok(())
    }
}

impl Assembler {
    pub(super) fn stream_start(&mut self, frame: Bytes) -> Result<(), Error> {
        let Message::StreamStart { xid, .. } = pgoutput::decode(frame)? else {
            unreachable!("the tag says StreamStart")
        };
        if self.open.is_some() {
            return Err(Error::Nested);
        }
        self.in_progress.transactions.entry(xid).or_default();
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
        let takes_broadcasts = self.takes_broadcasts;
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
                streamed.has_log |= ddl_log::is_log(&relation);
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
        let limits = (self.config.memory_bytes_max.min(MEMORY_BYTES_MAX), self.config.spill_bytes_max);
        self.in_progress.keep(subxid, tag, rest, limits)
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
        }
        Ok(())
    }

    pub(super) fn stream_commit(
        &mut self,
        frame: Bytes,
        handed_over: impl FnOnce(&Begin) -> bool,
        wanted: impl Fn(RelationId, u64) -> bool,
    ) -> Result<Transaction, Error> {
        let Message::StreamCommit { xid, commit } = pgoutput::decode(frame)? else {
            unreachable!("the tag says StreamCommit")
        };
        if self.open.is_some() {
            return Err(Error::Nested);
        }
        let streamed = self.in_progress.remove(xid).ok_or(Error::OutsideTransaction('c'))?;
        let Commit { commit_lsn: final_lsn, commit_timestamp, .. } = commit;
        let is_skipped = self.begin(Begin { final_lsn, commit_timestamp, xid }, handed_over);
        let Streamed { spool, aborted, rows, described, has_log, has_broadcasts, unread } = streamed;
        // What was said outside of it, later, of tables that it describes: it holds after it again.
        let known = |(id, (place, _)): (&RelationId, &(u64, Bytes))| {
            let known = self.described.get(id).filter(|known| known.place > *place);
            (*id, known.map_or(*place, |known| known.place), known.map(|known| known.frame.clone()))
        };
        let known: Vec<_> = described.iter().map(known).collect();
        let anew: Vec<Bytes> = known.iter().filter_map(|(.., frame)| frame.clone()).collect();
        let is_gathered = |relation: &RelationId| {
            self.tracked.contains(relation) || self.ddl_log.as_ref().is_some_and(|ddl_log| ddl_log.id == *relation)
        };
        let is_plain = !has_log && !rows.keys().any(is_gathered);
        let mut spooled = None;
        if is_skipped || is_plain {
            if !is_skipped {
                let read = rows.into_iter().filter(|(relation, rows)| wanted(*relation, *rows));
                let read: HashSet<_> = read.map(|(relation, _)| relation).collect();
                if !read.is_empty() || has_broadcasts {
                    spooled = Some(spool.into_reader(aborted.clone())?.only(read));
                }
            }
            for (_, frame) in described.into_values() {
                self.within(frame, &wanted)?;
            }
        } else {
            // What is applied before anything is judged has to be found first, as if all of it came now.
            let mut reader = spool.into_reader(aborted.clone())?;
            while let Some(frame) = reader.next()? {
                self.within(frame, &wanted)?;
            }
        }
        for frame in &anew {
            self.within(frame.clone(), &wanted)?;
        }
        for (id, place, _) in known {
            if let Some(described) = self.described.get_mut(&id) {
                described.place = place;
            }
        }
        let unread = unread.into_iter().filter(|(subxid, _)| !aborted.contains(subxid)).map(|(_, relation)| relation);
        let lost = unread.filter(|relation| self.unread(*relation)).collect();
        let transaction = self.end(commit)?;
        Ok(match spooled {
            Some(spooled) => Transaction { lost, frames: FrameReader::spooled(spooled, anew), ..transaction },
            None => Transaction { lost, ..transaction },
        })
    }
}

#[cfg(test)]
#[path = "in_progress_tests.rs"]
mod tests;
