//! Functions of `json`, whose values keep their text.

use super::jsonb::{place, steps};
use super::{Builtin, error, unexpected};
use crate::authz::policy::json::{elements, members, scalar_text};
use crate::authz::policy::{Failure, Value};

/// What is found, as `json` or as text.
fn found(raw: Option<&str>, as_text: bool) -> Result<Value, Failure> {
    match raw {
        None => Ok(Value::Null),
        Some(raw) if as_text => Ok(scalar_text(raw)?.map_or(Value::Null, Value::Text)),
        Some(raw) => Ok(Value::Json(raw.into())),
    }
}

/// The last of equal keys.
fn member<'a>(text: &'a str, name: &str) -> Result<Option<&'a str>, Failure> {
    let found = members(text)?.and_then(|members| members.into_iter().rfind(|(key, _)| **key == *name));
    Ok(found.map(|(_, raw)| raw))
}

fn at(text: &str, place: i64) -> Result<Option<&str>, Failure> {
    let Some(elements) = elements(text)? else { return Ok(None) };
    let place = if place < 0 { place + elements.len() as i64 } else { place };
    Ok(usize::try_from(place).ok().and_then(|place| elements.get(place).copied()))
}

fn field(args: &[Value], as_text: bool) -> Result<Value, Failure> {
    match args {
        [Value::Json(text), Value::Text(name)] => found(member(text, name)?, as_text),
        _ => unexpected(),
    }
}

fn element(args: &[Value], as_text: bool) -> Result<Value, Failure> {
    match args {
        [Value::Json(text), Value::Int(place)] => found(at(text, *place)?, as_text),
        _ => unexpected(),
    }
}

fn path(args: &[Value], as_text: bool) -> Result<Value, Failure> {
    let [Value::Json(text), Value::Array(path)] = args else { return unexpected() };
    let Some(steps) = steps(path)? else { return Ok(Value::Null) };
    // Equal keys and errors in a part that is passed over make a difference that is not worth telling here.
    let mut raw = text.trim_matches([' ', '\t', '\n', '\r']);
    for (depth, step) in steps.into_iter().enumerate() {
        let next = match raw.as_bytes().first() {
            Some(b'{') => {
                let mut found = members(raw)?.unwrap_or_default().into_iter().filter(|(key, _)| **key == *step);
                let value = found.next().map(|(_, raw)| raw);
                if found.next().is_some() {
                    return Err(Failure::undecided("a json path through equal keys"));
                }
                value
            }
            Some(b'[') => match place(step)? {
                // Postgres counts these from the end of the first array that it meets at this depth.
                Some(..0) if depth > 0 => return Err(Failure::undecided("a json path from the end of an inner array")),
                Some(place) => at(raw, place)?,
                None => None,
            },
            _ => None,
        };
        match next {
            Some(next) => raw = next,
            None => {
                // What is wrong elsewhere in the text is an error all the same.
                elements(text)?;
                return Ok(Value::Null);
            }
        }
    }
    elements(text)?;
    found(Some(raw), as_text)
}

fn type_name(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Json(text)] = args else { return unexpected() };
    let first = text.trim_start_matches([' ', '\t', '\n', '\r']).as_bytes().first();
    Ok(Value::text(match first {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }))
}

fn array_length(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Json(text)] = args else { return unexpected() };
    // Only the outermost brackets count, but strings are not turned to text for it.
    if text.contains("\\u") {
        return Err(Failure::undecided("json with escapes"));
    }
    match elements(text)? {
        Some(elements) => Ok(Value::Int(elements.len() as i64)),
        None => error("cannot get array length of a non-array"),
    }
}

pub(super) const TABLE: &[Builtin] = &[
    Builtin::new(3947, "json_object_field", |args| field(args, false)),
    Builtin::new(3948, "json_object_field_text", |args| field(args, true)),
    Builtin::new(3949, "json_array_element", |args| element(args, false)),
    Builtin::new(3950, "json_array_element_text", |args| element(args, true)),
    Builtin::new(3951, "json_extract_path", |args| path(args, false)),
    Builtin::new(3953, "json_extract_path_text", |args| path(args, true)),
    Builtin::new(3956, "json_array_length", array_length),
    Builtin::total(3968, "json_typeof", type_name),
];
