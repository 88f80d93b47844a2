//! Records of the transcripts, and the rules around them.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::super::{DatumError, columns_only_postgres_encodes};
use super::*;
use crate::catalog::{Column, Generated, PgType, Publish, RelationKind, TypeKind};
use crate::change::Layout;
use crate::wal::pgoutput::{Field, Tuple};
use crate::wal::{Lsn, Origin};

/// 2026-11-20 11:28:20.557999 UTC.
const COMMITTED: i64 = (1_795_174_100 - 946_684_800) * 1_000_000 + 557_999;
const HSTORE: u32 = 20_000;

fn catalog() -> Catalog {
    let types = [(23, "int4"), (25, "text"), (114, "json"), (701, "float8"), (17, "bytea"), (HSTORE, "hstore")];
    let pg_type = |(oid, name): (u32, &str)| {
        let (schema, name, sql_name) = ("pg_catalog".to_owned(), name.to_owned(), name.to_owned());
        (oid, Arc::new(PgType { oid, schema, name, sql_name, kind: TypeKind::Base, has_json_cast: oid == HSTORE }))
    };
    Catalog { types: types.into_iter().map(pg_type).collect(), ..Catalog::default() }
}

/// A table of these columns; the first is the primary key.
fn relation(identity: ReplicaIdentity, columns: &[(&str, u32)]) -> Relation {
    let key = match identity {
        ReplicaIdentity::Full => (0..columns.len() as u16).map(ColumnIndex).collect(),
        _ => vec![ColumnIndex(0)],
    };
    let column = |(position, (name, type_oid)): (usize, &(&str, u32))| Column {
        attnum: position as i16 + 1,
        name: (*name).to_owned(),
        type_oid: *type_oid,
        type_modifier: -1,
        generated: None,
        collation: None,
        acl: Vec::new(),
    };
    Relation {
        id: RelationId(1),
        schema: "public".into(),
        name: "plain".into(),
        kind: RelationKind::Table,
        owner: 10,
        row_security: false,
        force_row_security: false,
        replica_identity: identity,
        columns: columns.iter().enumerate().map(column).collect(),
        primary_key: vec![ColumnIndex(0)],
        identity_key: key,
        acl: Vec::new(),
        policies: Vec::new(),
        publish: Publish { insert: true, update: true, delete: true },
        followed: crate::catalog::Followed::Whole,
        leaves: Vec::new(),
    }
}

/// A column's value as the stream may send it.
#[derive(Clone, Copy)]
enum Sent<'a> {
    Null,
    Toast,
    Text(&'a str),
}
use Sent::{Null, Text, Toast};

struct Table {
    relation: Arc<Relation>,
    layout: Arc<Layout>,
}

impl Table {
    fn new(relation: Relation) -> Table {
        let relation = Arc::new(relation);
        Table { layout: Arc::new(Layout::identity(relation.clone())), relation }
    }

    fn plain(identity: ReplicaIdentity) -> Table {
        Table::new(relation(identity, &[("id", 23), ("name", 25), ("amount", 23)]))
    }

    fn row(&self, values: &[Sent]) -> Row {
        let texts = values.iter().map(|value| match value {
            Text(text) => Some(text.as_bytes()),
            _ => None,
        });
        let mut tuple = Tuple::from_values(texts);
        for (field, value) in tuple.fields.iter_mut().zip(values) {
            if let Toast = value {
                *field = Field::UnchangedToast;
            }
        }
        Row { layout: self.layout.clone(), tuple, key_only: false }
    }

    fn key(&self, values: &[Sent]) -> OldRow {
        OldRow::Key(Row { key_only: true, ..self.row(values) })
    }

    fn change(&self, operation: Operation, new: Option<Row>, old: OldRow) -> Change {
        Change {
            relation: self.relation.clone(),
            operation,
            new,
            old,
            kept: None,
            commit_lsn: Lsn(0x16B3748),
            index: 3,
            commit_timestamp: COMMITTED,
        }
    }

    fn shape(&self) -> RecordShape {
        RecordShape::new(&catalog(), &self.relation, &self.relation.indices().collect())
    }

    fn data(&self, change: &Change, old: OldVisibility) -> Json {
        encoded(&self.shape(), change, old, &Limits::default(), None).unwrap()
    }
}

fn encoded(
    shape: &RecordShape,
    change: &Change,
    old: OldVisibility,
    limits: &Limits,
    computed: Option<&Computed>,
) -> Result<Json, EncodeError> {
    let mut buffer = Vec::new();
    let data = change_data(shape, change, old, limits, computed, &mut buffer)?;
    Ok(serde_json::from_slice(&data).expect("data is JSON"))
}

use OldVisibility::{KeyOnly, Whole};
use Operation::{Delete, Insert, Update};

#[test]
fn rows_say_where_their_changes_stand_where_that_is_wanted() {
    let table = Table::plain(ReplicaIdentity::Default);
    let origin = Origin { system_identifier: "7437".into(), timeline: 2 };
    let shape = table.shape().with_positions(&origin);
    let encoded = |change: &Change| encoded(&shape, change, Whole, &Limits::default(), None).unwrap();
    let row = || table.row(&[Text("1"), Text("n"), Null]);
    let insert = encoded(&table.change(Insert, Some(row()), OldRow::Absent));
    assert_eq!(
        insert["record"],
        json!({"id": 1, "name": "n", "amount": null, "walcast_position": "7437:2:0/16B3748:3"})
    );
    let update = encoded(&table.change(Update, Some(row()), OldRow::Absent));
    assert_eq!(update["record"]["walcast_position"], "7437:2:0/16B3748:3");
    assert_eq!(update["old_record"], json!({"id": 1}));
    let delete = encoded(&table.change(Delete, None, table.key(&[Text("1"), Null, Null])));
    assert_eq!(delete["old_record"], json!({"id": 1, "walcast_position": "7437:2:0/16B3748:3"}));
    let unauthorized =
        error_data(&table.change(Insert, Some(row()), OldRow::Absent), ErrorRow::Unauthorized, Some(&origin));
    let unauthorized: Json = serde_json::from_slice(&unauthorized).unwrap();
    assert_eq!(unauthorized["record"], json!({"walcast_position": "7437:2:0/16B3748:3"}));
}

#[test]
fn an_insert_is_written_in_supabases_order_of_keys() {
    let table = Table::plain(ReplicaIdentity::Default);
    let new = table.row(&[Text("900101"), Text("p\"k"), Null]);
    let change = table.change(Insert, Some(new), OldRow::Absent);
    let data = change_data(&table.shape(), &change, Whole, &Limits::default(), None, &mut b"left over".to_vec());
    assert_eq!(
        std::str::from_utf8(&data.unwrap()).unwrap(),
        concat!(
            r#"{"table":"plain","type":"INSERT","record":{"id":900101,"name":"p\"k","amount":null},"#,
            r#""columns":[{"name":"id","type":"int4"},{"name":"name","type":"text"},{"name":"amount","type":"int4"}],"#,
            r#""errors":null,"schema":"public","commit_timestamp":"2026-11-20T11:28:20.557Z"}"#
        )
    );
}

#[test]
fn an_update_that_leaves_the_key_alone_shows_the_key_as_old_record() {
    let table = Table::plain(ReplicaIdentity::Default);
    let change = table.change(Update, Some(table.row(&[Text("1"), Text("n"), Text("2")])), OldRow::Absent);
    for visibility in [Whole, KeyOnly] {
        let data = table.data(&change, visibility);
        assert_eq!(data["old_record"], json!({"id": 1}));
        assert_eq!(data["record"], json!({"id": 1, "name": "n", "amount": 2}));
    }
}

#[test]
fn an_update_of_the_key_shows_the_old_key() {
    let table = Table::plain(ReplicaIdentity::Default);
    let new = Some(table.row(&[Text("900102"), Text("pk"), Null]));
    let change = table.change(Update, new, table.key(&[Text("900101"), Null, Null]));
    assert_eq!(table.data(&change, KeyOnly)["old_record"], json!({"id": 900101}));
}

#[test]
fn full_shows_the_whole_old_row_or_its_primary_key() {
    let table = Table::plain(ReplicaIdentity::Full);
    let old = || OldRow::Full(table.row(&[Text("900101"), Text("pk"), Null]));
    let update = table.change(Update, Some(table.row(&[Text("900102"), Text("pk"), Null])), old());
    let delete = table.change(Delete, None, old());
    for change in [update, delete] {
        assert_eq!(table.data(&change, Whole)["old_record"], json!({"id": 900101, "name": "pk", "amount": null}));
        assert_eq!(table.data(&change, KeyOnly)["old_record"], json!({"id": 900101}));
    }
}

#[test]
fn a_delete_has_no_record() {
    let table = Table::plain(ReplicaIdentity::Default);
    let change = table.change(Delete, None, table.key(&[Text("7"), Null, Null]));
    let data = table.data(&change, Whole);
    assert_eq!(data["old_record"], json!({"id": 7}));
    assert!(data.get("record").is_none());
    assert_eq!(data["columns"].as_array().unwrap().len(), 3);
}

#[test]
fn an_index_identity_shows_its_columns_and_of_a_hidden_delete_only_those_of_the_primary_key() {
    let mut relation = relation(ReplicaIdentity::Index, &[("id", 23), ("name", 25), ("amount", 23)]);
    relation.identity_key = vec![ColumnIndex(1)];
    let table = Table::new(relation);
    let delete = table.change(Delete, None, table.key(&[Null, Text("n"), Null]));
    assert_eq!(table.data(&delete, Whole)["old_record"], json!({"name": "n"}));
    assert_eq!(table.data(&delete, KeyOnly)["old_record"], json!({}));
    let new = || Some(table.row(&[Text("1"), Text("m"), Null]));
    let update = table.change(Update, new(), table.key(&[Null, Text("n"), Null]));
    assert_eq!(table.data(&update, KeyOnly)["old_record"], json!({"name": "n"}));
    let update = table.change(Update, new(), OldRow::Absent);
    assert_eq!(table.data(&update, KeyOnly)["old_record"], json!({"name": "m"}));
}

#[test]
fn a_delete_without_primary_key_shows_its_row_or_nothing() {
    let mut relation = relation(ReplicaIdentity::Full, &[("a", 23), ("b", 25)]);
    relation.primary_key.clear();
    let table = Table::new(relation);
    let change = table.change(Delete, None, OldRow::Full(table.row(&[Text("1"), Text("b")])));
    assert_eq!(table.data(&change, Whole)["old_record"], json!({"a": 1, "b": "b"}));
    assert_eq!(table.data(&change, KeyOnly)["old_record"], json!({}));
    assert_eq!(table.data(&change, KeyOnly)["columns"].as_array().unwrap().len(), 2);
}

#[test]
fn invisible_columns_are_nowhere() {
    let table = Table::plain(ReplicaIdentity::Full);
    let old = OldRow::Full(table.row(&[Text("1"), Text("secret"), Text("2")]));
    let change = table.change(Update, Some(table.row(&[Text("1"), Text("secret"), Text("3")])), old);
    let visible = [ColumnIndex(0), ColumnIndex(2)].into_iter().collect();
    let shape = RecordShape::new(&catalog(), &table.relation, &visible);
    let data = encoded(&shape, &change, Whole, &Limits::default(), None).unwrap();
    assert_eq!(data["record"], json!({"id": 1, "amount": 3}));
    assert_eq!(data["old_record"], json!({"id": 1, "amount": 2}));
    assert_eq!(data["columns"], json!([{"name": "id", "type": "int4"}, {"name": "amount", "type": "int4"}]));
    let nothing = RecordShape::new(&catalog(), &table.relation, &ColumnSet::default());
    let data = encoded(&nothing, &change, Whole, &Limits::default(), None).unwrap();
    assert_eq!((&data["record"], &data["old_record"], &data["columns"]), (&json!({}), &json!({}), &json!([])));
}

#[test]
fn update_of_unchanged_toast_keeps_the_column_out_of_the_record() {
    let table = Table::plain(ReplicaIdentity::Default);
    let change = table.change(Update, Some(table.row(&[Text("2"), Toast, Text("2")])), OldRow::Absent);
    let data = table.data(&change, Whole);
    assert_eq!(data["record"], json!({"id": 2, "amount": 2}));
    assert_eq!(data["columns"].as_array().unwrap().len(), 3);
}

#[test]
fn unchanged_toast_is_taken_from_a_full_old_row_even_where_that_row_is_not_shown() {
    let table = Table::plain(ReplicaIdentity::Full);
    let old = OldRow::Full(table.row(&[Text("2"), Text("big"), Text("1")]));
    let change = table.change(Update, Some(table.row(&[Text("2"), Toast, Text("2")])), old);
    for visibility in [Whole, KeyOnly] {
        assert_eq!(table.data(&change, visibility)["record"], json!({"id": 2, "name": "big", "amount": 2}));
    }
}

#[test]
fn a_change_above_the_limit_keeps_its_short_values() {
    let table = Table::plain(ReplicaIdentity::Full);
    let limits = Limits { record_bytes_max: 1000, kept_value_bytes_max: 64 };
    let (short, long, huge) = ("a".repeat(62), "b".repeat(63), "c".repeat(1000));
    let old = OldRow::Full(table.row(&[Text("4"), Text(&long), Null]));
    let change = table.change(Update, Some(table.row(&[Text("4"), Text(&huge), Null])), old);
    let data = encoded(&table.shape(), &change, Whole, &limits, None).unwrap();
    assert_eq!(data["record"], json!({"id": 4, "amount": null}));
    assert_eq!(data["old_record"], json!({"id": 4, "amount": null}));
    assert_eq!(data["errors"], json!(["Error 413: Payload Too Large"]));
    assert_eq!(data["columns"].as_array().unwrap().len(), 3);
    assert_eq!(data["commit_timestamp"], json!("2026-11-20T11:28:20.557Z"));

    // Two quotes more than 62 bytes are 64.
    let old = OldRow::Full(table.row(&[Text("4"), Text(&huge), Null]));
    let change = table.change(Update, Some(table.row(&[Text("4"), Text(&short), Null])), old);
    let data = encoded(&table.shape(), &change, Whole, &limits, None).unwrap();
    assert_eq!(data["record"]["name"], json!(short));
    let old = OldRow::Full(table.row(&[Text("4"), Text(&huge), Null]));
    let change = table.change(Update, Some(table.row(&[Text("4"), Toast, Null])), old);
    let data = encoded(&table.shape(), &change, Whole, &limits, None).unwrap();
    assert_eq!(data["record"], json!({"id": 4, "amount": null}));
}

#[test]
fn the_limit_stands_where_supabases_stands() {
    let table = Table::new(relation(ReplicaIdentity::Default, &[("id", 23), ("big", 25)]));
    for (len, errors) in [(900_000, Json::Null), (1_100_000, json!(["Error 413: Payload Too Large"]))] {
        let big = "x".repeat(len);
        let change = table.change(Insert, Some(table.row(&[Text("3"), Text(&big)])), OldRow::Absent);
        assert_eq!(table.data(&change, Whole)["errors"], errors);
    }
    let change = table.change(Delete, None, table.key(&[Text("3"), Null]));
    assert_eq!(table.data(&change, Whole)["errors"], Json::Null);
}

#[test]
fn columns_that_the_stream_lacks_are_absent_unless_postgres_computed_them() {
    let mut relation = relation(ReplicaIdentity::Full, &[("id", 23), ("tags", HSTORE), ("double", 701), ("raw", 17)]);
    relation.columns[2].generated = Some(Generated { stored: true, expression: None });
    let mut table = Table::new(relation);
    let mut layout = Layout::identity(table.relation.clone());
    layout.positions[2] = None;
    table.layout = Arc::new(layout);
    let asked = columns_only_postgres_encodes(&catalog(), &table.relation, &table.layout);
    assert_eq!(asked.iter().collect::<Vec<_>>(), [ColumnIndex(1), ColumnIndex(2)]);

    let old = OldRow::Full(table.row(&[Text("1"), Null, Null, Text("\\x00")]));
    let new = table.row(&[Text("1"), Text("\"a\"=>\"1\""), Null, Text("\\x01")]);
    let change = table.change(Update, Some(new), old);
    let computed = |values| Some(ComputedValues { columns: asked.iter().collect(), values });
    let computed = Computed {
        new: computed(vec![Some("{\"a\": \"1\"}".into()), Some("\"NaN\"".into())]),
        old: computed(vec![None, Some("2.5".into())]),
    };
    let data = encoded(&table.shape(), &change, Whole, &Limits::default(), Some(&computed)).unwrap();
    assert_eq!(data["record"], json!({"id": 1, "tags": {"a": "1"}, "double": null, "raw": "01"}));
    assert_eq!(data["old_record"], json!({"id": 1, "tags": null, "double": 2.5, "raw": "00"}));

    let refused = encoded(&table.shape(), &change, Whole, &Limits::default(), None);
    assert_eq!(refused, Err(EncodeError::Column { column: "tags".into(), source: DatumError::OnlyPostgres }));
}

#[test]
fn a_column_outside_the_publications_list_is_absent() {
    let mut table = Table::plain(ReplicaIdentity::Default);
    let mut layout = Layout::identity(table.relation.clone());
    layout.positions[1] = None;
    table.layout = Arc::new(layout);
    assert!(columns_only_postgres_encodes(&catalog(), &table.relation, &table.layout).is_empty());
    let change = table.change(Insert, Some(table.row(&[Text("1"), Null, Text("2")])), OldRow::Absent);
    assert_eq!(table.data(&change, Whole)["record"], json!({"id": 1, "amount": 2}));
}

#[test]
fn names_are_escaped() {
    let mut relation = relation(ReplicaIdentity::Default, &[("Some Id", 23), ("quo\"te", 99_999)]);
    relation.name = "Weird \"Table\"".into();
    relation.schema = "s\\".into();
    let table = Table::new(relation);
    let change = table.change(Insert, Some(table.row(&[Text("2"), Text("y")])), OldRow::Absent);
    let data = table.data(&change, Whole);
    assert_eq!(data["record"], json!({"Some Id": 2, "quo\"te": "y"}));
    assert_eq!(data["columns"][1], json!({"name": "quo\"te", "type": "unknown"}));
    assert_eq!((&data["table"], &data["schema"]), (&json!("Weird \"Table\""), &json!("s\\")));
}

#[test]
fn a_value_that_is_not_its_types_text_is_an_error() {
    let table = Table::plain(ReplicaIdentity::Default);
    let change = table.change(Insert, Some(table.row(&[Text("1"), Null, Text("two")])), OldRow::Absent);
    let result = encoded(&table.shape(), &change, Whole, &Limits::default(), None);
    assert!(matches!(result, Err(EncodeError::Column { column, .. }) if &*column == "amount"));
}

#[test]
fn a_value_that_is_not_utf8_is_an_error() {
    let table = Table::plain(ReplicaIdentity::Default);
    let tuple = Tuple::from_values([Some(&b"1"[..]), Some(b"caf\xe9"), None]);
    let row = Row { layout: table.layout.clone(), tuple, key_only: false };
    let change = table.change(Insert, Some(row), OldRow::Absent);
    let result = encoded(&table.shape(), &change, Whole, &Limits::default(), None);
    assert_eq!(result, Err(EncodeError::NotUtf8));
}

#[test]
fn error_rows_have_no_row() {
    let table = Table::plain(ReplicaIdentity::Default);
    let insert = table.change(Insert, Some(table.row(&[Text("1"), Null, Null])), OldRow::Absent);
    assert_eq!(
        std::str::from_utf8(&error_data(&insert, ErrorRow::NoPrimaryKey, None)).unwrap(),
        concat!(
            r#"{"table":"plain","type":"INSERT","record":{},"columns":[],"#,
            r#""errors":["Error 400: Bad Request, no primary key"],"schema":"public","commit_timestamp":null}"#
        )
    );
    let update = table.change(Update, insert.new.clone(), OldRow::Absent);
    assert_eq!(
        std::str::from_utf8(&error_data(&update, ErrorRow::Unauthorized, None)).unwrap(),
        concat!(
            r#"{"table":"plain","type":"UPDATE","record":{},"columns":[],"errors":["Error 401: Unauthorized"],"#,
            r#""schema":"public","commit_timestamp":null,"old_record":{}}"#
        )
    );
}
