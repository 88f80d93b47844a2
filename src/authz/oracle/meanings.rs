//! Names that have come to mean something else.
//!
//! A session keeps plans: of prepared questions, of what plpgsql functions run, and since 18 of SQL functions. Postgres
//! makes them anew when something that they use changes, but not when a table is made earlier on the same search path:
//! to the plan, its names go on meaning what they meant. So after each change of the catalog sessions forget theirs.

use std::sync::{Mutex, PoisonError};

use crate::catalog::Snapshot;

/// The last change of the catalog.
#[derive(Debug, Default)]
pub(super) struct Meanings(Mutex<Change>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) number: u64,
    /// The transaction that made it; other sessions may not see it yet. `None`: all do.
    xid: Option<u32>,
}

impl Meanings {
    pub(super) fn changed(&self, xid: Option<u32>) {
        let mut change = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *change = Change { number: change.number + 1, xid };
    }

    /// The last change, for a session whose plans are as of the one with that number.
    pub(super) fn since(&self, number: u64) -> Option<Change> {
        let change = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (change.number != number).then_some(change)
    }
}

impl Change {
    /// Whether plans that were made after that snapshot know of the change.
    pub(super) fn is_seen_by(self, snapshot: &Snapshot) -> bool {
        self.xid.is_none_or(|xid| snapshot.sees(xid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_forgotten_until_they_must_know_of_the_change() {
        let meanings = Meanings::default();
        assert_eq!(meanings.since(0), None);
        meanings.changed(Some(7));
        let change = meanings.since(0).unwrap();
        assert!(!change.is_seen_by(&"7:9:7".parse().unwrap()));
        assert!(change.is_seen_by(&"8:9:".parse().unwrap()));
        assert_eq!(meanings.since(change.number), None);
        meanings.changed(None);
        assert!(meanings.since(change.number).unwrap().is_seen_by(&"7:9:7".parse().unwrap()));
    }
}
