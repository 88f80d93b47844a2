//! Arrays made of tables' rows, whose order is Postgres' own.

use super::super::expr::{Aggregate, Query};
use super::super::{Expr, walk};
use super::slots::reads_tables;

/// What says the same of an array in whatever order.
const ORDER_FREE: [&str; 7] =
    ["arraycontains", "arraycontained", "arrayoverlap", "array_length", "array_upper", "array_lower", "cardinality"];
/// What hands the elements on.
const HANDING_ON: [&str; 5] = ["array_append", "array_prepend", "array_cat", "array_remove", "array_of_array"];

/// Whether it matters in which order rows of a table come into an array: `array(select ..) = '{1,2}'`.
pub(super) fn matters(expr: &Expr) -> bool {
    found(expr, false)
}

/// `free`: what becomes of the expression does not depend on the order.
fn found(expr: &Expr, free: bool) -> bool {
    match expr {
        Expr::ArrayOf(query) => made_of(query, free) || below(expr),
        Expr::Scalar(query) if query.aggregate == Some(Aggregate::ArrayAgg) => made_of(query, free) || below(expr),
        // Without FROM it is the value itself.
        Expr::Scalar(query) if query.sources.is_empty() && query.union.is_empty() => {
            query.output.iter().any(|output| found(output, free))
                || query.conditions.iter().any(|(_, condition)| found(condition, false))
        }
        Expr::Coalesce(args) => args.iter().any(|arg| found(arg, free)),
        Expr::Case { branches, otherwise } => {
            branches.iter().any(|(condition, result)| found(condition, false) || found(result, free))
                || found(otherwise, free)
        }
        Expr::CastElements { element, array } => found(element, false) || found(array, free),
        Expr::Apply { args, body, .. } => args.iter().any(|arg| found(arg, false)) || found(body, free),
        Expr::AnyArray { args, .. } => found(&args[0], false) || found(&args[1], true),
        Expr::IsNull(arg) => found(arg, true),
        Expr::Call { function, args } => {
            let free = ORDER_FREE.contains(&function.name) || (free && HANDING_ON.contains(&function.name));
            args.iter().any(|arg| found(arg, free))
        }
        _ => below(expr),
    }
}

fn made_of(query: &Query, free: bool) -> bool {
    !free && reads_tables(query)
}

fn below(expr: &Expr) -> bool {
    let mut matters = false;
    walk::children(expr, 0, &mut |child, _| matters = matters || found(child, false));
    matters
}
