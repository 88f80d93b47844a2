//! Checked reads over bytes that somebody else wrote.

use std::fmt;

/// Bytes that do not say what they should. The offset is where reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub struct DecodeError {
    pub offset: usize,
    pub what: Fault,
}

/// Incomplete, unknown and malformed are three different answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes end inside this field.
    EndsEarly(&'static str),
    /// A byte that selects among alternatives, none of which it names.
    Unknown(&'static str, u8),
    /// A value that the protocol does not allow here.
    Malformed(&'static str),
    /// Everything was read, and there is more.
    TrailingBytes(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::EndsEarly(field) => write!(f, "the bytes end inside the {field}"),
            Fault::Unknown(field, byte) => write!(f, "unknown {field} 0x{byte:02x}"),
            Fault::Malformed(field) => write!(f, "malformed {field}"),
            Fault::TrailingBytes(count) => write!(f, "{count} bytes too many"),
        }
    }
}

/// A position in a byte string. Every read names the field, so that an error can.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, offset: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    pub(super) fn fail<T>(&self, what: Fault) -> Result<T, DecodeError> {
        Err(DecodeError { offset: self.offset, what })
    }

    pub(super) fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        match self.bytes.get(self.offset..).and_then(|rest| rest.get(..count)) {
            Some(taken) => {
                self.offset += count;
                Ok(taken)
            }
            None => self.fail(Fault::EndsEarly(field)),
        }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        match self.bytes.get(self.offset..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(array) => {
                self.offset += N;
                Ok(*array)
            }
            None => self.fail(Fault::EndsEarly(field)),
        }
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.array(field).map(i64::from_be_bytes)
    }

    /// A count of things: Postgres sends it signed, and never negative.
    pub(super) fn count16(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let count = i16::from_be_bytes(self.array(field)?);
        usize::try_from(count).or_else(|_| self.fail(Fault::Malformed(field)))
    }

    pub(super) fn count32(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let count = self.i32(field)?;
        usize::try_from(count).or_else(|_| self.fail(Fault::Malformed(field)))
    }

    /// A C string, without its terminator.
    pub(super) fn cstr(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.offset..];
        match memchr::memchr(0, rest) {
            Some(end) => {
                self.offset += end + 1;
                Ok(&rest[..end])
            }
            None => self.fail(Fault::EndsEarly(field)),
        }
    }

    /// A C string in UTF-8, which is the `client_encoding` that every session of ours sets.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let start = self.offset;
        let bytes = self.cstr(field)?;
        std::str::from_utf8(bytes)
            .map_err(|error| DecodeError { offset: start + error.valid_up_to(), what: Fault::Malformed(field) })
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.offset..];
        self.offset = self.bytes.len();
        rest
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            more => self.fail(Fault::TrailingBytes(more)),
        }
    }
}
