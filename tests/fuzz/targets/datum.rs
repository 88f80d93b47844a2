//! Values of rows as Postgres prints them, and others. Whatever the text is: JSON comes out, or an error. (Integers and
//! `jsonb` are copied as Postgres prints them, which is JSON.)

use serde_json::value::RawValue;
use walcast::authz::policy::DatumType;
use walcast::authz::policy::decode::decode;
use walcast::authz::policy::json::Json;
use walcast::encode::{datum, jsonb};

use super::{RECORD, parts, world};

/// Integers, `jsonb`, and arrays and vectors of them.
const COPIED: [u32; 10] = [20, 21, 22, 23, 26, 30, 3802, 1007, 1016, 3807];

/// The type's OID, and the text.
pub fn fuzz_datum(data: &[u8]) {
    let mut parts = parts(data, RECORD);
    let oid = parts.next().and_then(|oid| std::str::from_utf8(oid).ok()?.parse().ok()).unwrap_or(3802);
    let text = parts.next().unwrap_or_default();
    let catalog = world::catalog();
    let mut out = Vec::new();
    if datum::write_json(catalog, oid, text, &mut out).is_ok() && !COPIED.contains(&oid) {
        is_json(&out);
    }
    let Ok(text) = std::str::from_utf8(text) else { return };
    let mut out = Vec::new();
    if jsonb::write_jsonb(text.as_bytes(), &mut out).is_ok() {
        is_json(&out);
        let mut again = Vec::new();
        jsonb::write_jsonb(&out, &mut again).expect("jsonb is JSON");
        assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&out), "jsonb printed twice is another");
    }
    if let Some(of) = DatumType::of_column(catalog, oid) {
        let once = decode(&of, text);
        assert_eq!(once, decode(&of, text));
    }
    if let Ok(json) = Json::parse(text)
        && json.is_container()
    {
        assert!(json.contains(&json), "a document does not contain itself");
    }
}

fn is_json(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("JSON is UTF-8");
    assert!(serde_json::from_str::<&RawValue>(text).is_ok(), "not JSON: {text}");
}
