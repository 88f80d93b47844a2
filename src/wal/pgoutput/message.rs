//! What a `pgoutput` frame says.

use bytes::Bytes;

/// The OID of a table as the stream names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationId(pub u32);

/// One value of a row image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    Null,
    /// The type's text output under the session settings that `wal::connection` pins.
    Text(&'a [u8]),
    /// A TOASTed value that the UPDATE did not touch: the stream does not carry it.
    UnchangedToast,
    /// Not part of this image at all: a generated column before 18, a column outside the publication's
    /// column list, or a non-key column of an old row of which only the key is sent.
    Missing,
}

/// Where in the frame a column's value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Null,
    UnchangedToast,
    Text { start: u32, len: u32 },
}

/// A row image: the frame's bytes, and where each column's text lies in them. Nothing is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub frame: Bytes,
    pub fields: Box<[Field]>,
}

impl Tuple {
    /// The value at a position of the stream's column order; `Missing` beyond its end.
    pub fn get(&self, position: usize) -> Datum<'_> {
        match self.fields.get(position) {
            None => Datum::Missing,
            Some(Field::Null) => Datum::Null,
            Some(Field::UnchangedToast) => Datum::UnchangedToast,
            Some(&Field::Text { start, len }) => {
                let start = start as usize;
                Datum::Text(&self.frame[start..start + len as usize])
            }
        }
    }

    /// A tuple of the given values, for tests and for rows that walcast itself puts together.
    pub fn from_values<'a>(values: impl IntoIterator<Item = Option<&'a [u8]>>) -> Self {
        let mut frame = Vec::new();
        let mut fields = Vec::new();
        for value in values {
            fields.push(match value {
                None => Field::Null,
                Some(text) => {
                    let start = frame.len() as u32;
                    frame.extend_from_slice(text);
                    Field::Text { start, len: text.len() as u32 }
                }
            });
        }
        Tuple { frame: frame.into(), fields: fields.into() }
    }
}

/// A Relation message: the table as it was when the rows after it were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRelation {
    pub id: RelationId,
    /// Empty for `pg_catalog`.
    pub schema: String,
    pub name: String,
    /// `pg_class.relreplident`: `d`, `n`, `f` or `i`.
    pub replica_identity: u8,
    pub columns: Vec<RelationColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    /// Part of the replica identity.
    pub is_key: bool,
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Begin(Begin),
    Commit(Commit),
    Origin,
    Relation(StreamRelation),
    Type {
        oid: u32,
        schema: String,
        name: String,
    },
    Insert {
        relation: RelationId,
        new: Tuple,
    },
    Update {
        relation: RelationId,
        old: OldTuple,
        new: Tuple,
    },
    Delete {
        relation: RelationId,
        old: OldTuple,
    },
    Truncate {
        relations: Vec<RelationId>,
        cascade: bool,
        restart_identity: bool,
    },
    Logical {
        transactional: bool,
        lsn: u64,
        prefix: String,
        content: Bytes,
    },
    /// A block of changes of a transaction that has not ended follows, up to [`Message::StreamStop`]. In it the other
    /// messages have a transaction id behind their tag, see [`super::in_block`].
    StreamStart {
        xid: u32,
        is_first: bool,
    },
    StreamStop,
    StreamCommit {
        xid: u32,
        commit: Commit,
    },
    /// What `subxid` wrote is void, which may be all of `xid`.
    StreamAbort {
        xid: u32,
        subxid: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// LSN of the commit record (not its end).
    pub final_lsn: super::super::Lsn,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub commit_timestamp: i64,
    pub xid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub commit_lsn: super::super::Lsn,
    /// What the slot is confirmed with once the transaction is handed over.
    pub end_lsn: super::super::Lsn,
    pub commit_timestamp: i64,
}

/// The old tuple of an UPDATE or DELETE as the stream carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldTuple {
    Absent,
    /// `K`: key columns only, the others coded NULL.
    Key(Tuple),
    /// `O`: the whole row (REPLICA IDENTITY FULL).
    Full(Tuple),
}
