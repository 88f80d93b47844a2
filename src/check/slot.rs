//! The slot: its state, what it costs of its budget, who pins it, and what the making of one would wait for.

use tokio_postgres::Client;

use super::{Config, Report};
use crate::wal::pins::Pin;
use crate::wal::slot::{self, SlotInfo};
use crate::wal::{Error, Rung, SlotPressure};

/// A transaction that is open for longer is worth a word although the slot is well within its budget.
const LONG_SECONDS: f64 = 300.0;

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
        Some(found) => {
            let pins = slot::pins(client, &found).await?;
            existing(&found, &pins, &database, config, report);
            failover(client, &found, report).await?;
        }
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
    orphans(client, config, report).await?;
    looks(client, report).await?;
    limits(keep_megabytes, config, report);
    Ok(())
}

fn existing(found: &SlotInfo, pins: &[Pin], database: &str, config: &Config, report: &mut Report) {
    let name = &found.name;
    let another = "choose another --slot".to_owned();
    if found.plugin != "pgoutput" {
        return report.fail("slot", format!("{name} belongs to the plugin {:?}", found.plugin), Some(another));
    }
    if found.database != database {
        return report.fail("slot", format!("{name} belongs to the database {}", found.database), Some(another));
    }
    if let Some(reason) = found.lost() {
        let drop = format!("select pg_drop_replication_slot('{name}');");
        let detail = format!(
            "{name} is lost ({reason}). Changes since {} cannot be had; serve makes it anew and tells of the gap, unless \
             run with --slot-lost stop",
            found.confirmed_flush_lsn
        );
        return report.fail("slot", detail, Some(drop));
    }
    let pressure = SlotPressure::of(found, pins, &config.slot_budget);
    let who = found.active_pid.map_or("not in use".to_owned(), |pid| format!("in use by process {pid}"));
    let (held, budget) = (pressure.retained_bytes >> 20, config.slot_budget.bytes_max(found.keep_bytes_max) >> 20);
    let ages = (pressure.catalog_xmin_age, config.slot_budget.catalog_xmin_age_max);
    let detail = format!(
        "{name} is {who}; {held} MB of WAL are held, of {budget}; catalog rows of the last {} transactions, of {}",
        ages.0, ages.1
    );
    for pin in pins.iter().filter(|pin| pressure.rung > Rung::Within || pin.seconds > LONG_SECONDS) {
        let detail = format!("{pin} keeps the slot where it is: WAL grows until it ends, and walcast can do nothing");
        report.warn("open transaction", detail, Some(format!("{} -- or wait", pin.remedy())));
    }
    match pressure.rung {
        Rung::Within => report.pass("slot", detail),
        _ => {
            let advice = match (pins.is_empty(), found.active_pid) {
                (false, _) => "see the open transactions above",
                (true, Some(_)) => "find out why walcast is behind: walcast slot show",
                (true, None) => "start walcast serve, or walcast slot drop",
            };
            report.warn("slot", detail, Some(advice.into()));
        }
    }
}

/// A standby is there, and the slot would not be on it.
async fn failover(client: &Client, found: &SlotInfo, report: &mut Report) -> Result<(), Error> {
    let Some(failover) = found.failover else { return Ok(()) };
    let row = client
        .query_one(
            "select exists (select from pg_replication_slots where slot_type = 'physical')
                or exists (select from pg_stat_replication r
                    where not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')),
                coalesce(current_setting('synchronized_standby_slots', true), '') <> ''",
            &[],
        )
        .await?;
    let (has_standby, is_waited_for): (bool, bool) = (row.get(0), row.get(1));
    match (failover, has_standby) {
        (false, true) if !found.temporary => report.warn(
            "failover",
            format!("there is a standby, and {} would not be on it: after a failover there is a gap", found.name),
            Some("walcast serve --slot-failover -- and sync_replication_slots = on at the standby".into()),
        ),
        (true, _) if !is_waited_for => report.warn(
            "failover",
            "the slot is a failover slot, but walcast may be ahead of the standby: then everything begins anew after a \
             failover. synchronized_standby_slots makes it wait",
            Some(
                "alter system set synchronized_standby_slots = '<the standby''s slot>'; select pg_reload_conf();"
                    .into(),
            ),
        ),
        (true, _) => report.pass("failover", "the slot is a failover slot, and standbys are waited for"),
        _ => {}
    }
    Ok(())
}

/// Slots in this database of the kind that walcast makes, which nobody reads.
async fn orphans(client: &Client, config: &Config, report: &mut Report) -> Result<(), Error> {
    let rows = client
        .query(
            "select slot_name::text, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::int8 >> 20
            from pg_replication_slots
            where plugin = 'pgoutput' and database = current_database() and not active and not temporary
                and slot_name <> $1::text and not pg_is_in_recovery()",
            &[&config.slot],
        )
        .await?;
    for row in &rows {
        let (name, held): (String, i64) = (row.get(0), row.get(1));
        report.warn(
            "orphan slot",
            format!("nobody reads {name}, and it holds back {held} MB of WAL: if nobody is going to, drop it"),
            Some(format!("select pg_drop_replication_slot('{name}');")),
        );
    }
    Ok(())
}

/// Near its budget the slot is moved on as fast as the server can be asked to look what it may forget.
async fn looks(client: &Client, report: &mut Report) -> Result<(), Error> {
    let sql = "select format('grant execute on function pg_catalog.pg_log_standby_snapshot() to %I;', current_user)
        from (select to_regprocedure('pg_catalog.pg_log_standby_snapshot()')::oid) f(oid)
        where not has_function_privilege(f.oid, 'execute')";
    if let Some(row) = client.query_opt(sql, &[]).await? {
        let detail = "the stream's login may not call it: near its budget the slot is moved on every 15 seconds, not every \
            second, and a busy server may fill a small budget in between";
        report.warn("pg_log_standby_snapshot", detail, Some(row.get(0)));
    }
    Ok(())
}

fn limits(keep_megabytes: i64, config: &Config, report: &mut Report) {
    let budget = config.slot_budget.retained_bytes_max >> 20;
    match u64::try_from(keep_megabytes) {
        Err(_) => report.warn(
            "max_slot_wal_keep_size",
            "not limited: while walcast is stopped, its slot holds WAL back until the disk is full. With a limit the slot \
             is given up instead, and clients are told of the gap",
            Some("alter system set max_slot_wal_keep_size = '10GB'; select pg_reload_conf();".into()),
        ),
        Ok(keep) if keep < budget => {
            let detail = format!("{keep} MB, below --slot-lag-max ({budget} MB): it is the slot's budget");
            report.pass("max_slot_wal_keep_size", detail);
        }
        Ok(keep) => report.pass("max_slot_wal_keep_size", format!("{keep} MB; --slot-lag-max is {budget} MB")),
    }
}

/// Making a logical slot waits for every transaction that has an xid.
async fn holders(client: &Client, report: &mut Report) -> Result<(), Error> {
    for pin in slot::open_transactions(client).await? {
        let detail = format!("{pin}: the slot cannot be made before it ends");
        report.warn("open transaction", detail, Some(format!("{} -- or wait", pin.remedy())));
    }
    Ok(())
}
