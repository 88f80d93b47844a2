//! Reads the catalog over an ordinary connection.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::snapshot::ParseSnapshotError;
use super::state::{STATE_SQL, State, StateError};
use super::watcher::FINGERPRINT_SQL;
use super::{Catalog, Roles, Snapshot, role};
use crate::wal::Lsn;

/// How long deparsing waits behind somebody's ACCESS EXCLUSIVE lock before the catalog is loaded without texts.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// How often and how long is waited for a transaction to become visible (ordinarily below a millisecond; with a
/// synchronous standby, as long as the standby takes).
const VISIBILITY_RETRY: Duration = Duration::from_millis(5);
const VISIBILITY_LIMIT: Duration = Duration::from_secs(60);

/// How often is looked whether the WAL up to the reading is flushed.
const FLUSH_RETRY: Duration = Duration::from_millis(20);

/// Why there is no catalog.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the catalog could not be read: {0}")]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the roles' document cannot be read: {0}")]
    Roles(#[from] serde_json::Error),
    #[error(transparent)]
    Snapshot(#[from] ParseSnapshotError),
    #[error(transparent)]
    Lsn(#[from] crate::wal::lsn::ParseLsnError),
    #[error(
        "transaction {xid} was streamed, but is not visible after {0:?}: a synchronous standby that does not answer?",
        VISIBILITY_LIMIT
    )]
    NotVisible { xid: u32 },
    #[error("the server does not answer within {0:?}")]
    NoAnswer(Duration),
}

/// One reading of the catalog.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// With version 0: dispatch counts.
    pub catalog: Catalog,
    /// Of the wanted publications, those that exist.
    pub publications: Vec<String>,
    /// What the reading could see.
    pub snapshot: Snapshot,
    /// The WAL was flushed up to here after the reading: every transaction that the reading saw committed before.
    pub flush_lsn: Lsn,
}

/// Reads the state and the roles in one snapshot. With `must_see`, repeats until that transaction is visible.
pub async fn load(client: &mut Client, publications: &[String], must_see: Option<u32>) -> Result<Loaded, LoadError> {
    let started = tokio::time::Instant::now();
    let (state, roles, snapshot) = loop {
        let (state, roles, snapshot) = read(client, publications).await?;
        match must_see {
            Some(xid) if !snapshot.sees(xid) => {
                if started.elapsed() > VISIBILITY_LIMIT {
                    return Err(LoadError::NotVisible { xid });
                }
                tokio::time::sleep(VISIBILITY_RETRY).await;
            }
            _ => break (state, roles, snapshot),
        }
    };
    let flush_lsn = flushed_past_everything_seen(client).await?;
    let publications = state.publications().iter().map(|publication| publication.name.clone()).collect();
    let catalog = Catalog::from_state(state, Arc::new(roles), 0)?;
    Ok(Loaded { catalog, publications, snapshot, flush_lsn })
}

/// Only the roles; for what concerns nothing else.
pub async fn load_roles(client: &Client) -> Result<Roles, LoadError> {
    let row = client.query_one(&format!("select ({})::text", role::ROLES_SQL), &[]).await?;
    Ok(Roles::parse(row.get(0))?)
}

async fn read(client: &mut Client, publications: &[String]) -> Result<(State, Roles, Snapshot), LoadError> {
    match read_once(client, publications, true).await {
        Err(LoadError::Postgres(error)) if is_in_the_way(&error) => {
            tracing::warn!(%error, "policies could not be deparsed; reading them without their texts");
            read_once(client, publications, false).await
        }
        result => result,
    }
}

/// A lock, or an object that was dropped between the snapshot and the deparser's own look at the catalog.
fn is_in_the_way(error: &tokio_postgres::Error) -> bool {
    let in_the_way = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::INTERNAL_ERROR,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_OBJECT,
    ];
    error.code().is_some_and(|code| in_the_way.contains(code))
}

async fn read_once(
    client: &mut Client,
    publications: &[String],
    with_texts: bool,
) -> Result<(State, Roles, Snapshot), LoadError> {
    let transaction =
        client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
    pin(&transaction).await?;
    let row = transaction.query_one(&format!("select ({STATE_SQL})::text"), &[&publications, &with_texts]).await?;
    let state = State::parse(row.get(0))?;
    let row = transaction.query_one(&format!("select ({})::text", role::ROLES_SQL), &[]).await?;
    let roles = Roles::parse(row.get(0))?;
    let row = transaction.query_one("select pg_current_snapshot()::text", &[]).await?;
    let snapshot = row.get::<_, &str>(0).parse()?;
    transaction.commit().await?;
    Ok((state, roles, snapshot))
}

/// Under this search_path every name is printed with its schema, and no temporary table hides a catalog.
async fn pin(transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
    let settings = format!(
        "set local search_path = pg_catalog, pg_temp; set local lock_timeout = {}; set local jit = off; \
         set local standard_conforming_strings = on; set local quote_all_identifiers = off; set local extra_float_digits = 1",
        LOCK_TIMEOUT.as_millis()
    );
    transaction.batch_execute(&settings).await
}

/// The number that changes when anything does that a reading depends on, as the watcher compares it.
pub(crate) async fn fingerprint(client: &mut Client) -> Result<Arc<str>, LoadError> {
    let transaction = client.build_transaction().read_only(true).start().await?;
    pin(&transaction).await?;
    let row = transaction.query_one(FINGERPRINT_SQL, &[]).await?;
    transaction.rollback().await?;
    Ok(row.try_get::<_, &str>(0)?.into())
}

/// What this session can see now.
pub async fn snapshot(client: &Client) -> Result<Snapshot, LoadError> {
    let row = client.query_one("select pg_current_snapshot()::text", &[]).await?;
    Ok(row.get::<_, &str>(0).parse()?)
}

/// A position that every commit seen by an earlier snapshot lies before, and that the stream is going to reach.
///
/// A commit with `synchronous_commit = off` is visible before it is flushed; the WAL writer flushes it within three times
/// `wal_writer_delay` (manual 30.4). So it is waited until all of the WAL is flushed, or for that long: the rest then
/// belongs to transactions that are still open, and on a quiet server nobody flushes it for them.
pub(crate) async fn flushed_past_everything_seen(client: &Client) -> Result<Lsn, LoadError> {
    // At a page's edge the insert position lies behind a header (24 or 40 bytes) that nobody writes before there is a
    // record to follow it.
    let wanted = "select (case when off <= 40 then lsn - off else lsn end)::text, \
                  (select setting::int8 from pg_catalog.pg_settings where name = 'wal_writer_delay') from (select lsn, \
                  ((lsn - '0/0') % current_setting('wal_block_size')::numeric) as off \
                  from (select pg_current_wal_insert_lsn() as lsn) i) o";
    let row = client.query_one(wanted, &[]).await?;
    let wanted: Lsn = row.get::<_, &str>(0).parse()?;
    let delay = Duration::from_millis(u64::try_from(row.get::<_, i64>(1)).unwrap_or(200));
    let started = tokio::time::Instant::now();
    loop {
        let waited = started.elapsed();
        let row = client.query_one("select pg_current_wal_flush_lsn()::text", &[]).await?;
        let flushed: Lsn = row.get::<_, &str>(0).parse()?;
        if flushed >= wanted || waited > delay * 3 {
            return Ok(flushed);
        }
        tokio::time::sleep(FLUSH_RETRY).await;
    }
}
