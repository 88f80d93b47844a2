//! The server's version and settings.

use tokio_postgres::{Client, Error};

use super::Report;

pub(super) async fn look(client: &Client, report: &mut Report) -> Result<(), Error> {
    let row = client
        .query_one(
            "select current_setting('server_version'), current_setting('server_version_num')::int,
                current_setting('wal_level'), pg_is_in_recovery(),
                current_setting('max_wal_senders')::int8, (select count(*) from pg_stat_replication),
                exists (select from pg_settings where name = 'rds.logical_replication'),
                (select count(*) from pg_prepared_xacts)",
            &[],
        )
        .await?;
    let (version, number): (String, i32) = (row.get(0), row.get(1));
    match number / 10000 {
        ..14 => report.fail("version", format!("Postgres {version}: walcast needs 14 or newer"), None),
        14..=18 => report.pass("version", format!("Postgres {version}")),
        _ => report.warn(
            "version",
            format!("Postgres {version} is newer than what walcast was tested with (14 to 18)"),
            None,
        ),
    }
    if row.get(3) {
        report.fail("primary", "this server is a standby: walcast has to be connected to the primary", None);
    }
    let wal_level: String = row.get(2);
    if wal_level == "logical" {
        report.pass("wal_level", "logical");
    } else {
        let statement = match row.get(6) {
            true => "set rds.logical_replication = 1 in the parameter group, and restart the instance".to_owned(),
            false => "alter system set wal_level = logical; -- then restart Postgres".to_owned(),
        };
        report.fail("wal_level", format!("{wal_level}: logical replication needs logical"), Some(statement));
    }
    let (senders, used): (i64, i64) = (row.get(4), row.get(5));
    let detail = format!("{used} of {senders} in use");
    if used < senders {
        report.pass("max_wal_senders", detail);
    } else {
        let statement = format!("alter system set max_wal_senders = {}; -- then restart Postgres", senders + 10);
        report.fail("max_wal_senders", format!("{detail}, none is free"), Some(statement));
    }
    match crate::wal::warning::look(client).await {
        Ok(warnings) => {
            for warning in warnings {
                report.warn("synchronous_commit", warning.to_string(), None);
            }
        }
        Err(error) => report.could_not_ask::<crate::wal::Error>("synchronous_commit", Err(error)),
    }
    Ok(())
}
