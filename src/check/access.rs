//! Who may see what: grants, row-level security, and the plan that walcast makes of it.

use std::sync::Arc;

use tokio_postgres::{Client, Error};

use super::plans::{self, TablePlan, table_plan};
use super::publication::may_be_full;
use super::{Report, roles_of};
use crate::authz::{Plan, check_plan, plan};
use crate::catalog::relation::quote_identifier;
use crate::catalog::{Catalog, ColumnSet, PolicyCommand, Relation, Role};
use crate::setup::ApiRole;

pub(super) async fn look(
    client: &Client,
    catalog: &Catalog,
    api_roles: &[ApiRole],
    report: &mut Report,
) -> Result<(), Error> {
    if api_roles.is_empty() {
        report.fail(
            "roles",
            "there is neither anon nor authenticated nor a role that authenticator may become: no token can name one",
            Some("walcast setup --with-auth".into()),
        );
        return Ok(());
    }
    let mut relations: Vec<_> = catalog.relations.values().collect();
    relations.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    for relation in relations {
        let plans: Vec<(&Role, Plan)> =
            roles_of(catalog, api_roles).map(|role| (role, plan(catalog, relation, role))).collect();
        let named = named_by_policies(catalog, relation, &plans);
        let mut found = Vec::new();
        for (role, plan) in plans.iter().chain(&named) {
            found.push(table_plan(client, catalog, relation, role, plan).await?);
        }
        who_sees(catalog, relation, (&plans, &named), &found, report);
        plans::warn(relation, &found, report);
        report.plans.extend(found);
        deletes(client, catalog, relation, &plans, report).await?;
    }
    channels(client, catalog, api_roles, report).await?;
    functions(client, catalog, api_roles, report).await
}

/// Who may use private channels. Nobody subscribes to `realtime.messages`: its policies are about topics.
async fn channels(client: &Client, catalog: &Catalog, api_roles: &[ApiRole], report: &mut Report) -> Result<(), Error> {
    let Some(messages) = &catalog.messages else { return Ok(()) };
    let mut found = Vec::new();
    for role in roles_of(catalog, api_roles) {
        let read = (&messages.read, plan(catalog, &messages.read, role), "read");
        let write = (&messages.write, check_plan(catalog, &messages.write, role), "write");
        for (relation, plan, right) in [read, write] {
            let mut of_right = table_plan(client, catalog, relation, role, &plan).await?;
            of_right.table = format!("{} ({right})", of_right.table);
            found.push(of_right);
        }
    }
    plans::warn(&messages.read, &found, report);
    report.plans.extend(found);
    Ok(())
}

fn may_select_key(catalog: &Catalog, relation: &Relation, role: &Role) -> bool {
    let columns = catalog.visible_columns(role, relation);
    let key: ColumnSet = relation.primary_key.iter().copied().collect();
    !columns.is_empty() && key.is_subset(&columns)
}

/// Roles that the table's policies are for, but that no token may name.
fn named_by_policies<'c>(
    catalog: &'c Catalog,
    relation: &Arc<Relation>,
    known: &[(&Role, Plan)],
) -> Vec<(&'c Role, Plan)> {
    let policies = relation.policies.iter();
    let policies = policies.filter(|policy| matches!(policy.command, PolicyCommand::All | PolicyCommand::Select));
    let named: Vec<u32> = policies.flat_map(|policy| policy.roles.iter().copied()).collect();
    let is_known = |role: &Role| known.iter().any(|(known, _)| known.oid == role.oid);
    let mut roles: Vec<&Role> = catalog.roles.by_name.values().map(AsRef::as_ref).collect();
    roles.retain(|role| named.contains(&role.oid) && !is_known(role));
    roles.sort_by(|a, b| a.name.cmp(&b.name));
    roles.into_iter().map(|role| (role, plan(catalog, relation, role))).collect()
}

type OfRoles<'a> = &'a [(&'a Role, Plan)];

fn who_sees(
    catalog: &Catalog,
    relation: &Relation,
    (plans, named): (OfRoles, OfRoles),
    found: &[TablePlan],
    report: &mut Report,
) {
    let what = format!("table {}", relation.sql_name());
    let mut lines = Vec::new();
    let mut anybody = false;
    for (place, ((role, plan), found)) in plans.iter().chain(named).zip(found).enumerate() {
        let sees = if !catalog.may_use_schema(role, &relation.schema) {
            format!("nothing: no USAGE on the schema {} (\"Error 401: Unauthorized\")", relation.schema)
        } else if !may_select_key(catalog, relation, role) {
            "nothing: no SELECT on the table, or not on its primary key (\"Error 401: Unauthorized\")".to_owned()
        } else {
            anybody |= place < plans.len() && !matches!(plan, Plan::Denied(_));
            match plan {
                Plan::Open if relation.row_security => {
                    format!("{found}, open: row-level security does not apply to the role")
                }
                Plan::Open => format!("{found}, open: row-level security is off"),
                Plan::Denied(reason) => format!("{found}: {reason}"),
                Plan::Compiled(_) | Plan::Oracle(_) => found.to_string(),
            }
        };
        let token = if place < plans.len() { "" } else { " (no token can name it)" };
        lines.push(format!("{}{token} sees {sees}", role.name));
    }
    let detail = lines.join("\n");
    let anon = plans.iter().find(|(role, _)| role.name == "anon");
    let public = anon.is_some_and(|(role, plan)| *plan == Plan::Open && may_select_key(catalog, relation, role));
    if !anybody {
        let role =
            plans.iter().map(|(role, _)| role.name.as_str()).find(|name| *name == "authenticated").unwrap_or("<role>");
        let role = quote_identifier(role);
        let statement = format!(
            "grant usage on schema {} to {role};\ngrant select on {} to {role};",
            quote_identifier(&relation.schema),
            relation.sql_name()
        );
        report.warn(what, format!("nobody sees anything of it\n{detail}"), Some(statement));
    } else if public && !relation.row_security {
        let statement = format!("alter table {} enable row level security;", relation.sql_name());
        report.warn(what, format!("whoever has the anonymous key sees every row\n{detail}"), Some(statement));
    } else {
        report.pass(what, detail);
    }
}

/// A DELETE carries the replica identity alone. Where policies need more, nothing can judge it.
async fn deletes(
    client: &Client,
    catalog: &Catalog,
    relation: &Relation,
    plans: &[(&Role, Plan)],
    report: &mut Report,
) -> Result<(), Error> {
    let key: ColumnSet = relation.identity_key.iter().copied().collect();
    let needs_more = plans
        .iter()
        .filter_map(|(_, plan)| plan.oracle())
        .any(|plan| plan.columns.as_ref().is_none_or(|columns| !columns.is_subset(&key)));
    if !needs_more || !relation.publish.delete || relation.identity_key.len() == relation.columns.len() {
        return Ok(());
    }
    let detail = "its policies read columns that a DELETE does not carry: by default every subscriber of the table is sent \
        the deleted row's key, as Supabase does; with --deletes authorized, nobody";
    let statement = match may_be_full(client, relation, catalog.server_version).await? {
        true => format!(
            "alter table {} replica identity full; -- costs WAL: the whole old row with every UPDATE and DELETE",
            relation.sql_name()
        ),
        // FULL would make the application's UPDATE and DELETE fail.
        false => "serve --deletes authorized".to_owned(),
    };
    report.warn(format!("deletes of {}", relation.sql_name()), detail, Some(statement));
    Ok(())
}

/// The oracle evaluates a policy's text as the role: unlike in a SELECT, the names in it are looked up again.
async fn functions(
    client: &Client,
    catalog: &Catalog,
    api_roles: &[ApiRole],
    report: &mut Report,
) -> Result<(), Error> {
    // What those call in turn may run as somebody else, and is Postgres' own affair.
    let called = |oid: u32| {
        let field = format!(":funcid {oid} ");
        let policies = catalog.relations.values().flat_map(|relation| &relation.policies);
        policies.filter_map(|policy| policy.using_tree.as_deref()).any(|tree| tree.contains(&field))
    };
    let oids: Vec<u32> = catalog.functions.keys().copied().filter(|oid| called(*oid)).collect();
    let roles: Vec<&str> = roles_of(catalog, api_roles).map(|role| role.name.as_str()).collect();
    let rows = client
        .query(
            "select r.role, f.oid::regprocedure::text, n.nspname::text,
                has_schema_privilege(r.role, n.oid, 'usage'), has_function_privilege(r.role, f.oid, 'execute')
            from unnest($1::text[]) r(role)
            cross join pg_proc f
            join pg_namespace n on n.oid = f.pronamespace
            where f.oid = any ($2)
                and not (has_schema_privilege(r.role, n.oid, 'usage') and has_function_privilege(r.role, f.oid, 'execute'))
            order by 1, 2",
            &[&roles, &oids],
        )
        .await?;
    for row in &rows {
        let (role, function, schema): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let mut statements = Vec::new();
        if !row.get::<_, bool>(3) {
            statements.push(format!(
                "grant usage on schema {} to {};",
                quote_identifier(schema),
                quote_identifier(role)
            ));
        }
        if !row.get::<_, bool>(4) {
            statements.push(format!("grant execute on function {function} to {};", quote_identifier(role)));
        }
        report.warn(
            format!("function {function}"),
            format!("policies call it, and {role} may not: they deny"),
            Some(statements.join("\n")),
        );
    }
    Ok(())
}
