//! Tables that policies read, kept in memory and current by the stream.
//!
//! A transaction's changes are applied at its commit, before anything of it is judged. What it removed stays visible
//! to those who look at [`Moment::Before`] until the transaction is done with: old rows are judged by the state that it
//! began with.
//!
//! * [`shape`]: which columns are kept, and what the stream names rows by;
//! * [`table`], `index`: the rows; `apply`: the stream's changes to them;
//! * [`load`]: the first reading, in one snapshot.

mod apply;
pub mod broken;
mod index;
pub mod load;
pub mod loader;
mod rows;
pub mod shape;
pub mod table;
#[cfg(test)]
mod table_tests;
mod weight;

use std::collections::HashMap;

use foldhash::fast::RandomState;

pub use broken::Broken;
pub use loader::{Loader, LoaderHandle};
pub use shape::{Refused, Shape, StreamLayout};
pub use table::{Found, Table, TrackedRow};

use crate::wal::pgoutput::RelationId;

/// As of when a tracked table is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Before the transaction in work.
    Before,
    /// As its commit leaves it.
    After,
}

/// The tables that are loaded. A partitioned table is one table here, under its root's OID.
#[derive(Debug, Default)]
pub struct Tables {
    tables: HashMap<RelationId, Slot, RandomState>,
}

#[derive(Debug)]
struct Slot {
    table: Table,
    /// It is kept current, but nothing may be decided by it.
    hidden: bool,
}

impl Tables {
    /// `None`: it is not loaded, and nothing can be decided by it.
    pub fn get(&self, relation: RelationId) -> Option<&Table> {
        self.tables.get(&relation).filter(|slot| !slot.hidden).map(|slot| &slot.table)
    }

    pub fn insert(&mut self, relation: RelationId, table: Table) {
        self.tables.insert(relation, Slot { table, hidden: false });
    }

    pub fn remove(&mut self, relation: RelationId) -> Option<Table> {
        self.tables.remove(&relation).map(|slot| slot.table)
    }

    /// Hidden or not.
    pub fn get_mut(&mut self, relation: RelationId) -> Option<&mut Table> {
        self.tables.get_mut(&relation).map(|slot| &mut slot.table)
    }

    /// Hidden or not.
    pub fn table(&self, relation: RelationId) -> Option<&Table> {
        self.tables.get(&relation).map(|slot| &slot.table)
    }

    /// Whether [`Tables::get`] gives it.
    pub fn hide(&mut self, relation: RelationId, hidden: bool) {
        if let Some(slot) = self.tables.get_mut(&relation) {
            slot.hidden = hidden;
        }
    }

    /// How many can be decided by.
    pub fn serving(&self) -> usize {
        self.tables.values().filter(|slot| !slot.hidden).count()
    }

    /// Hidden ones, too.
    pub fn iter(&self) -> impl Iterator<Item = (RelationId, &Table)> {
        self.tables.iter().map(|(relation, slot)| (*relation, &slot.table))
    }
}
