//! Frames put together to transactions.
//!
//! Nothing is decoded before its Commit but what decides whether a frame must be kept: a transaction is judged as of
//! its commit, so its rows wait, as the bytes that came, in memory or, past a limit, in an unlinked file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use bytes::Bytes;

use super::TransactionHeader;
use crate::wal::pgoutput::{self, Begin, DecodeError, Message, RelationId, StreamRelation};

/// Bounds of one transaction (DESIGN promise 6).
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Up to this many bytes of frames are held in memory: `--transaction-buffer-max`.
    pub memory_bytes_max: usize,
    /// Above that they go to a file of at most this size: `--transaction-spill-max`.
    pub spill_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        // 64 MiB hold some 300,000 chat messages; 64 GiB is more than one transaction should ever write.
        Config { memory_bytes_max: 64 << 20, spill_bytes_max: 64 << 30 }
    }
}

/// Why the stream cannot be understood any further.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a pgoutput frame could not be decoded")]
    Decode(#[from] DecodeError),
    #[error("a {0} frame came outside of a transaction")]
    OutsideTransaction(char),
    #[error("a row of relation {0:?} came before its Relation message")]
    UnknownRelation(RelationId),
    #[error(
        "a transaction of more than {0} bytes does not fit the spill file: raise --transaction-spill-max or split the transaction"
    )]
    TooLarge(u64),
    #[error("the spill file of a large transaction failed")]
    Spill(#[from] io::Error),
}

/// Frames in order, in memory or in an unlinked file.
#[derive(Default)]
struct FrameBuffer {
    memory: Vec<Bytes>,
    memory_bytes: usize,
    file: Option<BufWriter<File>>,
    file_bytes: u64,
}

impl FrameBuffer {
    fn push(&mut self, frame: Bytes, config: &Config) -> Result<(), Error> {
        self.memory_bytes += frame.len() + size_of::<Bytes>();
        self.memory.push(frame);
        if self.memory_bytes > config.memory_bytes_max {
            self.spill(config)?;
        }
        Ok(())
    }

    /// Moves what is in memory to the end of the file.
    fn spill(&mut self, config: &Config) -> Result<(), Error> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => BufWriter::with_capacity(1 << 20, tempfile::tempfile()?),
        };
        for frame in self.memory.drain(..) {
            // A frame is shorter than the 1 GB that the protocol's own length field can say.
            file.write_all(&(frame.len() as u32).to_le_bytes())?;
            file.write_all(&frame)?;
            self.file_bytes += 4 + frame.len() as u64;
        }
        self.memory_bytes = 0;
        self.file = Some(file);
        if self.file_bytes > config.spill_bytes_max {
            return Err(Error::TooLarge(config.spill_bytes_max));
        }
        Ok(())
    }

    fn into_reader(mut self) -> io::Result<FrameReader> {
        let file = match self.file.take() {
            None => None,
            Some(writer) => {
                let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.seek(SeekFrom::Start(0))?;
                Some((BufReader::with_capacity(1 << 20, file), self.file_bytes))
            }
        };
        Ok(FrameReader { file, memory: self.memory.into_iter() })
    }
}

struct FrameReader {
    file: Option<(BufReader<File>, u64)>,
    memory: std::vec::IntoIter<Bytes>,
}

impl FrameReader {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Some((file, left)) = &mut self.file {
            if *left > 0 {
                let mut length = [0; 4];
                file.read_exact(&mut length)?;
                let length = u32::from_le_bytes(length);
                let mut frame = vec![0; length as usize];
                file.read_exact(&mut frame)?;
                *left -= 4 + u64::from(length);
                return Ok(Some(frame.into()));
            }
            self.file = None;
        }
        Ok(self.memory.next())
    }
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
    /// Frames of rows of `walcast.ddl_log`, in order; they are applied before anything is judged.
    pub ddl_log: Vec<(Arc<StreamRelation>, Bytes)>,
    frames: FrameReader,
}

impl Transaction {
    /// The next message, in order; Relation messages are for the caller to remember.
    pub fn next_message(&mut self) -> Result<Option<Message>, Error> {
        match self.frames.next()? {
            None => Ok(None),
            Some(frame) => Ok(Some(pgoutput::decode(frame)?)),
        }
    }
}

struct Open {
    begin: Begin,
    sequence: u64,
    /// It has been handed over before (the stream was started again): read past it.
    skipped: bool,
    frames: FrameBuffer,
    ddl_log: Vec<(Arc<StreamRelation>, Bytes)>,
}

/// Takes frames in stream order, gives whole transactions.
///
/// ```text
///   idle ──Begin──► open ──Commit──► idle + Transaction
///     ▲               │
///     └──reset()──────┘   (the connection was lost: the transaction comes again, whole)
/// ```
pub struct Assembler {
    config: Config,
    open: Option<Open>,
    sequence: u64,
    /// `walcast.ddl_log`, once a Relation message has described it.
    ddl_log: Option<Arc<StreamRelation>>,
}

impl Assembler {
    pub fn new(config: Config) -> Assembler {
        Assembler { config, open: None, sequence: 0, ddl_log: None }
    }

    /// Whether frames of a transaction have come whose Commit has not.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The first transaction that a subscription made now may see: the next one to begin.
    pub fn next_sequence(&self) -> u64 {
        self.sequence + 1
    }

    /// The connection was lost: what had begun comes again.
    pub fn reset(&mut self) {
        self.open = None;
    }

    /// Takes one frame. `handed_over(begin)`: this transaction was dispatched before. `wanted(relation)`: somebody may
    /// see its rows; the others are not even kept. Gives the transaction at its Commit, unless it was skipped.
    pub fn push(
        &mut self,
        frame: Bytes,
        handed_over: impl FnOnce(&Begin) -> bool,
        wanted: impl FnOnce(RelationId) -> bool,
    ) -> Result<Option<Transaction>, Error> {
        match frame.first() {
            Some(b'B') => {
                let Message::Begin(begin) = pgoutput::decode(frame)? else { unreachable!("the tag says Begin") };
                self.sequence += 1;
                let skipped = handed_over(&begin);
                let frames = FrameBuffer::default();
                self.open = Some(Open { begin, sequence: self.sequence, skipped, frames, ddl_log: Vec::new() });
                Ok(None)
            }
            Some(b'C') => self.commit(frame),
            Some(tag @ (b'I' | b'U' | b'D')) => {
                let Some(relation) = pgoutput::relation_id(&frame) else {
                    // Too short to say: decoding says what is wrong with it.
                    return pgoutput::decode(frame).map(|_| None).map_err(Error::from);
                };
                let ddl_log = self.ddl_log.as_ref().filter(|ddl_log| ddl_log.id == relation);
                let open = self.open.as_mut().ok_or(Error::OutsideTransaction(char::from(*tag)))?;
                if open.skipped {
                    return Ok(None);
                }
                if let Some(ddl_log) = ddl_log {
                    open.ddl_log.push((Arc::clone(ddl_log), frame));
                } else if wanted(relation) {
                    open.frames.push(frame, &self.config)?;
                }
                Ok(None)
            }
            Some(b'R') => {
                if let Message::Relation(relation) = pgoutput::decode(frame.clone())?
                    && relation.schema == "walcast"
                    && relation.name == "ddl_log"
                {
                    self.ddl_log = Some(Arc::new(relation));
                }
                // Even of a skipped transaction: the server describes a relation once per connection.
                let open = self.open.as_mut().ok_or(Error::OutsideTransaction('R'))?;
                open.frames.push(frame, &self.config)?;
                Ok(None)
            }
            // Truncate, Type, Origin and logical messages deliver nothing (PROTOCOL 4.8), but must be well-formed.
            _ => pgoutput::decode(frame).map(|_| None).map_err(Error::from),
        }
    }

    fn commit(&mut self, frame: Bytes) -> Result<Option<Transaction>, Error> {
        let Message::Commit(commit) = pgoutput::decode(frame)? else { unreachable!("the tag says Commit") };
        let open = self.open.take().ok_or(Error::OutsideTransaction('C'))?;
        let header = TransactionHeader {
            xid: open.begin.xid,
            commit_lsn: commit.commit_lsn,
            end_lsn: commit.end_lsn,
            commit_timestamp: commit.commit_timestamp,
        };
        let frames = open.frames.into_reader()?;
        Ok(Some(Transaction { header, sequence: open.sequence, ddl_log: open.ddl_log, frames }))
    }
}
