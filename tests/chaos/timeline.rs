//! Who was entitled to what, and when: memberships and policies, with the transactions that changed them.

use std::collections::HashMap;

use super::world::{Person, Row, Table};

/// A yes or no that changed in some transactions: (transaction, from then on).
type Switches = Vec<(u32, bool)>;

#[derive(Default)]
pub struct Timeline {
    members: HashMap<(i32, Person), Switches>,
    readers: HashMap<(i32, Person), Switches>,
    /// Whether the policy hides what is secret.
    strict: HashMap<Table, Switches>,
}

/// From the state that this transaction left to the one that that transaction left, both and all between.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub first: u32,
    pub last: u32,
}

impl Timeline {
    pub fn member(&mut self, room: i32, person: Person, transaction: u32, is: bool) {
        self.members.entry((room, person)).or_default().push((transaction, is));
    }

    pub fn reader(&mut self, lane: i32, person: Person, transaction: u32, is: bool) {
        self.readers.entry((lane, person)).or_default().push((transaction, is));
    }

    pub fn policy(&mut self, table: Table, transaction: u32, strict: bool) {
        self.strict.entry(table).or_default().push((transaction, strict));
    }

    /// Entitled at some point of the window.
    pub fn ever(&self, person: Person, table: Table, row: &Row, window: Window) -> bool {
        self.moments(person, table, row, window).any(|at| self.sees(person, table, row, at))
    }

    /// Entitled at all points of the window.
    pub fn always(&self, person: Person, table: Table, row: &Row, window: Window) -> bool {
        self.moments(person, table, row, window).all(|at| self.sees(person, table, row, at))
    }

    /// What decided of a row and when, for people.
    pub fn explain(&self, person: Person, table: Table, row: &Row) -> String {
        let last = |switches: Option<&Switches>| {
            let switches = switches.map(Vec::as_slice).unwrap_or_default();
            format!("{:?}", &switches[switches.len().saturating_sub(12)..])
        };
        let related = match table {
            Table::Posts => self.members.get(&(row.room, person)),
            Table::Letters => self.readers.get(&(row.lane, person)),
            _ => None,
        };
        format!("strict: {}, related: {}", last(self.strict.get(&table)), last(related))
    }

    /// The window's beginning, and each transaction in it that may have changed the answer.
    fn moments<'a>(
        &'a self,
        person: Person,
        table: Table,
        row: &Row,
        window: Window,
    ) -> impl Iterator<Item = u32> + use<'a> {
        let relations = match table {
            Table::Posts => self.members.get(&(row.room, person)),
            Table::Letters => self.readers.get(&(row.lane, person)),
            _ => None,
        };
        let changes = relations.into_iter().chain(self.strict.get(&table));
        let within = changes.flat_map(move |switches| {
            let first = switches.partition_point(|(at, _)| *at <= window.first);
            switches[first..].iter().map(|(at, _)| *at).take_while(move |at| *at <= window.last)
        });
        std::iter::once(window.first).chain(within)
    }

    /// By the state that a transaction left.
    fn sees(&self, person: Person, table: Table, row: &Row, transaction: u32) -> bool {
        if person.is_service() || matches!(table, Table::Plaza | Table::Ticks) {
            return true;
        }
        if person.is_anon() || row.secret && is(self.strict.get(&table), transaction) {
            return false;
        }
        match table {
            Table::Notes => row.owner == person || person.is_admin(),
            Table::Posts => is(self.members.get(&(row.room, person)), transaction),
            Table::Letters => row.owner == person || is(self.readers.get(&(row.lane, person)), transaction),
            Table::Plaza | Table::Ticks => true,
        }
    }
}

fn is(switches: Option<&Switches>, transaction: u32) -> bool {
    let Some(switches) = switches else { return false };
    let after = switches.partition_point(|(at, _)| *at <= transaction);
    after > 0 && switches[after - 1].1
}

#[test]
fn a_window_has_both_its_ends_and_all_between() {
    let (person, mut timeline) = (Person(1), Timeline::default());
    let row = Row { n: 1, v: 0, lane: 0, owner: Person(0), room: 3, secret: true };
    timeline.member(3, person, 10, true);
    timeline.member(3, person, 20, false);
    timeline.policy(Table::Posts, 15, true);
    timeline.policy(Table::Posts, 17, false);
    let ever = |first, last| timeline.ever(person, Table::Posts, &row, Window { first, last });
    let always = |first, last| timeline.always(person, Table::Posts, &row, Window { first, last });
    assert!(!ever(0, 9) && ever(0, 10) && !always(9, 10) && always(10, 14));
    assert!(!always(10, 15) && !ever(15, 16) && ever(15, 17) && always(17, 19));
    assert!(!ever(20, 100) && ever(19, 100) && !always(19, 20));
}
