//! From a message to its frame: what a walsender would have sent. Tests and the fuzz corpus speak with it.

use bytes::{BufMut, Bytes};

use super::message::{Datum, Message, OldTuple, Tuple};

/// The frame of a message. What a message does not keep (an Origin's name) is left empty.
pub fn encode(message: &Message) -> Bytes {
    let mut out = Vec::new();
    match message {
        Message::Begin(begin) => {
            out.put_u8(b'B');
            out.put_u64(begin.final_lsn.0);
            out.put_i64(begin.commit_timestamp);
            out.put_u32(begin.xid);
        }
        Message::Commit(commit) => {
            out.put_slice(b"C\0");
            out.put_u64(commit.commit_lsn.0);
            out.put_u64(commit.end_lsn.0);
            out.put_i64(commit.commit_timestamp);
        }
        Message::StreamStart { xid, is_first } => {
            out.put_u8(b'S');
            out.put_u32(*xid);
            out.put_u8(u8::from(*is_first));
        }
        Message::StreamStop => out.put_u8(b'E'),
        Message::StreamCommit { xid, commit } => {
            out.put_u8(b'c');
            out.put_u32(*xid);
            out.put_slice(&encode(&Message::Commit(*commit))[1..]);
        }
        Message::StreamAbort { xid, subxid } => {
            out.put_u8(b'A');
            out.put_u32(*xid);
            out.put_u32(*subxid);
        }
        Message::Origin => out.put_slice(b"O\0\0\0\0\0\0\0\0\0"),
        Message::Relation(relation) => {
            out.put_u8(b'R');
            out.put_u32(relation.id.0);
            put_cstr(&mut out, &relation.schema);
            put_cstr(&mut out, &relation.name);
            out.put_u8(relation.replica_identity);
            out.put_u16(relation.columns.len() as u16);
            for column in &relation.columns {
                out.put_u8(u8::from(column.is_key));
                put_cstr(&mut out, &column.name);
                out.put_u32(column.type_oid);
                out.put_i32(column.type_modifier);
            }
        }
        Message::Type { oid, schema, name } => {
            out.put_u8(b'Y');
            out.put_u32(*oid);
            put_cstr(&mut out, schema);
            put_cstr(&mut out, name);
        }
        Message::Insert { relation, new } => {
            out.put_u8(b'I');
            out.put_u32(relation.0);
            put_tuple(&mut out, b'N', new);
        }
        Message::Update { relation, old, new } => {
            out.put_u8(b'U');
            out.put_u32(relation.0);
            put_old(&mut out, old);
            put_tuple(&mut out, b'N', new);
        }
        Message::Delete { relation, old } => {
            out.put_u8(b'D');
            out.put_u32(relation.0);
            put_old(&mut out, old);
        }
        Message::Truncate { relations, cascade, restart_identity } => {
            out.put_u8(b'T');
            out.put_u32(relations.len() as u32);
            out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            relations.iter().for_each(|relation| out.put_u32(relation.0));
        }
        Message::Logical { transactional, lsn, prefix, content } => {
            out.put_u8(b'M');
            out.put_u8(u8::from(*transactional));
            out.put_u64(*lsn);
            put_cstr(&mut out, prefix);
            out.put_u32(content.len() as u32);
            out.put_slice(content);
        }
    }
    out.into()
}

/// The same within a block, as of this (sub)transaction.
pub fn encode_in_block(xid: u32, message: &Message) -> Bytes {
    let frame = encode(message);
    [&frame[..1], &xid.to_be_bytes(), &frame[1..]].concat().into()
}

fn put_cstr(out: &mut Vec<u8>, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn put_old(out: &mut Vec<u8>, old: &OldTuple) {
    match old {
        OldTuple::Absent => {}
        OldTuple::Key(tuple) => put_tuple(out, b'K', tuple),
        OldTuple::Full(tuple) => put_tuple(out, b'O', tuple),
    }
}

fn put_tuple(out: &mut Vec<u8>, kind: u8, tuple: &Tuple) {
    out.put_u8(kind);
    out.put_u16(tuple.fields.len() as u16);
    for position in 0..tuple.fields.len() {
        match tuple.get(position) {
            Datum::Null | Datum::Missing => out.put_u8(b'n'),
            Datum::UnchangedToast => out.put_u8(b'u'),
            Datum::Text(text) => {
                out.put_u8(b't');
                out.put_u32(text.len() as u32);
                out.put_slice(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::Lsn;
    use super::super::decode::{commit_end, decode, relation_id, tag};
    use super::super::message::{Begin, Commit, Field, RelationColumn, RelationId, StreamRelation};
    use super::*;

    fn name() -> impl Strategy<Value = String> {
        "[^\0]{0,12}"
    }

    fn tuple() -> impl Strategy<Value = Tuple> {
        let value = prop_oneof![
            3 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Some),
            1 => Just(None),
        ];
        (prop::collection::vec(value, 0..8), any::<u8>()).prop_map(|(values, toast)| {
            let mut tuple = Tuple::from_values(values.iter().map(|v| v.as_deref()));
            if let Some(field) = tuple.fields.get_mut(usize::from(toast)) {
                *field = Field::UnchangedToast;
            }
            tuple
        })
    }

    fn relation() -> impl Strategy<Value = Message> {
        let column =
            (name(), any::<u32>(), any::<i32>(), any::<bool>()).prop_map(|(name, type_oid, type_modifier, is_key)| {
                RelationColumn { name, type_oid, type_modifier, is_key }
            });
        let identity = prop::sample::select(b"dnfi".to_vec());
        (any::<u32>(), name(), name(), identity, prop::collection::vec(column, 0..5)).prop_map(
            |(id, schema, name, replica_identity, columns)| {
                Message::Relation(StreamRelation { id: RelationId(id), schema, name, replica_identity, columns })
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        let id = || any::<u32>().prop_map(RelationId);
        let old = || prop_oneof![tuple().prop_map(OldTuple::Key), tuple().prop_map(OldTuple::Full)];
        prop_oneof![
            (any::<u64>(), any::<i64>(), any::<u32>()).prop_map(|(lsn, commit_timestamp, xid)| {
                Message::Begin(Begin { final_lsn: Lsn(lsn), commit_timestamp, xid })
            }),
            (any::<u64>(), any::<u64>(), any::<i64>()).prop_map(|(commit, end, commit_timestamp)| {
                Message::Commit(Commit { commit_lsn: Lsn(commit), end_lsn: Lsn(end), commit_timestamp })
            }),
            Just(Message::Origin),
            (any::<u32>(), any::<bool>()).prop_map(|(xid, is_first)| Message::StreamStart { xid, is_first }),
            Just(Message::StreamStop),
            (any::<u32>(), any::<u32>()).prop_map(|(xid, subxid)| Message::StreamAbort { xid, subxid }),
            (any::<u32>(), any::<u64>(), any::<u64>(), any::<i64>()).prop_map(
                |(xid, commit, end, commit_timestamp)| {
                    let commit = Commit { commit_lsn: Lsn(commit), end_lsn: Lsn(end), commit_timestamp };
                    Message::StreamCommit { xid, commit }
                }
            ),
            relation(),
            (any::<u32>(), name(), name()).prop_map(|(oid, schema, name)| Message::Type { oid, schema, name }),
            (id(), tuple()).prop_map(|(relation, new)| Message::Insert { relation, new }),
            (id(), prop_oneof![Just(OldTuple::Absent), old()], tuple())
                .prop_map(|(relation, old, new)| Message::Update { relation, old, new }),
            (id(), old()).prop_map(|(relation, old)| Message::Delete { relation, old }),
            (prop::collection::vec(id(), 0..5), any::<bool>(), any::<bool>()).prop_map(
                |(relations, cascade, restart_identity)| Message::Truncate { relations, cascade, restart_identity }
            ),
            (any::<bool>(), any::<u64>(), name(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(
                |(transactional, lsn, prefix, content)| Message::Logical {
                    transactional,
                    lsn,
                    prefix,
                    content: content.into()
                }
            ),
        ]
    }

    /// The fuzz entry: whatever the bytes are, decoding answers, and an answer can be said again.
    fn decode_anything(bytes: &[u8]) {
        let frame = Bytes::copy_from_slice(bytes);
        let _ = (tag(&frame), relation_id(&frame), commit_end(&frame));
        match decode(frame.clone()) {
            Ok(message) => {
                let again = decode(encode(&message)).expect("what was decoded can be encoded");
                assert_eq!(encode(&again), encode(&message));
            }
            Err(error) => assert!(error.offset <= frame.len(), "{error}"),
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_again(message in message()) {
            let frame = encode(&message);
            let decoded = decode(frame.clone()).unwrap();
            prop_assert_eq!(encode(&decoded), frame.clone());
            if let (Message::Relation(a), Message::Relation(b)) = (&decoded, &message) {
                prop_assert_eq!(a, b);
            }
            if let (Message::Insert { new: a, .. }, Message::Insert { new: b, .. }) = (&decoded, &message) {
                for position in 0..a.fields.len() {
                    prop_assert_eq!(a.get(position), b.get(position));
                }
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), tag in 0usize..10) {
            decode_anything(&bytes);
            let tagged = [&b"BCORYIUDTM"[tag..=tag], &bytes].concat();
            decode_anything(&tagged);
        }

        #[test]
        fn a_valid_frame_with_bytes_changed_or_cut_never_panics(
            message in message(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut frame = encode(&message).to_vec();
            for (index, byte) in changes {
                let index = index.index(frame.len());
                frame[index] = byte;
            }
            decode_anything(&frame);
            decode_anything(&frame[..cut.index(frame.len())]);
        }
    }
}
