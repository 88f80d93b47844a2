//! Which part of a table is kept, and how its rows are told apart.

use std::sync::Arc;

use super::broken::Broken;
use crate::authz::policy::{DatumType, Need};
use crate::catalog::{Catalog, ColumnIndex, Followed, Oid, Relation, RelationKind, ReplicaIdentity};
use crate::wal::pgoutput::{RelationId, StreamRelation};

/// What is kept of a table's rows. Two tables of equal shape need no load to take each other's place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    /// Ascending.
    pub(super) columns: Box<[ColumnIndex]>,
    /// By their place in `columns`; empty for tables that are filled by hand.
    pub(super) kept: Box<[Kept]>,
    /// The columns that the stream names a row by.
    pub(super) key: Box<[ColumnIndex]>,
    /// `false`: the key is all that is kept (REPLICA IDENTITY FULL), and rows that are equal in it are equivalent.
    pub(super) unique: bool,
    pub(super) indexes: Vec<Box<[ColumnIndex]>>,
    /// Its leaves, ascending; empty: it is not partitioned.
    pub(super) leaves: Box<[RelationId]>,
    pub(super) relation: Option<RelationId>,
    /// As SQL.
    pub(super) sql_name: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) type_oid: Oid,
    /// `None`: its bytes are all that counts, as of a key that no policy reads.
    pub(super) datum_type: Option<DatumType>,
}

/// Why a table cannot be tracked as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it is not in the catalog")]
    Unknown,
    #[error("the stream does not carry all of it ({0:?})")]
    NotFollowed(Followed),
    #[error("walcast's own publication is not read")]
    NoOwnPublication,
    #[error(
        "its partitions are published under the root's name, so that a TRUNCATE of one of them is not in the stream"
    )]
    ThroughRoot,
    #[error("column {0} is generated")]
    Generated(String),
    #[error("values of column {0} are not known here")]
    Type(String),
    #[error("it needs more than --tracked-memory-max")]
    TooLarge,
}

impl Shape {
    /// The columns that are kept, ascending.
    pub fn columns(&self) -> &[ColumnIndex] {
        &self.columns
    }

    /// The type of a column whose values are kept.
    pub fn datum_type(&self, column: ColumnIndex) -> Option<&DatumType> {
        let place = self.columns.binary_search(&column).ok()?;
        self.kept.get(place)?.datum_type.as_ref()
    }

    /// What the needs of all programs for one relation add up to.
    pub fn of(catalog: &Catalog, id: RelationId, needs: &[&Need]) -> Result<Shape, Refused> {
        let relation = catalog.any_relation(id).ok_or(Refused::Unknown)?;
        if relation.followed != Followed::Whole {
            return Err(Refused::NotFollowed(relation.followed));
        }
        if relation.kind == RelationKind::Partitioned && catalog.relation(id).is_some() {
            return Err(Refused::ThroughRoot);
        }
        let is_needed = |column: ColumnIndex| {
            needs
                .iter()
                .any(|need| need.columns.contains(column) || need.indexes.iter().any(|index| index.contains(&column)))
        };
        let whole_row = relation.replica_identity == ReplicaIdentity::Full;
        let is_key = |column: ColumnIndex| !whole_row && relation.identity_key.contains(&column);
        let columns: Box<[_]> = relation.indices().filter(|column| is_needed(*column) || is_key(*column)).collect();
        let kept = columns.iter().map(|column| kept(catalog, relation, *column, is_needed(*column)));
        let mut indexes: Vec<_> = needs.iter().flat_map(|need| need.indexes.iter().cloned()).collect();
        indexes.sort_unstable();
        indexes.dedup();
        let mut leaves: Box<[_]> = relation.leaves.iter().copied().collect();
        leaves.sort_unstable();
        Ok(Shape {
            kept: kept.collect::<Result<_, _>>()?,
            key: if whole_row { columns.clone() } else { relation.identity_key.iter().copied().collect() },
            columns,
            unique: !whole_row,
            indexes,
            leaves,
            relation: Some(id),
            sql_name: relation.sql_name(),
        })
    }

    /// A table that is filled by hand.
    pub(super) fn by_hand(columns: Box<[ColumnIndex]>, indexes: Vec<Box<[ColumnIndex]>>) -> Shape {
        Shape { key: columns.clone(), columns, indexes, ..Shape::default() }
    }

    /// Whether a table of this shape answers all that one of the other does.
    pub fn covers(&self, other: &Shape) -> bool {
        let columns = |shape: &Shape| shape.columns.iter().copied().zip(shape.kept.iter().cloned()).collect::<Vec<_>>();
        let mine = columns(self);
        columns(other).iter().all(|column| mine.contains(column))
            && other.indexes.iter().all(|index| self.indexes.contains(index))
            && self.is_of_the_same_table(other)
    }

    /// Whether both describe the same rows, named alike by the stream.
    pub fn is_of_the_same_table(&self, other: &Shape) -> bool {
        let key = |shape: &Shape| if shape.unique { shape.key.clone() } else { Box::default() };
        self.relation == other.relation
            && self.sql_name == other.sql_name
            && self.leaves == other.leaves
            && self.unique == other.unique
            && key(self) == key(other)
    }

    /// Whether a row can be found by its key alone.
    pub fn has_unique_key(&self) -> bool {
        self.unique
    }

    pub fn sql_name(&self) -> &str {
        &self.sql_name
    }

    /// The relations that the stream names its rows by, and its own.
    pub fn members(&self) -> impl Iterator<Item = RelationId> + '_ {
        self.relation.into_iter().chain(self.leaves.iter().copied())
    }

    /// Where the kept columns stand in the stream's tuples.
    pub fn layout(&self, stream: &Arc<StreamRelation>) -> Result<StreamLayout, Broken> {
        let position = |kept: &Kept| {
            let position = stream.columns.iter().position(|column| column.name == kept.name);
            let position = position.ok_or_else(|| Broken::Missing(kept.name.clone()))?;
            if stream.columns[position].type_oid != kept.type_oid {
                return Err(Broken::Altered(kept.name.clone()));
            }
            Ok(position as u16)
        };
        let positions: Box<[u16]> = self.kept.iter().map(position).collect::<Result<_, _>>()?;
        let is_key = |(column, position): (&ColumnIndex, &u16)| {
            !self.key.contains(column) || stream.columns[usize::from(*position)].is_key
        };
        if !self.columns.iter().zip(&positions).all(is_key) {
            return Err(Broken::Identity);
        }
        Ok(StreamLayout { stream: Arc::clone(stream), positions })
    }
}

fn kept(catalog: &Catalog, relation: &Relation, index: ColumnIndex, needed: bool) -> Result<Kept, Refused> {
    let column = relation.column(index);
    if column.generated.is_some() {
        return Err(Refused::Generated(column.name.clone()));
    }
    let datum_type = match DatumType::of(catalog, column.type_oid) {
        None if needed => return Err(Refused::Type(column.name.clone())),
        // Equal keys are equal bytes; these two are kept in fewer.
        datum_type if !needed => datum_type.filter(|of| matches!(of, DatumType::Uuid | DatumType::Int8)),
        datum_type => datum_type,
    };
    Ok(Kept { name: column.name.clone(), type_oid: column.type_oid, datum_type })
}

/// A shape's columns in the tuples of one relation of the stream.
#[derive(Clone, Debug)]
pub struct StreamLayout {
    pub(super) stream: Arc<StreamRelation>,
    /// By place among the kept columns.
    pub(super) positions: Box<[u16]>,
}

impl StreamLayout {
    pub fn is_of(&self, stream: &Arc<StreamRelation>) -> bool {
        Arc::ptr_eq(&self.stream, stream)
    }
}
