//! What a transaction that is read at its commit holds until then.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use bytes::Bytes;

use super::assembler::{Config, Error};
use super::metrics::{SpillMetrics, Spilled};
use super::spool::{Next, SpoolReader};

/// Frames in order, in memory or in an unlinked file.
#[derive(Default)]
pub(super) struct FrameBuffer {
    memory: Vec<Bytes>,
    memory_bytes: usize,
    file: Option<BufWriter<File>>,
    file_bytes: u64,
    spilled: Option<Spilled>,
}

impl FrameBuffer {
    pub(super) fn push(&mut self, frame: Bytes, config: &Config, metrics: &SpillMetrics) -> Result<(), Error> {
        self.memory_bytes += frame.len() + size_of::<Bytes>();
        self.memory.push(frame);
        if self.memory_bytes > config.memory_bytes_max {
            self.spill(config, metrics)?;
        }
        Ok(())
    }

    /// Moves what is in memory to the end of the file.
    fn spill(&mut self, config: &Config, metrics: &SpillMetrics) -> Result<(), Error> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let bytes = self.memory_bytes;
                tracing::info!(bytes, "a transaction above --transaction-buffer-max goes to a temporary file");
                BufWriter::with_capacity(1 << 20, tempfile::tempfile()?)
            }
        };
        let before = self.file_bytes;
        for frame in self.memory.drain(..) {
            // A frame is shorter than the 1 GB that the protocol's own length field can say.
            file.write_all(&(frame.len() as u32).to_le_bytes())?;
            file.write_all(&frame)?;
            self.file_bytes += 4 + frame.len() as u64;
        }
        self.memory_bytes = 0;
        self.file = Some(file);
        self.spilled.get_or_insert_with(|| Spilled::begin(metrics)).add(self.file_bytes - before);
        let half = config.spill_bytes_max / 2;
        if before <= half && self.file_bytes > half {
            let (bytes, bytes_max) = (self.file_bytes, config.spill_bytes_max);
            tracing::warn!(
                bytes,
                bytes_max,
                "a transaction has used half of --transaction-spill-max, which ends the relay"
            );
        }
        if self.file_bytes > config.spill_bytes_max {
            return Err(Error::TooLarge(config.spill_bytes_max));
        }
        Ok(())
    }

    pub(super) fn into_reader(mut self) -> io::Result<FrameReader> {
        let file = match self.file.take() {
            None => None,
            Some(writer) => {
                let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.seek(SeekFrom::Start(0))?;
                Some((BufReader::with_capacity(1 << 20, file), self.file_bytes))
            }
        };
        Ok(FrameReader { spool: None, file, memory: self.memory.into_iter(), spilled: self.spilled })
    }
}

/// What is read of a transaction, in this order.
pub(super) struct FrameReader {
    spool: Option<SpoolReader>,
    pub(super) file: Option<(BufReader<File>, u64)>,
    memory: std::vec::IntoIter<Bytes>,
    /// As long as there is the file.
    spilled: Option<Spilled>,
}

impl FrameReader {
    pub(super) fn spooled(spool: SpoolReader, after: Vec<Bytes>) -> FrameReader {
        FrameReader { spool: Some(spool), file: None, memory: after.into_iter(), spilled: None }
    }

    pub(super) fn next(&mut self) -> io::Result<Next> {
        if let Some(spool) = &mut self.spool {
            match spool.next()? {
                Next::End => self.spool = None,
                next => return Ok(next),
            }
        }
        if let Some((file, left)) = &mut self.file {
            if *left > 0 {
                let mut length = [0; 4];
                file.read_exact(&mut length)?;
                let length = u32::from_le_bytes(length);
                let mut frame = vec![0; length as usize];
                file.read_exact(&mut frame)?;
                *left -= 4 + u64::from(length);
                return Ok(Next::Frame(frame.into()));
            }
            (self.file, self.spilled) = (None, None);
        }
        Ok(self.memory.next().map_or(Next::End, Next::Frame))
    }
}
