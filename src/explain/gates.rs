//! Publication, grants and filter: each one's verdict, and the statement that would change it.

use std::sync::Arc;

use super::{Case, Question, old_row};
use crate::authz::{self, Answer, Asked, OracleError, Verdict, row_text};
use crate::catalog::{Catalog, ColumnSet, PG_READ_ALL_DATA, Relation, ReplicaIdentity, quote_identifier};
use crate::change::{Change, OldRow, Operation, Row};
use crate::check::Report;
use crate::routing::{self, Binding, Bound, Casts, Predicate, Tested};

/// The table, if it is published.
pub(super) fn publication(question: &Question, catalog: &Catalog, report: &mut Report) -> Option<Arc<Relation>> {
    let (schema, name) = question.table.split_once('.').unwrap_or(("public", &question.table));
    let found = catalog.relations.values().find(|relation| relation.schema == schema && relation.name == name);
    let publication = quote_identifier(&question.publication);
    let Some(relation) = found else {
        let table = format!("{}.{}", quote_identifier(schema), quote_identifier(name));
        let detail = format!("{table} is not in the publication {publication}");
        report.fail("publication", detail, Some(format!("alter publication {publication} add table {table};")));
        return None;
    };
    let is_published = match question.event {
        Operation::Insert => relation.publish.insert,
        Operation::Update => relation.publish.update,
        Operation::Delete => relation.publish.delete,
    };
    let event = question.event.as_str();
    if is_published {
        report.pass("publication", format!("{} is in {publication}, with {event}", relation.sql_name()));
    } else {
        let statement = format!("alter publication {publication} set (publish = 'insert, update, delete, truncate');");
        report.fail("publication", format!("{publication} leaves out {event}"), Some(statement));
    }
    Some(Arc::clone(relation))
}

/// What the role may read at all.
pub(super) fn grants(case: &Case<'_>, report: &mut Report) {
    let (relation, role_name) = (case.relation, quote_identifier(&case.question.role));
    let table = relation.sql_name();
    let Some(role) = case.catalog.roles.get(&case.question.role) else {
        return report.fail("grants", format!("there is no role {role_name}"), None);
    };
    if !case.catalog.may_use_schema(role, &relation.schema) {
        let schema = quote_identifier(&relation.schema);
        let statement = format!("grant usage on schema {schema} to {role_name};");
        report.fail("grants", format!("{role_name} has no USAGE on schema {schema}"), Some(statement));
    }
    if relation.primary_key.is_empty() && case.question.event != Operation::Delete {
        let detail = "the table has no primary key: the event arrives without data (Error 400)";
        return report.fail("grants", detail, Some(format!("alter table {table} add primary key (...);")));
    }
    let visible = relation.selectable_columns(role, PG_READ_ALL_DATA);
    let names = |columns: &ColumnSet| {
        let names: Vec<&str> = columns.iter().map(|column| relation.column(column).name.as_str()).collect();
        names.join(", ")
    };
    let key: ColumnSet = relation.primary_key.iter().copied().collect();
    if !key.is_subset(&visible) {
        let statement = Some(format!("grant select on {table} to {role_name};"));
        let detail = format!("{role_name} may not read the primary key ({})", names(&key));
        return match case.question.event {
            Operation::Delete => {
                report.warn("grants", format!("{detail}: a delete arrives without what may not be read"), statement)
            }
            _ => report.fail("grants", format!("{detail}: the event arrives without data (Error 401)"), statement),
        };
    }
    report.pass("grants", format!("{role_name} reads the columns {}", names(&visible)));
}

/// The subscriber's own filter, over the row.
pub(super) async fn filter(case: &Case<'_>, row: &Row, report: &mut Report) {
    let Some(filter) = &case.question.filter else {
        return report.pass("filter", "none: every row matches");
    };
    match matches(case, filter, row).await {
        Ok(true) => report.pass("filter", format!("{filter} matches the row")),
        Ok(false) => report.fail("filter", format!("{filter} does not match the row"), None),
        Err(why) => report.fail("filter", why, None),
    }
}

async fn matches(case: &Case<'_>, filter: &str, row: &Row) -> Result<bool, String> {
    let params = serde_json::json!({
        "event": "*", "schema": case.relation.schema, "table": case.relation.name, "filter": filter
    });
    let serde_json::Value::Object(params) = params else { unreachable!("an object was written") };
    let binding = Binding::parse(&params).map_err(|error| error.to_string())?;
    let mut casts = Casts::default();
    let bound = loop {
        match routing::bind(&binding, case.catalog, &case.question.role, &casts) {
            Bound::Ready(bound) => break bound,
            Bound::Refused(error) => return Err(error.to_string()),
            Bound::NeedsCasts(requests) => {
                for request in requests {
                    let answer = match case.oracle.cast(&case.question.role, &request).await {
                        Ok(text) => Ok(text),
                        Err(authz::CastFailure::Refused(error)) => Err(error),
                        Err(authz::CastFailure::Unanswered(error)) => return Err(error.to_string()),
                    };
                    casts.insert(request, answer);
                }
            }
        }
    };
    let Some(predicate) = bound.into_iter().next().and_then(|bound| bound.predicate) else { return Ok(true) };
    // A DELETE is matched by what the stream has of the old row, and by what is kept of it.
    let is_delete = case.question.event == Operation::Delete;
    let key_only = is_delete && case.relation.replica_identity != ReplicaIdentity::Full;
    let kept = (key_only && old_row::is_kept(case)).then(|| row.clone());
    let lacks_columns = key_only && kept.is_none();
    let old = match (is_delete, key_only) {
        (false, _) => OldRow::Absent,
        (true, false) => OldRow::Full(row.clone()),
        (true, true) => OldRow::Key(Row { key_only, ..row.clone() }),
    };
    let change = Change {
        relation: Arc::clone(case.relation),
        operation: case.question.event,
        new: (!is_delete).then(|| row.clone()),
        old,
        kept,
        commit_lsn: crate::wal::Lsn::ZERO,
        index: 0,
        commit_timestamp: 0,
    };
    match predicate.test(&change) {
        Tested::Matched => Ok(true),
        Tested::NotMatched => Ok(false),
        Tested::Undecided if lacks_columns => Err(format!("{filter} reads what the old row of a DELETE does not have")),
        Tested::Undecided => by_postgres(case, &predicate, row).await,
    }
}

async fn by_postgres(case: &Case<'_>, predicate: &Predicate, row: &Row) -> Result<bool, String> {
    let Some(test) = predicate.sql() else { return Ok(true) };
    let asked = Asked::Filter {
        role: case.question.role.clone(),
        expression: test.expression.clone(),
        columns: Some(test.columns.clone()),
    };
    match ask(case, asked, row).await {
        Ok(verdict) => Ok(verdict == Verdict::Allowed),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) async fn ask(case: &Case<'_>, asked: Asked, row: &Row) -> Result<Verdict, OracleError> {
    let (relation, rows) = (Arc::clone(case.relation), vec![row_text(row, None)]);
    let answer = case.oracle.ask(authz::Question { xid: None, relation, asked, rows }).await;
    match answer.unwrap_or(Err(OracleError::Closed))? {
        Answer::Verdicts(verdicts) => Ok(verdicts.first().copied().unwrap_or(Verdict::Failed)),
        Answer::Json(_) => Ok(Verdict::Failed),
    }
}
