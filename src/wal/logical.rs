//! Logical messages, of which anybody may emit any (manual: `pg_logical_emit_message`).
//!
//! What they say is looked into no further than to tell `walcast.send`'s from others', and those are believed only with a
//! signature. Unlike rows they are never malformed: what cannot be read is not ours.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use bytes::Bytes;

use super::hex;

/// The prefix of what `walcast.send` emits.
pub const BROADCAST_PREFIX: &[u8] = b"walcast.broadcast";

/// SHA-256's, before the body.
const MAC_BYTES: usize = 32;
/// Tag, flags, LSN.
const HEADER_BYTES: usize = 1 + 1 + 8;

/// The content of a frame, if it is a transactional message with that prefix.
pub fn broadcast(frame: &Bytes) -> Option<Bytes> {
    let is_transactional = matches!(frame.first_chunk()?, [b'M', flags] if flags & 1 != 0);
    let rest = frame.get(HEADER_BYTES..)?.strip_prefix(BROADCAST_PREFIX)?;
    let (length, content) = rest.strip_prefix(b"\0")?.split_first_chunk()?;
    let is_whole = usize::try_from(u32::from_be_bytes(*length)) == Ok(content.len());
    (is_transactional && is_whole).then(|| frame.slice_ref(content))
}

/// What `walcast.send` signs with.
#[derive(Clone, PartialEq, Eq)]
pub struct BroadcastKey(Arc<[u8]>);

impl BroadcastKey {
    pub fn new(key: &[u8]) -> BroadcastKey {
        BroadcastKey(key.into())
    }

    /// `None`: it is not hexadecimal.
    pub fn from_hex(text: &str) -> Option<BroadcastKey> {
        hex::decode(text.as_bytes()).map(|key| BroadcastKey::new(&key))
    }

    /// The body of a message's content, if it was signed with this key.
    pub fn open<'a>(&self, content: &'a [u8]) -> Option<&'a [u8]> {
        let (mac, body) = content.split_at_checked(MAC_BYTES)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::verify(&key, body, mac).is_ok().then_some(body)
    }

    #[cfg(test)]
    pub fn sign(&self, body: &[u8]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        [hmac::sign(&key, body).as_ref(), body].concat()
    }
}

/// Not to be shown.
impl fmt::Debug for BroadcastKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BroadcastKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flags: u8, prefix: &[u8], content: &[u8]) -> Bytes {
        let length = (content.len() as u32).to_be_bytes();
        [b"M", &[flags][..], &[0; 8], prefix, b"\0", &length, content].concat().into()
    }

    #[test]
    fn only_whole_transactional_messages_of_that_prefix_are_taken() {
        assert_eq!(broadcast(&frame(1, BROADCAST_PREFIX, b"hello")).as_deref(), Some(&b"hello"[..]));
        for other in
            [frame(0, BROADCAST_PREFIX, b"hello"), frame(1, b"walcast.broadcasts", b""), frame(1, b"\xff", b"")]
        {
            assert_eq!(broadcast(&other), None);
        }
        let whole = frame(1, BROADCAST_PREFIX, b"hello");
        for end in 0..whole.len() {
            assert_eq!(broadcast(&whole.slice(..end)), None, "{end}");
        }
    }

    #[test]
    fn a_signature_is_over_every_byte() {
        let key = BroadcastKey::from_hex(&"0a".repeat(32)).unwrap();
        let signed = key.sign(b"body");
        assert_eq!(key.open(&signed), Some(&b"body"[..]));
        for place in 0..signed.len() {
            let mut forged = signed.clone();
            forged[place] ^= 1;
            assert_eq!(key.open(&forged), None, "{place}");
        }
        assert_eq!(key.open(b"short"), None);
        assert_eq!(BroadcastKey::new(b"another").open(&signed), None);
        assert_eq!(format!("{key:?}"), "BroadcastKey");
    }
}
