//! Functions that return sets, their rows given as an array.

use std::sync::Arc;

use super::Depends::DeterministicCollation;
use super::{Builtin, error, unexpected};
use crate::authz::policy::json::{Json, elements, members, scalar_text};
use crate::authz::policy::{Failure, Value};

fn unnest(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [array @ Value::Array(_)] => Ok(array.clone()),
        _ => unexpected(),
    }
}

fn jsonb_elements(args: &[Value], element: fn(&Json) -> Value) -> Result<Value, Failure> {
    match args {
        [Value::Jsonb(json)] => match &**json {
            Json::Array(elements) => Ok(Value::Array(elements.iter().map(element).collect())),
            _ => error("cannot extract elements from an object or a scalar"),
        },
        _ => unexpected(),
    }
}

fn jsonb_keys(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Jsonb(json)] => match &**json {
            Json::Object(members) => {
                Ok(Value::Array(members.iter().map(|(key, _)| Value::Text(key.clone())).collect()))
            }
            _ => error("cannot call jsonb_object_keys on an array or a scalar"),
        },
        _ => unexpected(),
    }
}

fn json_elements(args: &[Value], element: fn(&str) -> Result<Value, Failure>) -> Result<Value, Failure> {
    let [Value::Json(text)] = args else { return unexpected() };
    match elements(text)? {
        Some(elements) => Ok(Value::Array(elements.into_iter().map(element).collect::<Result<_, _>>()?)),
        None => error("cannot extract elements from an object or a scalar"),
    }
}

fn json_keys(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Json(text)] = args else { return unexpected() };
    match members(text)? {
        Some(members) => Ok(Value::Array(members.into_iter().map(|(key, _)| Value::Text(key)).collect())),
        None => error("cannot call json_object_keys on an array or a scalar"),
    }
}

/// An array that is NULL has no rows.
fn string_to_table(args: &[Value]) -> Result<Value, Failure> {
    match super::text::string_to_array(args)? {
        Value::Null => Ok(Value::Array([].into())),
        array => Ok(array),
    }
}

pub(super) const TABLE: &[Builtin] = &[
    Builtin::total(6160, "string_to_table", string_to_table).not_strict().depends(DeterministicCollation),
    Builtin::total(6161, "string_to_table", string_to_table).not_strict().depends(DeterministicCollation),
    Builtin::total(2331, "unnest", unnest),
    Builtin::new(3219, "jsonb_array_elements", |args| {
        jsonb_elements(args, |json| Value::Jsonb(Arc::new(json.clone())))
    }),
    Builtin::new(3465, "jsonb_array_elements_text", |args| jsonb_elements(args, super::jsonb::text)),
    Builtin::new(3931, "jsonb_object_keys", jsonb_keys),
    Builtin::new(3955, "json_array_elements", |args| json_elements(args, |raw| Ok(Value::Json(raw.into())))),
    Builtin::new(3969, "json_array_elements_text", |args| {
        json_elements(args, |raw| Ok(scalar_text(raw)?.map_or(Value::Null, Value::Text)))
    }),
    Builtin::new(3957, "json_object_keys", json_keys),
];
