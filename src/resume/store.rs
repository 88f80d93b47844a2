//! Writes positions down, so that a restart remembers them.
//!
//! Only transactions move positions, so that an idle database is written to by nobody: what is written here is WAL, too.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;
use tokio_util::sync::CancellationToken;

use super::ledger::{KEYS_MAX, REMEMBERED_FOR};
use super::{Config, Ledger, ResumeKey, ResumeMetrics};
use crate::causes::with_causes;
use crate::wal::publication::Own;
use crate::wal::{self, Conninfo, Lsn, Position};

/// Rows per statement: a few milliseconds of the server's time.
const BATCH_MAX: usize = 2000;
/// How often old keys are forgotten, here and in the database.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
/// How often it is looked whether there are tables by now.
const LOOKED_FOR_AGAIN: Duration = Duration::from_secs(60);
/// How often the same trouble is logged.
const WORDS_APART: Duration = Duration::from_secs(60);
/// At the end, for the last batches.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Several privileges in one question would be any of them, and the name of a table in a schema that may not be used is
/// an error.
const INSTALLED: &str = "select count(*) = 2 from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'walcast' and c.relname in ('resume_keys', 'resume_state') and c.relkind = 'r'
    and has_schema_privilege(n.oid, 'usage')
    and has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
    and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete')
    and has_function_privilege('pg_catalog.pg_control_system()', 'execute')";
/// What is written must outlive a crash of the server; a standby need not have it.
const SESSION: &str =
    "set search_path = ''; set lock_timeout = '5s'; set statement_timeout = '30s'; set synchronous_commit = local";
const STATE: &str = "select handed_over, is_exact
    from walcast.resume_state s
    where slot = $1 and s.system_identifier = (select c.system_identifier::text from pg_control_system() c)";
/// Keys of another database: a dump was restored here.
const IS_ELSEWHERE: &str = "select exists (select from walcast.resume_state s
    where s.system_identifier <> (select c.system_identifier::text from pg_control_system() c))";
/// Once: who had them is told of a gap, and positions that are written from here on are of this database.
const BEGIN_ANEW: &str = "with left_behind as (delete from walcast.resume_state s
        where s.system_identifier <> (select c.system_identifier::text from pg_control_system() c) returning slot)
    update walcast.resume_keys set position = '0/0', index = 0 where exists (select from left_behind)";
const KEYS: &str = "select key, position, index, heard > now() - $2::float8 * interval '1 second'
    from walcast.resume_keys where heard > now() - interval '7 days' order by heard desc limit $1";
const WRITE_KEYS: &str = "insert into walcast.resume_keys as k (key, position, index)
    select * from unnest($1::bytea[], $2::pg_lsn[], $3::bigint[])
    on conflict (key) do update set position = excluded.position, index = excluded.index, heard = now()";
const WRITE_STATE: &str = "insert into walcast.resume_state as s (slot, system_identifier, handed_over, is_exact)
    values ($1, (select system_identifier::text from pg_control_system()), $2, $3)
    on conflict (slot) do update set system_identifier = excluded.system_identifier,
        handed_over = excluded.handed_over, is_exact = excluded.is_exact, written = now()";

/// What an earlier process has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Up to here changes had been handed over; `ZERO`: nobody knows.
    pub handed_over: Lsn,
    /// Changes were kept when it ended: of those after it, the slot still has all.
    pub is_exact: bool,
    /// Somebody was heard of within the retention, and may come back.
    pub is_awaited: bool,
}

/// Reads what was written down. An installation without the tables has nothing.
pub async fn restore(
    client: &Client,
    slot: &str,
    retention: Duration,
    ledger: &Ledger,
) -> Result<Restored, tokio_postgres::Error> {
    if !is_installed(client).await? {
        return Ok(Restored::default());
    }
    if client.query_one(IS_ELSEWHERE, &[]).await?.try_get(0)? {
        client.execute(BEGIN_ANEW, &[]).await?;
    }
    let mut restored = Restored::default();
    // Whoever had just acknowledged something was still there for a while.
    let awaited_seconds = (retention + Duration::from_secs(60)).as_secs_f64();
    if let Some(row) = client.query_opt(STATE, &[&slot]).await? {
        restored.handed_over = Lsn(row.try_get::<_, PgLsn>(0)?.into());
        restored.is_exact = row.try_get(1)?;
        restored.is_awaited = restored.is_exact;
    }
    for row in client.query(KEYS, &[&(KEYS_MAX as i64), &awaited_seconds]).await? {
        let (key, lsn, index): (&[u8], PgLsn, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (Ok(key), Ok(index)) = (<[u8; 32]>::try_from(key), u32::try_from(index)) else { continue };
        ledger.restore(ResumeKey(key), Position { lsn: Lsn(lsn.into()), index });
        restored.is_awaited |= row.try_get::<_, bool>(3)?;
    }
    Ok(restored)
}

async fn is_installed(client: &Client) -> Result<bool, tokio_postgres::Error> {
    if !Own::look(client).await?.is_trusted() {
        return Ok(false);
    }
    has_tables(client).await
}

/// Whether positions can be written down by this login. The schema may be used.
pub(crate) async fn has_tables(client: &Client) -> Result<bool, tokio_postgres::Error> {
    client.query_one(INSTALLED, &[]).await?.try_get(0)
}

/// The task. Lives as long as the relay, and a moment longer.
pub struct Store {
    pub conninfo: Conninfo,
    pub slot: String,
    pub config: Config,
    pub ledger: Arc<Ledger>,
    pub metrics: ResumeMetrics,
}

impl Store {
    pub async fn run(self, abandon: CancellationToken) {
        let mut client = None;
        let mut written = (Lsn::ZERO, false);
        let mut absent: Option<Instant> = None;
        let mut last_word: Option<Instant> = None;
        let mut pruned = Instant::now();
        loop {
            let is_last = tokio::select! {
                biased;
                () = abandon.cancelled() => true,
                () = tokio::time::sleep(self.config.write_interval) => false,
            };
            if pruned.elapsed() > PRUNE_INTERVAL {
                pruned = Instant::now();
                self.ledger.prune(REMEMBERED_FOR);
                if let Some(client) = &client {
                    let _ = forget(client).await;
                }
            }
            let writing = self.write(&mut client, &mut written, &mut absent);
            let result = if is_last { timeout(LAST_WORDS, writing).await.unwrap_or(Ok(())) } else { writing.await };
            if let Err(error) = result {
                client = None;
                self.metrics.write_failures.inc();
                if last_word.is_none_or(|word| word.elapsed() > WORDS_APART) {
                    last_word = Some(Instant::now());
                    tracing::warn!(
                        error = %with_causes(&error),
                        "positions of those who resume cannot be written down: a restart would replay from older ones"
                    );
                }
            }
            if is_last {
                return;
            }
        }
    }

    /// What has changed since the last time. Nothing is lost by failing: it is written the next time.
    /// `absent`: since when it is known that there is nothing to write to.
    async fn write(
        &self,
        session: &mut Option<Client>,
        written: &mut (Lsn, bool),
        absent: &mut Option<Instant>,
    ) -> Result<(), wal::Error> {
        // First: a transaction that is not counted as handed over is delivered twice at the worst.
        let is_keeping = self.ledger.is_keeping();
        let state = (self.ledger.handed_over(), is_keeping);
        loop {
            let batch = self.ledger.take_dirty(BATCH_MAX);
            let is_whole = batch.len() < BATCH_MAX;
            // Only while changes are kept, and once when they no longer are: what was handed over matters to nobody else.
            let has_moved = state != *written && (is_keeping || written.1);
            if batch.is_empty() && !has_moved {
                return Ok(());
            }
            if absent.is_some_and(|since| since.elapsed() < LOOKED_FOR_AGAIN) {
                return self.written_nowhere(state, written);
            }
            let keys: Vec<ResumeKey> = batch.iter().map(|(key, _)| *key).collect();
            let result = match self.session(session).await {
                Ok(Some(client)) => write_batch(client, &self.slot, &batch, has_moved.then_some(state)).await,
                Ok(None) => {
                    *absent = Some(Instant::now());
                    return self.written_nowhere(state, written);
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.ledger.write_again(keys);
                return Err(error);
            }
            *written = state;
            self.ledger.wrote(state.0, state.1);
            self.metrics.written.inc_by(keys.len() as u64);
            if is_whole {
                return Ok(());
            }
        }
    }

    /// Nothing can be written, so nothing waits for it.
    fn written_nowhere(&self, state: (Lsn, bool), written: &mut (Lsn, bool)) -> Result<(), wal::Error> {
        *written = state;
        self.ledger.wrote(Lsn(u64::MAX), state.1);
        Ok(())
    }

    /// `None`: the tables are not there. `check` says so, and positions are remembered in memory.
    async fn session<'a>(&self, session: &'a mut Option<Client>) -> Result<Option<&'a Client>, wal::Error> {
        if session.as_ref().is_none_or(Client::is_closed) {
            let (client, connection) = self.conninfo.connect().await?;
            tokio::spawn(async { drop(connection.await) });
            if !is_installed(&client).await? {
                return Ok(None);
            }
            client.batch_execute(SESSION).await?;
            *session = Some(client);
        }
        Ok(session.as_ref())
    }
}

async fn write_batch(
    client: &Client,
    slot: &str,
    batch: &[(ResumeKey, Position)],
    handed_over: Option<(Lsn, bool)>,
) -> Result<(), wal::Error> {
    if !batch.is_empty() {
        let keys: Vec<&[u8]> = batch.iter().map(|(key, _)| &key.0[..]).collect();
        let lsns: Vec<PgLsn> = batch.iter().map(|(_, position)| position.lsn.0.into()).collect();
        let indexes: Vec<i64> = batch.iter().map(|(_, position)| position.index.into()).collect();
        client.execute(WRITE_KEYS, &[&keys, &lsns, &indexes]).await?;
    }
    if let Some((handed_over, is_exact)) = handed_over {
        client.execute(WRITE_STATE, &[&slot, &PgLsn::from(handed_over.0), &is_exact]).await?;
    }
    Ok(())
}

async fn forget(client: &Client) -> Result<(), tokio_postgres::Error> {
    let sql = "delete from walcast.resume_keys where heard <= now() - interval '7 days'
        or heard < (select heard from walcast.resume_keys order by heard desc offset $1 limit 1)";
    client.execute(sql, &[&(KEYS_MAX as i64)]).await.map(drop)
}
