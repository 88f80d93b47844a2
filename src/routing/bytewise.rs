//! Types whose values are equal exactly where their texts are.

use crate::catalog::{Collation, PgType, TypeKind};

/// Which part of a value's text decides equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// All of it.
    Whole,
    /// `numeric`: without trailing zeros behind the point; `1.50` equals `1.5`.
    Decimal,
    /// `char(n)`: without trailing spaces.
    Unpadded,
}

impl Form {
    /// The form of a type, or `None` where equal values may have different texts (`interval`, `jsonb`, `float8` with
    /// its two zeros) or where nobody has proven that they have not.
    pub(super) fn of(base: &PgType, collation: Option<Collation>) -> Option<Form> {
        if matches!(base.kind, TypeKind::Enum { .. }) {
            return Some(Form::Whole);
        }
        if base.schema != "pg_catalog" {
            return None;
        }
        // Under a non-deterministic collation different texts may be equal.
        let deterministic = collation.is_some_and(|collation| collation.deterministic);
        match base.name.as_str() {
            "text" | "varchar" | "name" => deterministic.then_some(Form::Whole),
            "bpchar" => deterministic.then_some(Form::Unpadded),
            "numeric" => Some(Form::Decimal),
            "bool" | "bytea" | "int2" | "int4" | "int8" | "oid" | "xid" | "xid8" | "cid" | "tid" | "uuid" | "date"
            | "time" | "timetz" | "timestamp" | "timestamptz" | "inet" | "cidr" | "macaddr" | "macaddr8" | "pg_lsn"
            | "bit" | "varbit" | "int4range" | "int8range" | "daterange" => Some(Form::Whole),
            _ => None,
        }
    }

    /// The deciding part of a text that Postgres wrote. Always a slice: lookups need no copy.
    pub(super) fn of_text(self, text: &[u8]) -> &[u8] {
        match self {
            Form::Whole => text,
            Form::Unpadded => trim_end(text, b' '),
            Form::Decimal if text.contains(&b'.') => trim_end(trim_end(text, b'0'), b'.'),
            Form::Decimal => text,
        }
    }
}

fn trim_end(mut text: &[u8], byte: u8) -> &[u8] {
    while let [rest @ .., last] = text
        && *last == byte
    {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_behind_the_point_and_padding_do_not_count() {
        for (text, expected) in [("1.50", "1.5"), ("1.00", "1"), ("100", "100"), ("0.0", "0"), ("NaN", "NaN")] {
            assert_eq!(Form::Decimal.of_text(text.as_bytes()), expected.as_bytes());
        }
        assert_eq!(Form::Unpadded.of_text(b"ab   "), b"ab");
        assert_eq!(Form::Whole.of_text(b"ab "), b"ab ");
    }
}
