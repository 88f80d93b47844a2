//! What came out: how many decisions, about which policies, made by whom, and which were wrong.

use std::collections::BTreeMap;

use super::policies::{describe, is_balanced};
use super::tables::Table;

/// Fewer decisions say nothing about the balance of a set of policies.
const DECISIONS_MIN: usize = 300;
/// Failures that are shown in full.
const WRONG_SHOWN: usize = 12;

/// One table under one set of policies.
pub(super) struct Era {
    policies: String,
    kinds: Vec<&'static str>,
    /// Whether row-level security decides at all.
    row_security: bool,
    owner: Option<&'static str>,
    /// It need not be balanced.
    leads: bool,
    pub shown: usize,
    pub denied: usize,
    pub wrong: usize,
}

impl Era {
    pub(super) fn new(table: &Table) -> Era {
        let kinds = table.policies.iter().flat_map(|policy| policy.expression.kinds.clone());
        let restrictive = table.policies.iter().filter(|policy| !policy.permissive).map(|_| "restrictive");
        let several = (table.policies.len() > 1).then_some("several policies");
        Era {
            policies: describe(table),
            kinds: kinds.chain(restrictive).chain(several).collect(),
            row_security: table.row_security,
            owner: (!table.forced).then_some(table.owner),
            leads: table.leads,
            shown: 0,
            denied: 0,
            wrong: 0,
        }
    }

    pub(super) fn policies(&self) -> &str {
        &self.policies
    }

    /// Whether policies decide for the role.
    pub(super) fn is_about(&self, role: &str) -> bool {
        let owns = self.owner == Some("keeper") && matches!(role, "keeper" | "auditor");
        self.row_security && role != "service_role" && !owns
    }

    fn decisions(&self) -> usize {
        self.shown + self.denied
    }

    /// It has said long enough the same.
    pub(super) fn is_lopsided(&self) -> bool {
        self.row_security
            && !self.leads
            && self.decisions() >= DECISIONS_MIN
            && !is_balanced(self.shown, self.decisions())
    }

    /// It says something: enough of both answers.
    fn counts(&self) -> bool {
        self.row_security && self.decisions() >= DECISIONS_MIN && is_balanced(self.shown, self.decisions())
    }
}

/// Rows decided by programs, by Postgres since a program left them open, by Postgres since there is no program.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Deciders {
    pub here: f64,
    pub left_open: f64,
    pub not_compiled: f64,
    /// Events that were not shown since there was no answer.
    pub undecided: f64,
}

impl Deciders {
    pub(super) fn since(self, before: Deciders) -> Deciders {
        Deciders {
            here: self.here - before.here,
            left_open: self.left_open - before.left_open,
            not_compiled: self.not_compiled - before.not_compiled,
            undecided: self.undecided - before.undecided,
        }
    }

    fn add(&mut self, more: Deciders) {
        self.here += more.here;
        self.left_open += more.left_open;
        self.not_compiled += more.not_compiled;
        self.undecided += more.undecided;
    }

    pub(super) fn asked_postgres(self) -> bool {
        self.left_open + self.not_compiled > 0.0
    }
}

#[derive(Default)]
pub(super) struct Tally {
    pub eras: Vec<Era>,
    pub histories: usize,
    pub transactions: usize,
    /// Rows that grants alone decide.
    pub by_grants: usize,
    /// `old_record` of updates: whole or key only.
    pub old_rows: usize,
    /// Deletes whose old row the stream does not have: whoever could not see the row must not hear of them.
    pub bounded: usize,
    /// Asked of Postgres and right as of a later moment, before the decision.
    pub late: usize,
    /// Asked of Postgres about an image that no moment's SELECT shows any more.
    pub unknown: usize,
    /// Not shown, and its client told that there was no answer of Postgres.
    pub undecided: usize,
    /// Asked of Postgres: policies as of the commit over tables as of later, hidden or shown as at no moment.
    pub mixed: usize,
    pub mixed_leaks: usize,
    /// Shown by a SELECT whose plan was there before, not by one that has to be planned under the person's claims.
    pub by_plan: usize,
    /// Old rows of transactions with DDL, judged otherwise than by what held before (see `judge`).
    pub beside_ddl: usize,
    pub wrong: Vec<String>,
    pub wrongs: usize,
    pub deciders: Deciders,
    /// The same by the state of the relay; what only brings it there is apart.
    pub deciders_by_mode: BTreeMap<&'static str, Deciders>,
    /// Decisions by the state that the relay was in.
    pub modes: BTreeMap<&'static str, usize>,
    pub ddl: BTreeMap<&'static str, usize>,
    pub system_messages: usize,
}

impl Tally {
    pub(super) fn is_wrong(&mut self, what: String) {
        self.wrongs += 1;
        if self.wrong.len() < WRONG_SHOWN {
            self.wrong.push(what);
        }
    }

    pub(super) fn add_deciders(&mut self, mode: &'static str, more: Deciders) {
        self.deciders.add(more);
        self.deciders_by_mode.entry(mode).or_default().add(more);
    }

    /// Decisions of policies that said yes and no often enough.
    pub(super) fn counted(&self) -> usize {
        self.eras.iter().filter(|era| era.counts()).map(Era::decisions).sum()
    }

    pub(super) fn print(&self) {
        let all: usize = self.eras.iter().map(Era::decisions).sum();
        let counted = self.eras.iter().filter(|era| era.counts()).count();
        println!("{:34} {:>9} {:>9} {:>6}", "kind of clause (in a set of)", "shown", "denied", "wrong");
        let mut kinds: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
        for era in self.eras.iter().filter(|era| era.counts()) {
            let mut mentioned = era.kinds.clone();
            mentioned.sort_unstable();
            mentioned.dedup();
            for kind in mentioned {
                let [shown, denied, wrong] = kinds.entry(kind).or_default();
                *shown += era.shown;
                *denied += era.denied;
                *wrong += era.wrong;
            }
        }
        for (kind, [shown, denied, wrong]) in kinds {
            println!("{kind:34} {shown:9} {denied:9} {wrong:6}");
        }
        println!(
            "{} decisions in {} transactions of {} histories; {} about {counted} of {} sets of policies that said yes and no a \
             fifth of the time each, the rest apart",
            all,
            self.transactions,
            self.histories,
            self.counted(),
            self.eras.len()
        );
        println!("by state of the relay: {:?}; DDL between: {:?}", self.modes, self.ddl);
        println!(
            "also compared: {} by grants alone, {} old rows of updates, {} deletes without an old row",
            self.by_grants, self.old_rows, self.bounded
        );
        println!(
            "decided (questions, not persons x rows): {:?}; system messages: {}",
            self.deciders, self.system_messages
        );
        for (mode, deciders) in &self.deciders_by_mode {
            println!("  {mode}: {deciders:?}");
        }
        println!(
            "asked of Postgres, and right as of a moment after the commit: {}; about an image that is gone: {}; without an \
             answer, and told: {}",
            self.late, self.unknown, self.undecided
        );
        println!(
            "asked of Postgres with the commit's policies over later tables, as at no moment: {} hidden, {} shown",
            self.mixed, self.mixed_leaks
        );
        println!(
            "old rows beside DDL that differ: {}; as the plan has it: {}; wrong: {}",
            self.beside_ddl, self.by_plan, self.wrongs
        );
    }
}
