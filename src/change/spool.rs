//! Frames of a transaction in progress, each with the (sub)transaction that it is of: in memory at first, then in an
//! unlinked file.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Write};

use bytes::Bytes;

use crate::wal::pgoutput::{self, RelationId};

/// Length, and (sub)transaction.
const HEADER_BYTES: usize = 8;
/// What has a file is written to it in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Spool {
    buffer: Vec<u8>,
    file: Option<File>,
    file_bytes: u64,
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

    pub(super) fn write_out(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        file.write_all(&self.buffer)?;
        self.file_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(PIECE_BYTES);
        Ok(())
    }

    /// All of it, but for what was rolled back.
    pub(super) fn into_reader(self, aborted: HashSet<u32>) -> io::Result<SpoolReader> {
        let left = self.file_bytes + self.buffer.len() as u64;
        let memory = Cursor::new(self.buffer);
        let source: Box<dyn Read + Send> = match self.file {
            None => Box::new(memory),
            Some(mut file) => {
                file.seek(SeekFrom::Start(0))?;
                Box::new(BufReader::with_capacity(PIECE_BYTES, file.take(self.file_bytes)).chain(memory))
            }
        };
        Ok(SpoolReader { source, left, aborted, wanted: None, frame: Vec::new() })
    }
}

pub(super) struct SpoolReader {
    source: Box<dyn Read + Send>,
    left: u64,
    aborted: HashSet<u32>,
    /// The tables whose rows are read; without it all, and what says nothing of rows, too.
    wanted: Option<HashSet<RelationId>>,
    frame: Vec<u8>,
}

impl SpoolReader {
    /// The rows of these tables alone, what describes them, and messages.
    pub(super) fn only(mut self, wanted: HashSet<RelationId>) -> SpoolReader {
        self.wanted = Some(wanted);
        self
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.left > 0 {
            let mut header = [0; HEADER_BYTES];
            self.source.read_exact(&mut header)?;
            let [a, b, c, d, subxid @ ..] = header;
            let length = u32::from_le_bytes([a, b, c, d]);
            self.frame.resize(length as usize, 0);
            self.source.read_exact(&mut self.frame)?;
            self.left -= HEADER_BYTES as u64 + u64::from(length);
            if self.reads(u32::from_le_bytes(subxid)) {
                return Ok(Some(Bytes::copy_from_slice(&self.frame)));
            }
        }
        Ok(None)
    }

    fn reads(&self, subxid: u32) -> bool {
        match pgoutput::tag(&self.frame) {
            // The server describes a table once per transaction, whatever becomes of the part in which it does.
            Some(b'R') => true,
            _ if !self.aborted.is_empty() && self.aborted.contains(&subxid) => false,
            Some(b'T') => self.wanted.is_none(),
            _ => match (&self.wanted, pgoutput::relation_id(&self.frame)) {
                (Some(wanted), Some(relation)) => wanted.contains(&relation),
                _ => true,
            },
        }
    }
}
