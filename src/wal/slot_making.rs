//! The making of a slot, which waits for every open transaction: with a bound, and with a name for who holds it up.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use tokio_postgres::Client;

use super::Lsn;
use super::connection::Connection;
use super::conninfo::Conninfo;
use super::error::Error;
use super::slot::{SlotConfig, SlotMode, valid_name};

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

pub(super) async fn create(
    connection: &mut Connection,
    conninfo: &Conninfo,
    config: &SlotConfig,
) -> Result<Lsn, Error> {
    let sql = create_command(config, connection.server_major())?;
    if config.failover && config.mode == SlotMode::Permanent && connection.server_major() < 17 {
        no_failover_slots(connection);
    }
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

/// Asked for, and not to be had.
pub(super) fn no_failover_slots(connection: &Connection) {
    tracing::warn!(
        server = connection.server_version(),
        "--slot-failover: Postgres has failover slots from 17 on. Here the slot does not survive a failover: it is made \
         anew on the new primary, and clients are told of the gap"
    );
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
}
