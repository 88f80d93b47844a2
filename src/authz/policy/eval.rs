//! Programs, evaluated.
//!
//! The answer is that of a SELECT of the one row: an error hides it as `false` does.

mod expression;
mod fallible;
mod query;
mod row;

use expression::{Env, Evaluation, evaluate};
pub use row::{Row, RowTypes, RowValues};
use smallvec::SmallVec;

use super::{Clause, Expr, Failure, Program, Value};
use crate::authz::policy::failure::Undecided;
use crate::authz::tracked::{Moment, Tables};
use crate::catalog::ColumnIndex;

/// Whose question it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person<'a> {
    /// What `SET ROLE` would name.
    pub role: &'a str,
    /// The setting `request.jwt.claims`.
    pub claims: &'a str,
    /// Where a private channel is asked about: then more settings are there.
    pub channel: Option<ChannelSettings<'a>>,
}

/// The settings that a question about a private channel comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelSettings<'a> {
    /// `realtime.topic`.
    pub topic: &'a str,
    /// `request.headers`.
    pub headers: &'a str,
}

/// What of a program depends on the person alone. People with equal slots get equal answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slots(SmallVec<[Result<Value, Failure>; 1]>);

impl Slots {
    pub fn get(&self, slot: u16) -> Option<&Result<Value, Failure>> {
        self.0.get(usize::from(slot))
    }

    /// Whether they give equal answers for sure: equal numbers may be written in different ways.
    pub fn are_identical(&self, other: &Slots) -> bool {
        let is_same = |(a, b): (&Result<Value, Failure>, &Result<Value, Failure>)| match (a, b) {
            (Ok(a), Ok(b)) => a.is_identical(b),
            (a, b) => a == b,
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(is_same)
    }

    /// None of them is an error, or undecided.
    pub fn are_known(&self) -> bool {
        self.0.iter().all(Result::is_ok)
    }
}

/// A row for expressions that read none.
pub(super) struct NoRow;

impl Row for NoRow {
    fn value(&self, column: ColumnIndex) -> Result<&Value, Failure> {
        Err(Failure::Undecided(Undecided::ColumnMissing(column)))
    }
}

impl Program {
    /// Works out the slots, each with those before it.
    pub fn slots_of(&self, person: Person<'_>) -> Slots {
        let tables = Tables::default();
        let mut slots = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let evaluation = Evaluation {
                row: &NoRow,
                slots: &slots,
                tables: &tables,
                moment: Moment::After,
                now: None,
                person: Some(person),
            };
            let value = evaluate(slot, Env::new(&evaluation)).map(|value| value.into_owned());
            slots.push(value);
        }
        Slots(slots.into_iter().collect())
    }

    /// Whether the person may see the row. `now`: microseconds since 2000-01-01, in UTC.
    ///
    /// What is undecided only counts where it decides: a row that one restrictive clause hides is hidden whatever
    /// another one would say.
    pub fn decide(
        &self,
        row: &dyn Row,
        slots: &Slots,
        tables: &Tables,
        moment: Moment,
        now: i64,
    ) -> Result<bool, Undecided> {
        let evaluation = Evaluation { row, slots: &slots.0, tables, moment, now: Some(now), person: None };
        let mut undecided = None;
        for slot in &self.eager {
            match slots.get(*slot) {
                Some(Err(Failure::Error(_))) => return Ok(false),
                Some(Err(Failure::Undecided(why))) => undecided = undecided.or_else(|| Some(why.clone())),
                Some(Ok(_)) | None => {}
            }
        }
        for clause in self.clauses.iter().filter(|clause| !clause.permissive) {
            match clause.decide(&evaluation) {
                Ok(Some(true)) => {}
                Ok(_) | Err(Failure::Error(_)) => return Ok(false),
                Err(Failure::Undecided(why)) => undecided = undecided.or(Some(why)),
            }
        }
        let sure = |undecided: Option<Undecided>| undecided.map_or(Ok(true), Err);
        for clause in self.clauses.iter().filter(|clause| clause.permissive) {
            match clause.decide(&evaluation) {
                Ok(Some(true)) => return sure(undecided),
                Ok(_) => {}
                Err(Failure::Error(_)) => return Ok(false),
                // It could be true, and then no other one would be looked at.
                Err(Failure::Undecided(why)) => return Err(undecided.unwrap_or(why)),
            }
        }
        Ok(false)
    }

    /// The same for a row of which nobody can look away: an error counts, and so does whatever is undecided before it.
    /// `checked`: as a new row is checked, with the permissive policies first.
    pub fn verdict(
        &self,
        row: &dyn Row,
        slots: &Slots,
        tables: &Tables,
        now: i64,
        checked: bool,
    ) -> Result<bool, Failure> {
        let evaluation =
            Evaluation { row, slots: &slots.0, tables, moment: Moment::After, now: Some(now), person: None };
        for slot in &self.eager {
            if let Some(Err(failure)) = slots.get(*slot) {
                return Err(failure.clone());
            }
        }
        let mut clauses = self.clauses.iter().filter(|clause| clause.permissive);
        let mut is_shown = || -> Result<bool, Failure> {
            for clause in clauses.by_ref() {
                if clause.decide(&evaluation)? == Some(true) {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        if checked && !is_shown()? {
            return Ok(false);
        }
        for clause in self.clauses.iter().filter(|clause| !clause.permissive) {
            if clause.decide(&evaluation)? != Some(true) {
                return Ok(false);
            }
        }
        if checked { Ok(true) } else { is_shown() }
    }

    /// What each clause says by itself, in their order.
    pub fn decide_clauses(
        &self,
        row: &dyn Row,
        slots: &Slots,
        tables: &Tables,
        moment: Moment,
        now: i64,
    ) -> Vec<Result<Option<bool>, Failure>> {
        let evaluation = Evaluation { row, slots: &slots.0, tables, moment, now: Some(now), person: None };
        self.clauses.iter().map(|clause| clause.decide(&evaluation)).collect()
    }
}

impl Clause {
    fn decide(&self, evaluation: &Evaluation<'_>) -> Result<Option<bool>, Failure> {
        expression::truth(&self.using, Env::new(evaluation))
    }
}

/// The value of an expression over a row alone, for whoever has no program (filters, tests).
pub fn value_of(
    expr: &Expr,
    row: &dyn Row,
    slots: &Slots,
    tables: &Tables,
    moment: Moment,
    now: i64,
) -> Result<Value, Failure> {
    let evaluation = Evaluation { row, slots: &slots.0, tables, moment, now: Some(now), person: None };
    evaluate(expr, Env::new(&evaluation)).map(|value| value.into_owned())
}

#[cfg(test)]
mod tests;
