//! What is looked after beside the stream, over an ordinary connection: the slot's metrics and its limit, old rows of
//! `walcast.ddl_log`, and walcast's own publication where `setup` is run while the relay is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::causes::with_causes;
use crate::wal::publication::Own;
use crate::wal::{self, Conninfo, WalMetrics};

/// Often enough for a graph, seldom enough to cost nothing.
const INTERVAL: Duration = Duration::from_secs(10);
/// A row of the log is some kilobytes, and there is one per transaction with DDL.
const PRUNE_EVERY: u32 = 30;
/// How often the same trouble is logged.
const WORDS_APART: Duration = Duration::from_secs(60);

/// The task. Lives as long as the relay, across restarts of the server.
pub struct Upkeep {
    pub conninfo: Conninfo,
    pub slot: String,
    /// `--slot-lag-max`: WAL held back above this is warned of.
    pub slot_lag_bytes_max: u64,
    pub metrics: Arc<WalMetrics>,
    pub reader: wal::Handle,
    /// Walcast's own publication was there, and setup's, when the stream began.
    pub own_publication: bool,
}

impl Upkeep {
    pub async fn run(mut self, abandon: CancellationToken) {
        let mut last_word: Option<Instant> = None;
        loop {
            let watched = tokio::select! {
                () = abandon.cancelled() => return,
                watched = self.watch() => watched,
            };
            if let Err(error) = watched
                && last_word.is_none_or(|word| word.elapsed() > WORDS_APART)
            {
                last_word = Some(Instant::now());
                tracing::warn!(error = %with_causes(&error), "the slot cannot be looked after; trying again");
            }
            tokio::select! {
                () = abandon.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Over one connection, until it fails.
    async fn watch(&mut self) -> Result<(), wal::Error> {
        let (client, connection) = self.conninfo.connect().await?;
        let _ends_with_the_client = tokio::spawn(connection);
        let mut warned: Option<Instant> = None;
        for round in 0u32.. {
            if let Some(slot) = self.metrics.read_slot(&client, &self.slot).await?
                && slot.held_bytes() > self.slot_lag_bytes_max
                && warned.is_none_or(|warned| warned.elapsed() > WORDS_APART)
            {
                warned = Some(Instant::now());
                tracing::warn!(
                    slot = self.slot,
                    held_bytes = slot.held_bytes(),
                    slot_lag_max = self.slot_lag_bytes_max,
                    "the slot holds back more WAL than --slot-lag-max: see walcast check for what it waits for"
                );
            }
            let own = self.notice_own_publication(&client).await?;
            // A stranger's function would run as this login. A schema that is there cannot be another's the next moment.
            if round % PRUNE_EVERY == 0 && own.logged && own.is_trusted() {
                prune(&client).await?;
            }
            tokio::time::sleep(INTERVAL).await;
        }
        Ok(())
    }

    async fn notice_own_publication(&mut self, client: &Client) -> Result<Own, wal::Error> {
        let own = Own::look(client).await?;
        if own.is_trusted() && !self.own_publication {
            tracing::info!("walcast's own publication was made: reading it from here on");
            self.reader.reconnect();
        }
        self.own_publication = own.is_trusted();
        Ok(own)
    }
}

/// Removes log rows that nobody needs any more: the newest states the whole, and what the slot still has to read is in
/// the WAL, not in the table.
async fn prune(client: &Client) -> Result<(), wal::Error> {
    let prune = "select walcast.prune_ddl_log(max(id)) from walcast.ddl_log";
    match client.batch_execute(prune).await {
        // An installation of another version, or a login without that right: the log grows by kilobytes a day.
        Err(error) if error.as_db_error().is_some() => {
            tracing::debug!(%error, "old rows of walcast.ddl_log stay");
            Ok(())
        }
        result => Ok(result?),
    }
}
