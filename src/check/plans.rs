//! How each role's view of a published table is decided, what that reads, and what keeps it from being decided here.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tokio_postgres::Client;

use super::remedy::{Remedy, remedy};
use crate::authz::policy::{NotCompiled, claims_read, not_compiled, tables_read};
use crate::authz::tracked::Shape;
use crate::authz::{OraclePlan, Plan};
use crate::catalog::{Catalog, ColumnSet, Relation, Role};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Grants alone decide.
    Open,
    /// Nothing is shown.
    Denied,
    /// In-process, from the row and the claims.
    Compiled,
    /// In-process, with tables that are kept beside.
    Tracked,
    /// By Postgres.
    Oracle,
}

/// One published table for one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TablePlan {
    pub table: String,
    pub role: String,
    pub plan: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// `None`: all, or unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Other tables, each with its columns where they are known: `"public"."members" (room, person)`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// `None`: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Vec<String>>,
    /// What leaves it to Postgres.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub obstacles: Vec<PolicyObstacle>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyObstacle {
    /// Its name; empty: all of them together.
    pub policy: String,
    pub expression: String,
    pub reason: String,
    /// How it is rewritten, or the statement that mends it.
    pub remedy: String,
    /// It is about a table that is not followed, which has a finding of its own.
    #[serde(skip)]
    pub is_table: bool,
}

pub(crate) async fn table_plan(
    client: &Client,
    catalog: &Catalog,
    relation: &Arc<Relation>,
    role: &Role,
    plan: &Plan,
) -> Result<TablePlan, tokio_postgres::Error> {
    let mut table = TablePlan {
        table: relation.sql_name(),
        role: role.name.clone(),
        plan: Kind::Open,
        expression: plan.oracle().map(|oracle| oracle.expression.clone()),
        columns: None,
        tables: Vec::new(),
        claims: None,
        obstacles: Vec::new(),
    };
    match plan {
        Plan::Open => {}
        Plan::Denied(_) => table.plan = Kind::Denied,
        Plan::Compiled(plan) => {
            let program = &plan.program;
            table.plan = if program.needs.is_empty() { Kind::Compiled } else { Kind::Tracked };
            table.columns = Some(names(relation, &program.columns));
            table.claims = Some(claims_read(program).into_iter().collect());
            for need in &program.needs {
                let Some(other) = catalog.any_relation(need.relation) else { continue };
                table.tables.push(format!("{} ({})", other.sql_name(), names(other, &need.columns).join(", ")));
                if let Err(why) = Shape::of(catalog, need.relation, &[need]) {
                    table.plan = Kind::Oracle;
                    let why = NotCompiled::Table {
                        relation: need.relation,
                        name: other.sql_name(),
                        why: why.to_string().into(),
                    };
                    let Remedy { reason, statement } = remedy(client, catalog, &why).await?;
                    table.obstacles.push(PolicyObstacle {
                        policy: String::new(),
                        expression: plan.oracle.expression.clone(),
                        reason,
                        remedy: statement,
                        is_table: true,
                    });
                }
            }
        }
        Plan::Oracle(oracle) => {
            table.plan = Kind::Oracle;
            table.columns = oracle.columns.as_ref().map(|columns| names(relation, columns));
            let others = tables_read(catalog, relation, role);
            table.tables = others.iter().filter_map(|id| Some(catalog.any_relation(*id)?.sql_name())).collect();
            table.obstacles = obstacles(client, catalog, relation, role, oracle).await?;
        }
    }
    Ok(table)
}

async fn obstacles(
    client: &Client,
    catalog: &Catalog,
    relation: &Arc<Relation>,
    role: &Role,
    oracle: &OraclePlan,
) -> Result<Vec<PolicyObstacle>, tokio_postgres::Error> {
    let mut found = not_compiled(catalog, relation, role);
    if found.is_empty() {
        // Each by itself can be: it is all of them that are too large.
        found.extend(oracle.not_compiled.clone().map(|why| (String::new(), why)));
    }
    let mut obstacles = Vec::new();
    for (policy, why) in found {
        let text =
            relation.policies.iter().find(|known| known.name == policy).and_then(|known| known.using_text.as_ref());
        let expression = text.unwrap_or(&oracle.expression).clone();
        let Remedy { reason, statement } = remedy(client, catalog, &why).await?;
        let is_table = matches!(why, NotCompiled::Table { .. });
        obstacles.push(PolicyObstacle { policy, expression, reason, remedy: statement, is_table });
    }
    Ok(obstacles)
}

fn names(relation: &Relation, columns: &ColumnSet) -> Vec<String> {
    columns.iter().map(|column| relation.column(column).name.clone()).collect()
}

/// What is seen, in words.
impl fmt::Display for TablePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expression = self.expression.as_deref().unwrap_or_default();
        match self.plan {
            Kind::Open => return f.write_str("every row"),
            Kind::Denied => return f.write_str("nothing"),
            Kind::Compiled => write!(f, "what its policies say, compiled: {expression}")?,
            Kind::Tracked => write!(f, "what its policies say, compiled, with tracked tables: {expression}")?,
            Kind::Oracle => write!(f, "what Postgres says of: {expression}")?,
        }
        let mut reads = Vec::new();
        let list = |what: &str, of: &[String]| format!("{what} {}", of.join(", "));
        match &self.columns {
            None => reads.push("the whole row".to_owned()),
            Some(columns) if !columns.is_empty() => reads.push(list("columns", columns)),
            Some(_) => {}
        }
        if !self.tables.is_empty() {
            reads.push(list("tables", &self.tables));
        }
        match &self.claims {
            Some(claims) if !claims.is_empty() => reads.push(list("claims", claims)),
            _ => {}
        }
        if !reads.is_empty() {
            write!(f, "\n  reads {}", reads.join("; "))?;
        }
        for obstacle in &self.obstacles {
            match obstacle.policy.as_str() {
                "" => write!(f, "\n  not here, because {}", obstacle.reason)?,
                policy => write!(f, "\n  not here, because of policy {policy:?}: {}", obstacle.reason)?,
            }
        }
        Ok(())
    }
}

/// One warning for each policy and reason, with all the roles that it is about.
pub(super) fn warn(relation: &Relation, plans: &[TablePlan], report: &mut super::Report) {
    let mut told = BTreeSet::new();
    let all = || plans.iter().flat_map(|plan| plan.obstacles.iter().map(move |obstacle| (plan, obstacle)));
    for (_, obstacle) in all().filter(|(_, obstacle)| !obstacle.is_table) {
        if !told.insert((&obstacle.policy, &obstacle.reason)) {
            continue;
        }
        let same = all().filter(|(_, other)| other.policy == obstacle.policy && other.reason == obstacle.reason);
        let roles: Vec<&str> = same.map(|(plan, _)| plan.role.as_str()).collect();
        let what = format!("policy {:?} on {}", obstacle.policy, relation.sql_name());
        let detail = format!(
            "Postgres is asked for every row, as of the question, for {}: {}\nusing {}",
            roles.join(", "),
            obstacle.reason,
            obstacle.expression
        );
        report.warn(what, detail, Some(obstacle.remedy.clone()));
    }
}
