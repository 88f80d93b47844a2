//! The type `json`, rewritten as `jsonb` would print it.
//!
//! A `json` value is stored as it was typed; `to_jsonb` re-orders keys (shorter first, then by bytes), lets the last
//! of equal keys win, writes numbers as `numeric` does and strings without needless escapes. The text is read once
//! into a flat list of nodes and written from there. Both walks keep their own stack: a thread's is not for clients
//! to fill.

use super::error::{DatumError, NotJsonb};
use super::escape::write_string;
use super::number::Number;

/// Numbers may grow a text to this size, or to four times its own, whichever is more. Spacing and escapes double it,
/// floats grow fiftyfold; only made-up exponents go beyond.
const BYTES_MAX: usize = 64 << 20;

/// Appends the `jsonb` form of a `json` text.
pub fn write_jsonb(text: &[u8], out: &mut Vec<u8>) -> Result<(), DatumError> {
    let mut reader = Reader::new(text);
    let root = reader.document()?;
    reader.write(root, out)
}

#[derive(Clone, Copy)]
enum Node {
    /// `true`, `false`, `null`, and strings without escapes: bytes of the source, copied as they are.
    Verbatim(Span),
    /// A string that had escapes; bytes of [`Reader::unescaped`].
    Unescaped(Span),
    Number(Span),
    /// Entries of [`Reader::entries`].
    Array(Span),
    Object(Span),
}

#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start..self.end]
    }
}

#[derive(Clone, Copy)]
struct Entry {
    /// `None` in an array.
    key: Option<Key>,
    value: Node,
}

/// An object's key without quotes and escapes.
#[derive(Clone, Copy)]
struct Key {
    span: Span,
    /// In [`Reader::unescaped`], not in the source.
    had_escapes: bool,
}

/// A container that is still being read.
struct Open {
    is_object: bool,
    /// Where its entries begin in [`Reader::pending`].
    first: usize,
    /// The key whose value is being read.
    key: Option<Key>,
}

/// A container that is being written.
struct Unwritten {
    next: usize,
    end: usize,
    is_object: bool,
    at_start: bool,
}

struct Reader<'a> {
    text: &'a [u8],
    offset: usize,
    unescaped: Vec<u8>,
    /// Entries of open containers, innermost last.
    pending: Vec<Entry>,
    /// Entries of closed containers, each container's side by side and in their final order.
    entries: Vec<Entry>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a [u8]) -> Self {
        Reader { text, offset: 0, unescaped: Vec::new(), pending: Vec::new(), entries: Vec::new() }
    }

    fn document(&mut self) -> Result<Node, DatumError> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            let Some(mut value) = self.value_or_open(&mut open)? else { continue };
            // A value is complete; perhaps it completes the containers around it.
            loop {
                let Some(container) = open.last_mut() else {
                    self.skip_space();
                    return if self.offset == self.text.len() { Ok(value) } else { Err(self.malformed()) };
                };
                self.pending.push(Entry { key: container.key.take(), value });
                self.skip_space();
                match (self.peek(), container.is_object) {
                    (Some(b','), is_object) => {
                        self.offset += 1;
                        if is_object {
                            container.key = Some(self.key()?);
                        }
                        break;
                    }
                    (Some(b']'), false) | (Some(b'}'), true) => {
                        self.offset += 1;
                        value = self.close(container.first, container.is_object);
                        open.pop();
                    }
                    _ => return Err(self.malformed()),
                }
            }
        }
    }

    /// Reads a scalar or an empty container; `None`: a container was opened and its first value comes next.
    fn value_or_open(&mut self, open: &mut Vec<Open>) -> Result<Option<Node>, DatumError> {
        self.skip_space();
        let start = self.offset;
        let node = match self.peek() {
            Some(b'{') => {
                self.offset += 1;
                self.skip_space();
                if self.peek() != Some(b'}') {
                    let key = Some(self.key()?);
                    open.push(Open { is_object: true, first: self.pending.len(), key });
                    return Ok(None);
                }
                self.offset += 1;
                Node::Object(Span { start: 0, end: 0 })
            }
            Some(b'[') => {
                self.offset += 1;
                self.skip_space();
                if self.peek() != Some(b']') {
                    open.push(Open { is_object: false, first: self.pending.len(), key: None });
                    return Ok(None);
                }
                self.offset += 1;
                Node::Array(Span { start: 0, end: 0 })
            }
            Some(b'"') => {
                let key = self.string()?;
                match key.had_escapes {
                    true => Node::Unescaped(key.span),
                    false => Node::Verbatim(Span { start, end: self.offset }),
                }
            }
            Some(b'-' | b'0'..=b'9') => {
                let (number, len) = Number::read(&self.text[start..]).ok_or_else(|| self.malformed())?;
                number.check().map_err(DatumError::NotJsonb)?;
                self.offset += len;
                Node::Number(Span { start, end: self.offset })
            }
            _ => {
                let literals: [&[u8]; 3] = [b"true", b"false", b"null"];
                let found = literals.iter().find(|literal| self.text[start..].starts_with(literal));
                self.offset += found.ok_or_else(|| self.malformed())?.len();
                Node::Verbatim(Span { start, end: self.offset })
            }
        };
        Ok(Some(node))
    }

    /// Moves the entries of a container that ends here to their final place.
    fn close(&mut self, first: usize, is_object: bool) -> Node {
        let start = self.entries.len();
        if !is_object {
            self.entries.extend(self.pending.drain(first..));
            return Node::Array(Span { start, end: self.entries.len() });
        }
        let (text, unescaped) = (self.text, &self.unescaped);
        let name = |entry: &Entry| {
            let key = entry.key.as_ref().map(|key| key.span.of(if key.had_escapes { unescaped } else { text }));
            key.unwrap_or_default()
        };
        // Stable: of equal keys the last one written stays last, and wins.
        self.pending[first..].sort_by(|a, b| (name(a).len(), name(a)).cmp(&(name(b).len(), name(b))));
        for position in first..self.pending.len() {
            let entry = self.pending[position];
            let replaced = self.pending.get(position + 1).is_some_and(|next| name(next) == name(&entry));
            if !replaced {
                self.entries.push(entry);
            }
        }
        self.pending.truncate(first);
        Node::Object(Span { start, end: self.entries.len() })
    }

    /// Reads a key and its colon.
    fn key(&mut self) -> Result<Key, DatumError> {
        self.skip_space();
        let key = self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.malformed());
        }
        self.offset += 1;
        Ok(key)
    }

    fn string(&mut self) -> Result<Key, DatumError> {
        if self.peek() != Some(b'"') {
            return Err(self.malformed());
        }
        self.offset += 1;
        let start = self.offset;
        let unescaped_start = self.unescaped.len();
        let mut copied = start;
        loop {
            let special = self.text[self.offset..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            self.offset = special.map_or(self.text.len(), |distance| self.offset + distance);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.unescaped.extend_from_slice(&self.text[copied..self.offset]);
                    self.escape()?;
                    copied = self.offset;
                }
                _ => return Err(self.malformed()),
            }
        }
        let end = self.offset;
        self.offset += 1;
        if copied == start {
            return Ok(Key { span: Span { start, end }, had_escapes: false });
        }
        self.unescaped.extend_from_slice(&self.text[copied..end]);
        Ok(Key { span: Span { start: unescaped_start, end: self.unescaped.len() }, had_escapes: true })
    }

    /// Reads a backslash and what follows it.
    fn escape(&mut self) -> Result<(), DatumError> {
        let byte = match self.text.get(self.offset + 1) {
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(byte @ (b'"' | b'\\' | b'/')) => *byte,
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.malformed()),
        };
        self.unescaped.push(byte);
        self.offset += 2;
        Ok(())
    }

    fn unicode_escape(&mut self) -> Result<(), DatumError> {
        let first = self.code_unit()?;
        let code_point = match first {
            0 => return Err(DatumError::NotJsonb(NotJsonb::NulCharacter)),
            0xd800..0xdc00 => {
                let unpaired = DatumError::NotJsonb(NotJsonb::UnpairedSurrogate);
                if !self.text[self.offset..].starts_with(b"\\u") {
                    return Err(unpaired);
                }
                let second = self.code_unit()?;
                if !(0xdc00..0xe000).contains(&second) {
                    return Err(unpaired);
                }
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            other => other,
        };
        let unpaired = DatumError::NotJsonb(NotJsonb::UnpairedSurrogate);
        let character = char::from_u32(code_point).ok_or(unpaired)?;
        self.unescaped.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    /// Reads `\uXXXX`.
    fn code_unit(&mut self) -> Result<u32, DatumError> {
        let digits = self.text.get(self.offset + 2..self.offset + 6).ok_or_else(|| self.malformed())?;
        let mut unit = 0;
        for digit in digits {
            let value = char::from(*digit).to_digit(16).ok_or_else(|| self.malformed())?;
            unit = unit << 4 | value;
        }
        self.offset += 6;
        Ok(unit)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.offset += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.offset).copied()
    }

    fn malformed(&self) -> DatumError {
        DatumError::Malformed { expected: "json", offset: self.offset }
    }

    fn write(&self, root: Node, out: &mut Vec<u8>) -> Result<(), DatumError> {
        let start = out.len();
        let bytes_max = BYTES_MAX.max(self.text.len().saturating_mul(4));
        let mut open: Vec<Unwritten> = Vec::new();
        self.write_start(root, &mut open, out);
        while let Some(container) = open.last_mut() {
            if container.next == container.end {
                out.push(if container.is_object { b'}' } else { b']' });
                open.pop();
                continue;
            }
            let entry = self.entries[container.next];
            if !std::mem::take(&mut container.at_start) {
                out.extend_from_slice(b", ");
            }
            container.next += 1;
            if let Some(key) = entry.key {
                let bytes = key.span.of(if key.had_escapes { &self.unescaped } else { self.text });
                write_string(bytes, out);
                out.extend_from_slice(b": ");
            }
            self.write_start(entry.value, &mut open, out);
            if out.len() - start > bytes_max {
                return Err(DatumError::NotJsonb(NotJsonb::TooManyDigits));
            }
        }
        Ok(())
    }

    /// Writes a scalar, or a container's opening bracket.
    fn write_start(&self, node: Node, open: &mut Vec<Unwritten>, out: &mut Vec<u8>) {
        let (span, is_object) = match node {
            Node::Verbatim(span) => return out.extend_from_slice(span.of(self.text)),
            Node::Unescaped(span) => return write_string(span.of(&self.unescaped), out),
            Node::Number(span) => {
                if let Some(number) = Number::of(span.of(self.text)) {
                    number.write(out);
                }
                return;
            }
            Node::Array(span) => (span, false),
            Node::Object(span) => (span, true),
        };
        out.push(if is_object { b'{' } else { b'[' });
        open.push(Unwritten { next: span.start, end: span.end, is_object, at_start: true });
    }
}

#[cfg(test)]
mod tests;
