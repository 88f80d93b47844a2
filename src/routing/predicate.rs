//! A filter bound to a table: decided here where that is provably what Postgres says, else with SQL at hand.

use smallvec::SmallVec;
use std::sync::Arc;

use super::bytewise::Form;
use super::check::{Check, Truth};
use super::sql_test::SqlTest;
use crate::catalog::{ColumnIndex, ColumnSet};
use crate::change::{Change, OldRow, Row};
use crate::wal::pgoutput::{Datum, RelationId};

/// All clauses of one filter. Equal predicates are shared by the index and evaluated once per change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Predicate {
    pub(super) relation: RelationId,
    /// In the order of evaluation; most have one.
    pub(super) tests: SmallVec<[Test; 1]>,
    /// The test that the index finds the predicate by.
    pub(super) bucketed: Option<u16>,
    /// Of the clauses that may be Postgres' to decide.
    sql: Option<Box<SqlTest>>,
}

/// One clause.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Test {
    pub(super) column: ColumnIndex,
    pub(super) negate: bool,
    /// The clause is true of NULL.
    pub(super) passes_null: bool,
    pub(super) check: Check,
}

/// A clause on its way into a predicate.
pub(super) struct BoundClause {
    pub(super) test: Test,
    pub(super) sql: String,
    /// How few rows an equality lets through, by the type of its column; larger is better.
    pub(super) selectivity: u8,
}

/// A test that is true of these values only.
pub(super) struct Equality<'a> {
    pub(super) column: ColumnIndex,
    pub(super) form: Form,
    /// Sorted and distinct.
    pub(super) values: &'a [Arc<[u8]>],
}

/// What a predicate says of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Matched,
    NotMatched,
    /// What can be said here passes; [`Predicate::sql`] is to be asked.
    Undecided,
}

/// The row that filters look at, and where to find what an UPDATE left in TOAST.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) row: &'a Row,
    /// The whole old row, if the stream has it.
    pub(super) fallback: Option<&'a Row>,
}

impl<'a> Image<'a> {
    pub(super) fn datum(self, column: ColumnIndex) -> Datum<'a> {
        match (self.row.datum(column), self.fallback) {
            (Datum::UnchangedToast | Datum::Missing, Some(fallback)) => fallback.datum(column),
            (datum, _) => datum,
        }
    }
}

impl Predicate {
    /// A conjunction of at least one clause. Clauses are put in a canonical order, so that the same filter written
    /// differently is the same predicate.
    pub(super) fn new(relation: RelationId, mut clauses: Vec<BoundClause>) -> Predicate {
        // What Postgres must be asked about comes last: the others may spare the question.
        clauses.sort_by(|a, b| (a.test.check.may_ask(), &a.sql).cmp(&(b.test.check.may_ask(), &b.sql)));
        clauses.dedup_by(|a, b| a.sql == b.sql);
        let best = clauses.iter().enumerate().filter(|(_, clause)| clause.test.equality().is_some());
        let bucketed = best.max_by_key(|(_, clause)| clause.selectivity).map(|(at, _)| at as u16);
        let asked: Vec<&BoundClause> = clauses.iter().filter(|clause| clause.test.check.may_ask()).collect();
        let sql = (!asked.is_empty()).then(|| {
            let parts: Vec<String> = asked.iter().map(|clause| format!("({})", clause.sql)).collect();
            let columns: ColumnSet = asked.iter().map(|clause| clause.test.column).collect();
            Box::new(SqlTest { expression: parts.join(" and "), columns })
        });
        Predicate { relation, tests: clauses.into_iter().map(|clause| clause.test).collect(), bucketed, sql }
    }

    /// What to ask Postgres where the index could not decide.
    pub fn sql(&self) -> Option<&SqlTest> {
        self.sql.as_deref()
    }

    /// Whether the index finds it by a value.
    pub fn has_equality(&self) -> bool {
        self.bucketed.is_some()
    }

    /// The columns that it looks at.
    pub fn columns(&self) -> impl Iterator<Item = ColumnIndex> + '_ {
        self.tests.iter().map(|test| test.column)
    }

    /// What it says of a change.
    pub fn test(&self, change: &Change) -> Outcome {
        let fallback = match (&change.new, &change.old) {
            (Some(_), OldRow::Full(row)) => Some(row),
            _ => None,
        };
        match change.filtered_row() {
            Some(row) => self.evaluate(Image { row, fallback }, false),
            // Without any row image nothing can be said of a filter.
            None => Outcome::NotMatched,
        }
    }

    /// The equality by which the index finds this predicate.
    pub(super) fn equality(&self) -> Option<Equality<'_>> {
        self.tests[usize::from(self.bucketed?)].equality()
    }

    /// Evaluates all tests but the bucketed one if the caller has found the predicate by it.
    pub(super) fn evaluate(&self, image: Image<'_>, found_by_bucket: bool) -> Outcome {
        let skipped = if found_by_bucket { self.bucketed } else { None };
        let mut outcome = Outcome::Matched;
        for (at, test) in self.tests.iter().enumerate() {
            if skipped == Some(at as u16) {
                continue;
            }
            match test.decide(image) {
                Truth::True => {}
                Truth::Ask => outcome = Outcome::Undecided,
                Truth::False | Truth::Unknown => return Outcome::NotMatched,
            }
        }
        outcome
    }
}

impl Test {
    /// A value that the image does not have matches nothing: neither it nor its absence can be vouched for.
    fn decide(&self, image: Image<'_>) -> Truth {
        match image.datum(self.column) {
            Datum::Missing | Datum::UnchangedToast => Truth::Unknown,
            Datum::Null => self.passes_null.into(),
            Datum::Text(text) if self.negate => self.check.decide(text).negated(),
            Datum::Text(text) => self.check.decide(text),
        }
    }

    fn equality(&self) -> Option<Equality<'_>> {
        let (form, values) = match &self.check {
            _ if self.negate || self.passes_null => return None,
            Check::Equal { form, value } => (*form, std::slice::from_ref(value)),
            Check::OneOf { form, values, .. } => (*form, &**values),
            _ => return None,
        };
        Some(Equality { column: self.column, form, values })
    }
}
