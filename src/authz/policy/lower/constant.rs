//! Constants: datums as they lie in the server's memory, little-endian (x86, ARM).

use std::sync::Arc;

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::BigInt;

use super::super::tree::{Node, Tree};
use super::super::value::Interval;
use super::super::{DatumType, Expr, NotCompiled, Value};
use super::types::NAME;
use super::{Lowering, jsonb, known, unknown};
use crate::catalog::{Oid, TypeKind};

impl Lowering<'_> {
    pub(super) fn constant(&self, node: &Node) -> Result<Expr, NotCompiled> {
        let fields = ["consttype", "consttypmod", "constcollid", "constlen", "constbyval", "constisnull"];
        known(node, &[&fields[..], &["location", "constvalue"]].concat())?;
        let oid = node.oid("consttype")?;
        if oid != NAME {
            self.datum_type(oid)?;
        }
        if node.flag("constisnull")? {
            return Ok(Expr::Const(Value::Null));
        }
        let Some(Tree::Datum { length, bytes }) = node.field("constvalue") else {
            return Err(unknown("CONST", "constvalue"));
        };
        // A value that is passed by value is printed as a whole word.
        let by_value = node.flag("constbyval")?;
        let wanted = if by_value { 8 } else { *length };
        let fixed = usize::try_from(node.int("constlen")?).ok();
        if bytes.len() != wanted || *length > bytes.len() || fixed.is_some_and(|fixed| fixed != *length) {
            return Err(unknown("CONST", "constvalue"));
        }
        self.datum(oid, &bytes[..*length]).map(Expr::Const)
    }

    fn datum(&self, oid: Oid, bytes: &[u8]) -> Result<Value, NotCompiled> {
        if oid == NAME {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            return text(&bytes[..end]).map(Value::Text).ok_or(NotCompiled::Type(oid));
        }
        match self.datum_type(oid)? {
            DatumType::Enum(_) => self.label(oid, bytes),
            DatumType::Array(element) => self.array_datum(oid, &element, bytes),
            scalar => value(&scalar, bytes).ok_or(NotCompiled::Type(oid)),
        }
    }

    /// A constant of an enum is the OID of its label.
    fn label(&self, oid: Oid, bytes: &[u8]) -> Result<Value, NotCompiled> {
        let label = || {
            let label = Oid::from_le_bytes(bytes.try_into().ok()?);
            let TypeKind::Enum { labels, label_oids } = &self.catalog.base_type(oid)?.kind else { return None };
            let place = label_oids.iter().position(|known| *known == label)?;
            labels.get(place).map(|label| Value::text(label))
        };
        label().ok_or(NotCompiled::Type(oid))
    }

    /// `ArrayType` of one dimension, or empty.
    fn array_datum(&self, oid: Oid, element: &DatumType, bytes: &[u8]) -> Result<Value, NotCompiled> {
        let refused = || NotCompiled::Type(oid);
        let body = varlena(bytes).ok_or_else(refused)?;
        let word = |at: usize| Some(i32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let count = match word(0).ok_or_else(refused)? {
            0 => return Ok(Value::Array(Arc::new([]))),
            1 => word(12).and_then(|count| usize::try_from(count).ok()).ok_or_else(refused)?,
            _ => return Err(refused()),
        };
        if word(16) != Some(1) {
            // `'[0:1]={..}'` is equal to nothing that counts from 1.
            return Err(refused());
        }
        let element_oid = word(8).ok_or_else(refused)? as Oid;
        // Offsets are counted from the length word, which `body` lacks.
        let (start, nulls) = match word(4).ok_or_else(refused)? {
            0 => (20, None),
            offset => {
                let start =
                    usize::try_from(offset).ok().and_then(|offset| offset.checked_sub(4)).ok_or_else(refused)?;
                (start, Some(body.get(20..start).ok_or_else(refused)?))
            }
        };
        let mut values = Vec::new();
        // Types align within the whole datum.
        let mut at = start + 4;
        for place in 0..count {
            let is_null = match nulls {
                Some(bits) => bits.get(place / 8).ok_or_else(refused)? >> (place % 8) & 1 == 0,
                None => false,
            };
            if is_null {
                values.push(Value::Null);
                continue;
            }
            let (length, alignment) = layout(element).ok_or_else(refused)?;
            let end = match length {
                Some(length) => {
                    at = at.next_multiple_of(alignment);
                    at + length
                }
                None => {
                    // A short varlena is not aligned; padding is zero, which no header byte is.
                    if bytes.get(at).is_some_and(|byte| *byte == 0) {
                        at = at.next_multiple_of(alignment);
                    }
                    at + varlena_length(bytes.get(at..).ok_or_else(refused)?).ok_or_else(refused)?
                }
            };
            let datum = bytes.get(at..end).ok_or_else(refused)?;
            let aligned_header = datum.first().is_some_and(|byte| byte & 1 == 0);
            if length.is_none() && aligned_header && !at.is_multiple_of(alignment) {
                return Err(refused());
            }
            values.push(self.datum(element_oid, datum)?);
            at = end;
        }
        Ok(Value::Array(values.into()))
    }
}

/// `typlen` and `typalign`. `None`: a varlena.
fn layout(element: &DatumType) -> Option<(Option<usize>, usize)> {
    Some(match element {
        DatumType::Bool => (Some(1), 1),
        DatumType::Int2 => (Some(2), 2),
        DatumType::Int4 | DatumType::Oid | DatumType::Float4 | DatumType::Date | DatumType::Enum(_) => (Some(4), 4),
        DatumType::Int8 | DatumType::Float8 => (Some(8), 8),
        DatumType::Time | DatumType::Timestamp | DatumType::Timestamptz => (Some(8), 8),
        DatumType::Interval => (Some(16), 8),
        DatumType::Uuid => (Some(16), 1),
        DatumType::Array(_) => return None,
        _ => (None, 4),
    })
}

/// The value of a datum that holds no others.
fn value(datum_type: &DatumType, bytes: &[u8]) -> Option<Value> {
    let int8 = || Some(i64::from_le_bytes(bytes.try_into().ok()?));
    let int4 = || Some(i32::from_le_bytes(bytes.try_into().ok()?));
    Some(match datum_type {
        DatumType::Bool => match bytes {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return None,
        },
        DatumType::Int2 => Value::Int(i16::from_le_bytes(bytes.try_into().ok()?).into()),
        DatumType::Int4 => Value::Int(int4()?.into()),
        DatumType::Int8 => Value::Int(int8()?),
        DatumType::Oid => Value::Int(u32::from_le_bytes(bytes.try_into().ok()?).into()),
        DatumType::Float4 => Value::Float(f64::from(f32::from_le_bytes(bytes.try_into().ok()?)).to_bits()),
        DatumType::Float8 => Value::Float(u64::from_le_bytes(bytes.try_into().ok()?)),
        DatumType::Numeric => Value::Numeric(Arc::new(numeric(varlena(bytes)?)?)),
        DatumType::Text | DatumType::Bpchar => Value::Text(text(varlena(bytes)?)?),
        DatumType::Json => Value::Json(text(varlena(bytes)?)?),
        DatumType::Jsonb => Value::Jsonb(Arc::new(jsonb::read(varlena(bytes)?)?)),
        DatumType::Bytea => Value::Bytea(varlena(bytes)?.into()),
        DatumType::Uuid => Value::Uuid(bytes.try_into().ok()?),
        DatumType::Date => Value::Date(int4()?),
        DatumType::Time => Value::Time(int8()?),
        DatumType::Timestamp => Value::Timestamp(int8()?),
        DatumType::Timestamptz => Value::Timestamptz(int8()?),
        DatumType::Interval => interval(bytes)?,
        DatumType::Enum(_) | DatumType::Array(_) => return None,
    })
}

fn text(bytes: &[u8]) -> Option<Arc<str>> {
    std::str::from_utf8(bytes).ok().map(Arc::from)
}

/// What follows the length of a value of variable length, neither compressed nor elsewhere.
pub(super) fn varlena(bytes: &[u8]) -> Option<&[u8]> {
    let header = if bytes.first()? & 1 == 1 { 1 } else { 4 };
    if varlena_length(bytes)? != bytes.len() {
        return None;
    }
    bytes.get(header..)
}

/// The length of a value of variable length, header included.
pub(super) fn varlena_length(bytes: &[u8]) -> Option<usize> {
    let first = *bytes.first()?;
    let length = match first & 3 {
        0 => (u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) >> 2) as usize,
        1 | 3 if first != 1 => usize::from(first >> 1),
        _ => return None,
    };
    let header = if first & 1 == 1 { 1 } else { 4 };
    (length >= header).then_some(length)
}

fn interval(bytes: &[u8]) -> Option<Value> {
    let microseconds = i64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let days = i32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?);
    let months = i32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?);
    // 17 and newer: the infinities.
    let extreme = (i32::MAX, i32::MAX, i64::MAX) == (months, days, microseconds)
        || (i32::MIN, i32::MIN, i64::MIN) == (months, days, microseconds);
    (!extreme).then_some(Value::Interval(Interval { months, days, microseconds }))
}

/// `NumericData`: a header, then digits to the base of 10,000.
pub(super) fn numeric(body: &[u8]) -> Option<BigDecimal> {
    let header = u16::from_le_bytes(body.get(..2)?.try_into().ok()?);
    let (negative, scale, weight, digits) = match header & 0xC000 {
        0xC000 => return None,
        0x8000 => {
            let weight = i64::from(header & 0x3F) - i64::from(header & 0x40);
            (header & 0x2000 != 0, header >> 7 & 0x3F, weight, &body[2..])
        }
        sign => {
            let weight = i16::from_le_bytes(body.get(2..4)?.try_into().ok()?);
            (sign == 0x4000, header & 0x3FFF, i64::from(weight), &body[4..])
        }
    };
    if digits.len() % 2 != 0 {
        return None;
    }
    let mut whole = BigInt::from(0);
    let mut last = weight + 1;
    for digit in digits.chunks_exact(2) {
        let digit = u16::from_le_bytes(digit.try_into().ok()?);
        if digit > 9999 {
            return None;
        }
        whole = whole * 10_000 + digit;
        last -= 1;
    }
    if negative {
        whole = -whole;
    }
    // The last digit counts 10,000 to the power of `last`. The scale is never less than the digits need.
    Some(BigDecimal::new(whole, -4 * last).with_scale(scale.into()))
}

#[cfg(test)]
#[path = "constant_tests.rs"]
mod tests;
