use std::sync::Arc;

use super::*;
use crate::authz::oracle::sample::{relation, row, set};
use crate::authz::{Identity, OraclePlan};

/// A policy that reads these columns, asked of these rows.
fn question(reads: Option<&[u16]>, rows: Vec<RowText>) -> Question {
    let relation = relation();
    let plan = OraclePlan {
        relation: Arc::clone(&relation),
        role: "r".into(),
        expression: "((x))".into(),
        columns: reads.map(set),
        policies: "12 r t {0} abc".into(),
        not_compiled: None,
    };
    let identity = Identity { role: "r".into(), claims: "{}".into() };
    let asked = Asked::Policy { plan: Arc::new(plan), identity: Arc::new(identity) };
    Question { xid: Some(7), relation, asked, rows }
}

fn parts_of(question: &Question) -> Vec<Part> {
    parts(&[question])
}

fn forms(question: &Question) -> Vec<(Form, Vec<usize>)> {
    let rows = |part: Part| (part.form, part.rows.iter().map(|place| place.row).collect());
    parts_of(question).into_iter().map(rows).collect()
}

#[test]
fn whole_images_are_asked_in_one_statement() {
    let asked = question(Some(&[0]), vec![row(&[]), row(&[2]), row(&[1, 2])]);
    assert_eq!(forms(&asked), [(Form::Image, vec![0, 1, 2])], "what is missing is not read");
    let sql = &parts_of(&asked)[0].sql;
    let expected = r#"SELECT (SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text), (((x))), (SELECT (SELECT pg_catalog.concat_ws"#;
    assert!(sql.starts_with(expected), "{sql}");
    let expected =
        r#" IS NOT DISTINCT FROM E'12 r t {0} abc') FROM pg_catalog.unnest((SELECT $1::pg_catalog.text FROM"#;
    assert!(sql.contains(expected), "{sql}");
    let columns = r#"CASE a.attnum WHEN 1 THEN a.atttypid = 25 AND a.attname = E'id' WHEN 2 THEN a.atttypid = 25 AND a.attname = E'body' WHEN 3 THEN a.atttypid = 25 AND a.attname = E'gen' ELSE a.attisdropped END) IS NOT TRUE))::"s"."t""x"[]) AS "t""x""#;
    assert!(sql.ends_with(columns), "{sql}");
}

#[test]
fn rows_of_several_questions_are_told_apart_by_their_place() {
    let (one, two) = (question(Some(&[1]), vec![row(&[]), row(&[1])]), question(Some(&[1]), vec![row(&[1]), row(&[])]));
    let two = Question { xid: Some(8), ..two };
    let place = |question, row| Place { question, row };
    let asked = parts(&[&one, &two]);
    let places: Vec<_> = asked.iter().map(|part| (part.form, part.xid, part.rows.clone())).collect();
    let expected = [
        (Form::Image, None, vec![place(0, 0), place(1, 1)]),
        (Form::Current, Some(7), vec![place(0, 1)]),
        (Form::Current, Some(8), vec![place(1, 0)]),
    ];
    assert_eq!(places, expected, "the table is asked for one transaction's rows at a time");
    assert_eq!(asked[2].bind(&[&one, &two]).unwrap()[1], "8");
    assert_eq!(asked[1].sql, asked[2].sql);
    assert_eq!(asked[0].bind(&[&one]), None, "a question is not there");
}

#[test]
fn generated_columns_are_computed_where_their_sources_are_known() {
    let asked = question(Some(&[2]), vec![row(&[2]), row(&[]), row(&[1, 2])]);
    assert_eq!(forms(&asked), [(Form::Computed, vec![0]), (Form::Image, vec![1]), (Form::Current, vec![2])]);
    let sql = &parts_of(&asked)[0].sql;
    assert!(sql.contains(r#"SELECT ROW("t""x"."id", "t""x"."body", (lower(body)))::"s"."t""x" FROM"#), "{sql}");
}

#[test]
fn an_unknown_reader_reads_everything() {
    assert_eq!(forms(&question(None, vec![row(&[1])])), [(Form::Current, vec![0])]);
}

#[test]
fn the_table_is_asked_only_for_new_rows_with_their_key_and_transaction() {
    let asked = question(Some(&[1]), vec![row(&[1])]);
    let part = &parts_of(&asked)[0];
    assert_eq!(part.bind(&[&asked]).unwrap(), [r#"{"(1,,)"}"#, "7"]);
    assert!(part.sql.contains(r#"walcast_now."id" = "t""x"."id" AND walcast_now.xmin = $2"#), "{}", part.sql);
    assert!(parts_of(&question(Some(&[1]), vec![row(&[0, 1])])).is_empty(), "no key");
    let old = RowText { is_new: false, ..row(&[1]) };
    assert!(parts_of(&question(Some(&[1]), vec![old])).is_empty(), "an old row");
    assert!(parts_of(&Question { xid: None, ..asked.clone() }).is_empty(), "no transaction");
    let filter = Asked::Filter { role: "r".into(), expression: "x".into(), columns: Some(set(&[1])) };
    assert!(parts_of(&Question { asked: filter, ..asked }).is_empty(), "not a policy");
}
