//! Functions of `jsonb`.

use std::sync::Arc;

use super::{Builtin, unexpected};
use crate::authz::policy::json::Json;
use crate::authz::policy::{Failure, Value};

/// What `->>` makes of a value: JSON's null is NULL, strings lose their quotes.
pub(super) fn text(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::String(text) => Value::Text(text.clone()),
        other => Value::text(&other.to_string()),
    }
}

fn jsonb(json: &Json) -> Value {
    Value::Jsonb(Arc::new(json.clone()))
}

fn found(json: Option<&Json>, make: fn(&Json) -> Value) -> Result<Value, Failure> {
    Ok(json.map_or(Value::Null, make))
}

fn field(args: &[Value], make: fn(&Json) -> Value) -> Result<Value, Failure> {
    match args {
        [Value::Jsonb(json), Value::Text(name)] => found(json.field(name), make),
        _ => unexpected(),
    }
}

/// Counted from 0, from the end with negative numbers.
fn at(elements: &[Json], place: i64) -> Option<&Json> {
    let place = if place < 0 { place + elements.len() as i64 } else { place };
    usize::try_from(place).ok().and_then(|place| elements.get(place))
}

/// A scalar is stored as an array of one.
fn element(args: &[Value], make: fn(&Json) -> Value) -> Result<Value, Failure> {
    match args {
        [Value::Jsonb(json), Value::Int(place)] => match &**json {
            Json::Array(elements) => found(at(elements, *place), make),
            Json::Object(_) => Ok(Value::Null),
            scalar => found(at(std::slice::from_ref(scalar), *place), make),
        },
        _ => unexpected(),
    }
}

/// The place that a path's text means in an array. `strtoint` takes signs and blanks before the digits, too.
pub(super) fn place(text: &str) -> Result<Option<i64>, Failure> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.starts_with([' ', '\t', '\n', '\r', '\x0b', '\x0c', '+']) {
            true => Err(Failure::undecided("an unusual spelling of an array's index")),
            false => Ok(None),
        };
    }
    Ok(text.parse::<i32>().ok().map(i64::from))
}

/// A path's steps; `None`: one of them is NULL.
pub(super) fn steps(path: &[Value]) -> Result<Option<Vec<&str>>, Failure> {
    let mut steps = Vec::with_capacity(path.len());
    for step in path {
        match step {
            Value::Text(step) => steps.push(&**step),
            Value::Null => return Ok(None),
            _ => return unexpected(),
        }
    }
    Ok(Some(steps))
}

fn path(args: &[Value], make: fn(&Json) -> Value) -> Result<Value, Failure> {
    let [Value::Jsonb(json), Value::Array(path)] = args else { return unexpected() };
    let Some(steps) = steps(path)? else { return Ok(Value::Null) };
    let mut json = &**json;
    for step in steps {
        let next = match json {
            Json::Object(_) => json.field(step),
            Json::Array(elements) => place(step)?.and_then(|place| at(elements, place)),
            _ => None,
        };
        match next {
            Some(next) => json = next,
            None => return Ok(Value::Null),
        }
    }
    Ok(make(json))
}

/// `?`: a key of an object, a string of an array, or a string itself.
fn has(json: &Json, name: &str) -> bool {
    let is_name = |json: &Json| matches!(json, Json::String(text) if **text == *name);
    match json {
        Json::Object(_) => json.field(name).is_some(),
        Json::Array(elements) => elements.iter().any(is_name),
        scalar => is_name(scalar),
    }
}

fn exists(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Jsonb(json), Value::Text(name)] => Ok(Value::Bool(has(json, name))),
        _ => unexpected(),
    }
}

/// NULLs among the names are passed over.
fn exists_among(args: &[Value], all: bool) -> Result<Value, Failure> {
    let [Value::Jsonb(json), Value::Array(names)] = args else { return unexpected() };
    let mut names = names.iter().filter_map(|name| if let Value::Text(name) = name { Some(name) } else { None });
    Ok(Value::Bool(if all { names.all(|name| has(json, name)) } else { names.any(|name| has(json, name)) }))
}

/// `@>`. At the root an array may contain a scalar, and a scalar another one.
fn contains(json: &Json, other: &Json) -> bool {
    match (json, other) {
        (Json::Array(elements), scalar) if !scalar.is_container() => elements.contains(scalar),
        (scalar, other) if !scalar.is_container() && !other.is_container() => scalar == other,
        _ => json.contains(other),
    }
}

fn two(args: &[Value], operate: fn(&Json, &Json) -> bool) -> Result<Value, Failure> {
    match args {
        [Value::Jsonb(a), Value::Jsonb(b)] => Ok(Value::Bool(operate(a, b))),
        _ => unexpected(),
    }
}

fn type_name(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Jsonb(json)] = args else { return unexpected() };
    Ok(Value::text(match &**json {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }))
}

fn array_length(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Jsonb(json)] => match &**json {
            Json::Array(elements) => Ok(Value::Int(elements.len() as i64)),
            _ => super::error("cannot get array length of a non-array"),
        },
        _ => unexpected(),
    }
}

/// Only of values that look the same in JSON whatever their type is: an `Int` may be an `oid`, which is a string.
fn to_jsonb(args: &[Value]) -> Result<Value, Failure> {
    let json = match args {
        [Value::Bool(value)] => Json::Bool(*value),
        [Value::Text(text)] => Json::String(text.clone()),
        [Value::Uuid(bytes)] => Json::String(super::super::encode::uuid(bytes).into()),
        [Value::Numeric(number)] => Json::Number((**number).clone()),
        [Value::Jsonb(json)] => return Ok(Value::Jsonb(json.clone())),
        [Value::Json(text)] => Json::parse(text)?,
        _ => return Err(Failure::undecided("to_jsonb of this type")),
    };
    Ok(Value::Jsonb(json.into()))
}

pub(super) const TABLE: &[Builtin] = &[
    Builtin::total(3478, "jsonb_object_field", |args| field(args, jsonb)),
    Builtin::total(3214, "jsonb_object_field_text", |args| field(args, text)),
    Builtin::total(3215, "jsonb_array_element", |args| element(args, jsonb)),
    Builtin::total(3216, "jsonb_array_element_text", |args| element(args, text)),
    Builtin::total(3217, "jsonb_extract_path", |args| path(args, jsonb)),
    Builtin::total(3940, "jsonb_extract_path_text", |args| path(args, text)),
    Builtin::total(4047, "jsonb_exists", exists),
    Builtin::total(4048, "jsonb_exists_any", |args| exists_among(args, false)),
    Builtin::total(4049, "jsonb_exists_all", |args| exists_among(args, true)),
    Builtin::total(4046, "jsonb_contains", |args| two(args, contains)),
    Builtin::total(4050, "jsonb_contained", |args| two(args, |a, b| contains(b, a))),
    Builtin::total(4043, "jsonb_eq", |args| two(args, |a, b| a == b)),
    Builtin::total(4038, "jsonb_ne", |args| two(args, |a, b| a != b)),
    Builtin::total(3210, "jsonb_typeof", type_name),
    Builtin::new(3207, "jsonb_array_length", array_length),
    Builtin::new(3787, "to_jsonb", to_jsonb),
];
