//! Questions about a table that is nowhere, for this room's unit tests.

use std::sync::Arc;

use super::question::{Asked, Question};
use crate::authz::{Identity, OraclePlan, RowText};
use crate::catalog::{Column, ColumnIndex, ColumnSet, Generated, Publish, Relation, RelationKind, ReplicaIdentity};
use crate::wal::pgoutput::RelationId;

/// `s."t""x"(id, body, gen)`, the last one generated.
pub(super) fn relation() -> Arc<Relation> {
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

pub(super) fn set(columns: &[u16]) -> ColumnSet {
    columns.iter().map(|column| ColumnIndex(*column)).collect()
}

pub(super) fn row(missing: &[u16]) -> RowText {
    RowText { literal: "(1,,)".into(), missing: set(missing), is_new: true }
}

fn about(relation: Arc<Relation>, asked: Asked) -> Question {
    Question { xid: Some(7), relation, asked, rows: vec![row(&[])] }
}

/// Of one row, on behalf of someone of role `r`, by a policy that reads the first column.
pub(super) fn policy(who: &str, expression: &str) -> Question {
    let relation = relation();
    let plan = OraclePlan {
        relation: Arc::clone(&relation),
        role: "r".into(),
        expression: expression.into(),
        columns: Some(set(&[0])),
        policies: expression.into(),
        not_compiled: None,
    };
    let identity = Identity { role: "r".into(), claims: who.into() };
    about(relation, Asked::Policy { plan: Arc::new(plan), identity: Arc::new(identity) })
}

pub(super) fn filter(expression: &str) -> Question {
    about(relation(), Asked::Filter { role: "r".into(), expression: expression.into(), columns: None })
}

pub(super) fn json(columns: &[u16]) -> Question {
    let columns = columns.iter().map(|column| ColumnIndex(*column)).collect();
    about(relation(), Asked::Json { role: "r".into(), columns })
}
