//! Each gate's verdict, and the statement that would change it.

use std::sync::Arc;

use super::{Case, Question};
use crate::authz::{self, Answer, Asked, DeniedReason, OracleError, OraclePlan, Plan, Verdict, row_text};
use crate::catalog::{
    Catalog, ColumnSet, PG_READ_ALL_DATA, Policy, PolicyCommand, Relation, ReplicaIdentity, Role, quote_identifier,
};
use crate::change::{Change, OldRow, Operation, Row};
use crate::check::Report;
use crate::dispatch::Deletes;
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
        let detail = format!("{role_name} may not read the primary key ({}): Error 401", names(&key));
        return report.fail("grants", detail, Some(format!("grant select on {table} to {role_name};")));
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
    let change = Change {
        relation: Arc::clone(case.relation),
        operation: Operation::Insert,
        new: Some(row.clone()),
        old: OldRow::Absent,
        kept: None,
        index: 0,
        commit_timestamp: 0,
    };
    match predicate.test(&change) {
        Tested::Matched => Ok(true),
        Tested::NotMatched => Ok(false),
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

async fn ask(case: &Case<'_>, asked: Asked, row: &Row) -> Result<Verdict, OracleError> {
    let (relation, rows) = (Arc::clone(case.relation), vec![row_text(row, None)]);
    let answer = case.oracle.ask(authz::Question { xid: None, relation, asked, rows }).await;
    match answer.unwrap_or(Err(OracleError::Closed))? {
        Answer::Verdicts(verdicts) => Ok(verdicts.first().copied().unwrap_or(Verdict::Failed)),
        Answer::Json(_) => Ok(Verdict::Failed),
    }
}

/// Row-level security as a whole, and policy by policy.
pub(super) async fn policies(case: &Case<'_>, row: &Row, report: &mut Report) {
    let (relation, table) = (case.relation, case.relation.sql_name());
    let Some(role) = case.catalog.roles.get(&case.question.role) else { return };
    let plan = authz::plan(case.catalog, relation, role);
    let oracle = match &plan {
        Plan::Open if relation.row_security => {
            return report.pass("policies", "row-level security does not apply to the role (owner or BYPASSRLS)");
        }
        Plan::Open => return report.pass("policies", "row-level security is off"),
        Plan::Denied(reason) => {
            let statement = format!(
                "create policy ... on {table} for select to {} using (...);",
                quote_identifier(&case.question.role)
            );
            let statement = (reason == &DeniedReason::NoPolicy).then_some(statement);
            return report.fail("policies", reason.to_string(), statement);
        }
        Plan::Compiled(plan) => Arc::clone(&plan.oracle),
        Plan::Oracle(plan) => Arc::clone(plan),
    };
    for policy in &relation.policies {
        one_policy(case, role, policy, row, report).await;
    }
    let asked = Asked::Policy { plan: Arc::clone(&oracle), identity: Arc::clone(&case.identity) };
    let how = match &oracle.not_compiled {
        None => "decided in-process, as of the commit".to_owned(),
        Some(why) => format!("asked of Postgres for every change: {why}"),
    };
    match ask(case, asked, row).await {
        Ok(Verdict::Allowed) => report.pass("policies", format!("together they show the row; {how}")),
        Ok(Verdict::Denied) => {
            let statement = Some(format!("alter policy ... on {table} using (...);"));
            report.fail("policies", format!("together they hide the row; {how}"), statement);
        }
        Ok(Verdict::Failed) => {
            let detail = format!("evaluating them raises an error for this row, which hides it; {how}");
            report.fail("policies", detail, None);
        }
        Err(error) => report.fail("policies", error.to_string(), Some("walcast setup".to_owned())),
    }
}

async fn one_policy(case: &Case<'_>, role: &Role, policy: &Policy, row: &Row, report: &mut Report) {
    let what = format!("policy {:?}", policy.name);
    let for_select = matches!(policy.command, PolicyCommand::All | PolicyCommand::Select);
    let for_role = policy.roles.iter().any(|oid| *oid == 0 || role.has_privileges_of(*oid));
    if !for_select || !for_role {
        let why = if for_select { "is for other roles" } else { "is not for SELECT" };
        return report.pass(what, format!("{why}: it neither shows nor hides"));
    }
    let Some(text) = &policy.using_text else {
        return report.pass(what, "has no USING clause");
    };
    let plan = OraclePlan {
        relation: Arc::clone(case.relation),
        role: case.question.role.clone(),
        expression: format!("({text})"),
        columns: None,
        not_compiled: None,
    };
    let asked = Asked::Policy { plan: Arc::new(plan), identity: Arc::clone(&case.identity) };
    let verdict = match ask(case, asked, row).await {
        Ok(Verdict::Allowed) => "true",
        Ok(Verdict::Denied) => "false or NULL",
        Ok(Verdict::Failed) => "an error",
        Err(_) => "not answered",
    };
    let kind = if policy.permissive { "permissive" } else { "restrictive" };
    let detail = format!("{kind}: {verdict}\nusing {text}");
    // One permissive policy that is true is enough; a restrictive one has to be true.
    match (policy.permissive, verdict) {
        (_, "true") => report.pass(what, detail),
        (true, _) => report.warn(what, detail, None),
        (false, _) => report.fail(what, detail, None),
    }
}

/// What the stream says of the row that was.
pub(super) fn old_row(case: &Case<'_>, report: &mut Report) {
    let (relation, table) = (case.relation, case.relation.sql_name());
    let full = format!("alter table {table} replica identity full;");
    let policies_apply = case
        .catalog
        .roles
        .get(&case.question.role)
        .is_some_and(|role| authz::plan(case.catalog, relation, role).oracle().is_some());
    match (case.question.event, relation.replica_identity) {
        (Operation::Insert, _) => {}
        (_, ReplicaIdentity::Full) => report.pass("old row", "REPLICA IDENTITY FULL: the stream has all of it"),
        (_, ReplicaIdentity::Nothing) => {
            report.fail("old row", "REPLICA IDENTITY NOTHING: the stream does not say which row it was", Some(full));
        }
        (Operation::Update, _) => report.warn("old row", "old_record has the key's columns only", Some(full)),
        (Operation::Delete, _) if !policies_apply => report.pass("old row", "its key; no policy has to judge it"),
        (Operation::Delete, _) => {
            let key: ColumnSet = relation.identity_key.iter().copied().collect();
            let role = case.catalog.roles.get(&case.question.role);
            let plan = role.map(|role| authz::plan(case.catalog, relation, role));
            let columns = plan.as_ref().and_then(Plan::oracle).and_then(|plan| plan.columns.as_ref());
            match (columns.is_some_and(|columns| columns.is_subset(&key)), case.question.deletes) {
                (true, _) => report.pass("old row", "its key, which is all that the policies read"),
                (false, Deletes::Compatible) => {
                    let detail = "its key only, which the policies cannot judge: every subscriber of the table is sent it \
                        (--deletes compatible)";
                    report.warn("old row", detail, Some(full));
                }
                (false, _) => {
                    let detail = "its key only, which the policies cannot judge: nobody is sent it (--deletes)";
                    report.fail("old row", detail, Some(full));
                }
            }
        }
    }
}
