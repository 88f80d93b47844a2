//! Roles and what they inherit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;

use super::Oid;

/// The query that makes the document that [`Roles::parse`] reads.
pub const ROLES_SQL: &str = include_str!("../../sql/catalog/roles.sql");

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

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    pub by_name: HashMap<String, Arc<Role>>,
    /// `ALTER ROLE .. SET` and `ALTER DATABASE .. SET` as they apply in this database, `name=value`, the more specific
    /// later; 0 stands for every role.
    pub settings: HashMap<Oid, Vec<String>>,
    /// By member: the roles that it is directly a member of, whether or not it inherits. `None`: not known.
    pub members: Option<HashMap<Oid, Vec<Oid>>>,
}

impl Roles {
    pub fn get(&self, name: &str) -> Option<&Arc<Role>> {
        self.by_name.get(name)
    }

    /// Reads what `sql/catalog/roles.sql` prints.
    pub fn parse(text: &str) -> Result<Roles, serde_json::Error> {
        let document: Document = serde_json::from_str(text)?;
        let edges = by_member(document.inherits);
        let role = |state: RoleState| {
            let inherits = reachable(state.oid, &edges);
            let RoleState { oid, name, superuser, bypass_rls } = state;
            (name.clone(), Arc::new(Role { oid, name, superuser, bypass_rls, inherits }))
        };
        let by_name = document.roles.into_iter().map(role).collect();
        let mut settings: HashMap<Oid, Vec<String>> = HashMap::new();
        for setting in document.settings {
            settings.entry(setting.role).or_default().extend(setting.values);
        }
        Ok(Roles { by_name, settings, members: document.members.map(by_member) })
    }

    /// Every role `m` with `pg_has_role(role, m, 'MEMBER')`, but for superusers, who are members of all. `None`: the
    /// memberships are not known.
    pub fn member_of(&self, role: Oid) -> Option<HashSet<Oid>> {
        self.members.as_ref().map(|edges| reachable(role, edges))
    }
}

impl Role {
    /// `pg_has_role(self, other, 'USAGE')`.
    pub fn has_privileges_of(&self, other: Oid) -> bool {
        self.superuser || self.inherits.contains(&other)
    }
}

#[derive(Deserialize)]
struct Document {
    roles: Vec<RoleState>,
    inherits: Vec<(Oid, Oid)>,
    members: Option<Vec<(Oid, Oid)>>,
    settings: Vec<SettingState>,
}

#[derive(Deserialize)]
struct RoleState {
    oid: Oid,
    name: String,
    superuser: bool,
    bypass_rls: bool,
}

#[derive(Deserialize)]
struct SettingState {
    role: Oid,
    values: Vec<String>,
}

fn by_member(list: Vec<(Oid, Oid)>) -> HashMap<Oid, Vec<Oid>> {
    let mut edges: HashMap<Oid, Vec<Oid>> = HashMap::new();
    for (member, role) in list {
        edges.entry(member).or_default().push(role);
    }
    edges
}

/// What can be reached along the edges, the start included.
fn reachable(start: Oid, edges: &HashMap<Oid, Vec<Oid>>) -> HashSet<Oid> {
    let mut reached = HashSet::from([start]);
    let mut open = vec![start];
    while let Some(oid) = open.pop() {
        for next in edges.get(&oid).into_iter().flatten() {
            if reached.insert(*next) {
                open.push(*next);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inherits_along_every_path_and_survives_a_circle() {
        let roles = Roles::parse(
            r#"{"roles":[{"oid":1,"name":"a","superuser":false,"bypass_rls":false},
                        {"oid":2,"name":"b","superuser":true,"bypass_rls":true}],
                "inherits":[[1,3],[3,4],[4,1],[2,5]], "members":[[1,3],[3,6]], "settings":[{"role":0,"values":["TimeZone=UTC"]}]}"#,
        )
        .unwrap();
        let a = roles.get("a").unwrap();
        assert_eq!(a.inherits, HashSet::from([1, 3, 4]));
        assert!(!a.has_privileges_of(5));
        assert_eq!(roles.member_of(1), Some(HashSet::from([1, 3, 6])));
        assert!(roles.get("b").unwrap().has_privileges_of(4), "a superuser has everybody's");
        assert_eq!(roles.settings[&0], ["TimeZone=UTC"]);
    }
}
