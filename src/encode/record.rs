//! The `data` object of a `postgres_changes` event (PROTOCOL 4.1 and 4.2).

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;

use crate::catalog::{Catalog, ColumnIndex, ColumnSet, Relation, ReplicaIdentity};
use crate::change::{Change, OldRow, Operation, Row};
use crate::wal::pgoutput::{Datum, RelationId};
use crate::wal::{Origin, Position};

use super::OldVisibility;
use super::datum::Encoding;
use super::error::EncodeError;
use super::escape::write_string;
use super::limit::Limits;
use super::timestamp::write_commit_timestamp;

/// A buffer that one huge row has grown is given back above this.
const BUFFER_KEPT_BYTES_MAX: usize = 1 << 20;

/// Operation, timestamp and the keys `record`, `old_record` and `errors`, with room to spare.
const EVENT_BYTES: usize = 128;

/// Everything about a relation's changes that does not change with the row, escaped and in order: a change copies it.
/// Holds for one catalog snapshot and one set of visible columns.
#[derive(Debug)]
pub struct RecordShape {
    relation: RelationId,
    columns: Box<[ShapeColumn]>,
    /// `{"table":"..","type":`
    head: Box<[u8]>,
    /// `,"columns":[..],"errors":`
    columns_json: Box<[u8]>,
    /// `,"schema":"..","commit_timestamp":`
    tail: Box<[u8]>,
    /// `"walcast_position":"<system identifier>:<timeline>:`, where rows are to say where their changes stand.
    position_key: Option<Box<[u8]>>,
    /// About what a change takes besides its values: room made once is cheaper than room made often.
    bytes: usize,
}

#[derive(Debug)]
struct ShapeColumn {
    index: ColumnIndex,
    name: Box<str>,
    /// `,"name":`, whose comma the first of a row leaves out.
    key: Box<[u8]>,
    encoding: Encoding,
    in_primary_key: bool,
    /// Part of what an UPDATE that left the key alone shows as `old_record`.
    in_identity: bool,
}

/// What only Postgres could encode: `to_jsonb` of some columns for the rows of one change. `None`: not asked.
#[derive(Clone, Debug, Default)]
pub struct Computed {
    pub new: Option<ComputedValues>,
    pub old: Option<ComputedValues>,
}

/// Those of one row: the two images need not have the same columns.
#[derive(Clone, Debug)]
pub struct ComputedValues {
    pub columns: Arc<[ColumnIndex]>,
    /// By position in `columns`; `None` is NULL.
    pub values: Vec<Option<Box<str>>>,
}

/// A change that is announced without its row (PROTOCOL 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorRow {
    NoPrimaryKey,
    Unauthorized,
}

impl RecordShape {
    /// `visible`: the columns that may be shown. A type that the catalog does not have is called `unknown`.
    pub fn new(catalog: &Catalog, relation: &Relation, visible: &ColumnSet) -> RecordShape {
        // Under FULL the stream always carries an old row; if it did not, the key is all that may be made up.
        let identity = match relation.replica_identity {
            ReplicaIdentity::Full => &relation.primary_key,
            _ => &relation.identity_key,
        };
        let mut columns_json = b",\"columns\":[".to_vec();
        let mut columns = Vec::new();
        for index in relation.indices().filter(|index| visible.contains(*index)) {
            let column = relation.column(index);
            let type_name = catalog.types.get(&column.type_oid).map_or("unknown", |pg_type| &pg_type.name);
            columns_json.extend_from_slice(if columns.is_empty() { b"{\"name\":" } else { b",{\"name\":" });
            write_string(column.name.as_bytes(), &mut columns_json);
            columns_json.extend_from_slice(b",\"type\":");
            write_string(type_name.as_bytes(), &mut columns_json);
            columns_json.push(b'}');
            let mut key = b",".to_vec();
            write_string(column.name.as_bytes(), &mut key);
            key.push(b':');
            columns.push(ShapeColumn {
                index,
                name: column.name.as_str().into(),
                key: key.into(),
                encoding: Encoding::of_column(catalog, column.type_oid),
                in_primary_key: relation.primary_key.contains(&index),
                in_identity: identity.contains(&index),
            });
        }
        columns_json.extend_from_slice(b"],\"errors\":");
        let mut head = Vec::new();
        write_head(relation, &mut head);
        let mut tail = Vec::new();
        write_tail(relation, &mut tail);
        let keys: usize = columns.iter().map(|column| 2 * column.key.len() + "\"\"".len()).sum();
        RecordShape {
            bytes: head.len() + columns_json.len() + tail.len() + keys + EVENT_BYTES,
            relation: relation.id,
            columns: columns.into(),
            head: head.into(),
            columns_json: columns_json.into(),
            tail: tail.into(),
            position_key: None,
        }
    }

    /// The same, of rows that say where their changes stand: as one more key, since clients pass no others on.
    pub fn with_positions(mut self, origin: &Origin) -> RecordShape {
        self.position_key = Some(position_key(origin));
        self.bytes += 96;
        self
    }
}

/// A name that no table is likely to have for a column.
const POSITION_KEY: &str = "walcast_position";

fn position_key(origin: &Origin) -> Box<[u8]> {
    let Origin { system_identifier, timeline } = origin;
    format!("\"{POSITION_KEY}\":\"{system_identifier}:{timeline}:").into_bytes().into()
}

/// Puts the position into the object that was written last.
fn write_position(key: &[u8], position: Position, out: &mut Vec<u8>) {
    let closed = out.pop();
    debug_assert_eq!(closed, Some(b'}'), "an object was written");
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.extend_from_slice(key);
    let Position { lsn, index } = position;
    // Writing to memory does not fail.
    let _ = write!(out, "{lsn}:{index}\"}}");
}

/// The `data` object of a change, keys in the order that Supabase writes them in.
///
/// `shape` was made for the change's relation. `buffer` is reused from change to change: its contents before and
/// after mean nothing.
pub fn change_data(
    shape: &RecordShape,
    change: &Change,
    old: OldVisibility,
    limits: &Limits,
    computed: Option<&Computed>,
    buffer: &mut Vec<u8>,
) -> Result<Bytes, EncodeError> {
    buffer.clear();
    write_change(shape, change, old, limits, computed, buffer)?;
    // Once over the whole is cheaper than once per value. ASCII stands between values, so that two halves of a
    // broken character cannot make a whole one.
    std::str::from_utf8(buffer).map_err(|_| EncodeError::NotUtf8)?;
    let data = Bytes::copy_from_slice(buffer);
    buffer.clear();
    buffer.shrink_to(BUFFER_KEPT_BYTES_MAX);
    Ok(data)
}

fn write_change(
    shape: &RecordShape,
    change: &Change,
    visibility: OldVisibility,
    limits: &Limits,
    computed: Option<&Computed>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    debug_assert_eq!(shape.relation, change.relation.id, "a shape is made for its relation");
    let kept_bytes_max = limits.exceeded_by(change).then_some(limits.kept_value_bytes_max);
    let row_bytes: usize = change.new.iter().chain(change.old.row()).map(|row| row.tuple.frame.len()).sum();
    out.reserve(shape.bytes + row_bytes);
    out.extend_from_slice(&shape.head);
    write_operation(change.operation, out);
    if let Some(row) = &change.new {
        let image = Image {
            row,
            older: change.old.row(),
            computed: computed.and_then(|computed| computed.new.as_ref()),
            kept_bytes_max,
        };
        out.extend_from_slice(b",\"record\":");
        image.write(shape, |_| true, out)?;
        if let Some(key) = &shape.position_key {
            write_position(key, change.position(), out);
        }
    }
    out.extend_from_slice(&shape.columns_json);
    out.extend_from_slice(match kept_bytes_max {
        None => b"null",
        Some(_) => b"[\"Error 413: Payload Too Large\"]",
    });
    out.extend_from_slice(&shape.tail);
    out.push(b'"');
    write_commit_timestamp(change.commit_timestamp, out);
    out.push(b'"');
    if change.operation != Operation::Insert {
        out.extend_from_slice(b",\"old_record\":");
        write_old_record(shape, change, visibility, kept_bytes_max, computed, out)?;
        if let Some(key) = shape.position_key.as_ref().filter(|_| change.operation == Operation::Delete) {
            write_position(key, change.position(), out);
        }
    }
    out.push(b'}');
    Ok(())
}

/// PROTOCOL 4.2's table: which columns `old_record` has, and where their values are.
fn write_old_record(
    shape: &RecordShape,
    change: &Change,
    visibility: OldVisibility,
    kept_bytes_max: Option<usize>,
    computed: Option<&Computed>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let image = |row, computed| Image { row, older: None, computed, kept_bytes_max };
    let computed_new = computed.and_then(|computed| computed.new.as_ref());
    let computed = computed.and_then(|computed| computed.old.as_ref());
    let key_only = visibility == OldVisibility::KeyOnly;
    match &change.old {
        // The stream has no old row because the key did not change: the new row has it.
        OldRow::Absent => match &change.new {
            None => out.extend_from_slice(b"{}"),
            Some(new) => image(new, computed_new).write(shape, |column| column.in_identity, out)?,
        },
        // Under USING INDEX the key may have other columns than the primary key. Those of a deleted row are shown
        // only to whom the whole row may be shown; an UPDATE shows them to all (PROTOCOL 4.2).
        OldRow::Key(row) if key_only && change.operation == Operation::Delete => {
            image(row, computed).write(shape, |column| column.in_primary_key && column.in_identity, out)?
        }
        OldRow::Key(row) => image(row, computed).write(shape, |column| column.in_identity, out)?,
        OldRow::Full(row) => image(row, computed).write(shape, |column| column.in_primary_key || !key_only, out)?,
    }
    Ok(())
}

/// One of a change's rows, and where to look for what it lacks.
struct Image<'a> {
    row: &'a Row,
    /// Has the values of TOAST that the UPDATE did not touch.
    older: Option<&'a Row>,
    computed: Option<&'a ComputedValues>,
    /// Set for a change above the limit: values with longer JSON are left out, and so is TOAST from the older row.
    kept_bytes_max: Option<usize>,
}

enum Value<'a> {
    Null,
    Text(&'a [u8]),
    Computed(&'a str),
}

impl<'a> Image<'a> {
    /// Appends an object of the columns that are both `shown` and known.
    fn write(
        &self,
        shape: &RecordShape,
        shown: impl Fn(&ShapeColumn) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        out.push(b'{');
        let mut first = 1;
        for column in shape.columns.iter().filter(|column| shown(column)) {
            let Some(value) = self.value(column.index) else { continue };
            if self.is_surely_too_long(&value, &column.encoding) {
                continue;
            }
            let column_start = out.len();
            out.extend_from_slice(&column.key[first..]);
            let value_start = out.len();
            match value {
                Value::Null => out.extend_from_slice(b"null"),
                Value::Computed(jsonb) => column.encoding.write_computed(jsonb, out),
                Value::Text(text) => column
                    .encoding
                    .write(text, out)
                    .map_err(|source| EncodeError::Column { column: column.name.clone(), source })?,
            }
            if self.kept_bytes_max.is_some_and(|max| out.len() - value_start > max) {
                out.truncate(column_start);
                continue;
            }
            first = 0;
        }
        out.push(b'}');
        Ok(())
    }

    /// A string is no shorter as JSON: the megabytes that brought the change above the limit need not be copied.
    fn is_surely_too_long(&self, value: &Value<'_>, encoding: &Encoding) -> bool {
        match (self.kept_bytes_max, value, encoding) {
            (Some(max), Value::Text(text), Encoding::Text) => text.len() > max,
            _ => false,
        }
    }

    /// `None`: the key is absent.
    fn value(&self, column: ColumnIndex) -> Option<Value<'a>> {
        let datum = match self.row.datum(column) {
            Datum::UnchangedToast if self.kept_bytes_max.is_none() => self.older?.datum(column),
            datum => datum,
        };
        match datum {
            Datum::Null => Some(Value::Null),
            Datum::Text(text) => Some(self.computed(column).unwrap_or(Value::Text(text))),
            Datum::Missing => self.computed(column),
            Datum::UnchangedToast => None,
        }
    }

    fn computed(&self, column: ColumnIndex) -> Option<Value<'a>> {
        let ComputedValues { columns, values } = self.computed?;
        let position = columns.iter().position(|computed| *computed == column)?;
        Some(values.get(position)?.as_deref().map_or(Value::Null, Value::Computed))
    }
}

/// The `data` object of a change that is announced without its row. `positions`: of what history it is to say its place.
pub fn error_data(change: &Change, error: ErrorRow, positions: Option<&Origin>) -> Bytes {
    let mut out = Vec::new();
    write_head(&change.relation, &mut out);
    write_operation(change.operation, &mut out);
    if change.operation != Operation::Delete {
        out.extend_from_slice(b",\"record\":{}");
        if let Some(origin) = positions {
            write_position(&position_key(origin), change.position(), &mut out);
        }
    }
    out.extend_from_slice(b",\"columns\":[],\"errors\":[\"");
    out.extend_from_slice(match error {
        ErrorRow::NoPrimaryKey => b"Error 400: Bad Request, no primary key",
        ErrorRow::Unauthorized => b"Error 401: Unauthorized",
    });
    out.extend_from_slice(b"\"]");
    write_tail(&change.relation, &mut out);
    out.extend_from_slice(b"null");
    if change.operation != Operation::Insert {
        out.extend_from_slice(b",\"old_record\":{}");
    }
    out.push(b'}');
    out.into()
}

fn write_head(relation: &Relation, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"table\":");
    write_string(relation.name.as_bytes(), out);
    out.extend_from_slice(b",\"type\":");
}

fn write_operation(operation: Operation, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(operation.as_str().as_bytes());
    out.push(b'"');
}

fn write_tail(relation: &Relation, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"schema\":");
    write_string(relation.schema.as_bytes(), out);
    out.extend_from_slice(b",\"commit_timestamp\":");
}

#[cfg(test)]
mod tests;
