//! What was sent, against what Postgres says.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::audience::Event;
use super::history::{Change, Operation, Transaction};
use super::persons::Person;
use super::tables::Table;
use super::tally::Tally;
use super::truth::{Columns, Shown};

/// Rows of a table, by key.
pub(super) type Rows = HashSet<(usize, i64)>;

/// A transaction and what Postgres said around it.
pub(super) struct Committed {
    pub transaction: Transaction,
    pub mark: i64,
    /// Of the old rows, just before it began.
    pub before: Shown,
    /// Of the new rows, just after it committed.
    pub after: Shown,
    /// Rows that each filter matches: old ones before, new ones after.
    pub matching: HashMap<&'static str, (Rows, Rows)>,
    pub columns: Columns,
    /// After each later transaction of the same lag: the rows of this one that were still as it left them, and whom
    /// they were shown.
    pub later: Vec<(Rows, Arc<Shown>)>,
    /// `later` was asked for.
    pub is_followed: bool,
    /// DDL came after it in the same lag: Postgres is asked about the policies as of this commit, whose sub-queries see
    /// later rows. No SELECT of any moment is that question.
    pub ddl_follows: bool,
}

/// How strictly decisions are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Decided in-process: as of the commit, old rows as of before the transaction.
    AsOfCommit,
    /// Asked of Postgres while the relay keeps up: new rows as of the commit; old ones are asked about too late.
    AskedAtOnce,
    /// Asked of Postgres later: as of some moment between commit and decision.
    AskedLater,
}

enum Outcome {
    Right,
    BesideDdl,
    ByPlan,
    Undecided,
    Mixed,
    MixedLeak,
    Late,
    Unknown,
    Wrong,
}

struct Judge<'a> {
    committed: &'a Committed,
    person: &'a Person,
    number: usize,
    /// By table and role.
    rules: &'a dyn Fn(usize, &'static str) -> Rule,
    /// The relay says that there were questions without an answer.
    undecided: bool,
}

/// Compares one transaction for everybody. `context` says when that was.
pub(super) fn judge(
    committed: &Committed,
    heard: Vec<Vec<Event>>,
    (persons, tables): (&[Person], &[Table]),
    (rules, undecided): (&dyn Fn(usize, &'static str) -> Rule, bool),
    tally: &mut Tally,
    context: &str,
) {
    let before = tally.wrongs;
    for (number, (person, events)) in persons.iter().zip(heard).enumerate() {
        let judge = Judge { committed, person, number, rules, undecided };
        judge.person(events, tables, tally, context);
    }
    if tally.wrongs > before && tally.wrong.len() < 12 {
        let statements = committed.transaction.statements.join(";\n    ");
        tally.wrong.push(format!("the transaction ({context}):\n    {statements}"));
    }
}

impl Judge<'_> {
    fn person(&self, mut events: Vec<Event>, tables: &[Table], tally: &mut Tally, context: &str) {
        // Error rows are for whoever lacks grants; they have no data.
        let with_data = |event: &Event| !event.columns.is_empty() || !event.old_columns.is_empty();
        for error in events.iter().filter(|event| event.is_error && with_data(event)) {
            tally.is_wrong(format!("{context}: {}: an error row with data: {error:?}", self.person.name));
        }
        // So are deletes for whoever may read no column (PROTOCOL 5).
        events.retain(|event| !event.is_error && (event.operation != "DELETE" || with_data(event)));
        let mut last = 0;
        for change in &self.committed.transaction.changes {
            let table = &tables[change.table].name;
            let key = change.new.or(change.old);
            let is_its =
                |event: &Event| event.table == *table && event.operation == change.operation.name() && event.key == key;
            let found = events.iter().position(is_its);
            if let Some(at) = found {
                if at < last {
                    tally.is_wrong(format!("{context}: {}: {:?} is out of order", self.person.name, events[at]));
                }
                last = at;
            }
            let event = found.map(|at| events.remove(at));
            self.change(change, event.as_ref(), table, tally, context);
        }
        for event in events {
            tally.is_wrong(format!(
                "{context}: {}: an event of no change, or a second one: {event:?}",
                self.person.name
            ));
        }
    }

    fn change(&self, change: &Change, event: Option<&Event>, table: &str, tally: &mut Tally, context: &str) {
        let is_delete = change.operation == Operation::Delete;
        let is_sent = event.is_some();
        if is_delete && !change.whole_old {
            tally.bounded += 1;
            if is_sent && !(self.sees_old(change) && self.is_wanted(change)) {
                let what = "hears of a delete of what could not be seen";
                let outcome = match self.excuse_old(change, true) {
                    Outcome::Unknown => Outcome::Wrong,
                    excuse => excuse,
                };
                self.enter(outcome, change, table, tally, context, what);
            }
        } else {
            let expected = if is_delete {
                self.sees_old(change) && self.filter_passes(change)
            } else {
                self.sees_new(change) && self.filter_passes(change)
            };
            let outcome = if is_sent == expected {
                Outcome::Right
            } else if is_delete {
                self.excuse_old(change, is_sent)
            } else {
                self.excuse_new(change, is_sent)
            };
            self.count(change, expected, tally);
            self.enter(outcome, change, table, tally, context, if is_sent { "leaked" } else { "missing" });
        }
        if let Some(event) = event {
            self.columns(change, event, table, tally, context);
        }
    }

    /// The columns of an event that was sent: those with SELECT, and of the old row the key unless it could be seen.
    fn columns(&self, change: &Change, event: &Event, table: &str, tally: &mut Tally, context: &str) {
        let granted = self.committed.columns.get(&(change.table, self.person.role.to_owned()));
        let granted: BTreeSet<String> = granted.into_iter().flatten().cloned().collect();
        if change.operation != Operation::Delete && !self.are(&event.columns, &granted) {
            let what = format!("got the columns {:?} instead of {granted:?}", event.columns);
            self.wrong(change, table, tally, context, &what);
        }
        if change.operation == Operation::Insert {
            return;
        }
        let key: BTreeSet<String> = granted.iter().filter(|column| *column == "id").cloned().collect();
        if event.old_key.is_some() && event.old_key != change.old {
            self.wrong(change, table, tally, context, "got another row's old key");
        }
        let is_whole = event.old_columns != key;
        if is_whole && !self.are(&event.old_columns, &granted) {
            let what = format!("got the old columns {:?} instead of {granted:?}", event.old_columns);
            self.wrong(change, table, tally, context, &what);
        }
        if change.operation == Operation::Update {
            tally.old_rows += 1;
            let expected = change.whole_old && self.sees_old(change) && granted != key;
            let outcome = if is_whole == expected { Outcome::Right } else { self.excuse_old(change, is_whole) };
            let what = if is_whole { "got a whole old row that could not be seen" } else { "lacks the old row" };
            self.enter(outcome, change, table, tally, context, what);
        } else if is_whole && !change.whole_old {
            self.wrong(change, table, tally, context, "got an old row that is not in the stream");
        }
    }

    fn rule(&self, change: &Change) -> Rule {
        (self.rules)(change.table, self.person.role)
    }

    /// A row that was changed before its transaction added a column does not have that column.
    fn are(&self, columns: &BTreeSet<String>, granted: &BTreeSet<String>) -> bool {
        let is_new = |column: &&String| self.committed.transaction.has_ddl && column.starts_with("added");
        columns == granted
            || granted.symmetric_difference(columns).all(|column| granted.contains(column) && is_new(&column))
    }

    fn sees_new(&self, change: &Change) -> bool {
        change.new.is_some_and(|key| self.committed.after[self.number].contains(&(change.table, key)))
    }

    fn sees_old(&self, change: &Change) -> bool {
        change.old.is_some_and(|key| self.committed.before[self.number].contains(&(change.table, key)))
    }

    fn is_wanted(&self, change: &Change) -> bool {
        self.person.filter.as_ref().is_none_or(|filter| filter.wants(change.operation.name()))
    }

    fn filter_passes(&self, change: &Change) -> bool {
        let Some(filter) = &self.person.filter else { return true };
        if !self.is_wanted(change) {
            return false;
        }
        let (old, new) = &self.committed.matching[filter.sql];
        match (change.new, change.old) {
            (Some(key), _) => new.contains(&(change.table, key)),
            (None, Some(key)) => old.contains(&(change.table, key)),
            (None, None) => false,
        }
    }

    /// Whether a later moment, before the decision, gives the answer that was given.
    fn excuse_new(&self, change: &Change, is_sent: bool) -> Outcome {
        let Some(key) = change.new else { return Outcome::Wrong };
        if !self.filter_passes(change) {
            return Outcome::Wrong;
        }
        let row = (change.table, key);
        if is_sent && self.committed.after[self.number].with_a_plan.contains(&row) {
            return Outcome::ByPlan;
        }
        if self.rule(change) != Rule::AskedLater {
            return Outcome::Wrong;
        }
        if !is_sent && self.undecided {
            return Outcome::Undecided;
        }
        // Nobody expected that Postgres would be asked, or the row has changed since.
        let mut is_gone = !self.committed.is_followed;
        for (rows, shown) in &self.committed.later {
            if !rows.contains(&row) {
                is_gone = true;
            } else if shown[self.number].contains(&row) == is_sent
                || (is_sent && shown[self.number].with_a_plan.contains(&row))
            {
                return Outcome::Late;
            }
        }
        match (is_gone, self.committed.ddl_follows) {
            (true, _) => Outcome::Unknown,
            (false, true) if is_sent => Outcome::MixedLeak,
            (false, true) => Outcome::Mixed,
            (false, false) => Outcome::Wrong,
        }
    }

    /// Programs judge old rows by the catalog that their transaction began with; Postgres is asked when that is gone.
    fn is_beside_ddl(&self, change: &Change) -> bool {
        self.committed.transaction.has_ddl && self.rule(change) != Rule::AsOfCommit
    }

    /// No SELECT shows an old row any more; where nothing that policies read has moved, the answer is the same.
    fn excuse_old(&self, change: &Change, is_sent: bool) -> Outcome {
        let by_plan = |key| self.committed.before[self.number].with_a_plan.contains(&(change.table, key));
        if is_sent && change.old.is_some_and(by_plan) {
            return Outcome::ByPlan;
        }
        if self.is_beside_ddl(change) {
            return Outcome::BesideDdl;
        }
        if !is_sent && self.undecided && self.rule(change) == Rule::AskedLater {
            return Outcome::Undecided;
        }
        match self.rule(change) {
            Rule::AsOfCommit => Outcome::Wrong,
            Rule::AskedAtOnce if !self.committed.transaction.moves_the_ground => Outcome::Wrong,
            Rule::AskedAtOnce | Rule::AskedLater => Outcome::Unknown,
        }
    }

    fn count(&self, change: &Change, expected: bool, tally: &mut Tally) {
        let era = &mut tally.eras[change.era];
        // A filter's answer is no policy's.
        if !era.is_about(self.person.role) || !self.filter_passes(change) {
            tally.by_grants += 1;
            return;
        }
        if expected {
            era.shown += 1;
        } else {
            era.denied += 1;
        }
    }

    fn enter(&self, outcome: Outcome, change: &Change, table: &str, tally: &mut Tally, context: &str, what: &str) {
        match outcome {
            Outcome::Right => {}
            Outcome::BesideDdl => tally.beside_ddl += 1,
            Outcome::ByPlan => tally.by_plan += 1,
            Outcome::Mixed => tally.mixed += 1,
            Outcome::MixedLeak => tally.mixed_leaks += 1,
            Outcome::Undecided => tally.undecided += 1,
            Outcome::Late => tally.late += 1,
            Outcome::Unknown => tally.unknown += 1,
            Outcome::Wrong => self.wrong(change, table, tally, context, what),
        }
    }

    fn wrong(&self, change: &Change, table: &str, tally: &mut Tally, context: &str, what: &str) {
        let era = &mut tally.eras[change.era];
        era.wrong += 1;
        let Change { operation, old, new, whole_old, .. } = change;
        let said = format!(
            "{context} ({:?}): {} ({}, {}): {what}: {} {table} {old:?} -> {new:?} (old row whole: {whole_old})\n  under {}",
            self.rule(change),
            self.person.name,
            self.person.role,
            self.person.claims,
            operation.name(),
            era.policies()
        );
        tally.is_wrong(said);
    }
}
