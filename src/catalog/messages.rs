//! `realtime.messages`, whose policies say who may use a private channel.

use std::sync::Arc;

use super::{Catalog, ColumnIndex, ColumnSet, Oid, Relation, Role};
use crate::wal::pgoutput::RelationId;

/// The role `pg_write_all_data` (14 and newer); its OID is fixed.
const PG_WRITE_ALL_DATA: Oid = 6182;

/// The table as two: what SELECT and what INSERT of it depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messages {
    /// As it is, with its policies for SELECT.
    pub read: Arc<Relation>,
    /// The same with the grants of INSERT, and with the policies for INSERT: in the place of USING each has what it
    /// checks new rows by. Whatever makes a plan of a SELECT makes one of an INSERT from it.
    pub write: Arc<Relation>,
}

impl Messages {
    pub fn id(&self) -> RelationId {
        self.read.id
    }

    /// Whether `SELECT id` gets past the privileges.
    pub fn may_select(&self, catalog: &Catalog, role: &Role) -> bool {
        let visible = catalog.visible_columns(role, &self.read);
        self.read.column_named("id").is_some_and(|id| visible.contains(id))
    }

    /// Whether `INSERT (topic, extension)` gets past them.
    pub fn may_insert(&self, catalog: &Catalog, role: &Role) -> bool {
        let granted: ColumnSet = self.write.selectable_columns(role, PG_WRITE_ALL_DATA);
        let is_granted = |column: Option<ColumnIndex>| column.is_some_and(|column| granted.contains(column));
        let usage = catalog.may_use_schema(role, &self.write.schema) || role.inherits.contains(&PG_WRITE_ALL_DATA);
        usage && ["topic", "extension"].into_iter().all(|name| is_granted(self.write.column_named(name)))
    }
}
