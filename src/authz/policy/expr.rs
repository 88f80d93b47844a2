//! Expressions, with operators and types resolved.

use std::sync::Arc;

use super::builtin::Builtin;
use super::{DatumType, Value};
use crate::catalog::ColumnIndex;
use crate::wal::pgoutput::RelationId;

/// An expression over (row, person, now) and the rows of tracked tables.
///
/// Evaluated left to right as Postgres' executor does: AND and OR stop at the first operand that decides, CASE and
/// COALESCE evaluate no more than they need. Whether an error is reached is part of the answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Const(Value),
    /// A column of the row that is judged.
    Column(ColumnIndex),
    /// A column of a sub-query's source: of the query `levels` outward (0: the innermost), its source `source`.
    Inner {
        levels: u16,
        source: u16,
        column: u16,
    },
    /// An argument of the function whose body this is part of; see `Apply`.
    Param(u16),
    /// What depends on the person alone, worked out once per identity: an index into [`Program::slots`](super::Program).
    Slot(u16),
    /// A built-in function, or the function of a built-in operator. A strict one is NULL when an argument is.
    Call {
        function: &'static Builtin,
        args: Box<[Expr]>,
    },
    /// The body of a SQL function, its arguments evaluated first. `strict`: NULL when an argument is.
    Apply {
        args: Box<[Expr]>,
        strict: bool,
        body: Box<Expr>,
    },
    And(Box<[Expr]>),
    Or(Box<[Expr]>),
    Not(Box<Expr>),
    IsNull(Box<Expr>),
    /// `IS [NOT] TRUE`, `IS [NOT] FALSE`, `IS [NOT] UNKNOWN`.
    Is {
        test: Truth,
        not: bool,
        arg: Box<Expr>,
    },
    /// `a IS DISTINCT FROM b`, by the equality function.
    Distinct {
        equal: &'static Builtin,
        args: Box<[Expr; 2]>,
    },
    NullIf {
        equal: &'static Builtin,
        args: Box<[Expr; 2]>,
    },
    /// `CASE WHEN condition THEN result ...`; `CASE arg WHEN value` has been rewritten to conditions.
    Case {
        branches: Box<[(Expr, Expr)]>,
        otherwise: Box<Expr>,
    },
    Coalesce(Box<[Expr]>),
    /// `left op ANY (array)`, `left op ALL (array)`.
    AnyArray {
        function: &'static Builtin,
        all: bool,
        args: Box<[Expr; 2]>,
    },
    Array(Box<[Expr]>),
    /// Through the text of one type to another (`CoerceViaIO`): `'...'::uuid` of what is not a constant.
    Cast {
        from: DatumType,
        to: DatumType,
        arg: Box<Expr>,
    },
    /// `array::other[]`, element by element.
    CastElements {
        element: Box<Expr>,
        array: Box<Expr>,
    },
    Exists(Arc<Query>),
    /// `left op ANY (SELECT ..)`: `IN` with the equality function. `all`: `op ALL (SELECT ..)`.
    AnyQuery {
        function: &'static Builtin,
        all: bool,
        left: Box<Expr>,
        query: Arc<Query>,
    },
    /// `(SELECT ..)`: NULL without a row, an error with more than one.
    Scalar(Arc<Query>),
    /// `ARRAY(SELECT ..)`.
    ArrayOf(Arc<Query>),
    /// `current_setting(name, missing_ok)`; only of settings that a person has.
    Setting {
        name: Box<Expr>,
        missing_ok: bool,
    },
    /// `current_user`, resolved to the role that the expression runs as.
    CurrentUser(Arc<str>),
    /// `now()`: the commit's timestamp.
    Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    Unknown,
}

/// A SELECT: the sources' cross product, filtered. Joins have become conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub sources: Box<[Source]>,
    /// Each at the earliest source (0-based index; it may use that source and those before it) at which it can be
    /// decided. Those that feed an access path are here, too.
    pub conditions: Box<[(u16, Expr)]>,
    /// Parts of conditions and select list that read none of the sources, and may fail. Postgres may come to them before
    /// there is a row, or at a row that is passed over here: an error in one of them is undecided.
    pub gates: Box<[Expr]>,
    /// The select list, without what only serves to sort.
    pub output: Box<[Expr]>,
    /// With `UNION` (`ALL` or not: for EXISTS, IN and ANY it is the same) the other members.
    pub union: Box<[Query]>,
    /// `LIMIT` of a constant; order is not kept, so that only EXISTS (and aggregates of one row) may have one.
    pub limit: Option<u64>,
    /// The select list is one aggregate over all rows: one row, whatever there is.
    pub aggregate: Option<Aggregate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// `count(*)`.
    CountRows,
    /// `count(x)`.
    Count,
    ArrayAgg,
    BoolOr,
    BoolAnd,
    Min,
    Max,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A tracked table; columns by [`ColumnIndex`]. Its own row-level security is among the query's conditions.
    Table { relation: RelationId, access: Access },
    /// A sub-query, a CTE or a set-returning SQL function in FROM; columns by their place in its select list. It may
    /// refer to sources before it (`levels` counts it as a query of its own).
    Query(Arc<Query>),
    /// `unnest(array)`, `jsonb_array_elements(..)` and the like, in FROM or in the select list: one column.
    Elements { array: Expr },
}

/// How the rows of a tracked table are found.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// By a hash index on these columns, with these values; they use sources before this one, or none.
    Lookup { columns: Box<[ColumnIndex]>, keys: Box<[Expr]> },
    /// All rows.
    Scan,
}

impl Expr {
    /// Calls `visit` for this expression and all in it, sub-queries included.
    pub fn walk(&self, visit: &mut dyn FnMut(&Expr)) {
        visit(self);
        let mut all = |list: &[Expr]| list.iter().for_each(|expr| expr.walk(visit));
        match self {
            Expr::Const(_)
            | Expr::Column(_)
            | Expr::Inner { .. }
            | Expr::Param(_)
            | Expr::Slot(_)
            | Expr::CurrentUser(_)
            | Expr::Now => {}
            Expr::Call { args, .. } | Expr::And(args) | Expr::Or(args) | Expr::Coalesce(args) | Expr::Array(args) => {
                all(args);
            }
            Expr::Apply { args, body, .. } => {
                all(args);
                body.walk(visit);
            }
            Expr::Not(arg)
            | Expr::IsNull(arg)
            | Expr::Is { arg, .. }
            | Expr::Cast { arg, .. }
            | Expr::Setting { name: arg, .. } => arg.walk(visit),
            Expr::Distinct { args, .. } | Expr::NullIf { args, .. } | Expr::AnyArray { args, .. } => all(&args[..]),
            Expr::Case { branches, otherwise } => {
                for (condition, result) in branches {
                    condition.walk(visit);
                    result.walk(visit);
                }
                otherwise.walk(visit);
            }
            Expr::CastElements { element, array } => {
                element.walk(visit);
                array.walk(visit);
            }
            Expr::Exists(query) | Expr::Scalar(query) | Expr::ArrayOf(query) => query.walk(visit),
            Expr::AnyQuery { left, query, .. } => {
                left.walk(visit);
                query.walk(visit);
            }
        }
    }
}

impl Query {
    /// Calls `visit` for every expression in it.
    pub fn walk(&self, visit: &mut dyn FnMut(&Expr)) {
        for source in &self.sources {
            match source {
                Source::Table { access: Access::Lookup { keys, .. }, .. } => {
                    keys.iter().for_each(|key| key.walk(visit))
                }
                Source::Table { access: Access::Scan, .. } => {}
                Source::Query(query) => query.walk(visit),
                Source::Elements { array } => array.walk(visit),
            }
        }
        self.conditions.iter().for_each(|(_, condition)| condition.walk(visit));
        self.gates.iter().for_each(|gate| gate.walk(visit));
        self.output.iter().for_each(|output| output.walk(visit));
        self.union.iter().for_each(|query| query.walk(visit));
    }
}
