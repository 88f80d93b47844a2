//! What is looked after beside the stream, over an ordinary connection: old rows of `walcast.ddl_log`, the partitions
//! of `realtime.messages`, and what `setup` makes while the relay runs.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::causes::with_causes;
use crate::wal::publication::Own;
use crate::wal::{self, Conninfo};

/// Often enough for what people do by hand, seldom enough to cost nothing.
const INTERVAL: Duration = Duration::from_secs(10);
/// A row of the log is some kilobytes, and there is one per transaction with DDL. Partitions are made days ahead.
const PRUNE_EVERY: u32 = 30;
/// How often the same trouble is logged.
const WORDS_APART: Duration = Duration::from_secs(60);

/// The task. Lives as long as the relay, across restarts of the server.
pub struct Upkeep {
    pub conninfo: Conninfo,
    pub reader: wal::Handle,
    /// What was there when the stream began.
    pub own: Own,
    /// `--messages-retention`: partitions of `realtime.messages` that are older are dropped.
    pub messages_retention: Duration,
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
                tracing::warn!(error = %with_causes(&error), "what is walcast's cannot be looked after; trying again");
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
        for round in 0u32.. {
            let own = self.notice_own_publication(&client).await?;
            // A stranger's function would run as this login. A schema that is there cannot be another's the next moment.
            if round % PRUNE_EVERY == 0 && own.logged && own.is_trusted() {
                prune(&client).await?;
                keep_messages(&client, self.messages_retention).await?;
            }
            tokio::time::sleep(INTERVAL).await;
        }
        Ok(())
    }

    async fn notice_own_publication(&mut self, client: &Client) -> Result<Own, wal::Error> {
        let own = Own::look(client).await?;
        if own.is_trusted() && !self.own.is_trusted() {
            tracing::info!("walcast's own publication was made: reading it from here on");
            self.reader.reconnect();
        } else if own.is_trusted() && (own.messages, own.signs) != (self.own.messages, self.own.signs) {
            tracing::info!("what the database broadcasts by was made, or is another: reading it from here on");
            self.reader.reconnect();
        }
        self.own = own.clone();
        Ok(own)
    }
}

/// Makes the partitions of the next days, and drops old ones.
async fn keep_messages(client: &Client, retention: Duration) -> Result<(), wal::Error> {
    let seconds = retention.as_secs_f64();
    let sql = "select created, dropped, problem from walcast.keep_messages(make_interval(secs => $1))";
    let row = match client.query_one(sql, &[&seconds]).await {
        Ok(row) => row,
        // An installation of another version, or a login without that right: check says so.
        Err(error) if error.as_db_error().is_some() => {
            tracing::debug!(%error, "the partitions of realtime.messages are left as they are");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let (created, dropped): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    if created > 0 || dropped > 0 {
        tracing::info!(created, dropped, "partitions of realtime.messages");
    }
    if let Some(problem) = row.try_get::<_, Option<String>>(2)? {
        tracing::warn!(problem, "the partitions of realtime.messages are not as they should be; trying again");
    }
    Ok(())
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
