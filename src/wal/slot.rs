//! The replication slot: looked up, made, moved on, dropped.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::Lsn;
use super::budget::Budget;
use super::connection::{Connection, TextRow};
use super::conninfo::Conninfo;
use super::error::Error;
use super::pins::{OPEN_TRANSACTIONS, Pin};

/// What happens to the slot when walcast stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotMode {
    /// It stays and holds WAL back: nothing is lost over a restart.
    #[default]
    Permanent,
    /// It goes with the connection, as Supabase's does: a restart or a broken connection loses changes.
    Temporary,
}

#[derive(Clone, Debug)]
pub struct SlotConfig {
    pub name: String,
    pub mode: SlotMode,
    /// Synchronised to standbys (17 and newer), so that it survives a failover.
    pub failover: bool,
    pub budget: Budget,
    /// Above its budget the slot is dropped and made anew, rather than read to its end.
    pub drops_over_budget: bool,
    /// A slot that Postgres has invalidated is dropped and made anew, rather than an error.
    pub recreates_lost: bool,
    /// Another walcast of the same login that holds the slot is not waited for: its walsender is terminated.
    pub takes_over: bool,
    /// Making a slot waits for every open transaction. Long enough for ordinary ones, short enough to say so.
    pub creation_timeout: Duration,
}

impl Default for SlotConfig {
    fn default() -> Self {
        SlotConfig {
            name: "walcast".to_owned(),
            mode: SlotMode::default(),
            failover: false,
            budget: Budget::default(),
            drops_over_budget: false,
            recreates_lost: true,
            takes_over: false,
            creation_timeout: Duration::from_secs(60),
        }
    }
}

/// A row of `pg_replication_slots`, and what the server says beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotInfo {
    pub name: String,
    /// Empty for a physical slot.
    pub plugin: String,
    pub database: String,
    pub temporary: bool,
    pub active_pid: Option<i32>,
    pub restart_lsn: Option<Lsn>,
    pub confirmed_flush_lsn: Lsn,
    /// How many transactions ago the oldest began whose catalog rows are kept for the slot.
    pub catalog_xmin_age: u64,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: String,
    /// What may be written before Postgres may give the slot up; None: it never does.
    pub safe_wal_bytes: Option<i64>,
    /// `max_slot_wal_keep_size`.
    pub keep_bytes_max: Option<u64>,
    /// 17 and newer: synchronised to standbys; and, on a standby, got so.
    pub failover: Option<bool>,
    pub synced: Option<bool>,
    /// Why it was invalidated (17 and newer).
    pub invalidation_reason: Option<String>,
    /// How far the server's WAL goes: what lies between it and `restart_lsn` is held back on disk.
    pub wal_end: Lsn,
    pub(super) this_database: String,
}

impl SlotInfo {
    /// WAL that the server keeps because of this slot.
    pub fn held_bytes(&self) -> u64 {
        self.restart_lsn.map_or(0, |restart| self.wal_end.0.saturating_sub(restart.0))
    }

    /// WAL that was written and not confirmed.
    pub fn lag_bytes(&self) -> u64 {
        self.wal_end.0.saturating_sub(self.confirmed_flush_lsn.0)
    }

    fn from_row(row: &TextRow) -> SlotInfo {
        let text = |column: &str| row.get(column).unwrap_or_default().to_owned();
        let lsn = |column: &str| row.get(column).and_then(|text| text.parse().ok());
        let number = |column: &str| row.get(column).and_then(|text| text.parse::<i64>().ok());
        let flag = |column: &str| row.get(column).map(|text| text == "t");
        SlotInfo {
            name: text("slot_name"),
            plugin: text("plugin"),
            database: text("database"),
            temporary: row.get("temporary") == Some("t"),
            active_pid: row.get("active_pid").and_then(|pid| pid.parse().ok()),
            restart_lsn: lsn("restart_lsn"),
            confirmed_flush_lsn: lsn("confirmed_flush_lsn").unwrap_or_default(),
            catalog_xmin_age: number("catalog_xmin_age").and_then(|age| u64::try_from(age).ok()).unwrap_or(0),
            wal_status: text("wal_status"),
            safe_wal_bytes: number("safe_wal_size"),
            // In megabytes; -1 for no limit.
            keep_bytes_max: number("keep_megabytes").and_then(|size| u64::try_from(size).ok()).map(|size| size << 20),
            failover: flag("failover"),
            synced: flag("synced"),
            invalidation_reason: row.get("invalidation_reason").map(str::to_owned),
            wal_end: lsn("wal_end").unwrap_or_default(),
            this_database: text("this_database"),
        }
    }

    /// Whether walcast can stream from it.
    fn usable(&self, config: &SlotConfig) -> Result<(), Error> {
        let slot = self.name.clone();
        if self.plugin != "pgoutput" {
            return Err(Error::SlotOfAnotherPlugin { slot, plugin: self.plugin.clone() });
        }
        if self.database != self.this_database {
            return Err(Error::SlotOfAnotherDatabase { slot, database: self.database.clone() });
        }
        if self.wal_status == "lost" || self.invalidation_reason.is_some() {
            let reason = self.invalidation_reason.clone().unwrap_or_else(|| "wal_removed".to_owned());
            return Err(Error::SlotLost { slot, reason, confirmed: self.confirmed_flush_lsn });
        }
        if let Some(pid) = self.active_pid {
            return Err(Error::SlotInUse { slot, pid });
        }
        match config.mode {
            SlotMode::Temporary if !self.temporary => Err(Error::SlotIsPermanent { slot }),
            _ => Ok(()),
        }
    }
}

/// A session that the making of a slot waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// None for a prepared transaction, which no process has.
    pub pid: Option<i32>,
    /// Who it is and since when, or the prepared transaction's name.
    pub description: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} ({})", self.description),
            None => write!(f, "prepared transaction {}", self.description),
        }
    }
}

/// The columns differ by version, so all are taken. On a standby the functions differ, too.
const LOOK_UP: &str = "SELECT s.*, pg_catalog.current_database() AS this_database, \
     pg_catalog.age(s.catalog_xmin) AS catalog_xmin_age, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_megabytes, \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
     ELSE pg_catalog.pg_current_wal_lsn() END AS wal_end \
     FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = ";

fn look_up_statement(name: &str) -> Result<String, Error> {
    Ok(format!("{LOOK_UP}'{}'", valid_name(name)?))
}

/// A slot's name needs no quoting, and nothing else is one.
fn valid_name(name: &str) -> Result<&str, Error> {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    match name.len() {
        1..=63 if name.bytes().all(valid) => Ok(name),
        _ => Err(Error::SlotName(name.to_owned())),
    }
}

/// The slot as an ordinary session sees it.
pub async fn look_up(client: &Client, name: &str) -> Result<Option<SlotInfo>, Error> {
    let messages = client.simple_query(&look_up_statement(name)?).await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(SlotInfo::from_row(&TextRow::from(row))),
        _ => None,
    }))
}

/// Of the open transactions those that keep the slot where it is.
pub async fn pins(client: &Client, slot: &SlotInfo) -> Result<Vec<Pin>, Error> {
    let messages = client.simple_query(OPEN_TRANSACTIONS).await?;
    let open = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(Pin::from_row(&TextRow::from(row))),
        _ => None,
    });
    Ok(Pin::of_slot(open, slot.catalog_xmin_age))
}

/// Drops the slot: the server may forget what it held, and clients begin anew.
pub async fn drop(client: &Client, name: &str) -> Result<(), Error> {
    let Some(slot) = look_up(client, name).await? else { return Err(Error::SlotMissing(name.to_owned())) };
    if let Some(pid) = slot.active_pid {
        return Err(Error::SlotInUse { slot: slot.name, pid });
    }
    client.execute("SELECT pg_catalog.pg_drop_replication_slot($1::text::name)", &[&name]).await?;
    Ok(())
}

/// Gives up what lies before a position (by default: everything written so far) and returns the range given up.
/// The way out of [`Error::Stuck`].
pub async fn skip(client: &Client, name: &str, to: Option<Lsn>) -> Result<(Lsn, Lsn), Error> {
    let Some(slot) = look_up(client, name).await? else { return Err(Error::SlotMissing(name.to_owned())) };
    if let Some(pid) = slot.active_pid {
        return Err(Error::SlotInUse { slot: slot.name, pid });
    }
    let to = to.unwrap_or(slot.wal_end).to_string();
    let row = client
        .query_one(
            "SELECT end_lsn::text FROM pg_catalog.pg_replication_slot_advance($1::text::name, $2::text::pg_lsn)",
            &[&name, &to],
        )
        .await?;
    let reached: String = row.try_get(0)?;
    let reached = reached.parse().map_err(|_| Error::Protocol("an end_lsn that is no position".to_owned()))?;
    Ok((slot.confirmed_flush_lsn, reached))
}

/// Makes sure that there is a slot to stream from, and says its confirmed position.
pub(super) async fn ensure(
    connection: &mut Connection,
    conninfo: &Conninfo,
    config: &SlotConfig,
) -> Result<Lsn, Error> {
    let rows = connection.query(&look_up_statement(&config.name)?).await?;
    match rows.first().map(SlotInfo::from_row) {
        Some(slot) => {
            slot.usable(config)?;
            Ok(slot.confirmed_flush_lsn)
        }
        None => create(connection, conninfo, config).await,
    }
}

/// Postgres 14 has the option as a bare word.
fn create_command(config: &SlotConfig, server_major: u32) -> Result<String, Error> {
    let name = valid_name(&config.name)?;
    let temporary = if config.mode == SlotMode::Temporary { " TEMPORARY" } else { "" };
    let failover = config.failover && config.mode == SlotMode::Permanent && server_major >= 17;
    let options = match (server_major, failover) {
        (..15, _) => "NOEXPORT_SNAPSHOT",
        (_, false) => "(SNAPSHOT 'nothing')",
        (_, true) => "(SNAPSHOT 'nothing', FAILOVER 'true')",
    };
    Ok(format!("CREATE_REPLICATION_SLOT \"{name}\"{temporary} LOGICAL pgoutput {options}"))
}

async fn create(connection: &mut Connection, conninfo: &Conninfo, config: &SlotConfig) -> Result<Lsn, Error> {
    let sql = create_command(config, connection.server_major())?;
    let walsender = connection.process_id();
    let mut watch = HolderWatch { conninfo, walsender, client: None, holders: Vec::new() };
    let mut creating = pin!(connection.query(&sql));
    let mut deadline = pin!(tokio::time::sleep(config.creation_timeout));
    // Often enough that a short bound still names who held it up.
    let pause = (config.creation_timeout / 4).clamp(Duration::from_millis(100), Duration::from_secs(2));
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut creating => break answer,
            () = &mut deadline => {
                watch.look().await;
                watch.cancel().await;
                // The answer to the cancellation; without it the connection is dropped all the same.
                let _ = tokio::time::timeout(Duration::from_secs(5), &mut creating).await;
                break Err(watch.held_up(config));
            }
            () = tokio::time::sleep(pause) => watch.look().await,
        }
    };
    let rows = answer.map_err(|error| match error.sqlstate() {
        Some("53400") => Error::NoFreeSlot,
        Some("55P03") => watch.held_up(config),
        _ => error,
    })?;
    let position = rows.first().and_then(|row| row.get("consistent_point")).and_then(|text| text.parse().ok());
    let position = position.ok_or_else(|| Error::Protocol("CREATE_REPLICATION_SLOT without a position".to_owned()))?;
    tracing::info!(slot = config.name, %position, mode = ?config.mode, "replication slot created");
    Ok(position)
}

/// Whom the walsender waits for; while it waits for no lock (between two transactions, or for the server's next
/// list of running ones), whoever has a transaction open that writes. Pid 0 stands for a prepared transaction, of which
/// only the lock is seen.
const HOLDERS: &str = "
    WITH blocking AS (SELECT pid FROM unnest(pg_blocking_pids($1)) AS b(pid)),
    open AS (
        SELECT pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> $1
        UNION SELECT 0 FROM pg_prepared_xacts
    ),
    holder AS (SELECT pid FROM blocking UNION ALL SELECT pid FROM open WHERE NOT EXISTS (SELECT FROM blocking))
    SELECT h.pid, CASE WHEN h.pid = 0
        THEN coalesce((SELECT string_agg(gid, ' or ') FROM pg_prepared_xacts), 'unknown')
        ELSE format('%s, %s, %s, transaction open since %s', a.usename, a.application_name, a.state, a.xact_start) END
    FROM holder h LEFT JOIN pg_stat_activity a ON a.pid = h.pid";

/// Says, while a slot is being made, which sessions are waited for.
struct HolderWatch<'a> {
    conninfo: &'a Conninfo,
    walsender: i32,
    client: Option<Client>,
    holders: Vec<Holder>,
}

impl HolderWatch<'_> {
    async fn look(&mut self) {
        let holders = match self.find().await {
            Ok(holders) => holders,
            Err(error) => return tracing::debug!(error = error.chain(), "cannot see who holds up the slot"),
        };
        if !holders.is_empty() && holders != self.holders {
            let waiting_for = holders.iter().map(Holder::to_string).collect::<Vec<_>>().join("; ");
            tracing::warn!(waiting_for, "making the replication slot waits for open transactions");
            self.holders = holders;
        }
    }

    async fn find(&mut self) -> Result<Vec<Holder>, Error> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let (client, connection) = self.conninfo.connect().await?;
            // Ends with the client.
            tokio::spawn(connection);
            self.client = Some(client);
        }
        let Some(client) = &self.client else { return Ok(Vec::new()) };
        let rows = client.query(HOLDERS, &[&self.walsender]).await?;
        let holder = |row: &tokio_postgres::Row| -> Result<Holder, Error> {
            let pid: i32 = row.try_get(0)?;
            Ok(Holder { pid: (pid != 0).then_some(pid), description: row.try_get(1)? })
        };
        rows.iter().map(holder).collect()
    }

    async fn cancel(&self) {
        if let Some(client) = &self.client {
            let cancel = format!("SELECT pg_catalog.pg_cancel_backend({})", self.walsender);
            let cancelled = client.batch_execute(&cancel);
            let _ = tokio::time::timeout(Duration::from_secs(5), cancelled).await;
        }
    }

    fn held_up(&self, config: &SlotConfig) -> Error {
        Error::SlotCreationHeldUp {
            slot: config.name.clone(),
            limit: config.creation_timeout,
            holders: self.holders.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_the_versions_own() {
        let config = |mode, failover| SlotConfig { mode, failover, ..SlotConfig::default() };
        let permanent = config(SlotMode::Permanent, true);
        let command = |config: &SlotConfig, major| create_command(config, major).unwrap();
        assert_eq!(command(&permanent, 14), "CREATE_REPLICATION_SLOT \"walcast\" LOGICAL pgoutput NOEXPORT_SNAPSHOT");
        assert!(command(&permanent, 16).ends_with("(SNAPSHOT 'nothing')"));
        assert!(command(&permanent, 17).ends_with("(SNAPSHOT 'nothing', FAILOVER 'true')"));
        let temporary = config(SlotMode::Temporary, true);
        assert!(command(&temporary, 18).ends_with("TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"));
    }

    #[test]
    fn a_name_that_would_need_quoting_is_refused() {
        for name in ["", "A", "a-b", "a'b", "a\"b", &"a".repeat(64)] {
            assert!(matches!(valid_name(name), Err(Error::SlotName(_))), "{name}");
        }
        assert!(valid_name("walcast_1").is_ok());
    }
}
