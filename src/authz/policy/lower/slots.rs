//! What depends on the person alone.

use super::super::expr::{Query, Source};
use super::super::{Expr, walk};
use super::Lowering;

impl Lowering<'_> {
    /// The expression as a slot; the same expression is the same slot.
    pub(super) fn slot(&mut self, expr: Expr) -> Expr {
        if !is_work(&expr) {
            return expr;
        }
        let place = self.slots.iter().position(|known| *known == expr).unwrap_or_else(|| {
            self.slots.push(expr);
            self.slots.len() - 1
        });
        // There are fewer nodes than fit a slot's number.
        Expr::Slot(place as u16)
    }

    /// A slot that Postgres works out when it plans.
    pub(super) fn eager_slot(&mut self, expr: Expr) -> Expr {
        let slot = self.slot(expr);
        if let Expr::Slot(number) = slot {
            self.eager.insert(number);
        }
        slot
    }

    /// The same of the largest parts that depend on the person alone, but for those in sub-queries.
    pub(super) fn eager_parts(&mut self, expr: &mut Expr) {
        if is_plain_personal(expr) {
            *expr = self.eager_slot(expr.clone());
            return;
        }
        match expr {
            Expr::Exists(_) | Expr::Scalar(_) | Expr::ArrayOf(_) | Expr::AnyQuery { .. } => {}
            // A function that is called is not looked into.
            Expr::Apply { args, .. } => args.iter_mut().for_each(|arg| self.eager_parts(arg)),
            _ => walk::children_mut(expr, 0, &mut |child, _| self.eager_parts(child)),
        }
    }

    /// Replaces the largest parts that depend on the person alone by slots.
    pub(super) fn extract(&mut self, expr: &mut Expr) {
        if is_personal(expr) {
            *expr = self.slot(expr.clone());
        } else {
            walk::children_mut(expr, 0, &mut |child, nesting| self.extract_at(child, nesting));
        }
    }

    fn extract_at(&mut self, expr: &mut Expr, nesting: u16) {
        // Inside of queries, too: a slot belongs to none.
        if is_personal(expr) {
            *expr = self.slot(expr.clone());
        } else {
            walk::children_mut(expr, nesting, &mut |child, nesting| self.extract_at(child, nesting));
        }
    }
}

/// Whether there is anything to be worked out.
fn is_work(expr: &Expr) -> bool {
    !matches!(expr, Expr::Const(_) | Expr::CurrentUser(_) | Expr::Slot(_))
}

/// Whether it depends on the person alone.
pub(super) fn is_personal(expr: &Expr) -> bool {
    personal(expr, 0, false)
}

/// `bound`: within the body of a function whose arguments are looked at, too.
fn personal(expr: &Expr, nesting: u16, bound: bool) -> bool {
    match expr {
        Expr::Column(_) | Expr::Now => return false,
        Expr::Param(_) => return bound,
        Expr::Inner { levels, .. } => return *levels < nesting,
        Expr::Exists(query) | Expr::Scalar(query) | Expr::ArrayOf(query) if reads_tables(query) => return false,
        Expr::AnyQuery { query, .. } if reads_tables(query) => return false,
        Expr::Apply { args, body, .. } => {
            return args.iter().all(|arg| personal(arg, nesting, bound)) && personal(body, nesting, true);
        }
        Expr::CastElements { element, array } => {
            return personal(array, nesting, bound) && personal(element, nesting, true);
        }
        _ => {}
    }
    let mut all = true;
    walk::children(expr, nesting, &mut |child, nesting| all = all && personal(child, nesting, bound));
    all
}

pub(super) fn reads_tables(query: &Query) -> bool {
    let in_source = |source: &Source| match source {
        Source::Table { .. } => true,
        Source::Query(query) => reads_tables(query),
        Source::Elements { .. } => false,
    };
    query.sources.iter().any(in_source) || query.union.iter().any(reads_tables)
}

/// Depends on the person alone, and not through `(SELECT ..)`, whose value the planner does not know.
pub(super) fn is_plain_personal(expr: &Expr) -> bool {
    let mut plain = true;
    walk::every(expr, 0, &mut |expr, _| {
        plain = plain
            && !matches!(
                expr,
                Expr::Slot(_) | Expr::Exists(_) | Expr::Scalar(_) | Expr::ArrayOf(_) | Expr::AnyQuery { .. }
            );
    });
    plain && is_personal(expr)
}

/// Whether it has variables of exactly one relation of the query around it (or of the row that is judged).
pub(super) fn reads_one_relation(expr: &Expr, of_row: bool) -> bool {
    if !of_row {
        let mut sources: Vec<_> = walk::uses(expr).into_iter().map(|(source, _)| source).collect();
        sources.dedup();
        return sources.len() == 1;
    }
    let mut reads = false;
    walk::every(expr, 0, &mut |expr, _| reads |= matches!(expr, Expr::Column(_)));
    reads
}

/// Whether it uses a row of the query around it.
pub(super) fn reads_sources(expr: &Expr) -> bool {
    !walk::uses(expr).is_empty()
}

/// Whether working it out can raise an error.
pub(super) fn may_fail(expr: &Expr) -> bool {
    match expr {
        Expr::Const(_) | Expr::Column(_) | Expr::Inner { .. } | Expr::Param(_) => false,
        Expr::CurrentUser(_) | Expr::Now | Expr::Setting { missing_ok: true, .. } => false,
        Expr::Call { function, args } => function.can_fail || args.iter().any(may_fail),
        _ => true,
    }
}
