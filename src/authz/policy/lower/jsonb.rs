//! `jsonb` as it is stored.

use std::sync::Arc;

use super::super::json::Json;
use super::constant::{numeric, varlena, varlena_length};

const DEPTH_MAX: usize = 64;

/// A document: a container of which a scalar is the only element.
pub(super) fn read(body: &[u8]) -> Option<Json> {
    container(body, 0)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn container(bytes: &[u8], depth: usize) -> Option<Json> {
    if depth > DEPTH_MAX {
        return None;
    }
    let header = word(bytes, 0)?;
    let count = (header & 0x0FFF_FFFF) as usize;
    let (is_scalar, is_object, is_array) = (header >> 28 & 1 == 1, header >> 29 & 1 == 1, header >> 30 & 1 == 1);
    if is_object == is_array || (is_scalar && (is_object || count != 1)) {
        return None;
    }
    let entries = if is_object { count.checked_mul(2)? } else { count };
    let data = bytes.get(entries.checked_add(1)?.checked_mul(4)?..)?;
    let mut values = Vec::new();
    let mut start = 0;
    for place in 0..entries {
        let entry = word(bytes, 4 + place * 4)?;
        // Most entries hold their length, every 32nd the place where it ends.
        let length = (entry & 0x0FFF_FFFF) as usize;
        let end = if entry >> 31 == 1 { length } else { start + length };
        values.push(value(entry >> 28 & 7, data, start, end, depth)?);
        start = end;
    }
    if is_scalar {
        return values.pop();
    }
    if is_array {
        return Some(Json::Array(values));
    }
    let values = values.split_off(count).into_iter().zip(values);
    let pairs = values.map(|(value, key)| match key {
        Json::String(key) => Some((key, value)),
        _ => None,
    });
    Some(Json::Object(pairs.collect::<Option<_>>()?))
}

fn value(kind: u32, data: &[u8], start: usize, end: usize, depth: usize) -> Option<Json> {
    // Numbers and containers are aligned; the padding belongs to their entry.
    let aligned = || data.get(start.next_multiple_of(4)..end);
    Some(match kind {
        0 => Json::String(Arc::from(std::str::from_utf8(data.get(start..end)?).ok()?)),
        1 => {
            let number = aligned()?;
            Json::Number(numeric(varlena(number.get(..varlena_length(number)?)?)?)?)
        }
        2 => Json::Bool(false),
        3 => Json::Bool(true),
        4 => Json::Null,
        5 => container(aligned()?, depth + 1)?,
        _ => return None,
    })
}
