//! A table's policies for a role, ready to be evaluated.

use super::Expr;
use crate::catalog::{ColumnIndex, ColumnSet};
use crate::wal::pgoutput::RelationId;

/// The compiled policies of one table for one role.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// In Postgres' order: restrictive ones first, all of which must be true; then permissive ones, evaluated until one
    /// is true.
    pub clauses: Box<[Clause]>,
    /// Sub-expressions that depend on the person alone. A slot may use slots before it.
    pub slots: Box<[Expr]>,
    /// Slots that Postgres' planner evaluates to estimate rows, whatever the executor would reach: an error in one of
    /// them fails the SELECT. (`col = f()` with a stable f; not `col = (select f())`.)
    pub eager: Box<[u16]>,
    /// The columns of the table itself that are read.
    pub columns: ColumnSet,
    /// The tables to be tracked, and how.
    pub needs: Box<[Need]>,
    pub uses_now: bool,
}

/// One policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Clause {
    pub policy: String,
    pub permissive: bool,
    pub using: Expr,
}

/// What of another table a program reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub relation: RelationId,
    pub columns: ColumnSet,
    /// Columns of hash indexes.
    pub indexes: Vec<Box<[ColumnIndex]>>,
}
