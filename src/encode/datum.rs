//! Text output of a type -> what `to_jsonb` of the value gives.
//!
//! The stream's session settings are pinned (UTC, ISO dates, `extra_float_digits` 3, hex bytea, postgres intervals,
//! `lc_monetary` C), so a type's text is known in form. The type is looked at once, into an [`Encoding`]; writing a
//! value then needs no catalog.
//!
//! Known gap: an attribute added to or dropped from a composite type between the row and its commit leaves a text
//! that does not fit the catalog's attributes. That is an error, not a guess.

use crate::catalog::{Catalog, ColumnSet, Oid, Relation, TypeKind};
use crate::change::Layout;

use super::array::{ArrayEncoding, write_vector};
use super::composite::CompositeEncoding;
use super::error::DatumError;
use super::escape::write_string;
use super::jsonb::write_jsonb;
use super::number::{Number, is_plain};
use super::timestamp::{write_timestamp, write_timestamptz};

/// Types nest as deep as somebody defines them; beyond this Postgres is asked, so that no catalog can fill the stack.
const TYPE_DEPTH_MAX: u32 = 32;

/// OIDs of built-in types that `to_jsonb` treats apart (`pg_type.dat`).
mod oid {
    use crate::catalog::Oid;

    pub(super) const BOOL: Oid = 16;
    pub(super) const BYTEA: Oid = 17;
    pub(super) const INT8: Oid = 20;
    pub(super) const INT2: Oid = 21;
    pub(super) const INT2VECTOR: Oid = 22;
    pub(super) const INT4: Oid = 23;
    pub(super) const OIDVECTOR: Oid = 30;
    pub(super) const JSON: Oid = 114;
    pub(super) const FLOAT4: Oid = 700;
    pub(super) const FLOAT8: Oid = 701;
    pub(super) const TIMESTAMP: Oid = 1114;
    pub(super) const TIMESTAMPTZ: Oid = 1184;
    pub(super) const NUMERIC: Oid = 1700;
    pub(super) const JSONB: Oid = 3802;
}

/// How values of a type are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoding {
    Bool,
    Integer,
    /// `float4`, `float8` and `numeric`.
    Number {
        /// NaN and infinities are `null` in a column of these very types (wal2json writes them so, PROTOCOL 4.3) and
        /// strings anywhere else, as `to_jsonb` has them.
        not_finite_is_null: bool,
    },
    /// The type's output as a string: every type that is not listed, `oid` and `bytea` within others included.
    Text,
    /// A column of type `bytea`: hexadecimal without `\x` (PROTOCOL 4.3).
    BareHex,
    Timestamp,
    TimestampTz,
    Json,
    /// The stream's text is the `jsonb`'s own and passes as it is.
    Jsonb,
    /// `int2vector`, `oidvector`.
    Vector(Box<Encoding>),
    Array(Box<ArrayEncoding>),
    Composite(Box<CompositeEncoding>),
    /// A cast to `json` decides; see [`columns_only_postgres_encodes`].
    OnlyPostgres,
}

impl Encoding {
    /// As `to_jsonb` has it. A type that the catalog does not have (dropped since) is written as a string, which is
    /// what its text is: nothing is hidden by that, and nothing else is known of it.
    pub fn new(catalog: &Catalog, type_oid: Oid) -> Encoding {
        Encoding::nested(catalog, type_oid, 0)
    }

    /// As a column of a change: `to_jsonb` but for the two rules that wal2json brought in. They hold for columns of
    /// the very types and not for domains over them, since wal2json looks at the column's own type.
    pub fn of_column(catalog: &Catalog, type_oid: Oid) -> Encoding {
        match type_oid {
            oid::FLOAT4 | oid::FLOAT8 | oid::NUMERIC => Encoding::Number { not_finite_is_null: true },
            oid::BYTEA => Encoding::BareHex,
            _ => Encoding::new(catalog, type_oid),
        }
    }

    fn nested(catalog: &Catalog, type_oid: Oid, depth: u32) -> Encoding {
        match type_oid {
            oid::BOOL => return Encoding::Bool,
            oid::INT2 | oid::INT4 | oid::INT8 => return Encoding::Integer,
            oid::FLOAT4 | oid::FLOAT8 | oid::NUMERIC => return Encoding::Number { not_finite_is_null: false },
            oid::TIMESTAMP => return Encoding::Timestamp,
            oid::TIMESTAMPTZ => return Encoding::TimestampTz,
            oid::JSON => return Encoding::Json,
            oid::JSONB => return Encoding::Jsonb,
            oid::INT2VECTOR => return Encoding::Vector(Box::new(Encoding::Integer)),
            oid::OIDVECTOR => return Encoding::Vector(Box::new(Encoding::Text)),
            _ if depth > TYPE_DEPTH_MAX => return Encoding::OnlyPostgres,
            _ => {}
        }
        let Some(pg_type) = catalog.types.get(&type_oid) else { return Encoding::Text };
        match &pg_type.kind {
            TypeKind::Domain { base } => Encoding::nested(catalog, *base, depth + 1),
            TypeKind::Array { element, delimiter } => match Encoding::nested(catalog, *element, depth + 1) {
                Encoding::OnlyPostgres => Encoding::OnlyPostgres,
                element => Encoding::Array(Box::new(ArrayEncoding { element, delimiter: *delimiter })),
            },
            TypeKind::Composite { attributes } => {
                let encoded = attributes
                    .iter()
                    .map(|(name, type_oid)| (name.as_str(), Encoding::nested(catalog, *type_oid, depth + 1)));
                let composite = CompositeEncoding::new(encoded);
                let only_postgres = composite.encodings().any(|encoding| *encoding == Encoding::OnlyPostgres);
                if only_postgres { Encoding::OnlyPostgres } else { Encoding::Composite(Box::new(composite)) }
            }
            // `to_jsonb` looks for a cast only here: not for arrays and composites, and behind domains.
            _ if pg_type.has_json_cast => Encoding::OnlyPostgres,
            _ => Encoding::Text,
        }
    }

    /// Appends the JSON of a value's text. Where it fails, what was appended so far is to be cut off.
    ///
    /// That the text is UTF-8 is not looked at: the whole of a change is checked at once.
    pub fn write(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), DatumError> {
        match self {
            Encoding::Bool => match text {
                b"t" => out.extend_from_slice(b"true"),
                b"f" => out.extend_from_slice(b"false"),
                _ => return Err(malformed("bool")),
            },
            Encoding::Integer => {
                let digits = text.strip_prefix(b"-").unwrap_or(text);
                // JSON has no numbers that begin with a 0, and Postgres prints none.
                let has_zero_in_front = digits.len() > 1 && digits[0] == b'0';
                if digits.is_empty() || has_zero_in_front || !digits.iter().all(u8::is_ascii_digit) {
                    return Err(malformed("integer"));
                }
                out.extend_from_slice(text);
            }
            Encoding::Number { .. } if is_plain(text) => out.extend_from_slice(text),
            Encoding::Number { not_finite_is_null } => match text {
                b"NaN" | b"Infinity" | b"-Infinity" if *not_finite_is_null => out.extend_from_slice(b"null"),
                b"NaN" | b"Infinity" | b"-Infinity" => write_string(text, out),
                _ => {
                    let number = Number::of(text).ok_or(malformed("number"))?;
                    number.check().map_err(DatumError::NotJsonb)?;
                    number.write(out);
                }
            },
            Encoding::Text => write_string(text, out),
            Encoding::BareHex => write_string(text.strip_prefix(b"\\x").ok_or(malformed("bytea"))?, out),
            Encoding::Timestamp => write_timestamp(text, out),
            Encoding::TimestampTz => write_timestamptz(text, out),
            Encoding::Json => write_jsonb(text, out)?,
            Encoding::Jsonb => out.extend_from_slice(text),
            Encoding::Vector(element) => write_vector(element, text, out)?,
            Encoding::Array(array) => array.write(text, out)?,
            Encoding::Composite(composite) => composite.write(text, out)?,
            Encoding::OnlyPostgres => return Err(DatumError::OnlyPostgres),
        }
        Ok(())
    }

    /// Appends what Postgres' `to_jsonb` gave for a column, with the column rules applied to it.
    pub fn write_computed(&self, jsonb: &str, out: &mut Vec<u8>) {
        match self {
            Encoding::Number { not_finite_is_null: true } if jsonb.starts_with('"') => out.extend_from_slice(b"null"),
            Encoding::BareHex if jsonb.starts_with(r#""\\x"#) => {
                out.push(b'"');
                out.extend_from_slice(&jsonb.as_bytes()[r#""\\x"#.len()..]);
            }
            _ => out.extend_from_slice(jsonb.as_bytes()),
        }
    }
}

fn malformed(expected: &'static str) -> DatumError {
    DatumError::Malformed { expected, offset: 0 }
}

/// Appends the JSON of a column's text. Looks the type up every time: for many rows keep a [`super::RecordShape`].
pub fn write_json(catalog: &Catalog, type_oid: Oid, text: &[u8], out: &mut Vec<u8>) -> Result<(), DatumError> {
    std::str::from_utf8(text).map_err(|_| DatumError::NotUtf8)?;
    let start = out.len();
    Encoding::of_column(catalog, type_oid).write(text, out).inspect_err(|_| out.truncate(start))
}

/// The columns whose JSON has to be asked of Postgres, for every row of this layout: those with a cast to `json`
/// anywhere inside their type, and stored generated ones that the stream does not carry (before 18).
pub fn columns_only_postgres_encodes(catalog: &Catalog, relation: &Relation, layout: &Layout) -> ColumnSet {
    let only_postgres = |index: usize| {
        let column = &relation.columns[index];
        let carried = layout.positions.get(index).copied().flatten().is_some();
        match carried {
            true => Encoding::of_column(catalog, column.type_oid) == Encoding::OnlyPostgres,
            false => column.generated.as_ref().is_some_and(|generated| generated.stored),
        }
    };
    relation.indices().filter(|column| only_postgres(usize::from(column.0))).collect()
}

#[cfg(test)]
mod tests;
