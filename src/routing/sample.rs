//! A catalog made by hand, as the tests of this room need it: the tables of the recorded transcripts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Binding, Bound, BoundSubscription, CastError, CastRequest, Casts, bind};
use crate::catalog::{
    AclItem, Catalog, Collation, Column, ColumnIndex, Oid, PgType, Relation, RelationKind, ReplicaIdentity, Role,
    Roles, TypeKind,
};
use crate::change::{Change, Layout, OldRow, Operation, Row};
use crate::wal::Lsn;
use crate::wal::pgoutput::{Field, RelationId, Tuple};

const ANON: Oid = 20_000;

/// Name, OID and how `regtype` spells it.
const TYPES: &[(&str, Oid, &str)] = &[
    ("bool", 16, "boolean"),
    ("bytea", 17, "bytea"),
    ("name", 19, "name"),
    ("int8", 20, "bigint"),
    ("int2", 21, "smallint"),
    ("int4", 23, "integer"),
    ("text", 25, "text"),
    ("oid", 26, "oid"),
    ("json", 114, "json"),
    ("xml", 142, "xml"),
    ("point", 600, "point"),
    ("float4", 700, "real"),
    ("float8", 701, "double precision"),
    ("inet", 869, "inet"),
    ("bpchar", 1042, "character"),
    ("varchar", 1043, "character varying"),
    ("date", 1082, "date"),
    ("time", 1083, "time without time zone"),
    ("timestamp", 1114, "timestamp without time zone"),
    ("timestamptz", 1184, "timestamp with time zone"),
    ("interval", 1186, "interval"),
    ("bit", 1560, "bit"),
    ("numeric", 1700, "numeric"),
    ("uuid", 2950, "uuid"),
    ("jsonb", 3802, "jsonb"),
];

const MOOD: Oid = 30_000;
const TEXT_ARRAY: Oid = 1009;
const CITEXT: Oid = 30_001;
const DOMAIN: Oid = 30_002;

fn types() -> HashMap<Oid, Arc<PgType>> {
    let pg_type = |oid, schema: &str, name: &str, sql_name: &str, kind| {
        let (schema, name, sql_name) = (schema.into(), name.into(), sql_name.into());
        Arc::new(PgType { oid, schema, name, sql_name, kind, has_json_cast: false })
    };
    let labels = ["sad", "ok", "happy"].map(str::to_owned).to_vec();
    let own = [
        pg_type(MOOD, "public", "mood", "public.mood", TypeKind::Enum { labels, label_oids: vec![] }),
        pg_type(TEXT_ARRAY, "pg_catalog", "_text", "text[]", TypeKind::Array { element: 25, delimiter: b',' }),
        pg_type(CITEXT, "public", "citext", "public.citext", TypeKind::Base),
        pg_type(DOMAIN, "public", "short", "public.short", TypeKind::Domain { base: 25 }),
    ];
    let built_in = TYPES.iter().map(|(name, oid, sql)| pg_type(*oid, "pg_catalog", name, sql, TypeKind::Base));
    built_in.chain(own).map(|pg_type| (pg_type.oid, pg_type)).collect()
}

fn type_oid(name: &str) -> Oid {
    match name {
        "mood" => MOOD,
        "_text" => TEXT_ARRAY,
        "citext" => CITEXT,
        "short" => DOMAIN,
        _ => TYPES.iter().find(|(known, ..)| *known == name).unwrap().1,
    }
}

/// A table whose first column is its primary key. Columns are `name|type|option`: `C` and `nondeterministic` are
/// collations, `secret` is a column that the role may not select.
fn relation(id: u32, name: &str, columns: &[&str]) -> (RelationId, Arc<Relation>) {
    let granted = vec![AclItem { grantee: 0 }];
    let columns: Vec<Column> = columns
        .iter()
        .zip(1..)
        .map(|(column, attnum)| {
            let mut words = column.rsplitn(3, '|');
            let (option, type_name, name) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let collatable = matches!(type_name, "text" | "varchar" | "bpchar" | "name" | "citext" | "short");
            Column {
                attnum,
                name: name.to_owned(),
                type_oid: type_oid(type_name),
                type_modifier: -1,
                generated: None,
                collation: collatable
                    .then_some(Collation { deterministic: option != "nondeterministic", is_c: option == "C" }),
                acl: if option == "secret" { vec![] } else { granted.clone() },
            }
        })
        .collect();
    let key = vec![ColumnIndex(0)];
    let relation = Relation {
        id: RelationId(id),
        schema: "public".into(),
        name: name.into(),
        kind: RelationKind::Table,
        owner: 10,
        row_security: false,
        force_row_security: false,
        replica_identity: ReplicaIdentity::Default,
        columns,
        primary_key: key.clone(),
        identity_key: key,
        acl: vec![],
        policies: vec![],
        publish: crate::catalog::Publish { insert: true, update: true, delete: true },
        followed: crate::catalog::Followed::Whole,
        leaves: Vec::new(),
    };
    (relation.id, Arc::new(relation))
}

pub(crate) fn catalog() -> Catalog {
    let role =
        Role { oid: ANON, name: "anon".into(), superuser: false, bypass_rls: false, inherits: HashSet::from([ANON]) };
    let relations = [
        relation(1, "plain", &["id|int4|", "name|text|", "amount|int4|"]),
        relation(2, "colpriv", &["id|int4|", "pub|text|", "secret|text|secret"]),
        relation(3, "noselect", &["id|int4|secret", "name|text|secret"]),
        relation(4, "sel", &["id|int4|", "name|text|", "amount|int4|", "note|text|"]),
        relation(5, "filt", &["id|int4|", "session_id|uuid|", "tags|_text|", "b|bool|", "ts|timestamptz|"]),
        relation(6, "Weird Table", &["Some Id|int4|", "na.me|text|", "quo\"te|text|"]),
        relation(
            7,
            "alltypes",
            &[
                "id|int8|",
                "b|bool|",
                "i2|int2|",
                "num|numeric|",
                "f4|float4|",
                "f8|float8|",
                "t|text|",
                "c|text|C",
                "vc|varchar|",
                "ch|bpchar|",
                "u|uuid|",
                "j|json|",
                "jb|jsonb|",
                "tstz|timestamptz|",
                "d|date|",
                "tm|time|",
                "iv|interval|",
                "by|bytea|",
                "ta|_text|",
                "e|mood|",
                "pt|point|",
                "ip|inet|",
                "x|xml|",
                "nm|name|C",
                "ct|citext|",
                "dom|short|",
                "nd|text|nondeterministic",
                "bits|bit|",
            ],
        ),
    ];
    Catalog {
        relations: relations.into_iter().collect(),
        types: types(),
        schemas: HashMap::from([("public".to_owned(), vec![AclItem { grantee: 0 }])]),
        roles: Arc::new(Roles { by_name: HashMap::from([("anon".to_owned(), Arc::new(role))]), ..Roles::default() }),
        ..Catalog::default()
    }
}

pub(crate) fn relation_named(name: &str) -> Arc<Relation> {
    let catalog = catalog();
    catalog.relations.values().find(|relation| relation.name == name).unwrap().clone()
}

/// What Postgres would answer to a cast, by hand.
#[derive(Clone, Copy)]
pub(super) struct Answer(pub(super) &'static str, pub(super) Result<&'static str, (&'static str, &'static str)>);

/// Binds for `anon`; `answers` are given to whatever is asked.
pub(super) fn bind_with(params: Value, answers: &[Answer]) -> Bound {
    let binding = Binding::parse(params.as_object().unwrap()).unwrap();
    let (catalog, mut casts) = (catalog(), Casts::default());
    match bind(&binding, &catalog, "anon", &casts) {
        Bound::NeedsCasts(requests) if !answers.is_empty() => {
            requests.into_iter().for_each(|request| insert(&mut casts, request, answers));
            bind(&binding, &catalog, "anon", &casts)
        }
        bound => bound,
    }
}

fn insert(casts: &mut Casts, request: CastRequest, answers: &[Answer]) {
    let Some(Answer(_, answer)) = answers.iter().find(|answer| answer.0 == request.text) else { return };
    let answer = answer.map(str::to_owned).map_err(|(state, text)| CastError::from_postgres(state, text, None));
    casts.insert(request, answer);
}

/// The one subscription that a filter on a table binds to.
pub(super) fn bound(table: &str, filter: &str) -> BoundSubscription {
    bound_to(table, filter, "*", &[])
}

pub(super) fn bound_to(table: &str, filter: &str, event: &str, answers: &[Answer]) -> BoundSubscription {
    let params = serde_json::json!({"event": event, "schema": "public", "table": table, "filter": filter});
    match bind_with(params, answers) {
        Bound::Ready(mut subscriptions) => subscriptions.remove(0),
        other => panic!("{filter}: {other:?}"),
    }
}

/// A row of the table with the given columns; the others are NULL. `\u{1}` stands for an unchanged TOAST value.
pub(super) fn row(relation: &Arc<Relation>, values: &[(&str, &str)]) -> Row {
    let value_of = |name: &str| values.iter().find(|(column, _)| *column == name).map(|(_, value)| value.as_bytes());
    let mut tuple = Tuple::from_values(relation.columns.iter().map(|column| value_of(&column.name)));
    for (field, column) in tuple.fields.iter_mut().zip(&relation.columns) {
        if value_of(&column.name) == Some(b"\x01") {
            *field = Field::UnchangedToast;
        }
    }
    Row { layout: Arc::new(Layout::identity(relation.clone())), tuple, key_only: false }
}

pub(crate) fn insert_of(relation: &Arc<Relation>, values: &[(&str, &str)]) -> Change {
    change(relation, Operation::Insert, Some(row(relation, values)), OldRow::Absent)
}

pub(super) fn change(relation: &Arc<Relation>, operation: Operation, new: Option<Row>, old: OldRow) -> Change {
    Change {
        relation: relation.clone(),
        operation,
        new,
        old,
        kept: None,
        commit_lsn: Lsn::ZERO,
        index: 0,
        commit_timestamp: 0,
    }
}
