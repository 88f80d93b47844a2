//! Frames of the stream. What is decoded can be encoded and decoded again, and says the same; what encodes to the bytes
//! that it was read from is not looked at twice. Errors point into the frame.

use bytes::Bytes;
use walcast::wal::pgoutput::{Message, commit_end, decode, encode, in_block, relation_id, tag};

pub fn fuzz_pgoutput(data: &[u8]) {
    let frame = Bytes::copy_from_slice(data);
    if let Ok((_, tag, rest)) = in_block(&frame) {
        assert_eq!((frame.first(), rest.len()), (Some(&tag), frame.len() - 5));
    }
    match decode(frame.clone()) {
        Ok(message) => {
            assert_eq!(tag(&frame), frame.first().copied());
            match &message {
                Message::Insert { relation, .. }
                | Message::Update { relation, .. }
                | Message::Delete { relation, .. } => {
                    assert_eq!(relation_id(&frame), Some(*relation), "the short way says another table");
                }
                Message::StreamCommit { commit, .. } | Message::Commit(commit) => {
                    assert_eq!(commit_end(&frame), Some(commit.end_lsn))
                }
                _ => {}
            }
            let once = encode(&message);
            let again = decode(once.clone()).expect("what was encoded can be decoded");
            assert_eq!(encode(&again), once, "encoding is not stable");
            // What a message does not keep: the name of an origin, flags that have no meaning.
            if !matches!(
                message,
                Message::Origin | Message::Truncate { .. } | Message::Relation(_) | Message::Logical { .. }
            ) {
                assert_eq!(once, frame, "decoding and encoding gives other bytes");
            }
        }
        Err(error) => {
            assert!(error.offset <= frame.len(), "{error}");
            assert!(error.to_string().len() < 500);
        }
    }
}
