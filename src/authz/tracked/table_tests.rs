//! Tables as the stream changes them.

use std::sync::Arc;

use super::shape::{Kept, Shape};
use super::*;
use crate::authz::policy::{DatumType, Value};
use crate::catalog::ColumnIndex;
use crate::wal::pgoutput::{Field, Message, OldTuple, RelationColumn, RelationId, StreamRelation, Tuple};

const TABLE: RelationId = RelationId(10);
const LEAF: RelationId = RelationId(11);
const OTHER_LEAF: RelationId = RelationId(12);

/// `(id int8, member text, note text)`, all kept, with an index on `member`.
fn shape(unique: bool, leaves: &[RelationId]) -> Arc<Shape> {
    let columns: Box<[_]> = (0..3).map(ColumnIndex).collect();
    let kept = |(name, type_oid, datum_type): (&str, u32, DatumType)| Kept {
        name: name.into(),
        type_oid,
        datum_type: Some(datum_type),
    };
    let kept = [("id", 20, DatumType::Int8), ("member", 25, DatumType::Text), ("note", 25, DatumType::Text)].map(kept);
    Arc::new(Shape {
        key: if unique { [ColumnIndex(0)].into() } else { columns.clone() },
        columns,
        kept: kept.into(),
        unique,
        indexes: vec![[ColumnIndex(1)].into()],
        leaves: leaves.into(),
        relation: Some(TABLE),
        sql_name: "t".into(),
    })
}

fn stream(relation: RelationId, identity: u8) -> Arc<StreamRelation> {
    let column = |(name, type_oid): (&str, u32)| RelationColumn {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        is_key: identity == b'f' || name == "id",
    };
    // In another order than the catalog's.
    let columns = [("note", 25), ("id", 20), ("member", 25)].map(column).into();
    StreamRelation { id: relation, schema: "s".into(), name: "t".into(), replica_identity: identity, columns }.into()
}

fn tuple(id: &str, member: Option<&str>, note: Option<&str>) -> Tuple {
    Tuple::from_values([note, Some(id), member].map(|value| value.map(str::as_bytes)))
}

fn key(id: &str) -> OldTuple {
    OldTuple::Key(tuple(id, None, None))
}

struct Subject {
    table: Table,
    identity: u8,
}

impl Subject {
    fn keyed() -> Subject {
        Subject { table: Table::of(shape(true, &[])), identity: b'd' }
    }

    fn change(&mut self, relation: RelationId, change: Message) -> Result<(), Broken> {
        let layout = self.table.shape().layout(&stream(relation, self.identity))?;
        self.table.apply(&layout, change)
    }

    fn insert(&mut self, id: &str, member: &str) -> Result<(), Broken> {
        self.change(TABLE, Message::Insert { relation: TABLE, new: tuple(id, Some(member), Some("n")) })
    }

    fn update(&mut self, old: OldTuple, id: &str, member: &str) -> Result<(), Broken> {
        self.change(TABLE, Message::Update { relation: TABLE, old, new: tuple(id, Some(member), Some("n")) })
    }

    fn delete(&mut self, old: OldTuple) -> Result<(), Broken> {
        self.change(TABLE, Message::Delete { relation: TABLE, old })
    }

    /// `id:member` of all rows as of a moment, and the same found by the index.
    fn rows(&self, moment: Moment) -> Vec<String> {
        let text = |row: TrackedRow<'_>| match (&row.values[0], &row.values[1]) {
            (Value::Int(id), Value::Text(member)) => format!("{id}:{member}"),
            other => panic!("{other:?}"),
        };
        let mut rows: Vec<String> = self.table.scan(moment).map(text).collect();
        let mut members: Vec<Value> = self.table.scan(moment).map(|row| row.values[1].clone()).collect();
        members.sort_by_key(|member| format!("{member:?}"));
        members.dedup();
        let by_index = |member: Value| self.table.lookup(&[ColumnIndex(1)], &[member], moment).unwrap().map(text);
        let mut indexed: Vec<String> = members.into_iter().flat_map(by_index).collect();
        rows.sort_unstable();
        indexed.sort_unstable();
        assert_eq!(rows, indexed, "the index has the same rows");
        rows
    }

    fn finish(&mut self) {
        self.table.finish();
        assert_eq!(self.rows(Moment::Before), self.rows(Moment::After));
    }
}

#[test]
fn what_a_transaction_removes_is_seen_before_it_and_what_it_makes_after() {
    let mut subject = Subject::keyed();
    subject.insert("1", "a").unwrap();
    subject.insert("2", "b").unwrap();
    subject.finish();
    subject.update(OldTuple::Absent, "1", "c").unwrap();
    subject.update(OldTuple::Absent, "1", "d").unwrap();
    subject.delete(key("2")).unwrap();
    subject.insert("3", "e").unwrap();
    assert_eq!(subject.rows(Moment::Before), ["1:a", "2:b"]);
    assert_eq!(subject.rows(Moment::After), ["1:d", "3:e"]);
    let of = |id| subject.table.row_with_key(TABLE, &[Value::Int(id)], Moment::Before).map(|row| row.values[1].clone());
    assert_eq!((of(2), of(3)), (Some(Value::text("b")), None));
    subject.finish();
    assert_eq!(subject.rows(Moment::After), ["1:d", "3:e"]);
    assert_eq!(subject.table.rows(), 2);
}

#[test]
fn a_row_that_is_made_and_removed_by_one_transaction_is_seen_at_no_moment() {
    let mut subject = Subject::keyed();
    subject.insert("1", "a").unwrap();
    subject.delete(key("1")).unwrap();
    subject.insert("2", "b").unwrap();
    assert_eq!((subject.rows(Moment::Before).len(), subject.rows(Moment::After)), (0, vec!["2:b".to_owned()]));
    subject.finish();
    subject.delete(key("2")).unwrap();
    subject.insert("2", "c").unwrap();
    subject.delete(key("2")).unwrap();
    assert_eq!((subject.rows(Moment::Before), subject.rows(Moment::After).len()), (vec!["2:b".to_owned()], 0));
    subject.finish();
    assert_eq!(subject.table.rows(), 0);
}

#[test]
fn keys_that_change_places_are_followed() {
    let mut subject = Subject::keyed();
    subject.insert("1", "a").unwrap();
    subject.insert("2", "b").unwrap();
    subject.finish();
    for (old, new, member) in [("1", "3", "a"), ("2", "1", "b"), ("3", "2", "a")] {
        subject.update(key(old), new, member).unwrap();
    }
    assert_eq!(subject.rows(Moment::Before), ["1:a", "2:b"]);
    subject.finish();
    assert_eq!(subject.rows(Moment::After), ["1:b", "2:a"]);
}

#[test]
fn an_unchanged_toast_value_is_the_old_rows() {
    let mut subject = Subject::keyed();
    subject.insert("1", "a").unwrap();
    subject.finish();
    let mut new = tuple("5", None, Some("other"));
    new.fields[2] = Field::UnchangedToast;
    subject.change(TABLE, Message::Update { relation: TABLE, old: key("1"), new: new.clone() }).unwrap();
    assert_eq!(subject.rows(Moment::After), ["5:a"]);
    let insert = subject.change(TABLE, Message::Insert { relation: TABLE, new });
    assert_eq!(insert, Err(Broken::Missing("member".into())));
}

#[test]
fn what_does_not_fit_the_rows_breaks_the_table() {
    let mut subject = Subject::keyed();
    subject.insert("1", "a").unwrap();
    assert_eq!(subject.insert("1", "b"), Err(Broken::Duplicate));
    assert_eq!(subject.delete(key("2")), Err(Broken::RowNotFound));
    assert_eq!(subject.update(OldTuple::Absent, "2", "b"), Err(Broken::RowNotFound));
    assert_eq!(subject.delete(OldTuple::Absent), Err(Broken::Identity));
    assert!(matches!(subject.insert("many", "b"), Err(Broken::Value { column, .. }) if column == "id"));
}

#[test]
fn a_stream_that_names_rows_otherwise_breaks_the_table() {
    let shape = shape(true, &[]);
    let altered = |alter: &dyn Fn(&mut StreamRelation)| {
        let mut stream = (*stream(TABLE, b'd')).clone();
        alter(&mut stream);
        shape.layout(&Arc::new(stream)).err()
    };
    assert_eq!(altered(&|_| ()), None);
    assert_eq!(altered(&|stream| stream.columns[1].is_key = false), Some(Broken::Identity));
    assert_eq!(altered(&|stream| stream.columns[2].type_oid = 20), Some(Broken::Altered("member".into())));
    assert_eq!(altered(&|stream| stream.columns[0].name = "x".into()), Some(Broken::Missing("note".into())));
}

#[test]
fn without_a_key_equal_rows_stand_for_one_another() {
    let mut subject = Subject { table: Table::of(shape(false, &[])), identity: b'f' };
    let whole = |id, member| OldTuple::Full(tuple(id, Some(member), Some("n")));
    for (id, member) in [("1", "a"), ("1", "a"), ("1", "a"), ("2", "b")] {
        subject.insert(id, member).unwrap();
    }
    subject.finish();
    subject.delete(whole("1", "a")).unwrap();
    subject.update(whole("1", "a"), "2", "b").unwrap();
    assert_eq!(subject.rows(Moment::Before), ["1:a", "1:a", "1:a", "2:b"]);
    assert_eq!(subject.rows(Moment::After), ["1:a", "2:b", "2:b"]);
    subject.delete(whole("1", "a")).unwrap();
    assert_eq!(subject.delete(whole("1", "a")), Err(Broken::RowNotFound));
    subject.finish();
    assert_eq!(subject.rows(Moment::After), ["2:b", "2:b"]);
}

#[test]
fn a_key_is_unique_within_one_leaf_and_a_row_moves_between_them() {
    let mut subject = Subject { table: Table::of(shape(true, &[LEAF, OTHER_LEAF])), identity: b'd' };
    let new = || tuple("1", Some("a"), Some("n"));
    subject.change(LEAF, Message::Insert { relation: LEAF, new: new() }).unwrap();
    subject.change(OTHER_LEAF, Message::Insert { relation: OTHER_LEAF, new: new() }).unwrap();
    subject.finish();
    // An UPDATE across partitions is a DELETE and an INSERT.
    subject.change(LEAF, Message::Delete { relation: LEAF, old: key("1") }).unwrap();
    let again = subject.change(OTHER_LEAF, Message::Insert { relation: OTHER_LEAF, new: new() });
    assert_eq!(again, Err(Broken::Duplicate));
    subject.change(LEAF, Message::Insert { relation: LEAF, new: new() }).unwrap();
    subject.table.truncate(OTHER_LEAF);
    assert_eq!((subject.rows(Moment::Before).len(), subject.rows(Moment::After).len()), (2, 1));
    subject.finish();
    subject.table.truncate(TABLE);
    assert_eq!((subject.rows(Moment::Before).len(), subject.rows(Moment::After).len()), (1, 0));
    subject.finish();
    assert_eq!(subject.table.rows(), 0);
}

#[test]
fn rows_with_a_null_are_found_by_no_index() {
    let mut subject = Subject::keyed();
    let new = tuple("1", None, None);
    subject.change(TABLE, Message::Insert { relation: TABLE, new }).unwrap();
    let found = subject.table.lookup(&[ColumnIndex(1)], &[Value::Null], Moment::After).unwrap().count();
    assert_eq!((found, subject.table.scan(Moment::After).count()), (0, 1));
    subject.table.finish();
    subject.delete(key("1")).unwrap();
    subject.table.finish();
    assert_eq!(subject.table.rows(), 0);
}

#[test]
fn memory_is_accounted_and_given_back() {
    let mut subject = Subject::keyed();
    let empty = subject.table.memory_bytes();
    for id in 0..2000 {
        subject.insert(&id.to_string(), "a member with a long name").unwrap();
    }
    subject.table.finish();
    let full = subject.table.memory_bytes();
    assert!(full - empty > 2000 * (3 * size_of::<Value>() + 25), "{full}");
    for id in 0..2000 {
        subject.delete(key(&id.to_string())).unwrap();
    }
    assert_eq!(
        subject
            .table
            .lookup(&[ColumnIndex(1)], &[Value::text("a member with a long name")], Moment::Before)
            .unwrap()
            .count(),
        2000
    );
    subject.table.finish();
    assert_eq!(subject.table.rows(), 0);
    assert!(subject.table.memory_bytes() < full - 2000 * (3 * size_of::<Value>() + 25));
}

/// Random changes, and the same done to a plain map.
#[test]
fn random_changes_leave_what_a_map_has() {
    use rand::{Rng, SeedableRng};
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut subject = Subject::keyed();
    let mut map = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let before = map.clone();
        for _ in 0..random.random_range(0..12) {
            let (id, other) = (random.random_range(0..12), random.random_range(0..12));
            let member = format!("m{}", random.random_range(0..4));
            match random.random_range(0..4) {
                0 if map.remove(&id).is_some() => subject.delete(key(&id.to_string())).unwrap(),
                1 if !map.contains_key(&id) => {
                    subject.insert(&id.to_string(), &member).unwrap();
                    map.insert(id, member);
                }
                2 if map.contains_key(&id) => {
                    subject.update(OldTuple::Absent, &id.to_string(), &member).unwrap();
                    map.insert(id, member);
                }
                3 if map.contains_key(&id) && !map.contains_key(&other) => {
                    map.remove(&id);
                    subject.update(key(&id.to_string()), &other.to_string(), &member).unwrap();
                    map.insert(other, member);
                }
                _ => {}
            }
        }
        if random.random_range(0..20) == 0 {
            subject.table.truncate(TABLE);
            map.clear();
        }
        let rows = |map: &std::collections::BTreeMap<i32, String>| {
            let mut rows: Vec<_> = map.iter().map(|(id, member)| format!("{id}:{member}")).collect();
            rows.sort_unstable();
            rows
        };
        assert_eq!((subject.rows(Moment::Before), subject.rows(Moment::After)), (rows(&before), rows(&map)));
        for id in 0..12 {
            let old = subject.table.row_with_key(TABLE, &[Value::Int(id.into())], Moment::Before);
            assert_eq!(old.map(|row| row.values[1].clone()), before.get(&id).map(|member| Value::text(member)));
        }
        subject.finish();
    }
}

#[test]
fn a_number_that_is_written_otherwise_is_another_one() {
    let mut shape = Shape::clone(&shape(false, &[]));
    shape.kept[2] = Kept { name: "note".into(), type_oid: 1700, datum_type: Some(DatumType::Numeric) };
    let mut layout = StreamRelation::clone(&stream(TABLE, b'f'));
    layout.columns[0].type_oid = 1700;
    let mut table = Table::of(Arc::new(shape));
    let layout = table.shape().layout(&Arc::new(layout)).unwrap();
    let row = |number| tuple("1", Some("a"), Some(number));
    let (before, after) = (OldTuple::Full(row("1.0")), OldTuple::Full(row("1.00")));
    table.apply(&layout, Message::Insert { relation: TABLE, new: row("1.0") }).unwrap();
    table.apply(&layout, Message::Update { relation: TABLE, old: before, new: row("1.00") }).unwrap();
    table.finish();
    let kept = table.scan(Moment::After).next().unwrap().values[2].clone();
    assert!(matches!(kept, Value::Numeric(number) if number.to_string() == "1.00"));
    table.apply(&layout, Message::Delete { relation: TABLE, old: after }).unwrap();
}
