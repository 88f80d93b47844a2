//! Tables that policies read: whether the stream carries them, so that such policies are decided without Postgres.

use tokio_postgres::Client;

use super::Report;
use crate::catalog::{Catalog, Followed, LoadError, Relation};
use crate::setup::OWN_PUBLICATION;
use crate::setup::tracking::{Obstacle, obstacle, tables_read};

const WHAT_THEN: &str = "of policies that read it Postgres is asked, as of the question";

pub(super) async fn look(client: &Client, catalog: &Catalog, report: &mut Report) -> Result<(), LoadError> {
    for relation in tables_read(catalog).iter().filter_map(|id| catalog.any_relation(*id)) {
        table(client, catalog, relation, report).await?;
    }
    Ok(())
}

async fn table(client: &Client, catalog: &Catalog, relation: &Relation, report: &mut Report) -> Result<(), LoadError> {
    let name = relation.sql_name();
    let what = format!("table {name}, which policies read");
    if relation.followed != Followed::Whole {
        let (reason, statement) = match obstacle(catalog, relation) {
            Some(Obstacle { reason, statement }) => (reason, statement),
            None => (
                "it is in no publication that is read".to_owned(),
                format!("walcast setup -- or: alter publication {OWN_PUBLICATION} add table {name};"),
            ),
        };
        report.warn(what, format!("is not followed: {reason}; {WHAT_THEN}"), Some(statement));
        return Ok(());
    }
    let sql = "select has_schema_privilege(c.relnamespace, 'usage') and has_table_privilege(c.oid, 'select'), current_user::text
        from pg_catalog.pg_class c where c.oid = $1";
    let Some(row) = client.query_opt(sql, &[&relation.id.0]).await? else { return Ok(()) };
    if row.get(0) {
        report.pass(what, "is followed");
        return Ok(());
    }
    let login = crate::catalog::relation::quote_identifier(row.get(1));
    let schema = crate::catalog::relation::quote_identifier(&relation.schema);
    let statement = format!("grant usage on schema {schema} to {login};\ngrant select on {name} to {login};");
    report.warn(what, format!("may not be read by {login}: {WHAT_THEN}"), Some(statement));
    Ok(())
}
