//! Coming by the slot: waited for where another process has it, made where there is none, made anew where it is lost or
//! over its budget.

use std::time::Duration;

use tokio::time::Instant;

use super::Lsn;
use super::budget::{Rung, SlotPressure};
use super::connection::Connection;
use super::conninfo::Conninfo;
use super::error::Error;
use super::pins::Pin;
use super::slot::{self, SlotConfig, SlotInfo, SlotMode, valid_name};
use super::slot_making;

/// A rolling deploy stands still for as long as this lasts, and the question costs the server a fraction of a millisecond.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How often the same holder is named in the log.
const WORDS_APART: Duration = Duration::from_secs(60);

/// What is known, and allowed, when the slot is taken.
pub(super) struct Terms<'a> {
    pub(super) conninfo: &'a Conninfo,
    pub(super) config: &'a SlotConfig,
    /// The walsender of our last stream: if it still has the slot, it does not know yet that we are gone.
    pub(super) last_walsender: Option<i32>,
    /// Nothing has been streamed yet. Who has lost the slot to another waits; else two would take it from each other.
    pub(super) is_first: bool,
    /// Told while somebody else has the slot.
    pub(super) waiting: &'a (dyn Fn(&Error) + Sync),
}

/// A slot that is ours to stream from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Acquired {
    pub(super) position: Lsn,
    /// It was dropped and made anew: changes from here to the position cannot be had.
    pub(super) dropped_at: Option<Lsn>,
}

/// Waits until nobody has the slot, and gives it if it is there.
pub(super) async fn until_free(connection: &mut Connection, terms: &Terms<'_>) -> Result<Option<SlotInfo>, Error> {
    let name = &terms.config.name;
    // Whom we have waited for, and when that was last said.
    let mut told: Option<(i32, Instant)> = None;
    loop {
        let Some(slot) = slot::look_up_over(connection, name).await? else { return Ok(None) };
        slot.is_ours()?;
        let Some(pid) = slot.active_pid else {
            if told.is_some() {
                tracing::info!(slot = name, "the slot is free");
            }
            return Ok(Some(slot));
        };
        let is_another = told.is_none_or(|(whom, _)| whom != pid);
        if is_another || told.is_some_and(|(_, when)| when.elapsed() > WORDS_APART) {
            told = Some((pid, Instant::now()));
            let holder = Holder::look(connection, pid).await?;
            let is_our_last = terms.last_walsender == Some(pid) && holder.is_named(&terms.conninfo.application_name);
            let is_taken = terms.config.takes_over && terms.is_first && holder.is_walcast();
            if is_our_last {
                tracing::info!(slot = name, %holder, "our last session still has the slot: it is terminated");
                holder.terminate(connection, name).await?;
            } else if is_taken {
                tracing::warn!(slot = name, %holder, "the slot's walsender is terminated to take it over");
                holder.terminate(connection, name).await?;
            } else {
                (terms.waiting)(&Error::SlotInUse { slot: name.clone(), pid });
                tracing::warn!(slot = name, %holder, "the slot is in use: waiting until it is free (another relay needs another --slot)");
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Makes sure that there is a slot to stream from. `dropped_at` is kept by the caller over attempts: what was dropped in
/// one is made in another.
pub(super) async fn acquire(
    connection: &mut Connection,
    terms: &Terms<'_>,
    dropped_at: &mut Option<Lsn>,
) -> Result<Acquired, Error> {
    if let Some(slot) = until_free(connection, terms).await? {
        match reason_to_begin_anew(connection, terms.config, &slot).await? {
            None => {
                usable(&slot, terms.config)?;
                set_failover(connection, terms.config, &slot).await?;
                // Somebody has made it meanwhile: what we dropped is a gap all the same.
                return Ok(Acquired { position: slot.confirmed_flush_lsn, dropped_at: dropped_at.take() });
            }
            Some(reason) => {
                let position = slot.confirmed_flush_lsn;
                tracing::error!(
                    slot = slot.name,
                    %position,
                    retained_bytes = slot.held_bytes(),
                    reason,
                    "the slot is dropped and made anew: what was not read from it is lost"
                );
                connection.query(&format!("DROP_REPLICATION_SLOT \"{}\"", valid_name(&slot.name)?)).await?;
                dropped_at.get_or_insert(position);
            }
        }
    }
    not_on_a_standby(connection).await?;
    let position = slot_making::create(connection, terms.conninfo, terms.config).await?;
    Ok(Acquired { position, dropped_at: dropped_at.take() })
}

fn usable(slot: &SlotInfo, config: &SlotConfig) -> Result<(), Error> {
    match config.mode {
        _ if slot.in_recovery && slot.synced == Some(true) => Err(Error::Standby),
        SlotMode::Temporary if !slot.temporary => Err(Error::SlotIsPermanent { slot: slot.name.clone() }),
        _ => Ok(()),
    }
}

/// Why the slot is to be dropped, if it is. An error where it cannot be used and is not to be dropped.
async fn reason_to_begin_anew(
    connection: &mut Connection,
    config: &SlotConfig,
    slot: &SlotInfo,
) -> Result<Option<String>, Error> {
    if let Some(reason) = slot.lost() {
        // On a standby the primary's word counts: a synchronised slot is made there.
        return match config.recreates_lost && !slot.in_recovery {
            true => Ok(Some(format!("Postgres has invalidated it ({reason})"))),
            false => Err(Error::SlotLost {
                slot: slot.name.clone(),
                reason: reason.to_owned(),
                confirmed: slot.confirmed_flush_lsn,
            }),
        };
    }
    if !config.drops_over_budget || slot.in_recovery || config.mode == SlotMode::Temporary {
        return Ok(None);
    }
    let pressure = SlotPressure::of(slot, &[], &config.budget);
    if pressure.rung < Rung::Exceeded {
        return Ok(None);
    }
    // A new slot would wait for those transactions, and clients with it; what is there can be read meanwhile.
    let open = slot::open_transactions_over(connection).await?;
    let mut culprits = Pin::of_slot(&open, slot.catalog_xmin_age);
    if culprits.is_empty() {
        culprits = Pin::in_the_way(&open);
    }
    match Pin::name_all(&culprits) {
        None => Ok(Some("it is over its budget (--slot-over-budget drop)".to_owned())),
        Some(culprits) => {
            tracing::warn!(
                slot = slot.name,
                culprits,
                "the slot is over its budget; a new one would have to wait for these"
            );
            Ok(None)
        }
    }
}

/// A slot that is wanted on standbys, and is not there.
async fn set_failover(connection: &mut Connection, config: &SlotConfig, slot: &SlotInfo) -> Result<(), Error> {
    if !config.failover || slot.temporary || slot.in_recovery {
        return Ok(());
    }
    match slot.failover {
        Some(true) => {}
        Some(false) => {
            let name = valid_name(&slot.name)?;
            connection.query(&format!("ALTER_REPLICATION_SLOT \"{name}\" (FAILOVER true)")).await?;
            tracing::info!(slot = name, "the slot is a failover slot from here on");
        }
        None => slot_making::no_failover_slots(connection),
    }
    Ok(())
}

/// Before 16 a standby says that in the words of a missing feature; from 16 on it makes a slot that nobody asked for.
async fn not_on_a_standby(connection: &mut Connection) -> Result<(), Error> {
    let rows = connection.query("SELECT pg_catalog.pg_is_in_recovery() AS in_recovery").await?;
    match rows.first().and_then(|row| row.get("in_recovery")) {
        Some("f") => Ok(()),
        _ => Err(Error::Standby),
    }
}

/// Who has the slot.
struct Holder {
    pid: i32,
    application_name: String,
    user: String,
    address: String,
    same_login: bool,
}

impl Holder {
    async fn look(connection: &mut Connection, pid: i32) -> Result<Holder, Error> {
        let sql = format!(
            "SELECT usename, application_name, client_addr, usename = session_user AS same_login \
             FROM pg_catalog.pg_stat_activity WHERE pid = {pid}"
        );
        let rows = connection.query(&sql).await?;
        let text = |column: &str| rows.first().and_then(|row| row.get(column)).unwrap_or_default().to_owned();
        Ok(Holder {
            pid,
            application_name: text("application_name"),
            user: text("usename"),
            address: text("client_addr"),
            same_login: text("same_login") == "t",
        })
    }

    fn is_named(&self, application_name: &str) -> bool {
        self.same_login && self.application_name == application_name
    }

    /// The name alone is nobody's proof; with the login it is somebody who may do all that we may.
    fn is_walcast(&self) -> bool {
        self.same_login && self.application_name.split(' ').next() == Some("walcast")
    }

    /// All in one statement: by now it may be another's pid.
    async fn terminate(&self, connection: &mut Connection, slot: &str) -> Result<(), Error> {
        let sql = format!(
            "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a \
             JOIN pg_catalog.pg_replication_slots s ON s.active_pid = a.pid \
             WHERE a.pid = {} AND a.usename = session_user AND s.slot_name = '{}'",
            self.pid,
            valid_name(slot)?
        );
        connection.query(&sql).await.map(|_| ())
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Holder { pid, application_name, user, address, .. } = self;
        let from = if address.is_empty() { "this machine, or out of sight" } else { address };
        write!(f, "process {pid} ({application_name:?} as {user}, from {from})")
    }
}
