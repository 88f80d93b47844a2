//! `jsonb` values.

use std::sync::Arc;

/// What `jsonb` keeps of a document: keys sorted (shorter first, then by bytes), the last of equal keys, numbers as
/// `numeric`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Json {
    Null,
    Bool(bool),
    Number(bigdecimal::BigDecimal),
    String(Arc<str>),
    Array(Vec<Json>),
    Object(Vec<(Arc<str>, Json)>),
}
