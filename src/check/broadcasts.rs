//! Broadcast from the database: whether what is inserted into `realtime.messages` can be, is carried, and can be replayed.

use tokio_postgres::{Client, Error};

use super::Report;
use crate::catalog::{Catalog, Followed, quote_identifier};
use crate::setup::OWN_PUBLICATION;
use crate::wal::pgoutput::RelationId;
use crate::wal::publication::Own;

const WHAT: &str = "broadcast from the database";
const SETUP: &str = "walcast setup";

pub(super) async fn look(client: &Client, catalog: &Catalog, report: &mut Report) -> Result<(), Error> {
    let own = Own::look(client).await?;
    // There is a word about that already.
    if !own.is_trusted() {
        return Ok(());
    }
    if let Some(strangers) = &own.realtime_strangers {
        let detail = format!(
            "{strangers}, who can neither become a superuser nor this database's owner: what is inserted there is not believed. \
             Drop it, or change its owner if it is yours; then run setup again"
        );
        report.fail(WHAT, detail, None);
        return Ok(());
    }
    let Some(messages) = own.messages else {
        report.warn(
            WHAT,
            "there is no realtime.messages: realtime.send and private channels do not work",
            Some(SETUP.into()),
        );
        return Ok(());
    };
    let before = report.findings.len();
    carried(catalog, messages, report);
    partitions(client, messages, report).await?;
    privileges(client, messages, report).await?;
    if !own.signs {
        report.warn(WHAT, "walcast.send is not there: an earlier version's setup was run", Some(SETUP.into()));
    }
    if report.findings.len() == before {
        report.pass(WHAT, "realtime.messages is carried, and has partitions for today and tomorrow");
    }
    Ok(())
}

fn carried(catalog: &Catalog, messages: RelationId, report: &mut Report) {
    let followed = catalog.any_relation(messages).map(|relation| relation.followed);
    if !matches!(followed, Some(Followed::Whole | Followed::InPart)) {
        let detail = "realtime.messages is in no publication that is read: what is inserted there is not broadcast";
        report.warn(WHAT, detail, Some(format!("alter publication {OWN_PUBLICATION} add table realtime.messages;")));
    }
}

/// Days of UTC.
async fn partitions(client: &Client, messages: RelationId, report: &mut Report) -> Result<(), Error> {
    let sql = r"select day::date::text, ahead
        from generate_series(0, 1) ahead
        cross join lateral (select timezone('utc', now())::date + ahead) today(day)
        where (select relkind = 'p' from pg_class where oid = $1) and not exists (
            select
            from pg_inherits i
            join pg_class c on c.oid = i.inhrelid
            cross join lateral pg_get_expr(c.relpartbound, c.oid) bound(text)
            where i.inhparent = $1 and (
                bound.text = 'DEFAULT'
                or tsrange(
                    (regexp_match(bound.text, $$FROM \('([^']+)'\)$$))[1]::timestamp,
                    (regexp_match(bound.text, $$TO \('([^']+)'\)$$))[1]::timestamp
                ) @> day::timestamp
            )
        )
        order by ahead";
    for row in client.query(sql, &[&messages.0]).await? {
        let (day, ahead): (String, i32) = (row.get(0), row.get(1));
        let statement =
            Some("select walcast.keep_messages(); -- as whoever ran setup, or run walcast setup again".into());
        match ahead {
            0 => report.fail(
                WHAT,
                format!("realtime.messages has no partition for today, {day}: every message fails"),
                statement,
            ),
            _ => report.warn(
                WHAT,
                format!("realtime.messages has no partition for tomorrow, {day}: the relay makes it, where it may"),
                statement,
            ),
        }
    }
    Ok(())
}

async fn privileges(client: &Client, messages: RelationId, report: &mut Report) -> Result<(), Error> {
    let row = client
        .query_one(
            "select has_schema_privilege('realtime', 'usage') and has_table_privilege($1::oid, 'select'),
                current_user::text,
                (select rolsuper or rolbypassrls from pg_roles where rolname = current_user)",
            &[&messages.0],
        )
        .await?;
    let login = quote_identifier(row.get(1));
    if !row.get::<_, bool>(0) {
        let statement =
            format!("grant usage on schema realtime to {login}; grant select on realtime.messages to {login};");
        report.warn(WHAT, format!("{login} may not read realtime.messages: nothing is replayed"), Some(statement));
    } else if !row.get::<_, bool>(2) {
        let detail = format!("{login} does not bypass row-level security: nothing is replayed");
        report.warn(WHAT, detail, Some(format!("alter role {login} bypassrls;")));
    }
    Ok(())
}
