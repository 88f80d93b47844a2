//! Values from their text.

use crate::authz::policy::{DatumType, Failure, Value};

pub(super) fn decode(datum_type: &DatumType, text: &str) -> Result<Value, Failure> {
    let bad = || Failure::undecided("an unusual value");
    Ok(match datum_type {
        DatumType::Bool => Value::Bool(text == "t"),
        DatumType::Int2 | DatumType::Int4 | DatumType::Int8 | DatumType::Oid => {
            Value::Int(text.parse().map_err(|_| bad())?)
        }
        DatumType::Text | DatumType::Bpchar | DatumType::Enum(_) => Value::text(text),
        DatumType::Uuid => {
            let hex: String = text.chars().filter(|c| *c != '-').collect();
            let number = u128::from_str_radix(&hex, 16).map_err(|_| bad())?;
            Value::Uuid(number.to_be_bytes())
        }
        _ => return Err(Failure::undecided("a type that is not read yet")),
    })
}
