//! What the oracle is asked, and what it answers.

use std::sync::Arc;

use super::super::row_text::RowText;
use super::super::{Identity, OraclePlan, TopicQuestion};
use super::error::OracleError;
use crate::catalog::{ColumnIndex, ColumnSet, Relation};
use crate::routing::CastError;

/// Something about row images of one table that only Postgres can say.
#[derive(Clone, Debug)]
pub struct Question {
    /// The transaction that the rows are from. A streamed transaction need not be visible to other sessions yet: the
    /// answer counts only if it was given by a snapshot that sees this one.
    pub xid: Option<u32>,
    pub relation: Arc<Relation>,
    pub asked: Asked,
    pub rows: Vec<RowText>,
}

#[derive(Clone, Debug)]
pub enum Asked {
    /// May this identity see the rows?
    Policy { plan: Arc<OraclePlan>, identity: Arc<Identity> },
    /// The same of a private channel's rows, for somebody who asks about its topic with these headers.
    Channel { plan: Arc<OraclePlan>, question: Arc<TopicQuestion> },
    /// Does SQL hold for the rows? Asked as the role, without its policies.
    Filter {
        role: String,
        expression: String,
        /// The columns it reads; `None`: the whole row.
        columns: Option<ColumnSet>,
    },
    /// `to_jsonb` of these columns. Any role that may use the table's schema gives the same answer.
    Json { role: String, columns: Vec<ColumnIndex> },
}

impl Asked {
    pub fn role(&self) -> &str {
        match self {
            Asked::Policy { identity, .. } => &identity.role,
            Asked::Channel { question, .. } => &question.identity.role,
            Asked::Filter { role, .. } | Asked::Json { role, .. } => role,
        }
    }
}

/// One answer per row, in the order of the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Verdicts(Vec<Verdict>),
    /// By row; `None`: it could not be turned into JSON, or its image lacks a column.
    Json(Vec<Option<JsonRow>>),
}

/// By column; `None`: SQL NULL.
pub type JsonRow = Vec<Option<Box<str>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Allowed,
    Denied,
    /// Could not be evaluated for this row: an error was raised, or the image lacks what is read. Denies.
    Failed,
}

impl Verdict {
    pub fn is_allowed(self) -> bool {
        self == Verdict::Allowed
    }
}

/// Why there is no canonical text of a filter's value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CastFailure {
    /// Postgres does not take it.
    #[error(transparent)]
    Refused(CastError),
    #[error(transparent)]
    Unanswered(#[from] OracleError),
}
