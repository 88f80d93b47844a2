//! What a role may see of a relation: worked out once per catalog state, not per change.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::people::People;
use crate::authz::policy::{Audience, Need};
use crate::authz::{self, DeniedReason, Plan};
use crate::catalog::{Catalog, ColumnSet, Relation};
use crate::encode::RecordShape;
use crate::wal::Origin;
use crate::wal::pgoutput::RelationId;

/// A role's name, interned: equal names, equal keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoleKey(u32);

/// What a subscription wants of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    /// `None`: all that the role may see.
    pub columns: Option<ColumnSet>,
    /// Where its change stands in the WAL.
    pub positions: bool,
}

/// What one role may see of one relation.
#[derive(Debug)]
pub struct Access {
    pub plan: Plan,
    /// Policies apply: also where they let nothing through.
    pub row_security: bool,
    /// Columns with SELECT, in a schema with USAGE.
    pub visible: ColumnSet,
    /// No primary key: INSERT and UPDATE become error rows (PROTOCOL 4.4).
    pub no_primary_key: bool,
    /// The primary key, or a column of it, is not among them: likewise.
    pub unauthorized: bool,
}

impl Access {
    /// Of a table that cannot be judged.
    pub fn nothing() -> Access {
        Access {
            plan: Plan::Denied(DeniedReason::NoPolicy),
            row_security: true,
            visible: ColumnSet::default(),
            no_primary_key: false,
            unauthorized: false,
        }
    }

    /// INSERT and UPDATE reach the role without data (PROTOCOL 4.4).
    pub fn is_error_row(&self) -> bool {
        self.no_primary_key || self.unauthorized
    }
}

/// The [`Access`] of every (relation, role) met since the catalog last changed, and the shapes of their records.
#[derive(Default)]
pub struct AccessTable {
    roles: HashMap<Arc<str>, RoleKey, RandomState>,
    names: Vec<Arc<str>>,
    access: HashMap<(RelationId, RoleKey), Arc<Access>, RandomState>,
    shapes: HashMap<(RelationId, ColumnSet, bool), Arc<RecordShape>, RandomState>,
    /// Of which history positions are.
    origin: Arc<Origin>,
    pub people: People,
    /// Plans were made since this was last asked for.
    has_news: bool,
}

impl AccessTable {
    pub fn role(&mut self, name: &str) -> RoleKey {
        if let Some(key) = self.roles.get(name) {
            return *key;
        }
        let key = RoleKey(self.names.len() as u32);
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.roles.insert(name, key);
        key
    }

    /// The catalog changed: everything is worked out anew when it is next needed.
    pub fn clear(&mut self) {
        self.access.clear();
        self.shapes.clear();
        self.people.clear();
        self.has_news = true;
    }

    /// A table of the same roles in which nothing is worked out: for another state of the catalog.
    pub fn fork(&self) -> AccessTable {
        let (roles, names, origin) = (self.roles.clone(), self.names.clone(), Arc::clone(&self.origin));
        AccessTable { roles, names, origin, ..AccessTable::default() }
    }

    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// The stream is of this history.
    pub fn set_origin(&mut self, origin: Arc<Origin>) {
        if self.origin != origin {
            self.origin = origin;
            self.shapes.clear();
        }
    }

    /// What is needed of tables is to be worked out again.
    pub fn needs_changed(&mut self) {
        self.has_news = true;
    }

    /// What the plans made so far read of other tables; `None`: nothing has changed since the last call.
    pub fn take_needs(&mut self) -> Option<Vec<Need>> {
        if !std::mem::take(&mut self.has_news) {
            return None;
        }
        let plans = self.access.values().filter_map(|access| match &access.plan {
            Plan::Compiled(plan) => Some(plan),
            _ => None,
        });
        let mut needs = Vec::new();
        for plan in plans {
            needs.extend_from_slice(&plan.program.needs);
            needs.extend(plan.audience.iter().flat_map(Audience::needs));
        }
        Some(needs)
    }

    pub fn access(&mut self, catalog: &Catalog, relation: &Arc<Relation>, role: RoleKey) -> Arc<Access> {
        let known = self.access.get(&(relation.id, role));
        if let Some(access) = known {
            return Arc::clone(access);
        }
        let access = Arc::new(work_out(catalog, relation, &self.names[role.0 as usize]));
        self.has_news |= matches!(access.plan, Plan::Compiled(_));
        self.access.insert((relation.id, role), Arc::clone(&access));
        access
    }

    /// The shape of the records that show `visible`, narrowed to `select`.
    pub fn shape(
        &mut self,
        catalog: &Catalog,
        relation: &Arc<Relation>,
        visible: &ColumnSet,
        selection: &Selection,
    ) -> Arc<RecordShape> {
        let columns = match &selection.columns {
            None => visible.clone(),
            Some(select) => visible.intersection(select),
        };
        let key = (relation.id, columns, selection.positions);
        if let Some(shape) = self.shapes.get(&key) {
            return Arc::clone(shape);
        }
        let shape = RecordShape::new(catalog, relation, &key.1);
        let shape = Arc::new(if key.2 { shape.with_positions(&self.origin) } else { shape });
        self.shapes.insert(key, Arc::clone(&shape));
        shape
    }
}

fn work_out(catalog: &Catalog, relation: &Arc<Relation>, role: &str) -> Access {
    let Some(role) = catalog.roles.get(role) else {
        return Access {
            plan: Plan::Denied(DeniedReason::NoPolicy),
            row_security: true,
            visible: ColumnSet::default(),
            no_primary_key: relation.primary_key.is_empty(),
            unauthorized: true,
        };
    };
    let visible = catalog.visible_columns(role, relation);
    let plan = authz::plan(catalog, relation, role);
    if let Plan::Oracle(plan) = &plan
        && let Some(why) = &plan.not_compiled
    {
        tracing::debug!(relation = %relation.sql_name(), role = role.name, %why, "policies are left to Postgres");
    }
    Access {
        plan,
        row_security: relation.row_security_active(role),
        no_primary_key: relation.primary_key.is_empty(),
        unauthorized: !relation.primary_key.iter().all(|column| visible.contains(*column)),
        visible,
    }
}
