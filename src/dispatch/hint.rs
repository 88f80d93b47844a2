//! What a subscriber could do about what he will not get: the `hint` of the `system` message that answers his join.
//! Clients ignore it, people read it (DESIGN 8).

use super::access::{AccessTable, RoleKey};
use super::{Config, Deletes};
use crate::authz::Plan;
use crate::catalog::{Catalog, ReplicaIdentity, quote_identifier};
use crate::routing::{Binding, BoundSubscription};
use crate::wal::pgoutput::RelationId;

/// No table of the publication matches.
pub fn not_published(binding: &Binding, config: &Config) -> Option<String> {
    let publication = quote_identifier(config.publications.first()?);
    if binding.schema == "*" || binding.table == "*" {
        return Some(format!("Put tables into the publication: ALTER PUBLICATION {publication} ADD TABLE ..."));
    }
    let table = format!("{}.{}", quote_identifier(&binding.schema), quote_identifier(&binding.table));
    Some(format!("If the table exists: ALTER PUBLICATION {publication} ADD TABLE {table}"))
}

/// Rows or deletes of a bound table that its role will not see; the first that is found.
pub fn not_delivered(
    bound: &[(u32, BoundSubscription)],
    role: RoleKey,
    role_name: &str,
    config: &Config,
    catalog: &Catalog,
    access: &mut AccessTable,
) -> Option<String> {
    let mut looked_at: Option<RelationId> = None;
    for (_, subscription) in bound {
        if looked_at.replace(subscription.relation) == Some(subscription.relation) {
            continue;
        }
        let Some(relation) = catalog.relation(subscription.relation) else { continue };
        let may = access.access(catalog, relation, role);
        let table = relation.sql_name();
        if may.no_primary_key {
            return Some(format!("{table} has no primary key: ALTER TABLE {table} ADD PRIMARY KEY (...)"));
        }
        if may.unauthorized {
            let (role, schema) = (quote_identifier(role_name), quote_identifier(&relation.schema));
            if catalog.roles.get(role_name).is_some_and(|role| !catalog.may_use_schema(role, &relation.schema)) {
                return Some(format!(
                    "The role may not use the schema of {table}: GRANT USAGE ON SCHEMA {schema} TO {role}"
                ));
            }
            return Some(format!(
                "The role may not read the primary key of {table}: GRANT SELECT ON {table} TO {role}"
            ));
        }
        let judged = may.row_security && matches!(may.plan, Plan::Oracle(_));
        if judged && config.deletes == Deletes::Authorized && relation.replica_identity != ReplicaIdentity::Full {
            return Some(format!(
                "Deletes whose old row the policies cannot judge are not delivered: ALTER TABLE {table} REPLICA IDENTITY FULL"
            ));
        }
    }
    None
}
