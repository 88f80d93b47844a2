//! Row images, read by the catalog's columns.

use std::sync::Arc;

use crate::catalog::{Column, ColumnIndex, Relation};
use crate::wal::pgoutput::{Datum, StreamRelation, Tuple};

/// Where each column of the catalog's relation stands in the stream's tuples. Made once per pair of them.
#[derive(Clone, Debug)]
pub struct Layout {
    pub relation: Arc<Relation>,
    /// By [`ColumnIndex`]; `None`: the stream does not carry the column.
    pub positions: Box<[Option<u16>]>,
    /// By [`ColumnIndex`]: part of the replica identity, as the stream says.
    pub is_key: Box<[bool]>,
}

impl Layout {
    pub fn new(relation: Arc<Relation>, stream: &StreamRelation) -> Layout {
        let place = |name: &str| stream.columns.iter().position(|column| column.name == name);
        let by_name: Vec<_> = relation.columns.iter().map(|column| place(&column.name).map(|p| p as u16)).collect();
        // Both are in the order of the columns' numbers. Where names have swapped since the row was written, which column
        // is which is not known.
        let is_crossed = |(at, position): (usize, u16)| {
            let before = by_name[..at].iter().flatten().any(|other| *other > position);
            before || by_name[at..].iter().flatten().any(|other| *other < position)
        };
        let in_order = |(at, position): (usize, &Option<u16>)| position.filter(|position| !is_crossed((at, *position)));
        let positions: Box<[_]> = by_name.iter().enumerate().map(in_order).collect();
        let is_key =
            positions.iter().map(|position| position.is_some_and(|p| stream.columns[usize::from(p)].is_key)).collect();
        Layout { relation, positions, is_key }
    }

    /// Whether the columns are surely those that the stream describes, whatever has happened to the table since: the same
    /// names and types in the same order, and no column was ever dropped, which another one could be named after.
    pub fn is_certain(&self, stream: &StreamRelation) -> bool {
        let columns = &self.relation.columns;
        let known = columns.iter().filter(|column| column.generated.is_none());
        let is_whole = columns.iter().zip(1..).all(|(column, attnum)| column.attnum == attnum);
        is_whole
            && known
                .map(|column| (&column.name, column.type_oid))
                .eq(stream.columns.iter().map(|c| (&c.name, c.type_oid)))
    }

    /// Reads these columns as missing: what the stream has under their names may be others' values.
    pub fn forget(&mut self, is_doubtful: impl Fn(&Column) -> bool) {
        for (place, column) in self.relation.columns.iter().enumerate() {
            if is_doubtful(column) {
                self.positions[place] = None;
                self.is_key[place] = false;
            }
        }
    }

    /// A layout of all the relation's columns in their own order, for rows that walcast itself puts together.
    pub fn identity(relation: Arc<Relation>) -> Layout {
        let positions = relation.indices().map(|column| Some(column.0)).collect();
        let is_key = relation.indices().map(|column| relation.identity_key.contains(&column)).collect();
        Layout { relation, positions, is_key }
    }
}

/// A row image.
#[derive(Clone, Debug)]
pub struct Row {
    pub layout: Arc<Layout>,
    pub tuple: Tuple,
    /// Only the replica identity's columns are real; the others are coded NULL in the stream and read as `Missing`.
    pub key_only: bool,
}

impl Row {
    pub fn datum(&self, column: ColumnIndex) -> Datum<'_> {
        let index = usize::from(column.0);
        let Some(position) = self.layout.positions.get(index).copied().flatten() else {
            return Datum::Missing;
        };
        if self.key_only && !self.layout.is_key[index] {
            return Datum::Missing;
        }
        self.tuple.get(usize::from(position))
    }
}

/// The row before an UPDATE or DELETE.
#[derive(Clone, Debug)]
pub enum OldRow {
    /// INSERT, or an UPDATE that did not touch the key under an identity other than FULL.
    Absent,
    Key(Row),
    Full(Row),
}

impl OldRow {
    pub fn row(&self) -> Option<&Row> {
        match self {
            OldRow::Absent => None,
            OldRow::Key(row) | OldRow::Full(row) => Some(row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Column, Generated};
    use crate::routing::sample::relation_named;
    use crate::wal::pgoutput::RelationColumn;

    #[test]
    fn columns_are_certain_where_no_other_one_could_have_had_the_name() {
        let was = Relation::clone(&relation_named("plain"));
        let in_stream = |known: &Column| RelationColumn {
            name: known.name.clone(),
            type_oid: known.type_oid,
            type_modifier: -1,
            is_key: false,
        };
        let columns = was.columns.iter().map(in_stream).collect();
        let (schema, name) = (was.schema.clone(), was.name.clone());
        let stream = StreamRelation { id: was.id, schema, name, replica_identity: b'd', columns };
        let is_certain = |alter: fn(&mut Relation)| {
            let mut now = was.clone();
            alter(&mut now);
            Layout::new(Arc::new(now), &stream).is_certain(&stream)
        };
        assert!(is_certain(|_| {}));
        assert!(!is_certain(|now| now.columns.last_mut().unwrap().attnum += 1), "made anew");
        assert!(!is_certain(|now| now.columns.last_mut().unwrap().name.push('x')), "renamed");
        assert!(!is_certain(|now| now.columns.last_mut().unwrap().type_oid += 1), "of another type");
        assert!(!is_certain(|now| drop(now.columns.pop())), "dropped");
        let generated = |now: &mut Relation| {
            let mut column = now.columns[0].clone();
            (column.attnum, column.name) = (now.columns.len() as i16 + 1, "sum".into());
            column.generated = Some(Generated { stored: true, expression: None });
            now.columns.push(column);
        };
        assert!(is_certain(generated), "the stream has no generated columns");
    }
}
