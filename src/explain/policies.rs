//! Row-level security: policy by policy, and as a whole.

use std::sync::Arc;

use super::gates::ask;
use super::old_row::Judged;
use super::{Case, Error};
use crate::authz::plan::policies_text;
use crate::authz::{self, Asked, OraclePlan, Plan, Verdict};
use crate::catalog::{Policy, PolicyCommand, Role, quote_identifier};
use crate::change::Row;
use crate::check::plans::{Kind, table_plan};
use crate::check::{Level, Report};

/// What one policy says of the row.
struct Said<'p> {
    policy: &'p Policy,
    verdict: Result<Verdict, String>,
}

impl Said<'_> {
    fn shows(&self) -> bool {
        self.policy.permissive && matches!(self.verdict, Ok(Verdict::Allowed))
    }
}

pub(super) async fn look(case: &Case<'_>, row: &Row, judged: Judged, report: &mut Report) -> Result<(), Error> {
    let (relation, table) = (case.relation, case.relation.sql_name());
    let Some(role) = case.catalog.roles.get(&case.question.role) else { return Ok(()) };
    let plan = authz::plan(case.catalog, relation, role);
    let oracle = match &plan {
        Plan::Open if relation.row_security => {
            let detail = "row-level security does not apply to the role (it owns the table, or has BYPASSRLS)";
            report.pass("policies", detail);
            return Ok(());
        }
        Plan::Open => {
            report.pass("policies", "row-level security is off");
            return Ok(());
        }
        Plan::Denied(reason) => {
            let role = quote_identifier(&role.name);
            let statement = format!("create policy ... on {table} for select to {role} using (...);");
            report.fail("policies", reason.to_string(), Some(statement));
            return Ok(());
        }
        Plan::Compiled(plan) => Arc::clone(&plan.oracle),
        Plan::Oracle(plan) => Arc::clone(plan),
    };
    let mut all = Vec::new();
    for policy in &relation.policies {
        match stands_aside(role, policy) {
            Some(why) => report.pass(what(policy), why),
            None => all.push(Said { policy, verdict: one(case, policy, row).await }),
        }
    }
    // One permissive policy that is true is enough; a restrictive one has to be true.
    let is_shown = all.iter().any(Said::shows);
    for said in &all {
        tell(said, is_shown, judged, report);
    }
    let found = table_plan(case.client, case.catalog, relation, role, &plan).await?;
    let how = match (found.plan, found.obstacles.first()) {
        (Kind::Tracked, _) => "decided in-process, as of the commit, with tables that are followed".to_owned(),
        (Kind::Compiled, _) => "decided in-process, as of the commit".to_owned(),
        (_, Some(why)) => format!("asked of Postgres for every change, because {}", why.reason),
        (_, None) => "asked of Postgres for every change".to_owned(),
    };
    let remedy = found.obstacles.first().map(|obstacle| obstacle.remedy.clone());
    let asked = Asked::Policy { plan: oracle, identity: Arc::clone(&case.identity) };
    let (shows, detail) = match ask(case, asked, row).await {
        Ok(Verdict::Allowed) => (true, format!("together they show the row; {how}")),
        Ok(Verdict::Denied) => (false, format!("together they hide the row; {how}")),
        Ok(Verdict::Failed) => (false, format!("evaluating them raises an error for this row, which hides it; {how}")),
        Err(error) => (false, error.to_string()),
    };
    match (shows, judged) {
        (true, _) if remedy.is_some() => report.warn("policies", detail, remedy),
        (true, _) => report.pass("policies", detail),
        (false, Judged::Unseen) => report.warn("policies", format!("{detail}; but nobody asks them"), None),
        (false, Judged::ByPolicies) => {
            report.fail("policies", detail, Some(format!("alter policy ... on {table} using (...);")));
        }
    }
    Ok(())
}

fn what(policy: &Policy) -> String {
    format!("policy {:?}", policy.name)
}

/// Why a policy has no part in it.
fn stands_aside(role: &Role, policy: &Policy) -> Option<&'static str> {
    let for_select = matches!(policy.command, PolicyCommand::All | PolicyCommand::Select);
    let for_role = policy.roles.iter().any(|oid| *oid == 0 || role.has_privileges_of(*oid));
    match (for_select, for_role, &policy.using_text, policy.permissive) {
        (false, ..) => Some("is not for SELECT: it neither shows nor hides"),
        (_, false, ..) => Some("is for other roles: it neither shows nor hides"),
        (_, _, None, true) => Some("permissive, without a USING clause: it shows nothing"),
        (_, _, None, false) => Some("restrictive, without a USING clause: it hides nothing"),
        (_, _, Some(_), _) => None,
    }
}

async fn one(case: &Case<'_>, policy: &Policy, row: &Row) -> Result<Verdict, String> {
    let plan = OraclePlan {
        relation: Arc::clone(case.relation),
        role: case.question.role.clone(),
        expression: format!("({})", policy.using_text.as_deref().unwrap_or("false")),
        columns: None,
        policies: policies_text(case.relation).into(),
        not_compiled: None,
    };
    let asked = Asked::Policy { plan: Arc::new(plan), identity: Arc::clone(&case.identity) };
    ask(case, asked, row).await.map_err(|error| error.to_string())
}

fn tell(said: &Said<'_>, is_shown: bool, judged: Judged, report: &mut Report) {
    let Said { policy, verdict } = said;
    let kind = if policy.permissive { "permissive" } else { "restrictive" };
    let word = match verdict {
        Ok(Verdict::Allowed) => "true",
        Ok(Verdict::Denied) => "false or NULL",
        Ok(Verdict::Failed) => "an error",
        Err(why) => why,
    };
    let (level, what_then) = match (policy.permissive, verdict) {
        (_, Ok(Verdict::Allowed)) => (Level::Pass, ""),
        (true, Ok(Verdict::Denied)) if is_shown => (Level::Pass, ", and another policy shows the row"),
        (true, _) => (Level::Warn, ""),
        (false, _) if judged == Judged::Unseen => (Level::Warn, ""),
        (false, _) => (Level::Fail, ": every restrictive policy has to be true"),
    };
    let using = policy.using_text.as_deref().unwrap_or_default();
    let detail = format!("{kind}: {word}{what_then}\nusing {using}");
    match level {
        Level::Pass => report.pass(what(policy), detail),
        Level::Warn => report.warn(what(policy), detail, None),
        Level::Fail => report.fail(what(policy), detail, None),
    }
}
