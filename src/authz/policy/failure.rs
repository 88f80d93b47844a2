//! Why there is no answer.

use std::borrow::Cow;

use crate::catalog::{ColumnIndex, Oid};
use crate::wal::pgoutput::RelationId;

/// An expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Postgres raises an error here. A SELECT fails with it, so the row is not shown.
    Error(Cow<'static, str>),
    /// What Postgres would say is not known: it has to be asked.
    Undecided(Undecided),
}

/// What an evaluation lacked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Undecided {
    /// The row image does not have the column (unchanged TOAST, a generated column, an old row of which only the key
    /// was sent).
    ColumnMissing(ColumnIndex),
    /// The tracked table is not loaded.
    NotLoaded(RelationId),
    /// A value or an operation whose result depends on what is not known here: locale, time zone, an unusual spelling.
    Value(&'static str),
}

impl Failure {
    pub fn undecided(why: &'static str) -> Failure {
        Failure::Undecided(Undecided::Value(why))
    }
}

/// Why a policy is left to Postgres: told to the DBA by `check` and `explain`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCompiled {
    #[error("its expression tree cannot be read: {0}")]
    Tree(String),
    /// A node of the tree, by Postgres' name.
    #[error("{0} is not known here")]
    Node(String),
    #[error("operator {0} is not known here")]
    Operator(Oid),
    #[error("function {0} is not known here")]
    Function(Oid),
    /// A function of the database, by its SQL name, and why it is not looked into.
    #[error("function {name}: {why}")]
    Body { name: String, why: Cow<'static, str> },
    #[error("values of type {0} are not known here")]
    Type(Oid),
    #[error("it depends on {0}")]
    Setting(String),
    #[error("it compares text by a collation other than C")]
    Collation,
    /// A sub-query reads a table that is not followed, or cannot be.
    #[error("table {name}: {why}")]
    Table { relation: RelationId, name: String, why: Cow<'static, str> },
    /// Nothing is to be asked: Postgres raises an error for every row.
    #[error("it always fails: {0}")]
    Fails(String),
    /// Postgres' planner works out constants, and may stumble where no row would have come by.
    #[error("a constant expression in it fails")]
    Constant,
    /// A part of a sub-query, in SQL's words.
    #[error("a sub-query with {0}")]
    Query(Cow<'static, str>),
}
