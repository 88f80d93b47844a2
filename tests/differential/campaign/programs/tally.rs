//! What came out.

use std::collections::BTreeMap;

use super::super::policies::is_balanced;

/// Differences that are shown in full.
const WRONG_SHOWN: usize = 8;
/// So many decisions say something about the balance of a set.
const DECISIONS_MIN: usize = 100;

/// One table's policies.
#[derive(Default)]
pub(super) struct Set {
    pub shown: usize,
    pub denied: usize,
    pub wrong: usize,
    /// Postgres is to be asked.
    pub is_left: bool,
}

impl Set {
    pub fn decisions(&self) -> usize {
        self.shown + self.denied
    }

    pub fn counts(&self) -> bool {
        self.decisions() >= DECISIONS_MIN && is_balanced(self.shown, self.decisions())
    }
}

#[derive(Default)]
pub(super) struct Tally {
    pub worlds: usize,
    pub sets: Vec<Set>,
    /// Decided by programs, of all that was asked.
    pub here: usize,
    pub old_rows: usize,
    pub from_stream: usize,
    /// By row-level security being off for the role, or by no policy for it.
    pub open: usize,
    pub denied_by_plan: usize,
    /// Nobody was led to, by the way that the row itself is for nobody.
    pub not_led: usize,
    /// Led to for sure: not judged by dispatch.
    pub sure: usize,
    /// Undecided since a table that is to be followed is not there: something of the stream was not understood.
    pub not_loaded: usize,
    /// Hidden since the planner fails over the person's claims, as foreseen.
    pub foreseen: usize,
    /// It fails there where that was not foreseen, or the other way round: what it works out to estimate is its own.
    pub unforeseen: usize,
    pub too_careful: usize,
    pub undecided: BTreeMap<String, usize>,
    pub not_compiled: BTreeMap<String, usize>,
    /// The same where that is meant.
    pub left: usize,
    /// What Postgres would not take as a policy or function: the grammar's mistakes.
    pub refused: BTreeMap<String, usize>,
    pub wrongs: usize,
    pub wrong: Vec<String>,
}

impl Tally {
    /// Of each set the first one is shown.
    pub fn is_wrong(&mut self, set: usize, what: impl FnOnce() -> String) {
        self.wrongs += 1;
        self.sets[set].wrong += 1;
        if self.sets[set].wrong == 1 && self.wrong.len() < WRONG_SHOWN {
            self.wrong.push(what());
        }
    }

    /// About sets that said both yes and no a fifth of the time.
    pub fn counted(&self) -> usize {
        self.sets.iter().filter(|set| set.counts()).map(Set::decisions).sum()
    }

    pub fn undecided(&self) -> usize {
        self.undecided.values().sum()
    }

    pub fn not_compiled(&self) -> usize {
        self.not_compiled.values().sum()
    }

    pub fn print(&self) {
        let all: usize = self.sets.iter().map(Set::decisions).sum();
        let counting = self.sets.iter().filter(|set| set.counts()).count();
        println!(
            "{} worlds: {all} decisions, {} of them about {counting} of {} sets of policies that said yes and no a fifth of the \
             time each",
            self.worlds,
            self.counted(),
            self.sets.len()
        );
        println!(
            "by programs: {}; by plans without one: {} open, {} denied; not compiled: {}, and {} on purpose; undecided: {}; led to \
             nobody: {}, surely to somebody: {}",
            self.here,
            self.open,
            self.denied_by_plan,
            self.not_compiled(),
            self.left,
            self.undecided(),
            self.not_led,
            self.sure
        );
        println!(
            "the planner fails over claims: {} foreseen, {} not, {} foreseen in vain",
            self.foreseen, self.unforeseen, self.too_careful
        );
        println!("images of the stream: {}, of them old rows: {}", self.from_stream, self.old_rows);
        for (what, reasons) in
            [("undecided", &self.undecided), ("not compiled", &self.not_compiled), ("refused", &self.refused)]
        {
            let mut reasons: Vec<_> = reasons.iter().collect();
            reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (why, count) in reasons.into_iter().take(12) {
                println!("  {what}: {count:8} {why}");
            }
        }
    }
}
