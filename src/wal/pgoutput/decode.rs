//! From a frame to what it says. Total: every byte string gives a message or an error with an offset.

use bytes::Bytes;

use super::super::Lsn;
use super::super::cursor::{Cursor, DecodeError, Fault};
use super::message::{Begin, Commit, Field, Message, OldTuple, RelationColumn, RelationId, StreamRelation, Tuple};

/// Decodes one frame of protocol version 2 with text values, as it is outside of a block. Tuples refer to `frame`; no value is copied.
pub fn decode(frame: Bytes) -> Result<Message, DecodeError> {
    let bytes = frame.clone();
    let mut cursor = Cursor::new(&bytes);
    let message = match cursor.u8("message tag")? {
        b'B' => Message::Begin(begin(&mut cursor)?),
        b'C' => Message::Commit(commit(&mut cursor)?),
        b'O' => origin(&mut cursor)?,
        b'R' => Message::Relation(relation(&mut cursor)?),
        b'Y' => type_(&mut cursor)?,
        b'I' => insert(&mut cursor, frame)?,
        b'U' => update(&mut cursor, frame)?,
        b'D' => delete(&mut cursor, frame)?,
        b'T' => truncate(&mut cursor)?,
        b'M' => logical(&mut cursor, &frame)?,
        b'S' => stream_start(&mut cursor)?,
        b'E' => Message::StreamStop,
        b'c' => Message::StreamCommit { xid: cursor.u32("transaction id")?, commit: commit(&mut cursor)? },
        b'A' => Message::StreamAbort { xid: cursor.u32("transaction id")?, subxid: cursor.u32("subtransaction id")? },
        tag => return Err(DecodeError { offset: 0, what: Fault::Unknown("message tag", tag) }),
    };
    cursor.finish()?;
    Ok(message)
}

/// The tag of a frame, without looking further.
pub fn tag(frame: &[u8]) -> Option<u8> {
    frame.first().copied()
}

/// The table of an Insert, Update or Delete, without decoding its rows.
pub fn relation_id(frame: &[u8]) -> Option<RelationId> {
    match frame {
        [b'I' | b'U' | b'D', a, b, c, d, ..] => Some(RelationId(u32::from_be_bytes([*a, *b, *c, *d]))),
        _ => None,
    }
}

/// A frame of a block as what it is outside of one, in two pieces, and the (sub)transaction that it is of.
pub fn in_block(frame: &[u8]) -> Result<(u32, u8, &[u8]), DecodeError> {
    let mut cursor = Cursor::new(frame);
    let tag = cursor.u8("message tag")?;
    Ok((cursor.u32("transaction id")?, tag, cursor.rest()))
}

/// Where a Commit's transaction ends: what the slot is confirmed with once it has been handed over.
pub fn commit_end(frame: &[u8]) -> Option<Lsn> {
    // Tag, of a streamed one its id, flags, LSN of the commit record, then the end.
    let end = match frame.first()? {
        b'C' => frame.get(10..18),
        b'c' => frame.get(14..22),
        _ => None,
    };
    end?.first_chunk().map(|end| Lsn(u64::from_be_bytes(*end)))
}

fn begin(cursor: &mut Cursor<'_>) -> Result<Begin, DecodeError> {
    Ok(Begin {
        final_lsn: Lsn(cursor.u64("final LSN")?),
        commit_timestamp: cursor.i64("commit timestamp")?,
        xid: cursor.u32("transaction id")?,
    })
}

fn commit(cursor: &mut Cursor<'_>) -> Result<Commit, DecodeError> {
    // "Flags; currently unused": Postgres' own subscriber refuses others than 0, and so do we.
    let offset = cursor.offset();
    match cursor.u8("commit flags")? {
        0 => {}
        flags => return Err(DecodeError { offset, what: Fault::Unknown("commit flags", flags) }),
    }
    Ok(Commit {
        commit_lsn: Lsn(cursor.u64("commit LSN")?),
        end_lsn: Lsn(cursor.u64("end LSN")?),
        commit_timestamp: cursor.i64("commit timestamp")?,
    })
}

fn stream_start(cursor: &mut Cursor<'_>) -> Result<Message, DecodeError> {
    let xid = cursor.u32("transaction id")?;
    let offset = cursor.offset();
    match cursor.u8("first segment")? {
        first @ (0 | 1) => Ok(Message::StreamStart { xid, is_first: first == 1 }),
        first => Err(DecodeError { offset, what: Fault::Unknown("first segment", first) }),
    }
}

fn origin(cursor: &mut Cursor<'_>) -> Result<Message, DecodeError> {
    cursor.u64("origin LSN")?;
    cursor.cstr("origin name")?;
    Ok(Message::Origin)
}

fn relation(cursor: &mut Cursor<'_>) -> Result<StreamRelation, DecodeError> {
    let id = RelationId(cursor.u32("relation id")?);
    let schema = cursor.text("schema name")?.to_owned();
    let name = cursor.text("relation name")?.to_owned();
    let offset = cursor.offset();
    let replica_identity = match cursor.u8("replica identity")? {
        known @ (b'd' | b'n' | b'f' | b'i') => known,
        other => return Err(DecodeError { offset, what: Fault::Unknown("replica identity", other) }),
    };
    let count = cursor.count16("column count")?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        columns.push(RelationColumn {
            // Bit 0 is the only one that has a meaning.
            is_key: cursor.u8("column flags")? & 1 != 0,
            name: cursor.text("column name")?.to_owned(),
            type_oid: cursor.u32("column type")?,
            type_modifier: cursor.i32("type modifier")?,
        });
    }
    Ok(StreamRelation { id, schema, name, replica_identity, columns })
}

fn type_(cursor: &mut Cursor<'_>) -> Result<Message, DecodeError> {
    Ok(Message::Type {
        oid: cursor.u32("type id")?,
        schema: cursor.text("schema name")?.to_owned(),
        name: cursor.text("type name")?.to_owned(),
    })
}

fn insert(cursor: &mut Cursor<'_>, frame: Bytes) -> Result<Message, DecodeError> {
    let relation = RelationId(cursor.u32("relation id")?);
    let offset = cursor.offset();
    match cursor.u8("tuple kind")? {
        b'N' => Ok(Message::Insert { relation, new: tuple(cursor, frame)? }),
        kind => Err(DecodeError { offset, what: Fault::Unknown("tuple kind", kind) }),
    }
}

fn update(cursor: &mut Cursor<'_>, frame: Bytes) -> Result<Message, DecodeError> {
    let relation = RelationId(cursor.u32("relation id")?);
    let mut offset = cursor.offset();
    let mut kind = cursor.u8("tuple kind")?;
    let mut old = OldTuple::Absent;
    if let b'K' | b'O' = kind {
        let image = tuple(cursor, frame.clone())?;
        old = if kind == b'K' { OldTuple::Key(image) } else { OldTuple::Full(image) };
        offset = cursor.offset();
        kind = cursor.u8("tuple kind")?;
    }
    match kind {
        b'N' => Ok(Message::Update { relation, old, new: tuple(cursor, frame)? }),
        kind => Err(DecodeError { offset, what: Fault::Unknown("tuple kind", kind) }),
    }
}

fn delete(cursor: &mut Cursor<'_>, frame: Bytes) -> Result<Message, DecodeError> {
    let relation = RelationId(cursor.u32("relation id")?);
    let offset = cursor.offset();
    match cursor.u8("tuple kind")? {
        b'K' => Ok(Message::Delete { relation, old: OldTuple::Key(tuple(cursor, frame)?) }),
        b'O' => Ok(Message::Delete { relation, old: OldTuple::Full(tuple(cursor, frame)?) }),
        kind => Err(DecodeError { offset, what: Fault::Unknown("tuple kind", kind) }),
    }
}

fn truncate(cursor: &mut Cursor<'_>) -> Result<Message, DecodeError> {
    let count = cursor.count32("relation count")?;
    let options = cursor.u8("truncate options")?;
    // The count is a claim: memory is reserved for what the frame can hold.
    let mut relations = Vec::with_capacity(count.min(cursor.remaining() / 4));
    for _ in 0..count {
        relations.push(RelationId(cursor.u32("relation id")?));
    }
    Ok(Message::Truncate { relations, cascade: options & 1 != 0, restart_identity: options & 2 != 0 })
}

fn logical(cursor: &mut Cursor<'_>, frame: &Bytes) -> Result<Message, DecodeError> {
    let transactional = cursor.u8("message flags")? & 1 != 0;
    let lsn = cursor.u64("message LSN")?;
    let prefix = cursor.text("message prefix")?.to_owned();
    let len = cursor.count32("message length")?;
    let start = cursor.offset();
    cursor.take(len, "message content")?;
    Ok(Message::Logical { transactional, lsn, prefix, content: frame.slice(start..start + len) })
}

fn tuple(cursor: &mut Cursor<'_>, frame: Bytes) -> Result<Tuple, DecodeError> {
    if u32::try_from(frame.len()).is_err() {
        // Postgres' messages end at 1 GB; `Field` has 32 bits for an offset.
        return cursor.fail(Fault::Malformed("frame length"));
    }
    let count = cursor.count16("column count")?;
    let mut fields = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = cursor.offset();
        fields.push(match cursor.u8("value kind")? {
            b'n' => Field::Null,
            b'u' => Field::UnchangedToast,
            b't' => {
                let len = cursor.count32("value length")?;
                let start = cursor.offset();
                cursor.take(len, "value")?;
                Field::Text { start: start as u32, len: len as u32 }
            }
            // Also `b`: binary values were not asked for.
            kind => return Err(DecodeError { offset, what: Fault::Unknown("value kind", kind) }),
        });
    }
    Ok(Tuple { frame, fields: fields.into_boxed_slice() })
}

#[cfg(test)]
mod tests {
    use super::super::message::Datum;
    use super::*;

    /// `insert into t values (1, null, '')` of a table with three columns.
    const INSERT: &[u8] = b"I\0\0\x40\0N\0\x03t\0\0\0\x011nt\0\0\0\0";

    #[test]
    fn values_are_slices_of_the_frame() {
        let Message::Insert { relation, new } = decode(Bytes::from_static(INSERT)).unwrap() else { panic!() };
        assert_eq!(relation, RelationId(0x4000));
        let values: Vec<_> = (0..4).map(|position| new.get(position)).collect();
        assert_eq!(values, [Datum::Text(b"1"), Datum::Null, Datum::Text(b""), Datum::Missing]);
        assert_eq!(new.frame.as_ptr(), INSERT.as_ptr());
    }

    #[test]
    fn every_proper_prefix_ends_early_and_one_byte_more_is_too_many() {
        for end in 0..INSERT.len() {
            let error = decode(Bytes::from_static(&INSERT[..end])).unwrap_err();
            assert!(matches!(error.what, Fault::EndsEarly(_)), "{end}: {error}");
            assert!(error.offset <= end);
        }
        let longer = [INSERT, b"x"].concat();
        let error = decode(longer.into()).unwrap_err();
        assert_eq!(error, DecodeError { offset: INSERT.len(), what: Fault::TrailingBytes(1) });
    }

    #[test]
    fn an_unknown_tag_a_binary_value_and_a_negative_count_are_told_apart() {
        let unknown = decode(Bytes::from_static(b"Z")).unwrap_err();
        assert_eq!(unknown.to_string(), "unknown message tag 0x5a at byte 0");
        let binary = decode(Bytes::from_static(b"I\0\0\0\x01N\0\x01b\0\0\0\0")).unwrap_err();
        assert_eq!(binary.to_string(), "unknown value kind 0x62 at byte 8");
        let negative = decode(Bytes::from_static(b"I\0\0\0\x01N\xff\xff")).unwrap_err();
        assert_eq!(negative.what, Fault::Malformed("column count"));
    }

    #[test]
    fn a_count_that_the_frame_cannot_hold_reserves_nothing() {
        let error = decode(Bytes::from_static(b"T\x7f\xff\xff\xff\0")).unwrap_err();
        assert_eq!(error.what, Fault::EndsEarly("relation id"));
    }

    #[test]
    fn peeks_agree_with_decoding() {
        assert_eq!(tag(INSERT), Some(b'I'));
        assert_eq!(relation_id(INSERT), Some(RelationId(0x4000)));
        assert_eq!(relation_id(b"B\0\0\0\x01"), None);
        assert_eq!(relation_id(b"I\0"), None);
        let commit = [b"C\0".as_slice(), &7u64.to_be_bytes(), &9u64.to_be_bytes(), &[0; 8]].concat();
        let Message::Commit(decoded) = decode(commit.clone().into()).unwrap() else { panic!() };
        assert_eq!(commit_end(&commit), Some(decoded.end_lsn));
        assert_eq!(decoded.end_lsn, Lsn(9));
        let commit = [b"c\0\0\0\x05", &commit[1..]].concat();
        assert_eq!(decode(commit.clone().into()).unwrap(), Message::StreamCommit { xid: 5, commit: decoded });
        assert_eq!(commit_end(&commit), Some(Lsn(9)));
        let (xid, tag, rest) = in_block(b"I\0\0\0\x05\0\0\x40\0N").unwrap();
        assert_eq!((xid, tag, rest), (5, b'I', &b"\0\0\x40\0N"[..]));
        assert!(in_block(b"I\0\0\0").is_err());
    }
}
