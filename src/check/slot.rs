//! The slot: its state, the WAL it holds, and what the making of one would wait for.

use tokio_postgres::Client;

use super::{Config, Report};
use crate::wal::{Error, slot};

pub(super) async fn look(client: &Client, config: &Config, report: &mut Report) -> Result<(), Error> {
    let row = client
        .query_one(
            "select current_database()::text, current_setting('max_replication_slots')::int8,
                (select count(*) from pg_replication_slots),
                (select setting::int8 from pg_settings where name = 'max_slot_wal_keep_size')",
            &[],
        )
        .await?;
    let (database, slots, used): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
    // In megabytes; -1 for no limit.
    let keep_megabytes: i64 = row.get(3);
    match slot::look_up(client, &config.slot).await? {
        Some(found) => existing(&found, &database, keep_megabytes, report),
        None => {
            report.pass("slot", format!("{} does not exist; serve makes it", config.slot));
            if used >= slots {
                let statement =
                    format!("alter system set max_replication_slots = {}; -- then restart Postgres", slots + 10);
                let detail = format!("{used} of {slots} in use, none is free for walcast's");
                report.fail("max_replication_slots", detail, Some(statement));
            }
            holders(client, report).await?;
        }
    }
    if keep_megabytes < 0 {
        report.warn(
            "max_slot_wal_keep_size",
            "not limited: while walcast is stopped, its slot holds WAL back until the disk is full. With a limit the slot \
             is given up instead, and clients are told of the gap",
            Some("alter system set max_slot_wal_keep_size = '10GB'; select pg_reload_conf();".into()),
        );
    }
    Ok(())
}

fn existing(found: &slot::SlotInfo, database: &str, keep_megabytes: i64, report: &mut Report) {
    let name = &found.name;
    let another = "choose another --slot".to_owned();
    if found.plugin != "pgoutput" {
        return report.fail("slot", format!("{name} belongs to the plugin {:?}", found.plugin), Some(another));
    }
    if found.database != database {
        return report.fail("slot", format!("{name} belongs to the database {}", found.database), Some(another));
    }
    if found.wal_status == "lost" {
        let drop = format!("select pg_drop_replication_slot('{name}');");
        let detail = format!(
            "{name} is lost: WAL it needed was removed. Changes since {} cannot be had",
            found.confirmed_flush_lsn
        );
        return report.fail("slot", detail, Some(drop));
    }
    let held = found.held_bytes() >> 20;
    let who = found.active_pid.map_or("not in use".to_owned(), |pid| format!("in use by process {pid}"));
    let detail = format!("{name} is {who}; {held} MB of WAL are held");
    let limit = u64::try_from(keep_megabytes).ok();
    match limit {
        Some(limit) if held * 2 > limit => {
            let advice =
                if found.active_pid.is_some() { "find out why walcast is behind" } else { "start walcast serve" };
            report.warn(
                "slot",
                format!("{detail}, of {limit} MB at which it is given up (max_slot_wal_keep_size)"),
                Some(advice.into()),
            );
        }
        _ => report.pass("slot", detail),
    }
}

/// Making a logical slot waits for every transaction that has an xid. `pg_locks` shows them to everybody.
async fn holders(client: &Client, report: &mut Report) -> Result<(), Error> {
    let rows = client
        .query(
            "select l.pid, coalesce(a.usename::text, '?'), coalesce(a.application_name, '?'), coalesce(a.state, '?'),
                coalesce((now() - a.xact_start)::text, 'an unknown time')
            from pg_locks l left join pg_stat_activity a on a.pid = l.pid
            where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted and l.pid <> pg_backend_pid()
            order by a.xact_start",
            &[],
        )
        .await?;
    for row in &rows {
        let pid: i32 = row.get(0);
        let text = |column: usize| row.get::<_, String>(column);
        report.warn(
            "open transaction",
            format!(
                "process {pid} ({}, {}, {}) has had a transaction open for {}: the slot cannot be made before it ends",
                text(1),
                text(2),
                text(3),
                text(4)
            ),
            Some(format!("select pg_terminate_backend({pid}); -- or wait")),
        );
    }
    let rows = client.query("select gid, (now() - prepared)::text from pg_prepared_xacts", &[]).await?;
    for row in &rows {
        let gid: String = row.get(0);
        let detail = format!(
            "the prepared transaction {gid:?} is {} old: the slot cannot be made before it ends",
            row.get::<_, String>(1)
        );
        report.warn("open transaction", detail, Some(format!("rollback prepared '{}';", gid.replace('\'', "''"))));
    }
    Ok(())
}
