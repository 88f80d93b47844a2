//! What a table's policies make of a role: nothing to ask, nothing to show, or a question for Postgres.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;

use super::policy::{self, Audience, NotCompiled, Program, RowTypes};
use super::policy_reads::{PolicyReads, policy_reads};
use crate::catalog::{Catalog, ColumnIndex, ColumnSet, Policy, PolicyCommand, Relation, Role};

/// How it is decided whether a role may see a row of a table. Column and table grants come on top.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Row-level security is off, or does not apply to the role: grants decide.
    Open,
    /// No row is shown.
    Denied(DeniedReason),
    /// Decided here, with Postgres' own answer; what cannot be decided for a row is asked.
    Compiled(Arc<CompiledPlan>),
    /// Postgres is asked, row by row and identity by identity.
    Oracle(Arc<OraclePlan>),
}

/// Why a plan shows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeniedReason {
    /// Row-level security is on, and no permissive policy with a USING clause is for this role.
    NoPolicy,
    /// A row image has no `ctid`, `xmin` or `tableoid`: nothing could be asked about them.
    SystemColumn { policy: String },
    /// The policy's text could not be read.
    TextMissing { policy: String },
    /// A SELECT ends in an error, whatever the row.
    AlwaysFails { error: String },
}

impl fmt::Display for DeniedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeniedReason::NoPolicy => f.write_str("no permissive policy for SELECT applies to the role"),
            DeniedReason::SystemColumn { policy } => {
                write!(f, "policy {policy:?} reads a system column, which a row image does not have")
            }
            DeniedReason::TextMissing { policy } => write!(f, "the text of policy {policy:?} could not be read"),
            DeniedReason::AlwaysFails { error } => write!(f, "every SELECT fails: {error}"),
        }
    }
}

impl Plan {
    /// What Postgres would be asked; `None`: nothing is left to decide.
    pub fn oracle(&self) -> Option<&Arc<OraclePlan>> {
        match self {
            Plan::Open | Plan::Denied(_) => None,
            Plan::Compiled(plan) => Some(&plan.oracle),
            Plan::Oracle(plan) => Some(plan),
        }
    }
}

/// Policies that are decided in-process.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledPlan {
    pub program: Program,
    /// Whom a row can be for; `None`: anybody.
    pub audience: Option<Audience>,
    /// How the row's text is read.
    pub types: RowTypes,
    /// Asked where the program is undecided.
    pub oracle: Arc<OraclePlan>,
}

/// A question that Postgres can answer of a row image.
#[derive(Clone, Debug, PartialEq)]
pub struct OraclePlan {
    pub relation: Arc<Relation>,
    pub role: String,
    /// Boolean SQL over the table's columns, its name standing for the row. NULL is a no.
    pub expression: String,
    /// The columns it reads; `None`: the whole row, or unknown.
    pub columns: Option<ColumnSet>,
    /// The table's policies for SELECT, as one text, to tell whether it still has these.
    pub policies: Arc<str>,
    /// Why it is not decided in-process; `None`: it is, as far as the row allows.
    pub not_compiled: Option<NotCompiled>,
}

/// The plan of a table's policies for a role. The answer is that of `SELECT` under `SET ROLE`: see
/// `get_policies_for_relation` and `add_security_quals` in Postgres' `rowsecurity.c`.
pub fn plan(catalog: &Catalog, relation: &Arc<Relation>, role: &Role) -> Plan {
    plan_as(catalog, relation, role, Clauses::Using)
}

/// The plan of what new rows are checked by, for a table whose policies have that in the place of USING (see
/// [`Messages`](crate::catalog::Messages)). The answer is that of `INSERT` without RETURNING: see
/// `add_with_check_options` there.
pub fn check_plan(catalog: &Catalog, relation: &Arc<Relation>, role: &Role) -> Plan {
    plan_as(catalog, relation, role, Clauses::Check)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Clauses {
    Using,
    Check,
}

fn plan_as(catalog: &Catalog, relation: &Arc<Relation>, role: &Role, clauses: Clauses) -> Plan {
    let asked = match asked_as(relation, role, clauses) {
        Ok(Some(asked)) => asked,
        Ok(None) => return Plan::Open,
        Err(reason) => return Plan::Denied(reason),
    };
    let oracle = |not_compiled| Arc::new(OraclePlan { not_compiled, ..asked });
    let compiled = match clauses {
        Clauses::Using => policy::compile(catalog, relation, role),
        Clauses::Check => policy::compile_check(catalog, relation, role),
    };
    match compiled {
        Ok(program) => {
            let types = RowTypes::new(catalog, relation);
            let audience = Audience::of(&program);
            Plan::Compiled(Arc::new(CompiledPlan { program, audience, types, oracle: oracle(None) }))
        }
        Err(NotCompiled::Fails(error)) => Plan::Denied(DeniedReason::AlwaysFails { error }),
        Err(why) => Plan::Oracle(oracle(Some(why))),
    }
}

/// What Postgres is asked of a table's rows for a role, whatever could be decided here. `None`: a text is missing.
pub(super) fn asked(relation: &Arc<Relation>, role: &Role) -> Option<OraclePlan> {
    let always = |answer: &str| OraclePlan {
        relation: Arc::clone(relation),
        role: role.name.clone(),
        expression: answer.to_owned(),
        columns: Some(ColumnSet::default()),
        policies: policies_text(relation).into(),
        not_compiled: None,
    };
    match asked_as(relation, role, Clauses::Using) {
        Ok(asked) => Some(asked.unwrap_or_else(|| always("true"))),
        Err(DeniedReason::TextMissing { .. }) => None,
        Err(_) => Some(always("false")),
    }
}

fn asked_as(relation: &Arc<Relation>, role: &Role, clauses: Clauses) -> Result<Option<OraclePlan>, DeniedReason> {
    if !relation.row_security_active(role) {
        return Ok(None);
    }
    let Applicable { permissive, restrictive } = applicable(relation, role);
    if permissive.is_empty() {
        return Err(DeniedReason::NoPolicy);
    }
    let (expression, columns) = combine(relation, &permissive, &restrictive, clauses)?;
    let (role, policies) = (role.name.clone(), policies_text(relation).into());
    Ok(Some(OraclePlan { relation: Arc::clone(relation), role, expression, columns, policies, not_compiled: None }))
}

/// What a table's row-level security for SELECT is, as one text: two that are equal mean the same. In SQL:
/// [`policies_text_sql`].
pub(crate) fn policies_text(relation: &Relation) -> String {
    let for_select = |policy: &&Policy| matches!(policy.command, PolicyCommand::All | PolicyCommand::Select);
    let mut policies: Vec<&Policy> = relation.policies.iter().filter(for_select).collect();
    policies.sort_by_key(|policy| policy.oid);
    let text = |policy: &Policy| {
        let command = if policy.command == PolicyCommand::All { '*' } else { 'r' };
        let kind = if policy.permissive { 't' } else { 'f' };
        let roles: Vec<String> = policy.roles.iter().map(ToString::to_string).collect();
        let mut text = format!("{} {command} {kind} {{{}}}", policy.oid, roles.join(","));
        if let Some(tree) = &policy.using_tree {
            let hash = digest::digest(&digest::SHA256, tree.as_bytes());
            text.push(' ');
            hash.as_ref().iter().for_each(|byte| text += &format!("{byte:02x}"));
        }
        text
    };
    let flag = |is_set| if is_set { "t" } else { "f" };
    let flags = [flag(relation.row_security), flag(relation.force_row_security)];
    flags.into_iter().map(str::to_owned).chain(policies.into_iter().map(text)).collect::<Vec<_>>().join(",")
}

/// The same of the table with this OID as a snapshot sees it.
pub(crate) fn policies_text_sql(table: u32) -> String {
    format!(
        "SELECT pg_catalog.concat_ws(',', c.relrowsecurity, c.relforcerowsecurity, \
         (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', p.oid, p.polcmd, p.polpermissive, p.polroles, \
         pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(p.polqual::pg_catalog.text, 'UTF8')), 'hex')), ',' ORDER BY p.oid) \
         FROM pg_catalog.pg_policy AS p WHERE p.polrelid = {table} AND p.polcmd IN ('*', 'r'))) \
         FROM pg_catalog.pg_class AS c WHERE c.oid = {table}"
    )
}

/// The policies that decide what a role may see of a table, each kind in Postgres' own order. That decides whether a
/// policy that raises an error is reached: the last name first among permissive policies, the first name first among
/// restrictive ones.
pub(super) struct Applicable<'r> {
    pub permissive: Vec<&'r Policy>,
    pub restrictive: Vec<&'r Policy>,
}

pub(super) fn applicable<'r>(relation: &'r Relation, role: &Role) -> Applicable<'r> {
    let mut permissive = Vec::new();
    let mut restrictive = Vec::new();
    for policy in relation.policies.iter().filter(|policy| applies(policy, role)) {
        // No USING clause: a permissive policy then shows nothing, a restrictive one hides nothing.
        if policy.using_tree.is_none() && policy.using_text.is_none() {
            continue;
        }
        if policy.permissive { permissive.push(policy) } else { restrictive.push(policy) }
    }
    permissive.sort_by(|a, b| b.name.cmp(&a.name));
    restrictive.sort_by(|a, b| a.name.cmp(&b.name));
    Applicable { permissive, restrictive }
}

fn applies(policy: &Policy, role: &Role) -> bool {
    let for_select = matches!(policy.command, PolicyCommand::All | PolicyCommand::Select);
    for_select && policy.roles.iter().any(|oid| *oid == 0 || role.has_privileges_of(*oid))
}

fn combine(
    relation: &Relation,
    permissive: &[&Policy],
    restrictive: &[&Policy],
    clauses: Clauses,
) -> Result<(String, Option<ColumnSet>), DeniedReason> {
    let mut columns = Some(Vec::new());
    let mut text = |policy: &Policy| {
        let reads = read_columns(relation, policy)?;
        columns = match (columns.take(), reads) {
            (Some(mut all), Some(more)) => {
                all.extend(more);
                Some(all)
            }
            _ => None,
        };
        let using = policy.using_text.as_deref();
        using.ok_or_else(|| DeniedReason::TextMissing { policy: policy.name.clone() }).map(|using| format!("({using})"))
    };
    // In Postgres restrictive policies come first, but where new rows are checked; false and error both deny, so that only
    // the order within the permissive ones can be told from outside.
    let mut parts = restrictive.iter().map(|policy| text(policy)).collect::<Result<Vec<_>, _>>()?;
    let shows = permissive.iter().map(|policy| text(policy)).collect::<Result<Vec<_>, _>>()?;
    let place = if clauses == Clauses::Check { 0 } else { parts.len() };
    parts.insert(place, format!("({})", shows.join(" OR ")));
    let expression = parts.join(" AND ");
    Ok((expression, columns.map(|columns| columns.into_iter().collect())))
}

/// The columns that a policy reads; `None`: all, or unknown.
fn read_columns(relation: &Relation, policy: &Policy) -> Result<Option<Vec<ColumnIndex>>, DeniedReason> {
    let by_number = |attnum: i16| relation.columns.iter().position(|column| column.attnum == attnum);
    let indices = |attnums: &[i16]| attnums.iter().map(|n| by_number(*n).map(|i| ColumnIndex(i as u16))).collect();
    let Some(tree) = &policy.using_tree else {
        return Ok(policy.columns.as_deref().and_then(indices));
    };
    match policy_reads(tree) {
        PolicyReads::SystemColumn => Err(DeniedReason::SystemColumn { policy: policy.name.clone() }),
        PolicyReads::WholeRow | PolicyReads::Unknown => Ok(None),
        PolicyReads::Columns(attnums) => Ok(indices(&attnums)),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
