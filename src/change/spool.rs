//! Frames of a transaction in progress, each with the (sub)transaction that it is of: in memory at first, then in an
//! unlinked file.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Seek, SeekFrom, Write};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::metrics::{SpillMetrics, Spilled};
use crate::wal::pgoutput::{self, RelationId};

/// Length, and (sub)transaction.
const HEADER_BYTES: usize = 8;
/// What has a file is written to it in pieces of this size, and all of it is read in such: others get a turn in between.
const PIECE_BYTES: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Spool {
    buffer: Vec<u8>,
    file: Option<File>,
    file_bytes: u64,
    /// As long as there is the file.
    spilled: Option<Spilled>,
}

impl Spool {
    pub(super) fn memory_bytes(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// A frame in two pieces, as [`pgoutput::in_block`] gives it.
    pub(super) fn push(&mut self, subxid: u32, tag: u8, rest: &[u8]) {
        // A frame is shorter than the 1 GB that the protocol's own length field can say.
        self.buffer.extend_from_slice(&(1 + rest.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&subxid.to_le_bytes());
        self.buffer.push(tag);
        self.buffer.extend_from_slice(rest);
    }

    /// It has a file already, and something worth a write.
    pub(super) fn has_piece(&self) -> bool {
        self.file.is_some() && self.buffer.len() >= PIECE_BYTES
    }

    pub(super) fn write_out(&mut self, metrics: &SpillMetrics) -> io::Result<()> {
        // Not kept for the next piece: a thousand transactions in progress would each keep one that nobody counts.
        let buffer = std::mem::take(&mut self.buffer);
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        file.write_all(&buffer)?;
        self.file_bytes += buffer.len() as u64;
        self.spilled.get_or_insert_with(|| Spilled::begin(metrics)).add(buffer.len() as u64);
        Ok(())
    }

    /// To be read from its beginning, but for what was rolled back.
    pub(super) fn into_reader(self, aborted: HashSet<u32, RandomState>) -> io::Result<SpoolReader> {
        let mut reader = SpoolReader {
            file: self.file.map(|file| BufReader::with_capacity(PIECE_BYTES, file)),
            file_bytes: self.file_bytes,
            file_left: 0,
            memory: Cursor::new(self.buffer),
            aborted,
            read: Read::Changes(HashSet::default()),
            frame: Vec::new(),
            piece_left: PIECE_BYTES,
            _spilled: self.spilled,
        };
        reader.rewind()?;
        Ok(reader)
    }
}

/// What of it is read; what describes tables is read always.
pub(super) enum Read {
    /// What is applied before anything is judged: the changes of these tables, and every Truncate.
    Changes(HashSet<RelationId, RandomState>),
    /// What is delivered: the rows of these tables, and messages.
    Rows(HashSet<RelationId, RandomState>),
}

#[derive(Debug)]
pub(super) enum Next {
    Frame(Bytes),
    /// More of it follows, after others had a turn.
    Later,
    End,
}

pub(super) struct SpoolReader {
    file: Option<BufReader<File>>,
    file_bytes: u64,
    file_left: u64,
    memory: Cursor<Vec<u8>>,
    aborted: HashSet<u32, RandomState>,
    read: Read,
    frame: Vec<u8>,
    /// Of what is read in one go.
    piece_left: usize,
    _spilled: Option<Spilled>,
}

impl SpoolReader {
    fn rewind(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.seek(SeekFrom::Start(0))?;
        }
        (self.file_left, self.piece_left) = (self.file_bytes, PIECE_BYTES);
        self.memory.set_position(0);
        Ok(())
    }

    /// From its beginning, what is asked for alone.
    pub(super) fn only(mut self, read: Read) -> io::Result<SpoolReader> {
        self.read = read;
        self.rewind()?;
        Ok(self)
    }

    pub(super) fn next(&mut self) -> io::Result<Next> {
        loop {
            if self.piece_left == 0 {
                self.piece_left = PIECE_BYTES;
                return Ok(Next::Later);
            }
            let source: &mut dyn io::Read = match &mut self.file {
                Some(file) if self.file_left > 0 => file,
                _ if self.memory.position() < self.memory.get_ref().len() as u64 => &mut self.memory,
                _ => return Ok(Next::End),
            };
            let mut header = [0; HEADER_BYTES];
            source.read_exact(&mut header)?;
            let [a, b, c, d, subxid @ ..] = header;
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            self.frame.resize(length, 0);
            source.read_exact(&mut self.frame)?;
            // No frame is in the file in part.
            self.file_left = self.file_left.saturating_sub((HEADER_BYTES + length) as u64);
            self.piece_left = self.piece_left.saturating_sub(HEADER_BYTES + length);
            if self.is_read(u32::from_le_bytes(subxid)) {
                return Ok(Next::Frame(Bytes::copy_from_slice(&self.frame)));
            }
        }
    }

    fn is_read(&self, subxid: u32) -> bool {
        let tag = pgoutput::tag(&self.frame);
        // The server describes a table once per transaction, whatever becomes of the part in which it does.
        if tag == Some(b'R') {
            return true;
        }
        let (Read::Changes(tables) | Read::Rows(tables)) = &self.read;
        let is_wanted = match (tag, &self.read) {
            (Some(b'T'), read) => matches!(read, Read::Changes(_)),
            (Some(b'M'), read) => matches!(read, Read::Rows(_)),
            _ => pgoutput::relation_id(&self.frame).is_some_and(|relation| tables.contains(&relation)),
        };
        is_wanted && (self.aborted.is_empty() || !self.aborted.contains(&subxid))
    }
}
