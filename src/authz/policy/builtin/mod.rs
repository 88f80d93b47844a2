//! Postgres' own functions, by their fixed OIDs.

use super::{Failure, Value};
use crate::catalog::Oid;

/// A function of `pg_proc.dat`.
pub struct Builtin {
    pub oid: Oid,
    pub name: &'static str,
    pub strict: bool,
    /// What its result depends on beyond its arguments.
    pub depends: Depends,
    pub eval: fn(&[Value]) -> Result<Value, Failure>,
}

/// What whoever compiles a call has to make sure of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depends {
    Nothing,
    /// Text equality: the collation must be deterministic.
    DeterministicCollation,
    /// Order of text: the collation must be C.
    CCollation,
    /// The session's TimeZone must be UTC.
    Utc,
}

impl PartialEq for Builtin {
    fn eq(&self, other: &Builtin) -> bool {
        self.oid == other.oid
    }
}

impl std::fmt::Debug for Builtin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The function of this OID, if it is known.
pub fn function(_oid: Oid) -> Option<&'static Builtin> {
    None
}

/// The function of the operator of this OID (`pg_operator.dat`), if it is known.
pub fn operator(_oid: Oid) -> Option<&'static Builtin> {
    None
}
