//! What Postgres' planner makes of constants before anything else is worked out.

use super::super::eval::{NoRow, Slots, value_of};
use super::super::{Expr, Value, walk};
use super::{Lowering, slots};
use crate::authz::tracked::{Moment, Tables};

/// Equalities that depend on nothing else: `1 = 1`.
const EQUALITIES: [&str; 3] = ["booleq", "int4eq", "texteq"];

impl Lowering<'_> {
    /// The place of a constant that decides what AND (`decides` false) or OR (true) joins. The planner then drops the
    /// others, whatever errors they would raise; of those before the constant it still works out what is constant.
    pub(super) fn folded(&self, args: &[Expr], decides: bool) -> Option<usize> {
        let place = args.iter().position(|arg| constant(arg) == Some(decides))?;
        (!args[..place].iter().any(|arg| self.may_fail_in_planning(arg))).then_some(place)
    }

    fn may_fail_in_planning(&self, expr: &Expr) -> bool {
        let mut may_fail = false;
        walk::every(expr, 0, &mut |expr, _| {
            may_fail |= match expr {
                Expr::Slot(slot) => {
                    self.slots.get(usize::from(*slot)).is_none_or(|expr| self.may_fail_in_planning(expr))
                }
                expr => slots::may_fail(expr) && self.is_constant(expr),
            }
        });
        may_fail
    }

    /// Whether something constant in it is an error, or not known here. The planner works constants out wherever they
    /// stand (but for what it drops, as behind `WHEN false`), and with an error there it is the whole SELECT that fails.
    pub(super) fn fails_in_planning(&self, expr: &Expr) -> bool {
        let mut fails = false;
        walk::every(expr, 0, &mut |expr, _| {
            fails = fails || (slots::may_fail(expr) && self.is_constant(expr) && is_error(expr));
        });
        fails
    }

    fn is_constant(&self, expr: &Expr) -> bool {
        let mut is_constant = true;
        walk::every(expr, 0, &mut |expr, _| {
            is_constant &= match expr {
                Expr::Slot(slot) => self.slots.get(usize::from(*slot)).is_some_and(|expr| self.is_constant(expr)),
                Expr::Column(_) | Expr::Inner { .. } | Expr::Param(_) | Expr::Setting { .. } => false,
                Expr::CurrentUser(_) | Expr::Now => false,
                Expr::Exists(_) | Expr::AnyQuery { .. } | Expr::Scalar(_) | Expr::ArrayOf(_) => false,
                _ => true,
            }
        });
        is_constant
    }
}

/// Slots are looked at by themselves.
fn is_error(expr: &Expr) -> bool {
    let mut reads_slots = false;
    walk::every(expr, 0, &mut |expr, _| reads_slots |= matches!(expr, Expr::Slot(_)));
    !reads_slots && value_of(expr, &NoRow, &Slots::default(), &Tables::default(), Moment::After, 0).is_err()
}

fn constant(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Const(Value::Bool(value)) => Some(*value),
        Expr::Not(arg) => constant(arg).map(|value| !value),
        Expr::Call { function, args } if EQUALITIES.contains(&function.name) => match &**args {
            [Expr::Const(left), Expr::Const(right)] if !left.is_null() && !right.is_null() => Some(left == right),
            _ => None,
        },
        _ => None,
    }
}
