//! From what a socket read gave to whole protocol messages.

use bytes::{Buf, Bytes, BytesMut};

use super::error::Error;

/// What one read asks the socket for. The walsender makes one small `send` per change, so that under load a large
/// buffer takes hundreds of them in one system call; 256 KiB is where more stopped helping.
const READ_BYTES: usize = 256 * 1024;

/// Below this much free space a new buffer is taken: the old one belongs to the frames that were cut from it.
const SPARE_BYTES_MIN: usize = 32 * 1024;

/// Of a message above the limit this much is kept: XLogData's header (25 bytes), `pgoutput`'s tag, a transaction id, where
/// it is in a block, and a relation id.
const HEAD_BYTES: usize = 34;

/// Tag and length.
const HEADER_BYTES: usize = 5;

/// A message of the server, without tag and length.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Whole {
        tag: u8,
        body: Bytes,
    },
    /// Above the limit: its beginning; the rest is thrown away as it arrives, and never held.
    Oversized {
        tag: u8,
        head: Bytes,
        body_bytes: u64,
    },
}

/// The receive buffer. Frames are slices of it: nothing is copied.
pub(super) struct FrameBuffer {
    buffer: BytesMut,
    frame_bytes_max: usize,
    /// How much of an oversized message is still to come.
    skip_bytes: usize,
}

impl FrameBuffer {
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        FrameBuffer { buffer: BytesMut::new(), frame_bytes_max, skip_bytes: 0 }
    }

    /// Where the next read goes: at least [`SPARE_BYTES_MIN`] free, and room for the rest of a frame that has begun.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        let begun = match self.header() {
            Some((_, body_bytes)) if self.skip_bytes == 0 && body_bytes <= self.frame_bytes_max => {
                (HEADER_BYTES + body_bytes).saturating_sub(self.buffer.len())
            }
            _ => 0,
        };
        let spare = self.buffer.capacity() - self.buffer.len();
        if spare < SPARE_BYTES_MIN.max(begun) {
            self.buffer.reserve(READ_BYTES.max(begun));
        }
        &mut self.buffer
    }

    fn header(&self) -> Option<(u8, usize)> {
        let (tag, rest) = self.buffer.split_first()?;
        let length = u32::from_be_bytes(*rest.first_chunk()?);
        // The length counts itself. Less than that is refused in `next`.
        Some((*tag, (length as usize).saturating_sub(4)))
    }

    /// The next whole message, or None until more is read.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Error> {
        if self.skip_bytes > 0 {
            let skipped = self.skip_bytes.min(self.buffer.len());
            self.buffer.advance(skipped);
            self.skip_bytes -= skipped;
        }
        let Some((tag, body_bytes)) = self.header() else { return Ok(None) };
        if self.buffer[1..5] < [0, 0, 0, 4][..] {
            return Err(Error::Protocol(format!("message {:?} with an impossible length", char::from(tag))));
        }
        if body_bytes > self.frame_bytes_max.max(HEAD_BYTES) {
            if self.buffer.len() < HEADER_BYTES + HEAD_BYTES {
                return Ok(None);
            }
            self.buffer.advance(HEADER_BYTES);
            let head = Bytes::copy_from_slice(&self.buffer[..HEAD_BYTES]);
            self.buffer.advance(HEAD_BYTES);
            self.skip_bytes = body_bytes - HEAD_BYTES;
            return Ok(Some(Frame::Oversized { tag, head, body_bytes: body_bytes as u64 }));
        }
        if self.buffer.len() < HEADER_BYTES + body_bytes {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(HEADER_BYTES + body_bytes).freeze();
        body.advance(HEADER_BYTES);
        Ok(Some(Frame::Whole { tag, body }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::super::copy_data::CopyData;
    use super::super::server_error::ServerError;
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.put_u32(body.len() as u32 + 4);
        out.put_slice(body);
        out
    }

    /// Every frame, reading in pieces of the given size.
    fn read(bytes: &[u8], piece: usize, frame_bytes_max: usize) -> (Vec<Frame>, usize) {
        let mut frames = FrameBuffer::new(frame_bytes_max);
        let mut out = Vec::new();
        let mut held_bytes_max = 0;
        for piece in bytes.chunks(piece) {
            frames.room().put_slice(piece);
            while let Some(frame) = frames.next().unwrap() {
                out.push(frame);
            }
            held_bytes_max = held_bytes_max.max(frames.buffer.len());
        }
        (out, held_bytes_max)
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_the_reads_fall(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..10),
            piece in 1usize..120,
        ) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|body| message(b'd', body)).collect();
            let (frames, _) = read(&bytes, piece, 1000);
            let expected: Vec<_> =
                bodies.into_iter().map(|body| Frame::Whole { tag: b'd', body: body.into() }).collect();
            prop_assert_eq!(frames, expected);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = FrameBuffer::new(50);
            frames.room().put_slice(&bytes);
            while let Ok(Some(frame)) = frames.next() {
                let (Frame::Whole { body, .. } | Frame::Oversized { head: body, .. }) = frame;
                let _ = (CopyData::parse(&body), ServerError::parse(&body));
            }
        }
    }

    #[test]
    fn a_frame_above_the_limit_is_named_and_never_held() {
        let huge = message(b'd', &[7; 100_000]);
        let bytes = [message(b'd', b"before"), huge, message(b'd', b"after")].concat();
        let (frames, held_bytes_max) = read(&bytes, 64, 50);
        let expected = [
            Frame::Whole { tag: b'd', body: Bytes::from_static(b"before") },
            Frame::Oversized { tag: b'd', head: Bytes::from_static(&[7; HEAD_BYTES]), body_bytes: 100_000 },
            Frame::Whole { tag: b'd', body: Bytes::from_static(b"after") },
        ];
        assert_eq!(frames, expected);
        assert!(held_bytes_max < 100, "{held_bytes_max}");
    }

    #[test]
    fn an_impossible_length_is_an_error() {
        let mut frames = FrameBuffer::new(1000);
        frames.room().put_slice(b"d\0\0\0\x03xyz");
        assert!(frames.next().is_err());
    }
}
