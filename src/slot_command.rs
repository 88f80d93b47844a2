//! `walcast slot`: what the slot costs and who holds it there; to drop it; to leave a position where the stream fails.

use std::fmt;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::config::{DatabaseArgs, SlotBudgetArgs, variable};
use crate::relay::BoxError;
use crate::wal::pins::Pin;
use crate::wal::slot::{self, SlotInfo};
use crate::wal::{Conninfo, Error, Lsn, Rung, SlotPressure};

#[derive(Args)]
pub struct SlotArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// What the slot holds back, of which budget, and who keeps it there. Exit code 1 where there is none, or it is lost.
    Show(ShowArgs),
    /// Drop the slot: its WAL is freed, and what was not read from it is lost. walcast makes it anew when it starts.
    Drop(DropArgs),
    /// Move the slot on, past a position where the stream fails for ever. What lies before is given up.
    Skip(SkipArgs),
}

#[derive(Args)]
struct ShowArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    budget: SlotBudgetArgs,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct DropArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Although it is in use: the process that reads it is terminated. A walcast that runs makes the slot anew and tells its clients of the gap.
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
#[group(skip)]
struct SkipArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    target: Target,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// To the end of the transaction that has this position in it: the one that walcast named when it gave up. (Needs test_decoding, which comes with Postgres, and a free slot.)
    #[arg(long, value_name = "LSN")]
    past: Option<Lsn>,
    /// To this position; transactions that end after it come.
    #[arg(long, value_name = "LSN")]
    to: Option<Lsn>,
    /// To the end of the WAL as it is now.
    #[arg(long)]
    all: bool,
}

/// How long a process that was terminated may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// True: exit code 0.
pub async fn run(args: SlotArgs) -> Result<bool, BoxError> {
    let database = match &args.verb {
        Verb::Show(ShowArgs { database, .. })
        | Verb::Drop(DropArgs { database, .. })
        | Verb::Skip(SkipArgs { database, .. }) => database,
    };
    let name = database.slot.clone();
    let (client, connection) = Conninfo::parse(&database.conninfo(variable)?)?.connect().await?;
    tokio::spawn(connection);
    match args.verb {
        Verb::Show(args) => show(&client, &name, &args).await,
        Verb::Drop(args) => drop_slot(&client, &name, args.force).await,
        Verb::Skip(args) => skip(&client, &name, &args.target).await,
    }
}

async fn show(client: &Client, name: &str, args: &ShowArgs) -> Result<bool, BoxError> {
    let Some(slot) = slot::look_up(client, name).await? else {
        match args.json {
            true => println!("{}", serde_json::json!({ "name": name, "exists": false })),
            false => println!("There is no slot {name}: walcast serve makes it."),
        }
        return Ok(false);
    };
    let pins = slot::pins(client, &slot).await?;
    let budget = args.budget.budget();
    let holder = match slot.active_pid {
        Some(pid) => holder(client, pid).await?,
        None => None,
    };
    let pressure = SlotPressure::of(&slot, &pins, &budget);
    let report = SlotReport {
        name: &slot.name,
        exists: true,
        plugin: &slot.plugin,
        database: &slot.database,
        temporary: slot.temporary,
        active_pid: slot.active_pid,
        holder,
        restart_lsn: slot.restart_lsn.map(|lsn| lsn.to_string()),
        confirmed_flush_lsn: slot.confirmed_flush_lsn.to_string(),
        wal_end: slot.wal_end.to_string(),
        retained_bytes: pressure.retained_bytes,
        lag_bytes: pressure.lag_bytes,
        budget_bytes: pressure.retained_bytes_max,
        slot_lag_max: budget.retained_bytes_max,
        max_slot_wal_keep_bytes: slot.keep_bytes_max,
        safe_wal_bytes: slot.safe_wal_bytes,
        catalog_xmin_age: pressure.catalog_xmin_age,
        catalog_xmin_age_budget: budget.catalog_xmin_age_max,
        rung: word(pressure.rung),
        wal_status: &slot.wal_status,
        lost: slot.lost(),
        failover: slot.failover,
        synced: slot.synced,
        pins: pins.iter().map(PinReport::of).collect(),
    };
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    Ok(slot.lost().is_none())
}

fn word(rung: Rung) -> &'static str {
    match rung {
        Rung::Within => "within",
        Rung::Warn => "warn",
        Rung::GiveUpPromises => "give_up_promises",
        Rung::Exceeded => "exceeded",
    }
}

/// A process in words.
async fn holder(client: &Client, pid: i32) -> Result<Option<String>, Error> {
    let sql = "SELECT pg_catalog.format('%s as %s from %s', coalesce(nullif(application_name, ''), 'no application name'), \
        usename, coalesce(client_addr::text, 'this machine, or out of sight')) \
        FROM pg_catalog.pg_stat_activity WHERE pid = $1";
    Ok(client.query_opt(sql, &[&pid]).await?.map(|row| row.try_get(0)).transpose()?)
}

#[derive(Serialize)]
struct SlotReport<'a> {
    name: &'a str,
    exists: bool,
    plugin: &'a str,
    database: &'a str,
    temporary: bool,
    active_pid: Option<i32>,
    holder: Option<String>,
    restart_lsn: Option<String>,
    confirmed_flush_lsn: String,
    wal_end: String,
    retained_bytes: u64,
    lag_bytes: u64,
    budget_bytes: u64,
    slot_lag_max: u64,
    max_slot_wal_keep_bytes: Option<u64>,
    safe_wal_bytes: Option<i64>,
    catalog_xmin_age: u64,
    catalog_xmin_age_budget: u64,
    rung: &'static str,
    wal_status: &'a str,
    lost: Option<&'a str>,
    /// None: this version has none.
    failover: Option<bool>,
    synced: Option<bool>,
    pins: Vec<PinReport>,
}

#[derive(Serialize)]
struct PinReport {
    pid: Option<i32>,
    prepared: Option<String>,
    who: String,
    open_seconds: f64,
    xid_age: u64,
    remedy: String,
}

impl PinReport {
    fn of(pin: &Pin) -> PinReport {
        PinReport {
            pid: pin.pid,
            prepared: pin.prepared.clone(),
            who: pin.to_string(),
            open_seconds: pin.seconds,
            xid_age: pin.xid_age,
            remedy: pin.remedy(),
        }
    }
}

impl fmt::Display for SlotReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |known: Option<bool>| match known {
            None => "not before Postgres 17",
            Some(true) => "yes",
            Some(false) => "no",
        };
        let in_use = match (self.active_pid, &self.holder) {
            (Some(pid), Some(holder)) => format!("by process {pid}: {holder}"),
            (Some(pid), None) => format!("by process {pid}"),
            (None, _) => "no".to_owned(),
        };
        let kind = if self.temporary { ", temporary" } else { "" };
        writeln!(f, "slot            {} ({}, database {}{kind})", self.name, self.plugin, self.database)?;
        writeln!(f, "in use          {in_use}")?;
        writeln!(f, "restart at      {}", self.restart_lsn.as_deref().unwrap_or("nowhere"))?;
        writeln!(f, "confirmed to    {} ({} behind)", self.confirmed_flush_lsn, Size(self.lag_bytes))?;
        writeln!(f, "WAL ends at     {}", self.wal_end)?;
        let share = self.retained_bytes.saturating_mul(100) / self.budget_bytes.max(1);
        writeln!(
            f,
            "holds back      {} of {} ({share} %): {}",
            Size(self.retained_bytes),
            Size(self.budget_bytes),
            self.rung
        )?;
        writeln!(f, "catalog_xmin    {} of {} transactions", self.catalog_xmin_age, self.catalog_xmin_age_budget)?;
        let keeps = match self.max_slot_wal_keep_bytes {
            None => "never (max_slot_wal_keep_size is not set)".to_owned(),
            Some(keep) => {
                let left = self.safe_wal_bytes.and_then(|left| u64::try_from(left).ok()).unwrap_or(0);
                format!("after {} more (max_slot_wal_keep_size is {})", Size(left), Size(keep))
            }
        };
        writeln!(f, "given up        {keeps}")?;
        writeln!(f, "failover slot   {} (synced from a primary: {})", yes(self.failover), yes(self.synced))?;
        match self.lost {
            None => writeln!(f, "WAL status      {}", self.wal_status)?,
            Some(reason) => writeln!(
                f,
                "WAL status      lost ({reason}): walcast serve makes it anew, or walcast slot drop does away with it"
            )?,
        }
        for pin in &self.pins {
            writeln!(f, "pinned by       {}\n                end it: {}", pin.who, pin.remedy)?;
        }
        Ok(())
    }
}

/// Bytes as people read them.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "kB", "MB", "GB", "TB"];
        let (mut size, mut unit) = (self.0 as f64, 0);
        while size >= 1024.0 && unit + 1 < units.len() {
            (size, unit) = (size / 1024.0, unit + 1);
        }
        let digits = usize::from(unit > 0 && size < 100.0);
        write!(f, "{size:.digits$} {}", units[unit])
    }
}

/// The slot, if it is one of walcast's.
async fn own(client: &Client, name: &str) -> Result<SlotInfo, Error> {
    let slot = slot::look_up(client, name).await?.ok_or_else(|| Error::SlotMissing(name.to_owned()))?;
    slot.is_ours()?;
    Ok(slot)
}

async fn drop_slot(client: &Client, name: &str, force: bool) -> Result<bool, BoxError> {
    let slot = own(client, name).await?;
    if let (Some(pid), false) = (slot.active_pid, force) {
        let who = holder(client, pid).await?.unwrap_or_else(|| "which has just ended".to_owned());
        let way_out = "stop it, or pass --force, which terminates it";
        return Err(format!("the slot {name} is in use by process {pid} ({who}): {way_out}").into());
    }
    let deadline = Instant::now() + END_TIMEOUT;
    let mut terminated = None;
    // A walcast that runs is back within a tenth of a second.
    loop {
        match slot::drop(client, name).await {
            Ok(()) => break,
            Err(Error::SlotInUse { pid, .. }) if force && Instant::now() < deadline => {
                if terminated != Some(pid) {
                    let who = holder(client, pid).await?.unwrap_or_default();
                    client.execute("SELECT pg_catalog.pg_terminate_backend($1)", &[&pid]).await?;
                    println!("Terminated process {pid} ({who}).");
                    terminated = Some(pid);
                }
            }
            // Between our look and the dropping.
            Err(error) if force && error.sqlstate() == Some("55006") && Instant::now() < deadline => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!(
        "Dropped the slot {name}: {} of WAL may be removed. Changes after {} that were not read yet are lost; clients of a \
         walcast that runs are told.",
        Size(slot.held_bytes()),
        slot.confirmed_flush_lsn
    );
    Ok(true)
}

async fn skip(client: &Client, name: &str, target: &Target) -> Result<bool, BoxError> {
    own(client, name).await?;
    let to = match (target.past, target.to) {
        (Some(past), _) => Some(slot::end_of_transaction(client, name, past).await?),
        (None, to) => to,
    };
    let (from, to) = slot::skip(client, name, to).await?;
    println!("Moved the slot {name} from {from} to {to}. Transactions that ended between are given up.");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_at_a_glance() {
        let sizes = [0, 1023, 1024, 1536 << 10, 300 << 20, 4 << 30].map(|bytes| Size(bytes).to_string());
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 kB", "1.5 MB", "300 MB", "4.0 GB"]);
    }
}
