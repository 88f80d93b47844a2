//! What the checker found, as a table and as sentences.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::diary::Kind;
use super::trouble::Log;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wrong {
    Lost,
    /// Got by somebody who was never entitled to it, or more of it than that.
    Leaked,
    Disorder,
    /// Got again where that was not to be.
    Repeated,
    /// A gap was announced where there was none, or promises were forgotten.
    FalseGap,
    Forgotten,
    /// A resuming channel was never told how it stands.
    NotTold,
    /// A position that is not that of the change.
    Position,
    /// Bindings named that do not match, or matching ones not named.
    Bindings,
    /// Did not come back at the end, or did not get the last row.
    Stuck,
    /// What a client could not make sense of.
    Complaint,
    /// Of the relay or of Postgres, not of a client.
    Other,
}

pub struct Violation {
    pub wrong: Wrong,
    pub at: i64,
    pub what: String,
}

#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub clients: usize,
    pub stints: usize,
    pub expected: usize,
    pub got: usize,
    pub repeated: usize,
    pub resumed: usize,
    pub gaps: usize,
    pub excused: usize,
}

#[derive(Default)]
pub struct Report {
    pub counts: BTreeMap<Kind, Counts>,
    pub violations: Vec<Violation>,
    pub transactions: usize,
    pub changes: usize,
}

/// More of one kind say nothing more.
const SHOWN_MAX: usize = 12;

impl Report {
    pub fn add(&mut self, wrong: Wrong, at: i64, what: impl Into<String>) {
        self.violations.push(Violation { wrong, at, what: what.into() });
    }

    pub fn count(&self, wrong: Wrong) -> usize {
        self.violations.iter().filter(|violation| violation.wrong == wrong).count()
    }

    pub fn table(&self) -> String {
        let mut text = format!("{} changes in {} transactions\n", self.changes, self.transactions);
        let _ = writeln!(
            text,
            "{:<7}{:>9}{:>9}{:>10}{:>10}{:>10}{:>9}{:>6}{:>9}",
            "", "clients", "stints", "must", "got", "repeated", "resumed", "gaps", "excused"
        );
        for (kind, counts) in &self.counts {
            let Counts { clients, stints, expected, got, repeated, resumed, gaps, excused } = counts;
            let name = format!("{kind:?}").to_lowercase();
            let _ = writeln!(
                text,
                "{name:<7}{clients:>9}{stints:>9}{expected:>10}{got:>10}{repeated:>10}{resumed:>9}{gaps:>6}{excused:>9}"
            );
        }
        let mut wrongs: BTreeMap<Wrong, usize> =
            [Wrong::Lost, Wrong::Leaked, Wrong::Disorder, Wrong::Repeated].map(|wrong| (wrong, 0)).into();
        for violation in &self.violations {
            *wrongs.entry(violation.wrong).or_default() += 1;
        }
        for (wrong, count) in wrongs {
            let _ = write!(text, "{} {count}   ", format!("{wrong:?}").to_lowercase());
        }
        text
    }

    /// What happened, with the violations, some of each kind, where they were found.
    pub fn details(&self, log: &Log, began: i64) -> String {
        let mut shown = BTreeMap::<Wrong, usize>::new();
        let shown = self.violations.iter().filter(|violation| {
            let shown = shown.entry(violation.wrong).or_default();
            *shown += 1;
            *shown <= SHOWN_MAX
        });
        let wrong = |violation: &Violation| (violation.at, format!("** {:?}: {}", violation.wrong, violation.what));
        let mut lines: Vec<_> = shown.map(wrong).chain(log.entries.iter().cloned()).collect();
        lines.sort_by_key(|(at, _)| *at);
        lines.iter().map(|(at, line)| format!("{:9.3} {line}\n", (at - began) as f64 / 1e6)).collect()
    }
}
