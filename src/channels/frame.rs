//! WebSocket frames as a server sends them (RFC 6455, 5.2): unmasked, unfragmented, the header in front.
//!
//! A frame is built once, header included, and then only shared: what is queued for a socket can be written as it is.

use bytes::Bytes;

/// The longest header of an unmasked frame: two bytes and a 64-bit length.
const HEADER_BYTES_MAX: usize = 10;

const FINAL_TEXT: u8 = 0x81;
const FINAL_BINARY: u8 = 0x82;
const FINAL_CLOSE: u8 = 0x88;
const FINAL_PING: u8 = 0x89;

/// A text frame being written. Room for the header is kept in front, so that the payload is never moved.
pub struct TextFrame {
    buffer: Vec<u8>,
    hole: Option<Hole>,
}

/// Where shared bytes go: they are counted in the header, and queued between two pieces of the frame.
struct Hole {
    at: usize,
    bytes: Bytes,
}

impl TextFrame {
    pub fn with_capacity(payload: usize) -> TextFrame {
        let mut buffer = Vec::with_capacity(HEADER_BYTES_MAX + payload);
        buffer.extend_from_slice(&[0; HEADER_BYTES_MAX]);
        TextFrame { buffer, hole: None }
    }

    pub fn push(&mut self, text: &str) {
        self.buffer.extend_from_slice(text.as_bytes());
    }

    /// Writes a JSON string, quoted and escaped.
    pub fn push_json(&mut self, text: &str) {
        serde_json::to_writer(&mut self.buffer, text).expect("writing a string to memory cannot fail");
    }

    pub fn push_number(&mut self, number: u64) {
        self.buffer.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Leaves the place where `bytes` go. At most once per frame.
    pub fn splice(&mut self, bytes: Bytes) {
        debug_assert!(self.hole.is_none(), "a frame has one hole");
        self.hole = Some(Hole { at: self.buffer.len(), bytes });
    }

    /// The frame as one piece; the spliced bytes, if any, are copied.
    pub fn finish(mut self) -> Bytes {
        if let Some(hole) = self.hole.take() {
            self.buffer.splice(hole.at..hole.at, hole.bytes.iter().copied());
        }
        let payload = self.buffer.len() - HEADER_BYTES_MAX;
        let start = write_header(&mut self.buffer, FINAL_TEXT, payload);
        Bytes::from(self.buffer).slice(start..)
    }

    /// The frame in up to three pieces, of which the middle one is the shared bytes themselves.
    pub fn finish_shared(mut self) -> [Bytes; 3] {
        let Some(Hole { at, bytes }) = self.hole.take() else {
            return [self.finish(), Bytes::new(), Bytes::new()];
        };
        let payload = self.buffer.len() - HEADER_BYTES_MAX + bytes.len();
        let start = write_header(&mut self.buffer, FINAL_TEXT, payload);
        let own = Bytes::from(self.buffer);
        [own.slice(start..at), bytes, own.slice(at..)]
    }
}

/// A text frame around a payload that is at hand.
pub fn text(payload: &[u8]) -> Bytes {
    let mut buffer = Vec::with_capacity(HEADER_BYTES_MAX + payload.len());
    buffer.extend_from_slice(&[0; HEADER_BYTES_MAX]);
    buffer.extend_from_slice(payload);
    let start = write_header(&mut buffer, FINAL_TEXT, payload.len());
    Bytes::from(buffer).slice(start..)
}

/// A binary frame of these pieces.
pub fn binary(pieces: &[&[u8]]) -> Bytes {
    let payload = pieces.iter().map(|piece| piece.len()).sum();
    let mut buffer = Vec::with_capacity(HEADER_BYTES_MAX + payload);
    buffer.extend_from_slice(&[0; HEADER_BYTES_MAX]);
    pieces.iter().for_each(|piece| buffer.extend_from_slice(piece));
    let start = write_header(&mut buffer, FINAL_BINARY, payload);
    Bytes::from(buffer).slice(start..)
}

/// A close frame (RFC 6455, 5.5.1): a control frame, so the reason has at most 123 bytes.
pub fn close(code: u16, reason: &str) -> Bytes {
    let reason = &reason.as_bytes()[..reason.len().min(123)];
    let mut frame = Vec::with_capacity(4 + reason.len());
    frame.push(FINAL_CLOSE);
    frame.push(2 + reason.len() as u8);
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason);
    frame.into()
}

/// A ping with a number, which its pong repeats (RFC 6455, 5.5.2).
pub fn ping(number: u64) -> Bytes {
    [&[FINAL_PING, 8][..], &number.to_be_bytes()].concat().into()
}

/// Writes the header into the room in front of the payload and says where it begins.
fn write_header(buffer: &mut [u8], opcode: u8, payload: usize) -> usize {
    let mut header = [opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let length = match payload {
        0..=125 => {
            header[1] = payload as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    let start = HEADER_BYTES_MAX - length;
    buffer[start..HEADER_BYTES_MAX].copy_from_slice(&header[..length]);
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_shortest_length_that_holds_the_payload() {
        assert_eq!(&text(b"hi")[..], b"\x81\x02hi");
        assert_eq!(&text(&[b'x'; 125])[..2], b"\x81\x7d");
        assert_eq!(&text(&[b'x'; 126])[..4], b"\x81\x7e\x00\x7e");
        assert_eq!(&text(&[b'x'; 65535])[..4], b"\x81\x7e\xff\xff");
        assert_eq!(&text(&[b'x'; 65536])[..10], b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00");
    }

    #[test]
    fn a_binary_frame_is_its_pieces_in_a_row() {
        assert_eq!(&binary(&[b"a", b"", b"bc"])[..], b"\x82\x03abc");
    }

    #[test]
    fn spliced_bytes_are_counted_and_shared_not_copied() {
        let data = Bytes::from(vec![b'd'; 200]);
        let build = || {
            let mut frame = TextFrame::with_capacity(8);
            frame.push("<");
            frame.splice(data.clone());
            frame.push(">");
            frame
        };
        let [head, middle, tail] = build().finish_shared();
        assert_eq!(&head[..], b"\x81\x7e\x00\xca<");
        assert_eq!(middle.as_ptr(), data.as_ptr());
        assert_eq!(&tail[..], b">");
        assert_eq!(build().finish(), [&head[..], &middle[..], &tail[..]].concat());
    }

    #[test]
    fn a_close_frame_carries_its_code_and_a_reason_that_fits() {
        assert_eq!(&close(1000, "")[..], b"\x88\x02\x03\xe8");
        assert_eq!(close(1013, &"r".repeat(200)).len(), 127);
    }
}
