//! Keys for deletes: a published table kept like one that policies read, so that a DELETE of which the stream has the
//! bare key is judged by the row that it removed.

use std::sync::Arc;

use super::Tracking;
use crate::authz::policy::decode::encode;
use crate::authz::policy::failure::Undecided;
use crate::authz::policy::{DatumType, Failure, Need, Row, Value};
use crate::authz::tracked::{Moment, Table, TrackedRow};
use crate::catalog::{Catalog, ColumnIndex, ColumnSet, Relation};
use crate::change::{self, Layout};
use crate::wal::pgoutput::{StreamRelation, Tuple};

/// `schema.table` of `--delete-index`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl std::str::FromStr for TableName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('.') {
            Some((schema, name)) if !schema.is_empty() && !name.is_empty() => {
                Ok(TableName { schema: schema.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("not a table: {text:?} (expected schema.table)")),
        }
    }
}

/// A row as it was before the transaction in work.
#[derive(Clone, Copy, Debug)]
pub enum OldRow<'a> {
    /// The table is not kept, or not at the moment.
    Unknown,
    /// There was none: nobody can have seen it.
    Absent,
    Row(&'a Table, TrackedRow<'a>),
}

/// A kept row, as the evaluator reads one. What is not kept is undecided.
#[derive(Clone, Copy, Debug)]
pub struct KeptRow<'a>(pub &'a Table, pub TrackedRow<'a>);

impl Row for KeptRow<'_> {
    fn value(&self, column: ColumnIndex) -> Result<&Value, Failure> {
        self.0.value(self.1, column).ok_or(Failure::Undecided(Undecided::ColumnMissing(column)))
    }
}

/// Values of a kept row, by column, as text of the stream.
pub struct KeptText(Vec<(ColumnIndex, Option<String>)>);

impl KeptText {
    /// `None` where the value has no text that is sure: the column counts as not kept.
    pub(super) fn of(table: &Table, row: TrackedRow<'_>) -> KeptText {
        let shape = table.shape();
        let text = |column: &ColumnIndex| {
            let datum_type = shape.datum_type(*column)?;
            let text = match table.value(row, *column)? {
                Value::Null => None,
                // Under UTC, as the stream has it.
                Value::Timestamptz(at) => {
                    Some(format!("{}+00", encode(&DatumType::Timestamp, &Value::Timestamp(*at)).ok()?))
                }
                value => Some(encode(datum_type, value).ok()?),
            };
            Some((*column, text))
        };
        KeptText(shape.columns().iter().filter_map(text).collect())
    }

    /// An old row of which these columns are known.
    pub fn into_row(self, relation: &Arc<Relation>) -> change::Row {
        let mut positions = vec![None; relation.columns.len()];
        for ((column, _), position) in self.0.iter().zip(0..) {
            if let Some(place) = positions.get_mut(usize::from(column.0)) {
                *place = Some(position);
            }
        }
        let is_key = positions.iter().map(Option::is_some).collect();
        let layout = Arc::new(Layout { relation: Arc::clone(relation), positions: positions.into(), is_key });
        let tuple = Tuple::from_values(self.0.iter().map(|(_, text)| text.as_deref().map(str::as_bytes)));
        change::Row { layout, tuple, key_only: true }
    }
}

/// The columns that judging an old row takes: those that the table's policies read, and those that filters do. What is
/// not understood, or not in the stream, is left out: whoever needs it does not find it, and asks or denies.
pub(super) fn need(catalog: &Catalog, relation: &Relation, filters: &ColumnSet) -> Need {
    let is_kept = |index: &ColumnIndex| {
        let column = relation.column(*index);
        column.generated.is_none() && DatumType::of(catalog, column.type_oid).is_some()
    };
    let is_read = |index: &ColumnIndex| {
        let attnum = relation.column(*index).attnum;
        let reads = |columns: &Option<Vec<i16>>| columns.as_ref().is_none_or(|columns| columns.contains(&attnum));
        filters.contains(*index) || relation.policies.iter().any(|policy| reads(&policy.columns))
    };
    let columns = relation.indices().filter(is_read).filter(is_kept).collect();
    Need { relation: relation.id, columns, indexes: Vec::new() }
}

/// A table of the publication, by name.
pub(super) fn published<'a>(catalog: &'a Catalog, name: &TableName) -> Option<&'a Relation> {
    let is_it = |relation: &&std::sync::Arc<Relation>| relation.schema == name.schema && relation.name == name.name;
    catalog.relations.values().find(is_it).map(|relation| &**relation)
}

impl Tracking {
    /// The text of what is kept of the row with this key, as it was before the transaction in work.
    pub fn kept_row(&self, stream: &Arc<StreamRelation>, key: &Tuple) -> Option<KeptText> {
        match self.old_row(stream, key) {
            OldRow::Row(table, row) => Some(KeptText::of(table, row)),
            OldRow::Unknown | OldRow::Absent => None,
        }
    }

    /// The row that a DELETE or an UPDATE of the transaction in work is about, as it was before that transaction.
    /// `named`: the old tuple, or, where an UPDATE has none, the new one: the key is the same.
    pub fn old_row(&self, stream: &Arc<StreamRelation>, named: &Tuple) -> OldRow<'_> {
        let table = self.members.get(&stream.id).and_then(|id| self.tables.get(*id));
        let Some(table) = table.filter(|table| table.shape().has_unique_key()) else { return OldRow::Unknown };
        let shape = table.shape();
        let Ok(key) = shape.layout(stream).and_then(|layout| shape.key_of(&layout, named)) else {
            return OldRow::Unknown;
        };
        match table.row_with_key(stream.id, &key, Moment::Before) {
            Some(row) => OldRow::Row(table, row),
            None => OldRow::Absent,
        }
    }
}
