//! Functions of arrays: of one dimension, or empty.

use super::Depends::DeterministicCollation;
use super::{Builtin, compare, unexpected};
use crate::authz::policy::{Failure, Value};

/// Whether two elements are equal by their type's own operator. The type itself is not known here: texts that differ
/// in trailing blanks only are equal as `bpchar` and different as `text`.
fn equal(a: &Value, b: &Value) -> Result<bool, Failure> {
    match (a, b) {
        (Value::Jsonb(a), Value::Jsonb(b)) => Ok(a == b),
        (Value::Text(a), Value::Text(b)) if a != b => match a.trim_end_matches(' ') == b.trim_end_matches(' ') {
            true => Err(Failure::undecided("elements that differ in trailing blanks")),
            false => Ok(false),
        },
        _ => compare(a, b).map(|order| order.is_eq()),
    }
}

/// `IS NOT DISTINCT FROM`.
fn same(a: &Value, b: &Value) -> Result<bool, Failure> {
    match (a, b) {
        (Value::Null, Value::Null) => Ok(true),
        (Value::Null, _) | (_, Value::Null) => Ok(false),
        _ => equal(a, b),
    }
}

fn arrays_equal(a: &[Value], b: &[Value]) -> Result<bool, Failure> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (a, b) in a.iter().zip(b) {
        if !same(a, b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether an element of the array equals `wanted`; NULL equals nothing.
fn has(array: &[Value], wanted: &Value) -> Result<bool, Failure> {
    for element in array {
        if !element.is_null() && !wanted.is_null() && equal(element, wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn contains(array: &[Value], wanted: &[Value]) -> Result<bool, Failure> {
    for wanted in wanted {
        if !has(array, wanted)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn overlap(a: &[Value], b: &[Value]) -> Result<bool, Failure> {
    for element in a {
        if has(b, element)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn of_two(args: &[Value], operate: fn(&[Value], &[Value]) -> Result<bool, Failure>) -> Result<Value, Failure> {
    match args {
        [Value::Array(a), Value::Array(b)] => operate(a, b).map(Value::Bool),
        _ => unexpected(),
    }
}

/// A property of the first dimension, which an empty array does not have.
fn of_dimension(args: &[Value], property: fn(usize) -> i64) -> Result<Value, Failure> {
    match args {
        [Value::Array(elements), Value::Int(1)] if !elements.is_empty() => Ok(Value::Int(property(elements.len()))),
        [Value::Array(_), Value::Int(_)] => Ok(Value::Null),
        _ => unexpected(),
    }
}

fn cardinality(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Array(elements)] => Ok(Value::Int(elements.len() as i64)),
        _ => unexpected(),
    }
}

/// Arrays that are NULL count as empty.
fn elements(array: &Value) -> Result<&[Value], Failure> {
    match array {
        Value::Array(elements) => Ok(elements),
        Value::Null => Ok(&[]),
        _ => unexpected(),
    }
}

fn joined(a: &[Value], b: &[Value]) -> Value {
    Value::Array(a.iter().chain(b).cloned().collect())
}

fn append(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [array, element] => Ok(joined(elements(array)?, std::slice::from_ref(element))),
        _ => unexpected(),
    }
}

fn prepend(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [element, array] => Ok(joined(std::slice::from_ref(element), elements(array)?)),
        _ => unexpected(),
    }
}

fn concatenate(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Null, Value::Null] => Ok(Value::Null),
        [a, b] => Ok(joined(elements(a)?, elements(b)?)),
        _ => unexpected(),
    }
}

fn remove(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Null, _] => Ok(Value::Null),
        [Value::Array(elements), unwanted] => {
            let mut kept = Vec::with_capacity(elements.len());
            for element in elements.iter() {
                if !same(element, unwanted)? {
                    kept.push(element.clone());
                }
            }
            Ok(Value::Array(kept.into()))
        }
        _ => unexpected(),
    }
}

fn position(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Null, _] => Ok(Value::Null),
        [Value::Array(elements), wanted] => {
            for (place, element) in elements.iter().enumerate() {
                if same(element, wanted)? {
                    return Ok(Value::Int(place as i64 + 1));
                }
            }
            Ok(Value::Null)
        }
        _ => unexpected(),
    }
}

/// `ARRAY(SELECT array)` of one row, whose elements are those of the array. What Postgres has against NULL and against
/// empty arrays is its own matter.
fn accumulated(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [array @ Value::Array(elements)]
            if !elements.is_empty() && !elements.iter().any(|element| matches!(element, Value::Array(_))) =>
        {
            Ok(array.clone())
        }
        _ => Err(Failure::undecided("an array of arrays without elements")),
    }
}

/// No function of Postgres.
pub static ACCUMULATED: Builtin = Builtin::new(0, "array_of_array", accumulated).not_strict();

pub(super) const TABLE: &[Builtin] = &[
    Builtin::total(744, "array_eq", |args| of_two(args, arrays_equal)).depends(DeterministicCollation),
    Builtin::total(390, "array_ne", |args| of_two(args, |a, b| arrays_equal(a, b).map(|equal| !equal)))
        .depends(DeterministicCollation),
    Builtin::total(2748, "arraycontains", |args| of_two(args, contains)).depends(DeterministicCollation),
    Builtin::total(2749, "arraycontained", |args| of_two(args, |a, b| contains(b, a))).depends(DeterministicCollation),
    Builtin::total(2747, "arrayoverlap", |args| of_two(args, overlap)).depends(DeterministicCollation),
    Builtin::total(2176, "array_length", |args| of_dimension(args, |length| length as i64)),
    Builtin::total(2092, "array_upper", |args| of_dimension(args, |length| length as i64)),
    Builtin::total(2091, "array_lower", |args| of_dimension(args, |_| 1)),
    Builtin::total(3179, "cardinality", cardinality),
    Builtin::total(378, "array_append", append).not_strict(),
    Builtin::total(379, "array_prepend", prepend).not_strict(),
    Builtin::total(383, "array_cat", concatenate).not_strict(),
    Builtin::total(3167, "array_remove", remove).not_strict().depends(DeterministicCollation),
    Builtin::total(3277, "array_position", position).not_strict().depends(DeterministicCollation),
];
