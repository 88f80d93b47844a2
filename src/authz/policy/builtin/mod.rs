//! Postgres' own functions, by their fixed OIDs.
//!
//! Each gives Postgres' own result, Postgres' error, or [`Failure::Undecided`] where the result depends on what is not
//! known here. Functions whose result nothing here can know (`random`, `clock_timestamp`) are absent on purpose; so are
//! regular expressions, whose dialect is Postgres' own.

mod arithmetic;
mod array;
mod cast;
mod compare;
mod elements;
mod json;
mod jsonb;
mod moment;
mod numeric;
mod operators;
mod text;

use std::collections::HashMap;
use std::sync::LazyLock;

use foldhash::fast::RandomState;

pub use array::ACCUMULATED;
pub(super) use compare::compare;

use super::{Failure, Value};
use crate::catalog::Oid;

/// A function of `pg_proc.dat`.
pub struct Builtin {
    pub oid: Oid,
    pub name: &'static str,
    pub strict: bool,
    /// What its result depends on beyond its arguments.
    pub depends: Depends,
    /// Some arguments make it raise an error: it matters whether it is evaluated at all.
    pub can_fail: bool,
    pub eval: Eval,
    /// The same for a function that compares two, which need not be copied for it.
    pub pair: Option<Pair>,
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

pub type Eval = fn(&[Value]) -> Result<Value, Failure>;
pub type Pair = fn(&Value, &Value) -> Result<Value, Failure>;

impl Builtin {
    /// A strict function that depends on nothing and may fail, as most do.
    const fn new(oid: Oid, name: &'static str, eval: Eval) -> Builtin {
        Builtin { oid, name, strict: true, depends: Depends::Nothing, can_fail: true, eval, pair: None }
    }

    /// Never raises an error.
    const fn total(oid: Oid, name: &'static str, eval: Eval) -> Builtin {
        Builtin { can_fail: false, ..Builtin::new(oid, name, eval) }
    }

    /// Is called with NULLs, too.
    const fn not_strict(self) -> Builtin {
        Builtin { strict: false, ..self }
    }

    const fn depends(self, depends: Depends) -> Builtin {
        Builtin { depends, ..self }
    }
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

const TABLES: [&[Builtin]; 10] = [
    compare::TABLE,
    arithmetic::TABLE,
    numeric::TABLE,
    text::TABLE,
    moment::TABLE,
    array::TABLE,
    cast::TABLE,
    json::TABLE,
    jsonb::TABLE,
    elements::TABLE,
];

static FUNCTIONS: LazyLock<HashMap<Oid, &'static Builtin, RandomState>> =
    LazyLock::new(|| all().map(|function| (function.oid, function)).collect());

static OPERATORS: LazyLock<HashMap<Oid, &'static Builtin, RandomState>> = LazyLock::new(|| {
    let known = |(operator, code): &(Oid, Oid)| Some((*operator, *FUNCTIONS.get(code)?));
    operators::TABLE.iter().filter_map(known).collect()
});

/// The function of this OID, if it is known. One that returns a set gives its rows as an array, which is what
/// [`Source::Elements`](super::Source) takes: whoever compiles looks at `funcretset`.
pub fn function(oid: Oid) -> Option<&'static Builtin> {
    FUNCTIONS.get(&oid).copied()
}

/// The function of the operator of this OID (`pg_operator.dat`), if it is known.
pub fn operator(oid: Oid) -> Option<&'static Builtin> {
    OPERATORS.get(&oid).copied()
}

/// All functions that are known.
pub fn all() -> impl Iterator<Item = &'static Builtin> {
    TABLES.into_iter().flatten()
}

/// An error of Postgres.
fn error<T>(message: &'static str) -> Result<T, Failure> {
    Err(Failure::Error(message.into()))
}

/// Arguments of other types than declared: the compiler's mistake, and Postgres' to answer.
fn unexpected<T>() -> Result<T, Failure> {
    Err(Failure::undecided("an argument of an unexpected type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_function_is_listed_twice() {
        assert_eq!(FUNCTIONS.len(), all().count());
    }

    #[test]
    fn operators_lead_to_functions() {
        assert_eq!(operator(96).map(|function| function.name), Some("int4eq"));
        assert_eq!(operator(98).map(|function| function.name), Some("texteq"));
        assert_eq!(operator(3246).map(|function| function.name), Some("jsonb_contains"));
        assert_eq!(operator(641).map(|function| function.name), None, "regular expressions");
    }
}
