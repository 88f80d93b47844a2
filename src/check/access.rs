//! Who may see what: grants, row-level security, and the plan that walcast makes of it.

use tokio_postgres::{Client, Error};

use super::publication::may_be_full;
use super::{Report, roles_of};
use crate::authz::{Plan, plan};
use crate::catalog::relation::quote_identifier;
use crate::catalog::{Catalog, ColumnSet, Relation, Role};
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
        who_sees(catalog, relation, &plans, report);
        deletes(client, catalog, relation, &plans, report).await?;
    }
    functions(client, catalog, api_roles, report).await
}

fn may_select_key(catalog: &Catalog, relation: &Relation, role: &Role) -> bool {
    let columns = catalog.visible_columns(role, relation);
    let key: ColumnSet = relation.primary_key.iter().copied().collect();
    !columns.is_empty() && key.is_subset(&columns)
}

fn who_sees(catalog: &Catalog, relation: &Relation, plans: &[(&Role, Plan)], report: &mut Report) {
    let what = format!("table {}", relation.sql_name());
    let mut lines = Vec::new();
    let mut anybody = false;
    for (role, plan) in plans {
        let sees = if !catalog.may_use_schema(role, &relation.schema) {
            format!("nothing: no USAGE on the schema {} (\"Error 401: Unauthorized\")", relation.schema)
        } else if !may_select_key(catalog, relation, role) {
            "nothing: no SELECT on the table, or not on its primary key (\"Error 401: Unauthorized\")".to_owned()
        } else {
            match plan {
                Plan::Open => {
                    anybody = true;
                    match relation.row_security {
                        true => "every row: row-level security does not apply to the role".to_owned(),
                        false => "every row: row-level security is off".to_owned(),
                    }
                }
                Plan::Denied(reason) => format!("nothing: {reason}"),
                Plan::Oracle(plan) => {
                    anybody = true;
                    format!("what Postgres says of: {}", plan.expression)
                }
            }
        };
        lines.push(format!("{} sees {sees}", role.name));
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
    let needs_more = plans.iter().any(|(_, plan)| match plan {
        Plan::Oracle(plan) => plan.columns.as_ref().is_none_or(|columns| !columns.is_subset(&key)),
        Plan::Open | Plan::Denied(_) => false,
    });
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
    let oids: Vec<u32> = catalog.functions.keys().copied().collect();
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
