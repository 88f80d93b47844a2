//! Roles and what they inherit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Oid;

/// A row of `pg_roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    pub oid: Oid,
    pub name: String,
    pub superuser: bool,
    pub bypass_rls: bool,
    /// Every role `m` with `pg_has_role(this, m, 'USAGE')`, itself included (membership with inheritance,
    /// transitively; for a superuser still only these: check `superuser` first).
    pub inherits: HashSet<Oid>,
}

#[derive(Clone, Debug, Default)]
pub struct Roles {
    pub by_name: HashMap<String, Arc<Role>>,
}

impl Roles {
    pub fn get(&self, name: &str) -> Option<&Arc<Role>> {
        self.by_name.get(name)
    }
}

impl Role {
    /// `pg_has_role(self, other, 'USAGE')`.
    pub fn has_privileges_of(&self, other: Oid) -> bool {
        self.superuser || self.inherits.contains(&other)
    }
}
