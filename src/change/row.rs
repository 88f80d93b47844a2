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

    /// Whether each column is surely the one that had its name and type in the stream. `altered`: the numbers, in order, of
    /// those that may have had others then, or been others' in between; dropped ones as well.
    ///
    /// `has_generated`: the stream may have generated columns. Where it has not (before Postgres 18) none of them is among
    /// the altered ones, since none stands among the others, and what has the name of one is another column: none becomes
    /// one.
    ///
    /// All others stand where their names are. Between two of them the stream has those of the altered ones that were there
    /// then, in the order of their numbers: which ones is known only where it has as many as there are.
    pub fn is_certain(&self, stream: &StreamRelation, altered: &[i16], has_generated: bool) -> bool {
        let columns = &self.relation.columns;
        let is_in_stream = |column: &Column| stream.columns.iter().any(|known| known.name == column.name);
        if !has_generated && columns.iter().any(|column| column.generated.is_some() && is_in_stream(column)) {
            return false;
        }
        let is_altered = |attnum: i16| altered.binary_search(&attnum).is_ok();
        let fixed = |name: &str| {
            let known = columns.iter().find(|column| column.name == name)?;
            (!is_altered(known.attnum)).then_some(known.attnum)
        };
        let mut fixed: Vec<(usize, i16)> =
            stream.columns.iter().enumerate().filter_map(|(at, column)| Some((at, fixed(&column.name)?))).collect();
        fixed.push((stream.columns.len(), i16::MAX));
        let is_own = |(column, position): (&Column, usize)| {
            let next = fixed.partition_point(|(at, _)| *at <= position);
            let (begin, after) = next.checked_sub(1).map_or((0, 0), |last| (fixed[last].0 + 1, fixed[last].1));
            let (end, before) = fixed[next];
            let between: Vec<i16> =
                altered.iter().copied().filter(|attnum| after < *attnum && *attnum < before).collect();
            between.len() == end - begin
                && between[position - begin] == column.attnum
                && stream.columns[position].type_oid == column.type_oid
        };
        let position = |column: &Column| stream.columns.iter().position(|known| known.name == column.name);
        let altered_ones = columns.iter().filter(|column| is_altered(column.attnum));
        altered_ones.filter_map(|column| Some((column, position(column)?))).all(is_own)
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

    /// A column of an integer type, of a table whose columns are named here.
    fn is_certain(now: &[(i16, &str)], stream: &[&str], altered: &[i16]) -> bool {
        let mut relation = Relation::clone(&relation_named("plain"));
        let any = relation.columns[0].clone();
        let column = |(attnum, name): &(i16, &str)| Column { attnum: *attnum, name: (*name).into(), ..any.clone() };
        relation.columns = now.iter().map(column).collect();
        let in_stream = |name: &&str| RelationColumn {
            name: (*name).into(),
            type_oid: any.type_oid,
            type_modifier: -1,
            is_key: false,
        };
        let columns = stream.iter().map(in_stream).collect();
        let (schema, name) = (relation.schema.clone(), relation.name.clone());
        let stream = StreamRelation { id: relation.id, schema, name, replica_identity: b'd', columns };
        Layout::new(Arc::new(relation), &stream).is_certain(&stream, altered, false)
    }

    #[test]
    fn a_column_is_certain_where_no_other_one_could_have_had_its_name() {
        let now = [(1, "id"), (2, "body")];
        assert!(is_certain(&now, &["id", "body"], &[]));
        assert!(is_certain(&now, &["id", "body"], &[1, 2]), "neither was ever dropped");
        assert!(is_certain(&now, &["id"], &[2]), "added since");
        assert!(is_certain(&now, &["id", "body", "gone"], &[3]), "what has been dropped is not read");
        assert!(!is_certain(&now, &["body", "id"], &[1, 2]), "they swapped names");
        assert!(!is_certain(&now, &["id", "of", "body"], &[2]), "more than there can have been");

        let anew = [(1, "id"), (3, "body")];
        assert!(!is_certain(&anew, &["id", "body"], &[2, 3]), "made anew");
        assert!(is_certain(&anew, &["id", "body"], &[3]), "2 was dropped long ago");
        assert!(is_certain(&anew, &["id", "old", "body"], &[2, 3]), "2 was still there");
        assert!(!is_certain(&anew, &["id", "body", "new"], &[2, 3]), "2 had the name, and 3 another one");
        assert!(!is_certain(&[(1, "id"), (2, "body"), (4, "more")], &["id", "body"], &[2, 3, 4]), "3 had it");
        assert!(
            !is_certain(&[(1, "id"), (3, "new"), (4, "body")], &["id", "body"], &[3, 4]),
            "renamed, then made anew"
        );

        let between = [(1, "id"), (3, "body"), (4, "at"), (6, "more")];
        assert!(is_certain(&between, &["id", "body", "at", "more"], &[3, 5]), "5 stands behind");
        assert!(!is_certain(&between, &["id", "body", "at", "more"], &[2, 3]));
        assert!(is_certain(&between, &["id", "at", "more"], &[2, 3]), "body is not there");
        assert!(!is_certain(&between, &["body", "more"], &[1, 3, 5, 6]), "a column list has something else");
    }

    #[test]
    fn a_column_of_another_type_is_not_certain() {
        let relation = relation_named("plain");
        let in_stream = |known: &Column| RelationColumn {
            name: known.name.clone(),
            type_oid: known.type_oid,
            type_modifier: -1,
            is_key: false,
        };
        let columns = relation.columns.iter().map(in_stream).collect();
        let (schema, name) = (relation.schema.clone(), relation.name.clone());
        let mut stream = StreamRelation { id: relation.id, schema, name, replica_identity: b'd', columns };
        let layout = Layout::new(relation, &stream);
        assert!(layout.is_certain(&stream, &[1], false));
        stream.columns[0].type_oid += 1;
        assert!(!layout.is_certain(&stream, &[1], false));
    }

    /// `email` was hidden, got another name, and what is shown of it got that one.
    #[test]
    fn a_generated_column_is_not_the_one_that_had_its_name() {
        let mut relation = Relation::clone(&relation_named("plain"));
        let any = relation.columns[0].clone();
        let column = |attnum, name: &str| Column { attnum, name: name.into(), ..any.clone() };
        let generated = Some(Generated { stored: true, expression: None });
        relation.columns = vec![column(1, "id"), column(2, "email_hidden"), Column { generated, ..column(3, "email") }];
        let in_stream =
            |name: &str| RelationColumn { name: name.into(), type_oid: any.type_oid, type_modifier: -1, is_key: false };
        let columns = ["id", "email"].map(in_stream).into();
        let (schema, name) = (relation.schema.clone(), relation.name.clone());
        let mut stream = StreamRelation { id: relation.id, schema, name, replica_identity: b'd', columns };
        let layout = Layout::new(Arc::new(relation), &stream);
        assert!(!layout.is_certain(&stream, &[2], false), "no generated column is ever in the stream");
        assert!(!layout.is_certain(&stream, &[2, 3], true), "it counts like any other");
        stream.columns[1].name = "email_hidden".into();
        assert!(layout.is_certain(&stream, &[2], false));
    }
}
