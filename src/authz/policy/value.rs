//! Values, as SQL compares them.

use std::sync::Arc;

use super::json::Json;

/// A value of one of the [`DatumType`](super::DatumType)s. The type is the expression's, not the value's.
///
/// Equality and hash are those of Rust, field by field; they are SQL's where
/// [`DatumType::hashes_as_it_compares`](super::DatumType::hashes_as_it_compares) says so. Everything else compares
/// through the functions in [`builtin`](super::builtin).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    /// `int2`, `int4`, `int8` and `oid`.
    Int(i64),
    /// `float4` widened, and `float8`, by their bits.
    Float(u64),
    /// Never NaN nor infinite: those are undecided.
    Numeric(Arc<bigdecimal::BigDecimal>),
    /// `text`, `varchar`, `bpchar` (with its blanks), and the labels of enums.
    Text(Arc<str>),
    Uuid([u8; 16]),
    /// Days since 2000-01-01.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// Microseconds since 2000-01-01 00:00. The infinities are `i64::MIN` and `i64::MAX`, as in Postgres.
    Timestamp(i64),
    /// The same, in UTC.
    Timestamptz(i64),
    Interval(Interval),
    /// As it was written.
    Json(Arc<str>),
    Jsonb(Arc<Json>),
    Bytea(Arc<[u8]>),
    /// Of one dimension, or empty; others are undecided.
    Array(Arc<[Value]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub microseconds: i64,
}

impl Value {
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Whether they are the same down to how they are written: `1.0` and `1.00` are equal, but not this.
    pub fn is_identical(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Numeric(a), Value::Numeric(b)) => a.as_bigint_and_exponent() == b.as_bigint_and_exponent(),
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.is_identical(b))
            }
            // Numbers inside keep their digits as well.
            (Value::Jsonb(a), Value::Jsonb(b)) => a == b && format!("{a:?}") == format!("{b:?}"),
            (a, b) => a == b,
        }
    }

    pub fn text(text: &str) -> Value {
        Value::Text(text.into())
    }
}
