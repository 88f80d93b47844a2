//! Functions that policies call.

use super::{AclItem, Oid};

/// A row of `pg_proc`. Only functions of users and extensions that policies call, directly or from other functions,
/// are in the catalog: built-in ones have fixed OIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
    /// Types of the input arguments.
    pub arguments: Vec<Oid>,
    pub argument_names: Vec<String>,
    /// `proargdefaults::text`, the trees of the last arguments' defaults.
    pub defaults: Option<String>,
    pub result: Oid,
    pub returns_set: bool,
    /// `sql`, `plpgsql`, `c`, ...
    pub language: String,
    pub volatility: Volatility,
    pub strict: bool,
    pub security_definer: bool,
    pub owner: Oid,
    /// `SET` clauses, `name=value`.
    pub settings: Vec<String>,
    /// `prosrc`. Not validated by anybody: under `check_function_bodies = off` it may be any text.
    pub source: String,
    /// `prosqlbody::text`, the tree of a SQL-standard body.
    pub body: Option<String>,
    /// `EXECUTE` granted to.
    pub execute: Vec<AclItem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}
