//! What variables stand for at a place in a tree.

use std::cell::RefCell;
use std::sync::Arc;

use super::super::expr::Source;
use super::super::tree::{Node, Tree};
use super::super::{Expr, walk};
use crate::catalog::{Oid, Relation, Role};

/// The range table of one query, or of a policy.
pub(super) struct Scope<'e> {
    pub outer: Option<&'e Scope<'e>>,
    pub entries: Vec<Entry<'e>>,
    /// How many queries of the program enclose the one that this is of.
    pub depth: u16,
    /// `WITH`.
    pub ctes: &'e [Tree<'e>],
    /// How rows of sub-queries in FROM count.
    pub rows: Rows,
    /// In the select list of a query with aggregates: the query.
    pub aggregated: Option<&'e Node<'e>>,
}

/// A range table entry.
pub(super) enum Entry<'e> {
    /// The row that is judged.
    Row(&'e Arc<Relation>),
    Table {
        source: u16,
        relation: &'e Arc<Relation>,
    },
    /// Other sources; their columns' types.
    Rows {
        source: u16,
        types: Vec<Oid>,
    },
    /// The columns of a join, as expressions of this scope.
    Join(&'e [Tree<'e>]),
    /// A function of one value in FROM.
    Value(&'e Node<'e>),
    /// Not in the join tree, or not looked at yet.
    Absent,
}

/// What of a query's rows matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Whether there is one.
    Exist,
    /// Which there are; neither how many times nor in which order.
    Set,
    /// Each of them.
    All,
}

/// How large an expression may be that is written out wherever its name stands: expressions of expressions multiply.
pub(super) const BOUND_SIZE_MAX: usize = 100;

/// A value that is known by a name in a tree: an argument, or the value that CASE compares.
pub(super) struct Bound {
    pub expr: Expr,
    /// The depth of the place it was made for.
    pub depth: u16,
}

/// Set-returning functions of a select list, which become sources.
#[derive(Default)]
pub(super) struct Targets {
    pub sources: Vec<Source>,
    /// How many sources there are without them.
    pub from: u16,
}

/// A place in a tree.
#[derive(Clone, Copy)]
pub(super) struct Env<'e> {
    pub scope: Option<&'e Scope<'e>>,
    /// How many queries of the program enclose the place.
    pub depth: u16,
    /// `$1`, `$2`...
    pub args: &'e [Bound],
    pub case_value: Option<&'e Bound>,
    /// The select list that an `IN (SELECT ..)` is compared with, at this very depth.
    pub sub_select: Option<&'e [Expr]>,
    pub targets: Option<&'e RefCell<Targets>>,
    pub runs_as: &'e Role,
    /// Names have been looked up as this role: the body of the function was a string.
    pub by_name: bool,
    /// NULL is as good as false here.
    pub filter: bool,
    /// With nothing between here and what is filtered but AND and OR, which the planner simplifies by that.
    pub quals: bool,
    /// Postgres' planner estimates here how many rows pass.
    pub estimated: bool,
    /// Planned together with the statement: not in a function that plans its body when it is called.
    pub planned: bool,
}

impl<'e> Scope<'e> {
    pub fn of_one(entry: Entry<'e>) -> Scope<'e> {
        Scope { outer: None, entries: vec![entry], depth: 0, ctes: &[], rows: Rows::All, aggregated: None }
    }
}

impl<'e> Env<'e> {
    /// A policy's expression. Sub-queries and functions in it run as the role, whoever owns the table.
    pub fn of_policy(scope: &'e Scope<'e>, depth: u16, runs_as: &'e Role) -> Env<'e> {
        Env {
            scope: Some(scope),
            depth,
            args: &[],
            case_value: None,
            sub_select: None,
            targets: None,
            runs_as,
            by_name: false,
            filter: true,
            quals: true,
            estimated: true,
            planned: true,
        }
    }

    /// An operand: its value counts, not only whether it is true.
    pub fn operand(&self) -> Env<'e> {
        Env { filter: false, estimated: false, ..*self }
    }

    /// The inside of a query of this scope.
    pub fn within(&self, scope: &'e Scope<'e>) -> Env<'e> {
        Env {
            scope: Some(scope),
            depth: scope.depth + 1,
            case_value: None,
            sub_select: None,
            targets: None,
            filter: true,
            quals: true,
            estimated: self.planned,
            ..*self
        }
    }

    /// The scope so many queries outward.
    pub fn scope_at(&self, levels_up: i64) -> Option<&'e Scope<'e>> {
        let mut scope = self.scope?;
        for _ in 0..levels_up {
            scope = scope.outer?;
        }
        Some(scope)
    }
}

impl Bound {
    /// The value at a place further in.
    pub fn at(&self, depth: u16) -> Expr {
        let mut expr = self.expr.clone();
        walk::shift(&mut expr, depth.saturating_sub(self.depth));
        expr
    }
}
