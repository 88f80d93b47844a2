//! Tables that policies read, kept in memory and current by the stream.
//!
//! A transaction's changes are applied at its commit, before anything of it is judged. What it removed stays visible
//! to those who look at [`Moment::Before`] until the transaction is done with: old rows are judged by the state that it
//! began with.

pub mod table;

use std::collections::HashMap;

use foldhash::fast::RandomState;

pub use table::{Rows, Table, TrackedRow};

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
    tables: HashMap<RelationId, Table, RandomState>,
}

impl Tables {
    /// `None`: it is not loaded, and nothing can be decided by it.
    pub fn get(&self, relation: RelationId) -> Option<&Table> {
        self.tables.get(&relation)
    }

    pub fn insert(&mut self, relation: RelationId, table: Table) {
        self.tables.insert(relation, table);
    }

    pub fn remove(&mut self, relation: RelationId) -> Option<Table> {
        self.tables.remove(&relation)
    }

    pub fn get_mut(&mut self, relation: RelationId) -> Option<&mut Table> {
        self.tables.get_mut(&relation)
    }
}
