//! The publications and what they do to their tables.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Error};

use super::{Config, Report};
use crate::catalog::relation::quote_identifier;
use crate::catalog::{Loaded, Relation, ReplicaIdentity};
use crate::setup::OWN_PUBLICATION;

pub(super) async fn look(client: &Client, config: &Config, loaded: &Loaded, report: &mut Report) -> Result<(), Error> {
    for name in &config.publications {
        if loaded.publications.contains(name) {
            report.pass("publication", format!("{name} exists"));
        } else {
            let statement = format!("create publication {};", quote_identifier(name));
            report.fail("publication", format!("{name} does not exist"), Some(statement));
        }
    }
    let lists = column_lists(client, config).await?;
    for relation in sorted(loaded) {
        keys(relation, loaded.catalog.server_version, lists.get(&relation.id.0), report);
    }
    if let Some(name) = loaded.publications.first()
        && loaded.catalog.relations.is_empty()
    {
        let statement = format!("alter publication {} add table <schema.table>;", quote_identifier(name));
        report.warn("publication", "there is no table in it: nobody can subscribe to anything", Some(statement));
    }
    in_both(client, config, report).await?;
    conflicting(&lists, report);
    Ok(())
}

pub(super) fn sorted(loaded: &Loaded) -> Vec<&Relation> {
    let mut relations: Vec<&Relation> = loaded.catalog.relations.values().map(AsRef::as_ref).collect();
    relations.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    relations
}

/// The column lists of a table.
pub(super) struct ColumnLists {
    table: String,
    /// Attribute numbers as text, by publication; `None`: all.
    by_publication: BTreeMap<String, Option<String>>,
}

async fn column_lists(client: &Client, config: &Config) -> Result<BTreeMap<u32, ColumnLists>, Error> {
    // 14 has no column lists.
    let rows = client
        .query(
            "select r.prrelid, r.prrelid::regclass::text, p.pubname::text, to_jsonb(r) ->> 'prattrs'
            from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
            where p.pubname = any ($1) or p.pubname = $2",
            &[&config.publications, &OWN_PUBLICATION],
        )
        .await?;
    let mut lists: BTreeMap<u32, ColumnLists> = BTreeMap::new();
    for row in &rows {
        let list = lists.entry(row.get(0));
        let list = list.or_insert_with(|| ColumnLists { table: row.get(1), by_publication: BTreeMap::new() });
        list.by_publication.insert(row.get(2), row.get(3));
    }
    Ok(lists)
}

fn conflicting(lists: &BTreeMap<u32, ColumnLists>, report: &mut Report) {
    for ColumnLists { table, by_publication } in lists.values() {
        let different: BTreeSet<_> = by_publication.values().collect();
        if different.len() > 1 {
            let publications: Vec<&str> = by_publication.keys().map(String::as_str).collect();
            report.fail(
                format!("table {table}"),
                format!(
                    "has different column lists in {}: the stream fails at its first change, and making the lists equal \
                     afterwards does not mend what is in the WAL already",
                    publications.join(" and ")
                ),
                Some(format!("alter publication {} drop table {table};", quote_identifier(publications[0]))),
            );
        }
    }
}

async fn in_both(client: &Client, config: &Config, report: &mut Report) -> Result<(), Error> {
    let rows = client
        .query(
            "select distinct own.prrelid::regclass::text
            from pg_publication_rel own
            join pg_publication o on o.oid = own.prpubid and o.pubname = $2
            join pg_publication_rel users on users.prrelid = own.prrelid
            join pg_publication p on p.oid = users.prpubid and p.pubname = any ($1)",
            &[&config.publications, &OWN_PUBLICATION],
        )
        .await?;
    for row in &rows {
        let table: String = row.get(0);
        report.fail(
            format!("table {table}"),
            "is in walcast's own publication too: the row filter of yours is not applied",
            Some(format!("alter publication {OWN_PUBLICATION} drop table {table};")),
        );
    }
    Ok(())
}

/// Primary key and replica identity: what events carry, and what the application may no longer do.
fn keys(relation: &Relation, server_version: u32, lists: Option<&ColumnLists>, report: &mut Report) {
    let what = format!("table {}", relation.sql_name());
    let changes = relation.publish.update || relation.publish.delete;
    if relation.primary_key.is_empty() {
        let statement = format!("alter table {} add primary key (<columns>);", relation.sql_name());
        report.warn(
            &what,
            "has no primary key: inserts and updates reach subscribers as \"Error 400: Bad Request, no primary key\"",
            Some(statement),
        );
    }
    let no_identity = changes && relation.identity_key.is_empty();
    if no_identity {
        let statement = match relation.primary_key.is_empty() {
            true => format!("alter table {} add primary key (<columns>);", relation.sql_name()),
            false => format!("alter table {} replica identity default;", relation.sql_name()),
        };
        report.fail(
            &what,
            "has no replica identity: Postgres refuses UPDATE and DELETE on it while it is published",
            Some(statement),
        );
        return;
    }
    let covered = covers_identity(relation, lists);
    if changes && !covered {
        report.fail(
            &what,
            "has a column list without its replica identity's columns: Postgres refuses UPDATE and DELETE on it",
            Some(format!("alter table {} replica identity default;", relation.sql_name())),
        );
    }
    if relation.replica_identity == ReplicaIdentity::Full && server_version >= 180000 && has_stored_column(relation) {
        report.fail(
            &what,
            "has REPLICA IDENTITY FULL and a stored generated column: unless the publication has \
             publish_generated_columns = stored, Postgres refuses UPDATE and DELETE on it",
            Some(format!("alter table {} replica identity default;", relation.sql_name())),
        );
    }
}

fn covers_identity(relation: &Relation, lists: Option<&ColumnLists>) -> bool {
    let listed = |list: &str| -> BTreeSet<i16> { list.split_whitespace().filter_map(|n| n.parse().ok()).collect() };
    let lists = lists.into_iter().flat_map(|lists| lists.by_publication.values().flatten());
    lists
        .map(|list| listed(list))
        .all(|list| relation.identity_key.iter().all(|column| list.contains(&relation.column(*column).attnum)))
}

fn has_stored_column(relation: &Relation) -> bool {
    relation.columns.iter().any(|column| column.generated.as_ref().is_some_and(|generated| generated.stored))
}

/// Whether REPLICA IDENTITY FULL can be recommended: not where it makes UPDATE and DELETE fail (ASSUMPTIONS 15).
pub(super) async fn may_be_full(client: &Client, relation: &Relation, server_version: u32) -> Result<bool, Error> {
    if server_version >= 180000 && has_stored_column(relation) {
        return Ok(false);
    }
    // Of any publication: a list that the whole row is wider than refuses the application's UPDATE.
    let sql = "select not exists (select from pg_publication_rel r where r.prrelid = $1 and to_jsonb(r) ->> 'prattrs' is not null)";
    Ok(client.query_one(sql, &[&relation.id.0]).await?.get(0))
}
