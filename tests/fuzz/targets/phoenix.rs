//! Frames of both serializers. What is read can be written in either version, as one whole WebSocket frame whose payload is
//! JSON that is read as the same; nothing is read past the end of a binary frame.

use walcast::channels::Serializer;
use walcast::channels::phoenix::{Incoming, Outgoing, Payload};

/// The first byte says which: `1` and `2` text, `b` binary.
pub fn fuzz_phoenix(data: &[u8]) {
    let Some((kind, frame)) = data.split_first() else { return };
    match kind {
        b'b' => {
            assert_eq!(Serializer::V1.decode_binary(frame), None);
            if let Some(incoming) = Serializer::V2.decode_binary(frame) {
                assert!(incoming.payload.len() <= frame.len());
                rewrite(&incoming);
            }
        }
        kind => {
            let serializer = if *kind == b'1' { Serializer::V1 } else { Serializer::V2 };
            let text = String::from_utf8_lossy(frame);
            if let Some(incoming) = serializer.decode_text(&text) {
                rewrite(&incoming);
            }
        }
    }
}

fn rewrite(incoming: &Incoming<'_>) {
    let payload = match incoming.payload {
        Payload::Json(text) => text,
        _ => "{}",
    };
    for serializer in [Serializer::V1, Serializer::V2] {
        let outgoing = Outgoing {
            join_ref: incoming.join_ref.as_deref(),
            reference: incoming.reference.as_deref(),
            topic: &incoming.topic,
            event: &incoming.event,
        };
        let frame = outgoing.encode(serializer, payload);
        let (opcode, bytes) = whole_frame(&frame);
        assert_eq!(opcode, 1);
        let text = std::str::from_utf8(bytes).expect("UTF-8");
        // What the server writes, version 1 without the join's ref, reads as what came in.
        let refs = [&incoming.join_ref, &incoming.reference];
        let Some(again) = serializer.decode_text(text) else {
            // Of a binary frame: 255 bytes that need escapes are a longer text.
            assert!(refs.iter().any(|raw| raw.as_ref().is_some_and(|raw| raw.len() > 255)), "cannot be read: {text}");
            continue;
        };
        assert_eq!((&again.topic, &again.event), (&incoming.topic, &incoming.event));
        assert_eq!(again.reference, incoming.reference);
        assert_eq!(again.payload, Payload::Json(payload));
    }
}

/// Opcode and payload of a frame as a server sends it, which must end where the frame does (RFC 6455, 5.2).
pub fn whole_frame(frame: &[u8]) -> (u8, &[u8]) {
    let (opcode, length, rest) = first_frame(frame);
    assert_eq!(rest.len(), length, "a frame's header says another length");
    (opcode, rest)
}

/// Of the first frame: opcode, length of the payload, and what follows the header.
pub fn first_frame(frame: &[u8]) -> (u8, usize, &[u8]) {
    let [first, second, rest @ ..] = frame else { panic!("a frame of {} bytes", frame.len()) };
    assert_eq!(first & 0xf0, 0x80, "fragmented, or a reserved bit");
    let (length, rest) = match *second {
        126 => (u64::from(u16::from_be_bytes(rest[..2].try_into().unwrap())), &rest[2..]),
        127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()), &rest[8..]),
        short => (u64::from(short), rest),
    };
    (first & 0x0f, usize::try_from(length).unwrap(), rest)
}
