//! The types whose values are understood.

use std::sync::Arc;

use crate::catalog::{Catalog, Oid, TypeKind};

/// `name`.
pub const NAME: Oid = 19;

/// How the text of a value is read and written. Domains are looked through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatumType {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    /// `text` and `varchar`; `name` and `"char"` are left out: they are shortened.
    Text,
    /// Trailing blanks do not count.
    Bpchar,
    Uuid,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Json,
    Jsonb,
    Bytea,
    /// The labels in their order.
    Enum(Arc<[String]>),
    Array(Box<DatumType>),
}

impl DatumType {
    /// `None`: values of this type are not understood.
    pub fn of(catalog: &Catalog, oid: Oid) -> Option<DatumType> {
        if let Some(built_in) = DatumType::built_in(oid) {
            return Some(built_in);
        }
        let pg_type = catalog.base_type(oid)?;
        match &pg_type.kind {
            TypeKind::Enum { labels, .. } => Some(DatumType::Enum(labels.iter().cloned().collect())),
            TypeKind::Array { element, .. } => {
                DatumType::of(catalog, *element).map(|element| DatumType::Array(Box::new(element)))
            }
            _ => DatumType::built_in(pg_type.oid),
        }
    }

    /// Of a column: names that are stored are as short as they become.
    pub fn of_column(catalog: &Catalog, oid: Oid) -> Option<DatumType> {
        if oid == NAME { Some(DatumType::Text) } else { DatumType::of(catalog, oid) }
    }

    /// By the fixed OIDs of `pg_type.dat`.
    pub fn built_in(oid: Oid) -> Option<DatumType> {
        let array = |element: DatumType| DatumType::Array(Box::new(element));
        Some(match oid {
            16 => DatumType::Bool,
            21 => DatumType::Int2,
            23 => DatumType::Int4,
            20 => DatumType::Int8,
            26 => DatumType::Oid,
            700 => DatumType::Float4,
            701 => DatumType::Float8,
            1700 => DatumType::Numeric,
            25 | 1043 => DatumType::Text,
            1042 => DatumType::Bpchar,
            2950 => DatumType::Uuid,
            1082 => DatumType::Date,
            1083 => DatumType::Time,
            1114 => DatumType::Timestamp,
            1184 => DatumType::Timestamptz,
            1186 => DatumType::Interval,
            114 => DatumType::Json,
            3802 => DatumType::Jsonb,
            17 => DatumType::Bytea,
            1000 => array(DatumType::Bool),
            1005 => array(DatumType::Int2),
            1007 => array(DatumType::Int4),
            1016 => array(DatumType::Int8),
            1028 => array(DatumType::Oid),
            1021 => array(DatumType::Float4),
            1022 => array(DatumType::Float8),
            1231 => array(DatumType::Numeric),
            1009 | 1015 => array(DatumType::Text),
            1014 => array(DatumType::Bpchar),
            2951 => array(DatumType::Uuid),
            1182 => array(DatumType::Date),
            1115 => array(DatumType::Timestamp),
            1185 => array(DatumType::Timestamptz),
            199 => array(DatumType::Json),
            3807 => array(DatumType::Jsonb),
            _ => return None,
        })
    }

    /// Whether equal values are equal as [`Value`](super::Value)s, byte by byte: what a hash index needs.
    pub fn hashes_as_it_compares(&self) -> bool {
        matches!(
            self,
            DatumType::Bool
                | DatumType::Int2
                | DatumType::Int4
                | DatumType::Int8
                | DatumType::Oid
                | DatumType::Text
                | DatumType::Uuid
                | DatumType::Date
                | DatumType::Time
                | DatumType::Timestamp
                | DatumType::Timestamptz
                | DatumType::Enum(_)
        )
    }
}
