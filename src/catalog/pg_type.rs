//! Data types.

use super::Oid;

/// A row of `pg_type`, with what the JSON of a value and the binding of a filter depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgType {
    pub oid: Oid,
    /// `pg_namespace.nspname`.
    pub schema: String,
    /// `pg_type.typname`: what goes into an event's `columns`.
    pub name: String,
    /// `regtype::text` under an empty search_path: what goes into SQL and, for built-in types, into messages.
    pub sql_name: String,
    pub kind: TypeKind,
    /// `to_jsonb` uses a cast from this type to `json` (hstore): only Postgres can turn it to JSON.
    pub has_json_cast: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    Base,
    /// Labels in `enumsortorder`, with their OIDs in `pg_enum`: constants of the type are such OIDs. Documents of
    /// earlier setups have none.
    Enum {
        labels: Vec<String>,
        label_oids: Vec<Oid>,
    },
    Domain {
        base: Oid,
    },
    /// `delimiter` is the element type's `typdelim` (`;` for box, `,` for all others).
    Array {
        element: Oid,
        delimiter: u8,
    },
    /// Attributes that are not dropped, in order: name and type.
    Composite {
        attributes: Vec<(String, Oid)>,
    },
    Range,
    Multirange,
    Pseudo,
}
