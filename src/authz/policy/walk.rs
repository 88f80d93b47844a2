//! Walking through expressions and the queries in them.
//!
//! `nesting` counts the queries between where a walk began and the place: an [`Expr::Inner`] there whose `levels` are
//! not fewer belongs to a query outside.

use std::sync::Arc;

use super::Expr;
use super::expr::{Access, Query, Source};

/// The expressions directly below.
pub fn children<'e>(expr: &'e Expr, nesting: u16, f: &mut dyn FnMut(&'e Expr, u16)) {
    let mut all = |list: &'e [Expr]| list.iter().for_each(|child| f(child, nesting));
    match expr {
        Expr::Const(_) | Expr::Column(_) | Expr::Inner { .. } | Expr::Param(_) | Expr::Slot(_) => {}
        Expr::CurrentUser(_) | Expr::Now => {}
        Expr::Call { args, .. } => all(args),
        Expr::Apply { args, body, .. } => {
            all(args);
            f(body, nesting);
        }
        Expr::And(args) | Expr::Or(args) | Expr::Coalesce(args) | Expr::Array(args) => all(args),
        Expr::Not(arg) | Expr::IsNull(arg) | Expr::Is { arg, .. } | Expr::Cast { arg, .. } => f(arg, nesting),
        Expr::Distinct { args, .. } | Expr::NullIf { args, .. } | Expr::AnyArray { args, .. } => all(&args[..]),
        Expr::Case { branches, otherwise } => {
            for (condition, result) in branches {
                f(condition, nesting);
                f(result, nesting);
            }
            f(otherwise, nesting);
        }
        Expr::CastElements { element, array } => {
            f(element, nesting);
            f(array, nesting);
        }
        Expr::Exists(query) | Expr::Scalar(query) | Expr::ArrayOf(query) => in_query(query, nesting + 1, f),
        Expr::AnyQuery { left, query, .. } => {
            f(left, nesting);
            in_query(query, nesting + 1, f);
        }
        Expr::Setting { name, .. } => f(name, nesting),
    }
}

/// The expressions directly in a query; `nesting` counts it.
pub fn in_query<'e>(query: &'e Query, nesting: u16, f: &mut dyn FnMut(&'e Expr, u16)) {
    for source in &query.sources {
        match source {
            Source::Table { access: Access::Lookup { keys, .. }, .. } => keys.iter().for_each(|key| f(key, nesting)),
            Source::Table { access: Access::Scan, .. } => {}
            Source::Query(inner) => in_query(inner, nesting + 1, f),
            Source::Elements { array } => f(array, nesting),
        }
    }
    query.conditions.iter().for_each(|(_, condition)| f(condition, nesting));
    query.gates.iter().for_each(|gate| f(gate, nesting));
    query.output.iter().for_each(|output| f(output, nesting));
    query.union.iter().for_each(|member| in_query(member, nesting, f));
}

pub fn children_mut(expr: &mut Expr, nesting: u16, f: &mut dyn FnMut(&mut Expr, u16)) {
    let mut all = |list: &mut [Expr]| list.iter_mut().for_each(|child| f(child, nesting));
    match expr {
        Expr::Const(_) | Expr::Column(_) | Expr::Inner { .. } | Expr::Param(_) | Expr::Slot(_) => {}
        Expr::CurrentUser(_) | Expr::Now => {}
        Expr::Call { args, .. } => all(args),
        Expr::Apply { args, body, .. } => {
            all(args);
            f(body, nesting);
        }
        Expr::And(args) | Expr::Or(args) | Expr::Coalesce(args) | Expr::Array(args) => all(args),
        Expr::Not(arg) | Expr::IsNull(arg) | Expr::Is { arg, .. } | Expr::Cast { arg, .. } => f(arg, nesting),
        Expr::Distinct { args, .. } | Expr::NullIf { args, .. } | Expr::AnyArray { args, .. } => all(&mut args[..]),
        Expr::Case { branches, otherwise } => {
            for (condition, result) in branches {
                f(condition, nesting);
                f(result, nesting);
            }
            f(otherwise, nesting);
        }
        Expr::CastElements { element, array } => {
            f(element, nesting);
            f(array, nesting);
        }
        Expr::Exists(query) | Expr::Scalar(query) | Expr::ArrayOf(query) => {
            in_query_mut(Arc::make_mut(query), nesting + 1, f)
        }
        Expr::AnyQuery { left, query, .. } => {
            f(left, nesting);
            in_query_mut(Arc::make_mut(query), nesting + 1, f);
        }
        Expr::Setting { name, .. } => f(name, nesting),
    }
}

pub fn in_query_mut(query: &mut Query, nesting: u16, f: &mut dyn FnMut(&mut Expr, u16)) {
    query.sources.iter_mut().for_each(|source| in_source_mut(source, nesting, f));
    query.conditions.iter_mut().for_each(|(_, condition)| f(condition, nesting));
    query.gates.iter_mut().for_each(|gate| f(gate, nesting));
    query.output.iter_mut().for_each(|output| f(output, nesting));
    query.union.iter_mut().for_each(|member| in_query_mut(member, nesting, f));
}

/// The expressions of one source of a query that `nesting` counts.
pub fn in_source_mut(source: &mut Source, nesting: u16, f: &mut dyn FnMut(&mut Expr, u16)) {
    match source {
        Source::Table { access: Access::Lookup { keys, .. }, .. } => keys.iter_mut().for_each(|key| f(key, nesting)),
        Source::Table { access: Access::Scan, .. } => {}
        Source::Query(inner) => in_query_mut(Arc::make_mut(inner), nesting + 1, f),
        Source::Elements { array } => f(array, nesting),
    }
}

/// This expression and all below it.
pub fn every<'e>(expr: &'e Expr, nesting: u16, f: &mut dyn FnMut(&'e Expr, u16)) {
    f(expr, nesting);
    children(expr, nesting, &mut |child, nesting| every(child, nesting, f));
}

pub fn every_mut(expr: &mut Expr, nesting: u16, f: &mut dyn FnMut(&mut Expr, u16)) {
    f(expr, nesting);
    children_mut(expr, nesting, &mut |child, nesting| every_mut(child, nesting, f));
}

/// Moves an expression by so many queries inward.
pub fn shift(expr: &mut Expr, by: u16) {
    if by > 0 {
        every_mut(expr, 0, &mut |expr, nesting| match expr {
            Expr::Inner { levels, .. } if *levels >= nesting => *levels += by,
            _ => {}
        });
    }
}

/// The sources of the query directly around the expression that it uses: (source, column).
pub fn uses(expr: &Expr) -> Vec<(u16, u16)> {
    let mut used = Vec::new();
    every(expr, 0, &mut |expr, nesting| match expr {
        Expr::Inner { levels, source, column } if *levels == nesting => used.push((*source, *column)),
        _ => {}
    });
    used
}

/// How many expressions there are in it.
pub fn size(expr: &Expr) -> usize {
    let mut count = 0;
    every(expr, 0, &mut |_, _| count += 1);
    count
}
