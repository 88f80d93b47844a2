//! What Postgres' planner makes of constants before anything else is worked out.

use super::super::builtin::{Builtin, Depends};
use super::super::eval::{NoRow, Slots, value_of};
use super::super::expr::Truth;
use super::super::{Expr, Value, walk};
use super::{Lowering, slots};
use crate::authz::tracked::{Moment, Tables};

impl Lowering<'_> {
    /// The place of a constant that decides what AND (`decides` false) or OR (true) joins. The planner then drops the
    /// others, whatever errors they would raise; of those before the constant it still works out what is constant.
    /// `filter`: NULL is as good as false.
    pub(super) fn folded(&self, args: &[Expr], decides: bool, filter: bool) -> Option<usize> {
        let decides = |arg: &Expr| match constant(arg) {
            Some(Value::Bool(value)) => value == decides,
            Some(Value::Null) => filter && !decides,
            _ => false,
        };
        let place = args.iter().position(decides)?;
        // NULL does not keep it from working out the constants that come after.
        let after = match constant(&args[place]) {
            Some(Value::Null) => args[place + 1..].split(|arg| constant(arg) == Some(Value::Bool(false))).next(),
            _ => None,
        };
        let worked_out = args[..place].iter().chain(after.unwrap_or_default());
        (!worked_out.into_iter().any(|arg| self.may_fail_in_planning(arg))).then_some(place)
    }

    /// What is never called with NULL is not called at all where one of its arguments is NULL for sure, and the planner
    /// drops the others.
    pub(super) fn is_null_for_sure(&self, function: &Builtin, args: &[Expr]) -> bool {
        function.strict
            && args.iter().any(|arg| matches!(arg, Expr::Const(Value::Null)))
            && !args.iter().any(|arg| self.may_fail_in_planning(arg))
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

/// What the planner makes of an expression without variables, where it is surely known.
pub(super) fn constant(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Const(value) => Some(value.clone()),
        Expr::Not(arg) => match constant(arg)? {
            Value::Bool(value) => Some(Value::Bool(!value)),
            Value::Null => Some(Value::Null),
            _ => None,
        },
        Expr::IsNull(arg) => Some(Value::Bool(constant(arg)?.is_null())),
        Expr::Is { test, not, arg } => {
            let value = match constant(arg)? {
                Value::Bool(value) => Some(value),
                Value::Null => None,
                _ => return None,
            };
            let wanted = match test {
                Truth::True => Some(true),
                Truth::False => Some(false),
                Truth::Unknown => None,
            };
            Some(Value::Bool((value == wanted) != *not))
        }
        Expr::Distinct { equal, args } if is_immutable(equal) => {
            let [left, right] = [constant(&args[0])?, constant(&args[1])?];
            if left.is_null() || right.is_null() {
                return Some(Value::Bool(left.is_null() != right.is_null()));
            }
            match (equal.eval)(&[left, right]) {
                Ok(Value::Bool(is_equal)) => Some(Value::Bool(!is_equal)),
                _ => None,
            }
        }
        Expr::Call { function, args } if is_immutable(function) => {
            let values = args.iter().map(constant).collect::<Option<Vec<_>>>()?;
            (function.eval)(&values).ok()
        }
        _ => None,
    }
}

/// What is worked out by itself, before or while rows are read: no constant to the planner, whatever it is.
pub(super) fn not_constant(value: Expr) -> Expr {
    match value {
        Expr::Const(_) => Expr::Apply { args: [].into(), strict: false, body: Box::new(value) },
        value => value,
    }
}

/// Comparisons are worked out by the planner, but for those that depend on the time zone.
fn is_immutable(function: &Builtin) -> bool {
    function.strict && function.pair.is_some() && function.depends != Depends::Utc
}
