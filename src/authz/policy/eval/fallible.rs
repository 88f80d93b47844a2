//! Which expressions may raise an error that depends on a sub-query's rows.
//!
//! Postgres may look at rows that are passed over here, or pass over rows that are looked at: by its plan. As long as
//! no row raises an error that makes no difference.

use crate::authz::policy::expr::Aggregate;
use crate::authz::policy::{DatumType, Expr, Query};

/// What matters about an expression.
#[derive(Clone, Copy, Default)]
struct Found {
    reads_rows: bool,
    /// Something in it may fail on what it reads of the rows.
    fails_on_rows: bool,
}

impl Found {
    fn and(self, other: Found) -> Found {
        Found {
            reads_rows: self.reads_rows || other.reads_rows,
            fails_on_rows: self.fails_on_rows || other.fails_on_rows,
        }
    }

    fn fails_if(self, can_fail: bool) -> Found {
        Found { fails_on_rows: self.fails_on_rows || (can_fail && self.reads_rows), ..self }
    }
}

impl Query {
    /// Whether an error may be raised or not depending on which rows Postgres looks at. Such a query over tracked
    /// tables is undecided: better not compiled at all.
    pub fn may_fail_on_rows(&self) -> bool {
        let own = self.conditions.iter().map(|(_, condition)| condition).chain(&self.output);
        // `min` and `max` compare, the others only look: none of them fails.
        debug_assert!(!matches!(self.aggregate, Some(Aggregate::Count)) || self.output.len() <= 1);
        own.map(of).any(|found| found.fails_on_rows) || self.union.iter().any(Query::may_fail_on_rows)
    }
}

fn of_all<'a>(exprs: impl IntoIterator<Item = &'a Expr>) -> Found {
    exprs.into_iter().map(of).fold(Found::default(), Found::and)
}

fn of(expr: &Expr) -> Found {
    match expr {
        Expr::Inner { .. } => Found { reads_rows: true, fails_on_rows: false },
        Expr::Const(_) | Expr::Column(_) | Expr::Slot(_) | Expr::CurrentUser(_) | Expr::Now | Expr::Setting { .. } => {
            Found::default()
        }
        // Whether an argument reads rows is known where it is given; that it does is the safe guess.
        Expr::Param(_) => Found { reads_rows: true, fails_on_rows: false },
        Expr::Call { function, args } => of_all(args).fails_if(function.can_fail),
        Expr::Apply { args, body, .. } => {
            let (args, body) = (of_all(args), of(body));
            Found {
                reads_rows: args.reads_rows || body.reads_rows,
                fails_on_rows: args.fails_on_rows || body.fails_on_rows,
            }
        }
        Expr::And(args) | Expr::Or(args) | Expr::Coalesce(args) | Expr::Array(args) => of_all(args),
        Expr::Not(arg) | Expr::IsNull(arg) | Expr::Is { arg, .. } => of(arg),
        Expr::Distinct { equal, args } | Expr::NullIf { equal, args } => of_all(&**args).fails_if(equal.can_fail),
        Expr::Case { branches, otherwise } => {
            branches.iter().map(|(condition, result)| of(condition).and(of(result))).fold(of(otherwise), Found::and)
        }
        Expr::AnyArray { function, args, .. } => of_all(&**args).fails_if(function.can_fail),
        Expr::Cast { from, to, arg } => of(arg).fails_if(cast_can_fail(from, to)),
        Expr::CastElements { element, array } => of(element).and(of(array)),
        Expr::Exists(query) | Expr::ArrayOf(query) => of_query(query),
        Expr::AnyQuery { function, left, query, .. } => of(left).and(of_query(query)).fails_if(function.can_fail),
        // More than one row is an error.
        Expr::Scalar(query) => of_query(query).fails_if(!query.sources.is_empty() && query.aggregate.is_none()),
    }
}

/// A query within: what it fails on is its own matter, and undecided when it is evaluated.
fn of_query(query: &Query) -> Found {
    let own = query.conditions.iter().map(|(_, condition)| condition).chain(&query.output);
    let found = of_all(own);
    let reads_rows = found.reads_rows || !query.sources.is_empty();
    let united = query.union.iter().map(of_query).fold(Found::default(), Found::and);
    Found { reads_rows, ..found }.and(united)
}

/// Whether text of one type may be none of another.
fn cast_can_fail(from: &DatumType, to: &DatumType) -> bool {
    from != to && !matches!(to, DatumType::Text | DatumType::Bpchar)
}
