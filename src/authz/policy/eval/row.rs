//! The row that is judged.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::authz::policy::decode::decode;
use crate::authz::policy::failure::Undecided;
use crate::authz::policy::{DatumType, Failure, Value};
use crate::catalog::{Catalog, ColumnIndex, Relation};
use crate::change;
use crate::wal::pgoutput::Datum;

/// Values of a row's columns.
pub trait Row {
    fn value(&self, column: ColumnIndex) -> Result<&Value, Failure>;
}

/// How the columns of a relation are read; made once per relation.
#[derive(Clone, Debug, PartialEq)]
pub struct RowTypes(Arc<[Option<DatumType>]>);

impl RowTypes {
    pub fn new(catalog: &Catalog, relation: &Relation) -> RowTypes {
        RowTypes(relation.columns.iter().map(|column| DatumType::of_column(catalog, column.type_oid)).collect())
    }

    pub fn get(&self, column: ColumnIndex) -> Option<&DatumType> {
        self.0.get(usize::from(column.0))?.as_ref()
    }
}

/// A row image of the stream, each column decoded when it is first asked for.
pub struct RowValues<'a> {
    types: RowTypes,
    row: &'a change::Row,
    /// The old row of an UPDATE where all of it is known: what the image lacks did not change.
    fallback: Option<&'a change::Row>,
    values: Box<[OnceCell<Result<Value, Failure>>]>,
}

impl<'a> RowValues<'a> {
    pub fn new(types: &RowTypes, row: &'a change::Row, fallback: Option<&'a change::Row>) -> RowValues<'a> {
        RowValues { types: types.clone(), row, fallback, values: types.0.iter().map(|_| OnceCell::new()).collect() }
    }

    fn decoded(&self, column: ColumnIndex) -> Result<Value, Failure> {
        let known = known(self.row, column).or_else(|| known(self.fallback?, column));
        let missing = || Failure::Undecided(Undecided::ColumnMissing(column));
        match known.ok_or_else(missing)? {
            None => Ok(Value::Null),
            Some(text) => {
                let of = self.types.get(column).ok_or_else(|| Failure::undecided("a value of an unknown type"))?;
                // Postgres wrote it, so that it is no error there.
                decode(of, text).map_err(|failure| match failure {
                    Failure::Error(_) => Failure::undecided("a value that cannot be read"),
                    undecided => undecided,
                })
            }
        }
    }
}

impl Row for RowValues<'_> {
    fn value(&self, column: ColumnIndex) -> Result<&Value, Failure> {
        let cell = self.values.get(usize::from(column.0));
        let cell = cell.ok_or(Failure::Undecided(Undecided::ColumnMissing(column)))?;
        cell.get_or_init(|| self.decoded(column)).as_ref().map_err(Clone::clone)
    }
}

/// The column's text, `Some(None)` for NULL; `None`: the image does not have it, or it is not text.
fn known(row: &change::Row, column: ColumnIndex) -> Option<Option<&str>> {
    match row.datum(column) {
        Datum::Null => Some(None),
        Datum::Text(bytes) => std::str::from_utf8(bytes).ok().map(Some),
        Datum::UnchangedToast | Datum::Missing => None,
    }
}
