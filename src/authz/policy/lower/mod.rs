//! From Postgres' expression trees to programs.
//!
//! Everything is known by OID, so that nothing depends on names or on a search path. A node, a field, an operator or a
//! function that is not known makes the whole policy [`NotCompiled`]: nothing is guessed.
//!
//! ```text
//! expression ──► call ──► function (the bodies of SQL functions)
//!     └► sub_query ──► query ──► source (tables, with their own policies) ──► order (access paths)
//! slots: what depends on the person alone; program: what is read
//! ```

mod aggregate;
mod array_order;
mod call;
mod constant;
mod expression;
mod fold;
mod function;
mod jsonb;
mod membership;
mod never;
mod order;
mod program;
mod query;
mod reads;
mod scope;
mod settings;
mod slots;
mod source;
mod sub_query;
mod target;
mod types;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub use reads::tables_read;

use self::scope::{Entry, Env, Scope};
use super::tree::{self, Tree, TreeError};
use super::{Clause, Expr, NotCompiled, Program};
use crate::authz::plan::applicable;
use crate::catalog::{Catalog, Collation, Oid, Policy, Relation, Role};
use crate::wal::pgoutput::RelationId;

/// How deep expressions nest, through functions and the policies of other tables: it is all recursion.
const LEVELS_MAX: usize = 80;

/// How many nodes one program is made from: functions that call functions multiply.
const NODES_MAX: usize = 20_000;

/// The program of a table's policies for a role. Whether any apply has been found out before (see
/// [`plan`](crate::authz::plan())).
pub fn compile(catalog: &Catalog, relation: &Arc<Relation>, role: &Role) -> Result<Program, NotCompiled> {
    compile_as(catalog, relation, role, true)
}

/// The same of what new rows are checked by. Of them the planner estimates nothing.
pub fn compile_check(catalog: &Catalog, relation: &Arc<Relation>, role: &Role) -> Result<Program, NotCompiled> {
    compile_as(catalog, relation, role, false)
}

fn compile_as(
    catalog: &Catalog,
    relation: &Arc<Relation>,
    role: &Role,
    estimated: bool,
) -> Result<Program, NotCompiled> {
    let mut lowering = Lowering::new(catalog, role);
    lowering.reading.push(relation.id);
    let applicable = applicable(relation, role);
    let mut clauses = Vec::new();
    for (policies, permissive) in [(&applicable.restrictive, false), (&applicable.permissive, true)] {
        let eager = lowering.eager.clone();
        let mut usings = Vec::new();
        for policy in policies {
            let row = Scope::of_one(Entry::Row(relation));
            let env = Env { estimated, ..Env::of_policy(&row, 0, role) };
            usings.push(match lowering.policy(policy, &env) {
                Ok(using) => using,
                Err(fails @ NotCompiled::Fails(_)) => return Err(fails),
                Err(why) => return Err(lowering.never(&applicable).unwrap_or(why)),
            });
        }
        let mut names: Vec<String> = policies.iter().map(|policy| policy.name.clone()).collect();
        if permissive && let Some(decides) = lowering.folded(&usings, true, true) {
            // The planner drops the others, and with them what it would work out for them.
            lowering.eager = eager;
            usings[..=decides].rotate_right(1);
            names[..=decides].rotate_right(1);
        }
        let clause = |(policy, using): (String, Expr)| Clause { policy, permissive, using };
        clauses.extend(names.into_iter().zip(usings).map(clause));
    }
    program::assemble(lowering, clauses)
}

/// Each policy that keeps a table's policies from being compiled for a role, by name, and why.
pub fn not_compiled(catalog: &Catalog, relation: &Arc<Relation>, role: &Role) -> Vec<(String, NotCompiled)> {
    let applicable = applicable(relation, role);
    let mut left = Vec::new();
    for policy in applicable.restrictive.into_iter().chain(applicable.permissive) {
        let mut lowering = Lowering::new(catalog, role);
        lowering.reading.push(relation.id);
        let row = Scope::of_one(Entry::Row(relation));
        if let Err(why) = lowering.policy(policy, &Env::of_policy(&row, 0, role)) {
            left.push((policy.name.clone(), why));
        }
    }
    left
}

impl From<TreeError> for NotCompiled {
    fn from(error: TreeError) -> NotCompiled {
        NotCompiled::Tree(error.to_string())
    }
}

/// The compilation of one program.
struct Lowering<'c> {
    catalog: &'c Catalog,
    /// The role of the session.
    role: &'c Role,
    slots: Vec<Expr>,
    eager: BTreeSet<u16>,
    /// Tables whose policies are being compiled, from the outside in.
    reading: Vec<RelationId>,
    /// Functions whose bodies are being compiled.
    calling: Vec<Oid>,
    /// What the columns seen so far say of the collations that they have.
    collations: HashMap<Oid, Collation>,
    levels: usize,
    nodes: usize,
}

impl<'c> Lowering<'c> {
    fn new(catalog: &'c Catalog, role: &'c Role) -> Lowering<'c> {
        Lowering {
            catalog,
            role,
            slots: Vec::new(),
            eager: BTreeSet::new(),
            reading: Vec::new(),
            calling: Vec::new(),
            collations: HashMap::new(),
            levels: 0,
            nodes: 0,
        }
    }

    /// The USING clause of a policy, whose table is the only entry of the scope.
    fn policy(&mut self, policy: &Policy, env: &Env) -> Result<Expr, NotCompiled> {
        let text = policy.using_tree.as_deref().ok_or_else(|| NotCompiled::Tree("it was not read".to_owned()))?;
        let tree = tree::read(text)?;
        self.expr(&tree, env)
    }

    /// Goes one level down, where there is one.
    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, NotCompiled>) -> Result<T, NotCompiled> {
        self.nodes += 1;
        if self.levels >= LEVELS_MAX || self.nodes > NODES_MAX {
            return Err(NotCompiled::Tree("it is too large".to_owned()));
        }
        self.levels += 1;
        let result = f(self);
        self.levels -= 1;
        result
    }

    fn list(&mut self, trees: &[Tree], env: &Env) -> Result<Vec<Expr>, NotCompiled> {
        trees.iter().map(|tree| self.expr(tree, env)).collect()
    }
}

/// A node of which a part is not known.
fn unknown(node: &str, part: &str) -> NotCompiled {
    NotCompiled::Node(format!("{node}.{part}"))
}

/// Everything but these fields of a node has to be as it usually is.
fn known(node: &tree::Node, fields: &[&str]) -> Result<(), NotCompiled> {
    match node.unknown_field(fields) {
        None => Ok(()),
        Some(field) => Err(unknown(node.name, field)),
    }
}

fn in_query(part: &'static str) -> NotCompiled {
    NotCompiled::Query(part.into())
}

#[cfg(test)]
mod tests;
