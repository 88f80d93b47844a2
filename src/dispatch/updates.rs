//! Catalog states that were read from the database, until the stream has come as far.
//!
//! A reading saw what was committed before its `flush_lsn`, so it holds for what is committed after that; what the stream
//! still has of earlier commits is judged by earlier states. Two things are different: roles are in no stream and hold
//! at once, the newest that were read; and a reading that does not see DDL which the stream has told of is older than
//! the state at hand, wherever the stream is.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::catalog::watcher::CatalogUpdate;
use crate::catalog::{Catalog, Roles};
use crate::wal::Lsn;

/// States that may wait. Only a stream that lags by minutes, under DDL all the while, gets there.
const WAITING_MAX: usize = 64;
/// DDL that no reading has seen yet. A reading that misses one of so many misses the later ones as well.
const DDL_XIDS_MAX: usize = 4096;

#[derive(Default)]
pub struct Updates {
    /// By `flush_lsn`.
    waiting: VecDeque<CatalogUpdate>,
    ddl_xids: VecDeque<u32>,
    /// The newest, and when they were read.
    roles: Option<(Lsn, Arc<Roles>)>,
    /// The newest reading that was applied.
    applied: Lsn,
}

/// What is to be done now.
#[derive(Debug)]
pub enum Due {
    Nothing,
    Apply(Box<CatalogUpdate>),
    /// There was a state, but it is older than what the stream has told: another must be read.
    Outdated,
}

impl Updates {
    /// A state was polled; gives the roles that hold from now on.
    pub fn polled(&mut self, update: CatalogUpdate) -> Arc<Roles> {
        let roles = self.newest_roles(&update);
        self.wait(update);
        roles
    }

    /// DDL was applied from the stream.
    pub fn told_by_stream(&mut self, xid: u32) {
        if self.ddl_xids.len() == DDL_XIDS_MAX {
            self.ddl_xids.pop_front();
        }
        self.ddl_xids.push_back(xid);
    }

    /// What is to hold for transactions that are committed at or after `position`. Of several the last one.
    pub fn due(&mut self, position: Lsn) -> Due {
        let due = self.waiting.partition_point(|update| update.flush_lsn <= position);
        let Some(update) = self.waiting.drain(..due).next_back() else { return Due::Nothing };
        self.ddl_xids.retain(|xid| !update.snapshot.sees(*xid));
        if !self.ddl_xids.is_empty() {
            return Due::Outdated;
        }
        Due::Apply(Box::new(self.take(update)))
    }

    /// A state was loaded for a transaction, which it sees, or because the stream has lost some, with the stream at
    /// `position`. `None`: a later one is in force already.
    pub fn loaded(&mut self, update: CatalogUpdate, by: Option<u32>, position: Lsn) -> Option<Catalog> {
        self.newest_roles(&update);
        by.into_iter().for_each(|xid| self.told_by_stream(xid));
        if update.flush_lsn < self.applied {
            return None;
        }
        if update.flush_lsn > position {
            // The stream may tell older states before it comes so far; then this one holds again.
            self.wait(update.clone());
        }
        Some(self.take(update).catalog)
    }

    fn take(&mut self, mut update: CatalogUpdate) -> CatalogUpdate {
        self.applied = self.applied.max(update.flush_lsn);
        if let Some((_, roles)) = &self.roles {
            // This state may have waited while roles lost privileges.
            update.catalog.roles = Arc::clone(roles);
        }
        update
    }

    fn newest_roles(&mut self, update: &CatalogUpdate) -> Arc<Roles> {
        match &self.roles {
            Some((read, roles)) if *read > update.flush_lsn => Arc::clone(roles),
            _ => {
                self.roles = Some((update.flush_lsn, Arc::clone(&update.catalog.roles)));
                Arc::clone(&update.catalog.roles)
            }
        }
    }

    fn wait(&mut self, update: CatalogUpdate) {
        if self.waiting.len() >= WAITING_MAX
            && let Some(last) = self.waiting.back_mut()
        {
            // Early rather than late: a policy that was tightened must not come late.
            let flush_lsn = last.flush_lsn.min(update.flush_lsn);
            *last = CatalogUpdate { flush_lsn, ..update };
            return;
        }
        let place = self.waiting.partition_point(|earlier| earlier.flush_lsn <= update.flush_lsn);
        self.waiting.insert(place, update);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading at a position that saw all below an xid; its `server_version` says which it was.
    fn reading(flush_lsn: u64, xmax: u32) -> CatalogUpdate {
        let mut roles = Roles::default();
        roles.settings.insert(0, vec![flush_lsn.to_string()]);
        CatalogUpdate {
            catalog: Catalog { server_version: flush_lsn as u32, roles: Arc::new(roles), ..Catalog::default() },
            snapshot: format!("{xmax}:{xmax}:").parse().unwrap(),
            flush_lsn: Lsn(flush_lsn),
            fingerprint: None,
        }
    }

    fn which(catalog: &Catalog) -> (u32, &str) {
        (catalog.server_version, &catalog.roles.settings[&0][0])
    }

    fn applied(due: Due) -> Option<(u32, String)> {
        match due {
            Due::Apply(update) => Some((which(&update.catalog).0, which(&update.catalog).1.to_owned())),
            Due::Nothing => None,
            Due::Outdated => panic!("outdated"),
        }
    }

    #[test]
    fn a_state_waits_for_the_stream_and_its_roles_do_not() {
        let mut updates = Updates::default();
        assert_eq!(updates.polled(reading(100, 10)).settings[&0], ["100"]);
        assert_eq!(applied(updates.due(Lsn(99))), None);
        assert_eq!(applied(updates.due(Lsn(100))), Some((100, "100".into())));
        assert_eq!(applied(updates.due(Lsn(200))), None);
    }

    #[test]
    fn a_state_that_waited_does_not_bring_back_the_roles_of_its_time() {
        let mut updates = Updates::default();
        updates.polled(reading(100, 10));
        updates.polled(reading(200, 20));
        assert_eq!(applied(updates.due(Lsn(150))), Some((100, "200".into())));
        assert_eq!(applied(updates.due(Lsn(250))), Some((200, "200".into())));
    }

    #[test]
    fn a_state_that_misses_ddl_of_the_stream_is_outdated() {
        let mut updates = Updates::default();
        updates.told_by_stream(15);
        updates.polled(reading(100, 10));
        assert!(matches!(updates.due(Lsn(100)), Due::Outdated));
        updates.polled(reading(200, 20));
        assert_eq!(applied(updates.due(Lsn(200))), Some((200, "200".into())));
    }

    #[test]
    fn a_state_loaded_for_a_transaction_holds_at_once_and_again_at_its_own_place() {
        let mut updates = Updates::default();
        let catalog = updates.loaded(reading(300, 30), Some(12), Lsn(100)).unwrap();
        assert_eq!(which(&catalog), (300, "300"));
        // The log's own state of a transaction at 200 comes in between.
        updates.told_by_stream(20);
        assert_eq!(applied(updates.due(Lsn(299))), None);
        assert_eq!(applied(updates.due(Lsn(300))), Some((300, "300".into())));
    }

    #[test]
    fn a_load_that_comes_after_a_later_reading_changes_nothing() {
        let mut updates = Updates::default();
        updates.polled(reading(200, 20));
        assert_eq!(applied(updates.due(Lsn(200))), Some((200, "200".into())));
        assert!(updates.loaded(reading(150, 15), Some(12), Lsn(200)).is_none());
    }

    #[test]
    fn what_waits_is_bounded_and_the_newest_state_is_never_lost() {
        let mut updates = Updates::default();
        for n in 1..=1000 {
            updates.polled(reading(n * 10, n as u32));
        }
        assert_eq!(updates.waiting.len(), WAITING_MAX);
        assert_eq!(applied(updates.due(Lsn(1_000_000))), Some((10_000, "10000".into())));
    }
}
