//! `jsonb::text`.

use std::fmt::{Formatter, Result, Write};

use super::Json;
use crate::authz::policy::decode::numeric_text;

pub(super) fn write(json: &Json, f: &mut Formatter<'_>) -> Result {
    match json {
        Json::Null => f.write_str("null"),
        Json::Bool(value) => write!(f, "{value}"),
        Json::Number(number) => f.write_str(&numeric_text(number)),
        Json::String(text) => string(text, f),
        Json::Array(elements) => {
            f.write_char('[')?;
            for (place, element) in elements.iter().enumerate() {
                f.write_str(if place == 0 { "" } else { ", " })?;
                write(element, f)?;
            }
            f.write_char(']')
        }
        Json::Object(members) => {
            f.write_char('{')?;
            for (place, (key, value)) in members.iter().enumerate() {
                f.write_str(if place == 0 { "" } else { ", " })?;
                string(key, f)?;
                f.write_str(": ")?;
                write(value, f)?;
            }
            f.write_char('}')
        }
    }
}

/// `escape_json`.
fn string(text: &str, f: &mut Formatter<'_>) -> Result {
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '\u{8}' => f.write_str("\\b")?,
            '\u{c}' => f.write_str("\\f")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            control if control < ' ' => write!(f, "\\u{:04x}", u32::from(control))?,
            plain => f.write_char(plain)?,
        }
    }
    f.write_char('"')
}
