//! Expressions, evaluated as Postgres' executor does.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use super::query::{self, Level};
use super::{Person, Row};
use crate::authz::identity::subject;
use crate::authz::policy::builtin::Builtin;
use crate::authz::policy::decode::{decode, encode};
use crate::authz::policy::expr::Truth;
use crate::authz::policy::{DatumType, Expr, Failure, Value};
use crate::authz::tracked::{Moment, Tables};

/// What stays the same while a program is evaluated.
pub(super) struct Evaluation<'a> {
    pub(super) row: &'a dyn Row,
    pub(super) slots: &'a [Result<Value, Failure>],
    pub(super) tables: &'a Tables,
    pub(super) moment: Moment,
    /// Not while slots are worked out: they outlive the moment.
    pub(super) now: Option<i64>,
    /// Only while slots are worked out.
    pub(super) person: Option<Person<'a>>,
}

/// Where an expression stands.
#[derive(Clone, Copy)]
pub(super) struct Env<'a> {
    pub(super) evaluation: &'a Evaluation<'a>,
    /// The innermost query around it.
    pub(super) level: Option<&'a Level<'a>>,
    /// The arguments of the function whose body it is part of.
    pub(super) params: &'a [Value],
}

impl<'a> Env<'a> {
    pub(super) fn new(evaluation: &'a Evaluation<'a>) -> Env<'a> {
        Env { evaluation, level: None, params: &[] }
    }
}

pub(super) type Evaluated<'a> = Result<Cow<'a, Value>, Failure>;

const NULL: Value = Value::Null;

fn owned<'a>(value: Value) -> Evaluated<'a> {
    Ok(Cow::Owned(value))
}

fn boolean<'a>(value: Option<bool>) -> Evaluated<'a> {
    owned(value.map_or(NULL, Value::Bool))
}

/// A boolean expression: true, false, or NULL.
pub(super) fn truth(expr: &Expr, env: Env<'_>) -> Result<Option<bool>, Failure> {
    truth_of(&*evaluate(expr, env)?)
}

pub(super) fn truth_of(value: &Value) -> Result<Option<bool>, Failure> {
    match value {
        Value::Bool(value) => Ok(Some(*value)),
        Value::Null => Ok(None),
        _ => Err(Failure::undecided("a condition that is no boolean")),
    }
}

/// The value of an expression; a reference where it is one.
pub(super) fn evaluate<'a>(expr: &'a Expr, env: Env<'a>) -> Evaluated<'a> {
    match expr {
        Expr::Const(value) => Ok(Cow::Borrowed(value)),
        Expr::Column(column) => env.evaluation.row.value(*column).map(Cow::Borrowed),
        Expr::Inner { levels, source, column } => query::inner(env, *levels, *source, *column).map(Cow::Borrowed),
        Expr::Param(param) => match env.params.get(usize::from(*param)) {
            Some(value) => Ok(Cow::Borrowed(value)),
            None => Err(Failure::undecided("an argument that was not given")),
        },
        Expr::Slot(slot) => match env.evaluation.slots.get(usize::from(*slot)) {
            Some(Ok(value)) => Ok(Cow::Borrowed(value)),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(Failure::undecided("a value of the person that was not worked out")),
        },
        Expr::Call { function, args } => call(function, args, env),
        Expr::Apply { args, strict, body } => {
            let values = all(args, env)?;
            if *strict && values.iter().any(Value::is_null) {
                return owned(NULL);
            }
            let value = evaluate(body, Env { params: &values, ..env })?;
            owned(value.into_owned())
        }
        Expr::And(args) => boolean(junction(args, env, false)?),
        Expr::Or(args) => boolean(junction(args, env, true)?),
        Expr::Not(arg) => boolean(truth(arg, env)?.map(|value| !value)),
        Expr::IsNull(arg) => boolean(Some(evaluate(arg, env)?.is_null())),
        Expr::Is { test, not, arg } => {
            let wanted = match test {
                Truth::True => Some(true),
                Truth::False => Some(false),
                Truth::Unknown => None,
            };
            boolean(Some((truth(arg, env)? == wanted) != *not))
        }
        Expr::Distinct { equal, args } => boolean(Some(distinct(equal, args, env)?)),
        Expr::NullIf { equal, args } => {
            let (a, b) = (evaluate(&args[0], env)?, evaluate(&args[1], env)?);
            let same = !a.is_null() && !b.is_null() && truth_of(&apply(equal, &a, &b)?)? == Some(true);
            if same { owned(NULL) } else { Ok(a) }
        }
        Expr::Case { branches, otherwise } => {
            for (condition, result) in branches {
                if truth(condition, env)? == Some(true) {
                    return evaluate(result, env);
                }
            }
            evaluate(otherwise, env)
        }
        Expr::Coalesce(args) => {
            for arg in args {
                let value = evaluate(arg, env)?;
                if !value.is_null() {
                    return Ok(value);
                }
            }
            owned(NULL)
        }
        Expr::AnyArray { function, all, args } => {
            let (left, array) = (evaluate(&args[0], env)?, evaluate(&args[1], env)?);
            match &*array {
                Value::Null => owned(NULL),
                Value::Array(elements) => {
                    let mut outcome = Quantified::new(*all);
                    for element in elements.iter() {
                        if outcome.take(truth_of(&apply(function, &left, element)?)?) {
                            break;
                        }
                    }
                    boolean(outcome.result())
                }
                _ => Err(Failure::undecided("an array that is none")),
            }
        }
        Expr::Array(elements) => owned(Value::Array(all(elements, env)?.into_iter().collect())),
        Expr::Cast { from, to, arg } => cast(from, to, evaluate(arg, env)?),
        Expr::CastElements { element, array } => cast_elements(element, evaluate(array, env)?, env),
        Expr::Exists(query) => boolean(Some(query::exists(query, env)?)),
        Expr::AnyQuery { function, all, left, query } => boolean(query::any(query, function, *all, left, env)?),
        Expr::Scalar(query) => owned(query::scalar(query, env)?),
        Expr::ArrayOf(query) => owned(query::array(query, env)?),
        Expr::Setting { name, missing_ok } => setting(&*evaluate(name, env)?, *missing_ok, env),
        Expr::CurrentUser(role) => owned(Value::Text(Arc::clone(role))),
        Expr::Now => match env.evaluation.now {
            Some(now) => owned(Value::Timestamptz(now)),
            None => Err(Failure::undecided("the time, in what depends on the person alone")),
        },
    }
}

/// All of them, in order: an error in one counts even where another one is NULL.
fn all(args: &[Expr], env: Env<'_>) -> Result<SmallVec<[Value; 2]>, Failure> {
    let mut values = SmallVec::with_capacity(args.len());
    for arg in args {
        values.push(evaluate(arg, env)?.into_owned());
    }
    Ok(values)
}

fn call<'a>(function: &'static Builtin, args: &'a [Expr], env: Env<'a>) -> Evaluated<'a> {
    if let (Some(pair), [a, b]) = (function.pair, args) {
        let (a, b) = (evaluate(a, env)?, evaluate(b, env)?);
        return if a.is_null() || b.is_null() { owned(NULL) } else { owned(pair(&a, &b)?) };
    }
    let values = all(args, env)?;
    if function.strict && values.iter().any(Value::is_null) {
        return owned(NULL);
    }
    owned((function.eval)(&values)?)
}

/// A function of two.
pub(super) fn apply(function: &Builtin, a: &Value, b: &Value) -> Result<Value, Failure> {
    if function.strict && (a.is_null() || b.is_null()) {
        return Ok(NULL);
    }
    match function.pair {
        Some(pair) => pair(a, b),
        None => (function.eval)(&[a.clone(), b.clone()]),
    }
}

/// AND (`decides` false) and OR (true): up to the operand that decides.
fn junction(args: &[Expr], env: Env<'_>, decides: bool) -> Result<Option<bool>, Failure> {
    let mut result = Some(!decides);
    for arg in args {
        match truth(arg, env)? {
            Some(value) if value == decides => return Ok(Some(decides)),
            Some(_) => {}
            None => result = None,
        }
    }
    Ok(result)
}

fn distinct(equal: &'static Builtin, args: &[Expr; 2], env: Env<'_>) -> Result<bool, Failure> {
    let (a, b) = (evaluate(&args[0], env)?, evaluate(&args[1], env)?);
    match (a.is_null(), b.is_null()) {
        (true, true) => Ok(false),
        (false, false) => Ok(truth_of(&apply(equal, &a, &b)?)? != Some(true)),
        _ => Ok(true),
    }
}

/// ANY or ALL of many, each true, false, or NULL.
pub(super) struct Quantified {
    all: bool,
    result: Option<bool>,
}

impl Quantified {
    pub(super) fn new(all: bool) -> Quantified {
        Quantified { all, result: Some(all) }
    }

    /// Whether that decided it.
    pub(super) fn take(&mut self, value: Option<bool>) -> bool {
        match value {
            Some(value) if value != self.all => {
                self.result = Some(value);
                return true;
            }
            Some(_) => {}
            None => self.result = None,
        }
        false
    }

    pub(super) fn result(self) -> Option<bool> {
        self.result
    }
}

fn cast<'a>(from: &DatumType, to: &DatumType, value: Cow<'a, Value>) -> Evaluated<'a> {
    let is_text = |of: &DatumType| matches!(of, DatumType::Text | DatumType::Bpchar);
    match &*value {
        Value::Null => Ok(value),
        Value::Text(_) if is_text(from) && is_text(to) => Ok(value),
        Value::Text(text) => owned(decode(to, text)?),
        other => owned(decode(to, &encode(from, other)?)?),
    }
}

/// The element stands as the only parameter in `element`.
fn cast_elements<'a>(element: &'a Expr, array: Cow<'a, Value>, env: Env<'a>) -> Evaluated<'a> {
    match &*array {
        Value::Null => Ok(array),
        Value::Array(elements) => {
            let mut cast = Vec::with_capacity(elements.len());
            for value in elements.iter() {
                let value = evaluate(element, Env { params: std::slice::from_ref(value), ..env })?;
                cast.push(value.into_owned());
            }
            owned(Value::Array(cast.into()))
        }
        _ => Err(Failure::undecided("an array that is none")),
    }
}

/// What the oracle's sessions have: the claims and the role, and of what PostgREST also sets nothing.
fn setting<'a>(name: &Value, missing_ok: bool, env: Env<'a>) -> Evaluated<'a> {
    let Value::Text(name) = name else {
        return if name.is_null() { owned(NULL) } else { Err(Failure::undecided("a setting without a name")) };
    };
    let Some(person) = env.evaluation.person else {
        return Err(Failure::undecided("a setting whose name depends on the row"));
    };
    // Names of settings are found whatever their case.
    let name = name.to_ascii_lowercase();
    let unset = || match missing_ok {
        true => owned(NULL),
        false => Err(Failure::Error("unrecognized configuration parameter".into())),
    };
    match (name.as_str(), person.channel) {
        ("request.jwt.claims", _) => owned(Value::text(person.claims)),
        ("role", _) => owned(Value::text(person.role)),
        ("realtime.topic", Some(channel)) => owned(Value::text(channel.topic)),
        ("request.headers", Some(channel)) => owned(Value::text(channel.headers)),
        ("request.jwt.claim.role", Some(_)) => owned(Value::text(person.role)),
        ("request.jwt.claim.sub", Some(_)) => owned(Value::text(&subject(person.claims))),
        ("realtime.topic" | "request.headers" | "request.method" | "request.path" | "request.cookies", _) => unset(),
        (other, _) if other == "request.jwt.claim" || other.starts_with("request.jwt.claim.") => unset(),
        _ => Err(Failure::undecided("a setting that is not known")),
    }
}
