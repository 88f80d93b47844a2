use std::sync::Arc;

use super::*;
use crate::authz::{Identity, OraclePlan};
use crate::catalog::{Generated, Publish, RelationKind, ReplicaIdentity};
use crate::wal::pgoutput::RelationId;

fn relation() -> Arc<Relation> {
    let column = |attnum: i16, name: &str, generated: Option<&str>| Column {
        attnum,
        name: name.into(),
        type_oid: 25,
        type_modifier: -1,
        generated: generated.map(|expression| Generated { stored: true, expression: Some(expression.into()) }),
        collation: None,
        acl: vec![],
    };
    Arc::new(Relation {
        id: RelationId(1),
        schema: "s".into(),
        name: "t\"x".into(),
        kind: RelationKind::Table,
        owner: 10,
        row_security: true,
        force_row_security: false,
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column(1, "id", None), column(2, "body", None), column(3, "gen", Some("lower(body)"))],
        primary_key: vec![ColumnIndex(0)],
        identity_key: vec![ColumnIndex(0)],
        acl: vec![],
        policies: vec![],
        publish: Publish { insert: true, update: true, delete: true },
        followed: crate::catalog::Followed::Whole,
        leaves: Vec::new(),
    })
}

fn set(columns: &[u16]) -> ColumnSet {
    columns.iter().map(|column| ColumnIndex(*column)).collect()
}

fn row(missing: &[u16]) -> RowText {
    RowText { literal: "(1,,)".into(), missing: set(missing), is_new: true }
}

/// A policy that reads these columns, asked of these rows.
fn question(reads: Option<&[u16]>, rows: Vec<RowText>) -> Question {
    let relation = relation();
    let plan = OraclePlan {
        relation: Arc::clone(&relation),
        role: "r".into(),
        expression: "((x))".into(),
        columns: reads.map(set),
        not_compiled: None,
    };
    let identity = Identity { role: "r".into(), claims: "{}".into() };
    let asked = Asked::Policy { plan: Arc::new(plan), identity: Arc::new(identity) };
    Question { xid: Some(7), relation, asked, rows }
}

fn forms(question: &Question) -> Vec<(Form, Vec<usize>)> {
    parts(question).into_iter().map(|part| (part.form, part.rows)).collect()
}

#[test]
fn whole_images_are_asked_in_one_statement() {
    let parts = parts(&question(Some(&[0]), vec![row(&[]), row(&[2]), row(&[1, 2])]));
    assert_eq!(parts.len(), 1, "what is missing is not read");
    let sql = r#"SELECT (SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text), (((x))) FROM pg_catalog.unnest($1::pg_catalog.text::"s"."t""x"[]) AS "t""x""#;
    assert_eq!(parts[0].sql, sql);
    assert_eq!(parts[0].rows, [0, 1, 2]);
}

#[test]
fn generated_columns_are_computed_where_their_sources_are_known() {
    let asked = question(Some(&[2]), vec![row(&[2]), row(&[]), row(&[1, 2])]);
    assert_eq!(forms(&asked), [(Form::Computed, vec![0]), (Form::Image, vec![1]), (Form::Current, vec![2])]);
    let sql = &parts(&asked)[0].sql;
    assert!(sql.contains(r#"SELECT ROW("t""x"."id", "t""x"."body", (lower(body)))::"s"."t""x" FROM"#), "{sql}");
}

#[test]
fn an_unknown_reader_reads_everything() {
    assert_eq!(forms(&question(None, vec![row(&[1])])), [(Form::Current, vec![0])]);
}

#[test]
fn the_table_is_asked_only_for_new_rows_with_their_key_and_transaction() {
    let asked = question(Some(&[1]), vec![row(&[1])]);
    let part = &parts(&asked)[0];
    assert_eq!(part.bind(&asked), [r#"{"(1,,)"}"#, "7"]);
    assert!(part.sql.contains(r#"walcast_now."id" = "t""x"."id" AND walcast_now.xmin = $2"#), "{}", part.sql);
    assert!(parts(&question(Some(&[1]), vec![row(&[0, 1])])).is_empty(), "no key");
    let old = RowText { is_new: false, ..row(&[1]) };
    assert!(parts(&question(Some(&[1]), vec![old])).is_empty(), "an old row");
    assert!(parts(&Question { xid: None, ..asked.clone() }).is_empty(), "no transaction");
    let filter = Asked::Filter { role: "r".into(), expression: "x".into(), columns: Some(set(&[1])) };
    assert!(parts(&Question { asked: filter, ..asked }).is_empty(), "not a policy");
}
