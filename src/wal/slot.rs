//! The replication slot: looked up, moved on, dropped.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::Lsn;
use super::budget::Budget;
use super::connection::{Connection, TextRow};
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
    pub(super) in_recovery: bool,
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
            in_recovery: flag("in_recovery") == Some(true),
            this_database: text("this_database"),
        }
    }

    /// Whether it is one that walcast may stream from, drop and make anew.
    pub fn is_ours(&self) -> Result<(), Error> {
        let slot = self.name.clone();
        if self.plugin != "pgoutput" {
            return Err(Error::SlotOfAnotherPlugin { slot, plugin: self.plugin.clone() });
        }
        if self.database != self.this_database {
            return Err(Error::SlotOfAnotherDatabase { slot, database: self.database.clone() });
        }
        Ok(())
    }

    /// Why nothing can be streamed from it any more.
    pub fn lost(&self) -> Option<&str> {
        match (&self.invalidation_reason, self.wal_status.as_str()) {
            (Some(reason), _) => Some(reason),
            (None, "lost") => Some("wal_removed"),
            _ => None,
        }
    }
}

/// The columns differ by version, so all are taken. On a standby the functions differ, too.
const LOOK_UP: &str = "SELECT s.*, pg_catalog.current_database() AS this_database, \
     pg_catalog.age(s.catalog_xmin) AS catalog_xmin_age, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_megabytes, \
     pg_catalog.pg_is_in_recovery() AS in_recovery, \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
     ELSE pg_catalog.pg_current_wal_lsn() END AS wal_end \
     FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = ";

fn look_up_statement(name: &str) -> Result<String, Error> {
    Ok(format!("{LOOK_UP}'{}'", valid_name(name)?))
}

/// A slot's name needs no quoting, and nothing else is one.
pub(super) fn valid_name(name: &str) -> Result<&str, Error> {
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

/// The same over a replication connection.
pub(super) async fn look_up_over(connection: &mut Connection, name: &str) -> Result<Option<SlotInfo>, Error> {
    let rows = connection.query(&look_up_statement(name)?).await?;
    Ok(rows.first().map(SlotInfo::from_row))
}

/// The same as [`open_transactions`] over a replication connection.
pub(super) async fn open_transactions_over(connection: &mut Connection) -> Result<Vec<Pin>, Error> {
    let rows = connection.query(OPEN_TRANSACTIONS).await?;
    Ok(rows.iter().map(Pin::from_row).collect())
}

/// Of the open transactions those that keep the slot where it is.
pub async fn pins(client: &Client, slot: &SlotInfo) -> Result<Vec<Pin>, Error> {
    Ok(culprits(&open_transactions(client).await?, slot))
}

/// Those that are not younger than the slot's catalog_xmin hold it for certain. It follows by a look or two of the
/// server, 15 seconds apart: of what is held although it is confirmed, whatever has been open for long is the likely cause.
pub(super) fn culprits(open: &[Pin], slot: &SlotInfo) -> Vec<Pin> {
    let certain = Pin::of_slot(open, slot.catalog_xmin_age);
    match certain.is_empty() && slot.lag_bytes() < slot.held_bytes().div_ceil(2) {
        true => Pin::in_the_way(open),
        false => certain,
    }
}

/// The oldest transactions that have written something and not ended, prepared ones too.
pub async fn open_transactions(client: &Client) -> Result<Vec<Pin>, Error> {
    let messages = client.simple_query(OPEN_TRANSACTIONS).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(Pin::from_row(&TextRow::from(row))),
        _ => None,
    });
    Ok(rows.collect())
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

/// Where the first transaction ends that ends after a position: what pgoutput fails at, a copy of the slot can be read
/// over with the plugin that knows no publications.
pub async fn end_of_transaction(client: &Client, name: &str, past: Lsn) -> Result<Lsn, Error> {
    let name = valid_name(name)?;
    let copy = format!("{}_copy", &name[..name.len().min(58)]);
    let copying =
        format!("SELECT FROM pg_catalog.pg_copy_logical_replication_slot('{name}', '{copy}', true, 'test_decoding')");
    client.batch_execute(&copying).await?;
    let found = first_end_after(client, &copy, past).await;
    let dropped = client.batch_execute(&format!("SELECT pg_catalog.pg_drop_replication_slot('{copy}')")).await;
    let found = found?;
    dropped?;
    found.ok_or(Error::NothingAfter(past))
}

/// A transaction or a few at a time, so that a long backlog is not read at once.
async fn first_end_after(client: &Client, copy: &str, past: Lsn) -> Result<Option<Lsn>, Error> {
    let sql = format!(
        "SELECT lsn::text FROM pg_catalog.pg_logical_slot_get_changes('{copy}', NULL, 1000, 'include-timestamp', '0') \
         WHERE data LIKE 'COMMIT%' ORDER BY lsn"
    );
    loop {
        let rows = client.query(&sql, &[]).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        for row in rows {
            let text: String = row.try_get(0)?;
            let end: Lsn = text.parse().map_err(|_| Error::Protocol(format!("an lsn that is none: {text:?}")))?;
            if end > past {
                return Ok(Some(end));
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_need_quoting_is_refused() {
        for name in ["", "A", "a-b", "a'b", "a\"b", &"a".repeat(64)] {
            assert!(matches!(valid_name(name), Err(Error::SlotName(_))), "{name}");
        }
        assert!(valid_name("walcast_1").is_ok());
    }
}
