//! What values take in memory.

use crate::authz::policy::Value;
use crate::authz::policy::json::Json;

/// What an allocator adds to a block, about.
const ALLOCATION: usize = 16;
/// The counts of an `Arc`.
const COUNTS: usize = 16;

/// What values take elsewhere.
pub(super) fn heap_bytes(values: &[Value]) -> usize {
    values.iter().map(value_bytes).sum()
}

fn value_bytes(value: &Value) -> usize {
    let shared = |bytes: usize| ALLOCATION + COUNTS + bytes;
    match value {
        Value::Text(text) | Value::Json(text) => shared(text.len()),
        Value::Bytea(bytes) => shared(bytes.len()),
        Value::Numeric(number) => shared(number_bytes(number)),
        Value::Array(values) => shared(size_of_val(&**values)) + heap_bytes(values),
        Value::Jsonb(json) => shared(json_bytes(json)),
        _ => 0,
    }
}

fn number_bytes(number: &bigdecimal::BigDecimal) -> usize {
    size_of::<bigdecimal::BigDecimal>() + ALLOCATION + (number.as_bigint_and_scale().0.bits() as usize).div_ceil(8)
}

fn json_bytes(json: &Json) -> usize {
    size_of::<Json>()
        + match json {
            Json::Null | Json::Bool(_) => 0,
            Json::Number(number) => number_bytes(number),
            Json::String(text) => ALLOCATION + COUNTS + text.len(),
            Json::Array(items) => ALLOCATION + items.iter().map(json_bytes).sum::<usize>(),
            Json::Object(members) => {
                let member = |(name, value): &(std::sync::Arc<str>, Json)| {
                    ALLOCATION + 2 * COUNTS + name.len() + json_bytes(value)
                };
                ALLOCATION + members.iter().map(member).sum::<usize>()
            }
        }
}
