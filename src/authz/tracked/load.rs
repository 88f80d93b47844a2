//! The first reading of tables: all that are asked for together in one snapshot.
//!
//! What the stream brings later is applied if and only if its transaction is not visible in that snapshot. Four
//! conditions make that exact: what was streamed before the table's changes were gathered is visible in it; the table is
//! locked (ACCESS SHARE) before it is taken, so that it is no older than a rewrite; row-level security is off; and
//! whoever was writing the table when it was asked for is done, because what such a transaction wrote before the table
//! came into the publication is not in the stream.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::{Broken, Refused, Shape, Table};
use crate::catalog::Snapshot;
use crate::wal::pgoutput::RelationId;
use crate::wal::{Lsn, output_settings_sql};

/// How long ACCESS SHARE waits behind a migration: meanwhile everybody else's wait behind this one's does not grow.
const LOCK_TIMEOUT_MS: u32 = 2000;
/// How long the writers of a table are waited for. A reading that is given up is tried again later.
const WRITERS_LIMIT: Duration = Duration::from_secs(10);
/// How long is waited for streamed transactions to become visible, and how often is looked.
const VISIBILITY_LIMIT: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(5);
/// Rows of one FETCH. Each is decoded as it arrives; so many may be read in vain at the memory's limit.
const ROWS_PER_FETCH: u32 = 2000;
/// A server that does not answer for so long has left; above any timeout that is set in the session.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Why there is no reading, of one table or of all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("it could not be read: {0}")]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Wal(#[from] crate::wal::Error),
    #[error("the server does not answer within {0:?}")]
    NoAnswer(Duration),
    #[error("the server's answer has no {0}")]
    Answer(&'static str),
    #[error("transaction {0} was streamed, but does not become visible: a synchronous standby that does not answer?")]
    NotVisible(u32),
    #[error("a transaction that writes it has been open for more than {0:?}")]
    Writers(Duration),
    #[error("its partitions are about to change")]
    Leaves,
    #[error("tables inherit from it")]
    Inherited,
    #[error(transparent)]
    Unkept(#[from] Broken),
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Tables read in one snapshot.
#[derive(Debug)]
pub struct Reading {
    pub snapshot: Snapshot,
    /// What commits at or after this position is not visible in the snapshot: all else that was is before it.
    pub exact_from: Lsn,
    pub tables: Vec<(Arc<Shape>, Result<ReadTable, LoadError>)>,
}

#[derive(Debug)]
pub struct ReadTable {
    pub table: Table,
    pub storage: Storage,
}

/// The files that a table and its partitions lie in. A rewrite, an ATTACH or a DETACH changes them, and the stream says
/// nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage(pub String);

/// Once per session: rows are written as the stream writes them. Its locks end with it where this process is stopped.
pub(super) async fn prepare(client: &Client) -> Result<(), LoadError> {
    let settings = format!(
        "{}; set jit = off; set statement_timeout = '60s'; set lock_timeout = {LOCK_TIMEOUT_MS}; \
         set idle_in_transaction_session_timeout = '5s'",
        output_settings_sql()
    );
    execute(client, &settings).await
}

/// Reads tables, seeing those transactions. `room`: bytes that all of them may take.
pub(super) async fn read(
    client: &Client,
    shapes: &[Arc<Shape>],
    must_see: &[u32],
    room: usize,
) -> Result<Reading, LoadError> {
    let written = wait_for_writers(client, shapes).await?;
    let (snapshot, exact_from, locked) = begin(client, shapes, must_see).await?;
    let ids: Vec<RelationId> = shapes.iter().filter_map(|shape| shape.relation).collect();
    let mut storage = storages(client, &ids).await?;
    let mut left = room;
    let mut tables = Vec::new();
    for (shape, locked) in shapes.iter().zip(locked) {
        let storage = shape.relation.and_then(|relation| storage.remove(&relation));
        let result = match (locked, storage) {
            (Err(error), _) => Err(error),
            _ if shape.relation.is_some_and(|relation| written.contains(&relation)) => {
                Err(LoadError::Writers(WRITERS_LIMIT))
            }
            (Ok(()), None) => Err(LoadError::Answer("such table")),
            (Ok(()), Some((1.., _))) if shape.leaves.is_empty() => Err(LoadError::Inherited),
            (Ok(()), Some((_, storage))) => rows(client, shape, left).await.map(|table| ReadTable { table, storage }),
        };
        if let Ok(read) = &result {
            left = left.saturating_sub(read.table.memory_bytes());
        }
        tables.push((Arc::clone(shape), result));
    }
    execute(client, "commit").await?;
    Ok(Reading { snapshot, exact_from, tables })
}

/// The tables' files, seeing those transactions.
pub(super) async fn read_storage(
    client: &Client,
    relations: &[RelationId],
    must_see: &[u32],
) -> Result<HashMap<RelationId, Storage>, LoadError> {
    begin(client, &[], must_see).await?;
    let storages = storages(client, relations).await?;
    execute(client, "commit").await?;
    Ok(storages.into_iter().map(|(relation, (_, storage))| (relation, storage)).collect())
}

/// Opens the transaction in whose snapshot is read, locks first.
async fn begin(
    client: &Client,
    shapes: &[Arc<Shape>],
    must_see: &[u32],
) -> Result<(Snapshot, Lsn, Vec<Result<(), LoadError>>), LoadError> {
    let started = Instant::now();
    loop {
        execute(client, "begin isolation level repeatable read read only").await?;
        let mut locked = Vec::new();
        for shape in shapes {
            // No statement before the SELECT below takes a snapshot.
            let sql = format!("lock table {} in access share mode", shape.sql_name());
            locked.push(guarded(client, execute(client, &sql)).await?);
        }
        let row = query(client, "select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text").await?;
        let row = row.first().ok_or(LoadError::Answer("snapshot"))?;
        let snapshot: Option<Snapshot> = row.get(0).and_then(|text| text.parse().ok());
        let position: Option<Lsn> = row.get(1).and_then(|text| text.parse().ok());
        let (Some(snapshot), Some(position)) = (snapshot, position) else { return Err(LoadError::Answer("snapshot")) };
        let Some(unseen) = must_see.iter().find(|xid| !snapshot.sees(**xid)) else {
            return Ok((snapshot, position, locked));
        };
        execute(client, "rollback").await?;
        if started.elapsed() > VISIBILITY_LIMIT {
            return Err(LoadError::NotVisible(*unseen));
        }
        sleep(RETRY).await;
    }
}

/// Runs something in a savepoint. What Postgres refuses is the inner error, and the transaction goes on.
async fn guarded<T>(
    client: &Client,
    statements: impl Future<Output = Result<T, LoadError>>,
) -> Result<Result<T, LoadError>, LoadError> {
    execute(client, "savepoint tracked").await?;
    match statements.await {
        Err(LoadError::Postgres(error)) if error.code().is_some() && !client.is_closed() => {
            execute(client, "rollback to savepoint tracked").await?;
            Ok(Err(error.into()))
        }
        Err(error @ (LoadError::Postgres(_) | LoadError::NoAnswer(_) | LoadError::Wal(_))) => Err(error),
        Err(error) => {
            execute(client, "rollback to savepoint tracked").await?;
            Ok(Err(error))
        }
        Ok(value) => {
            execute(client, "release savepoint tracked").await?;
            Ok(Ok(value))
        }
    }
}

async fn rows(client: &Client, shape: &Arc<Shape>, room: usize) -> Result<Table, LoadError> {
    guarded(client, fetch(client, shape, room)).await?
}

async fn fetch(client: &Client, shape: &Arc<Shape>, room: usize) -> Result<Table, LoadError> {
    execute(client, &format!("declare tracked no scroll cursor for {}", select(shape))).await?;
    let mut table = Table::of(Arc::clone(shape));
    let batch = format!("fetch {ROWS_PER_FETCH} from tracked");
    loop {
        let mut count = 0;
        let fetched = timeout(ANSWER_LIMIT, client.simple_query_raw(&batch)).await;
        let mut messages = std::pin::pin!(fetched.map_err(|_| LoadError::NoAnswer(ANSWER_LIMIT))??);
        loop {
            let message = timeout(ANSWER_LIMIT, messages.try_next()).await;
            match message.map_err(|_| LoadError::NoAnswer(ANSWER_LIMIT))?? {
                None => break,
                Some(SimpleQueryMessage::Row(row)) => {
                    count += 1;
                    take(&mut table, &row)?;
                    if table.memory_bytes() > room {
                        return Err(Refused::TooLarge.into());
                    }
                }
                Some(_) => {}
            }
        }
        if count < ROWS_PER_FETCH {
            execute(client, "close tracked").await?;
            return Ok(table);
        }
    }
}

fn take(table: &mut Table, row: &SimpleQueryRow) -> Result<(), LoadError> {
    let shape = Arc::clone(table.shape());
    let (leaf, first) = match shape.leaves.is_empty() {
        true => (shape.relation.unwrap_or(RelationId(0)), 0),
        false => {
            let leaf = row.get(0).and_then(|oid| oid.parse().ok()).map(RelationId);
            let leaf = leaf.ok_or(LoadError::Answer("tableoid"))?;
            shape.leaves.binary_search(&leaf).map_err(|_| LoadError::Leaves)?;
            (leaf, 1)
        }
    };
    let values = shape.row_of((first..row.len()).map(|place| row.get(place)))?;
    table.add(leaf, values, false);
    Ok(())
}

fn select(shape: &Shape) -> String {
    let names = shape.kept.iter().map(|kept| crate::catalog::quote_identifier(&kept.name));
    match shape.leaves.is_empty() {
        true => format!("select {} from only {}", names.collect::<Vec<_>>().join(", "), shape.sql_name()),
        false => {
            let columns: Vec<_> = std::iter::once("tableoid::pg_catalog.oid".to_owned()).chain(names).collect();
            format!("select {} from {}", columns.join(", "), shape.sql_name())
        }
    }
}

/// How many tables inherit from each, and where they all lie.
async fn storages(client: &Client, relations: &[RelationId]) -> Result<HashMap<RelationId, (u32, Storage)>, LoadError> {
    let sql = format!(
        "with recursive tree (root, oid, pending) as (select r, r, false from unnest('{}'::oid[]) r union all \
         select t.root, i.inhrelid, i.inhdetachpending from tree t join pg_inherits i on i.inhparent = t.oid) \
         select t.root::text, (count(*) - 1)::text, string_agg(c.oid::text || ':' || c.relfilenode::text || \
         c.relpersistence::text || t.pending::text, ',' order by c.oid) \
         from tree t join pg_class c on c.oid = t.oid group by t.root",
        oids(relations)
    );
    let mut storages = HashMap::new();
    for row in query(client, &sql).await? {
        let number = |place| row.get(place).and_then(|text| text.parse().ok()).ok_or(LoadError::Answer("oid"));
        let storage = row.get(2).ok_or(LoadError::Answer("files"))?.to_owned();
        storages.insert(RelationId(number(0)?), (number(1)?, Storage(storage)));
    }
    Ok(storages)
}

/// Waits until everybody who is writing the tables now is done; gives those that were still being written at the limit.
async fn wait_for_writers(client: &Client, shapes: &[Arc<Shape>]) -> Result<HashSet<RelationId>, LoadError> {
    let members: Vec<RelationId> = shapes.iter().flat_map(|shape| shape.members()).collect();
    let sql = format!(
        "select relation::text, virtualtransaction, pid::text from pg_locks where locktype = 'relation' and granted and \
         database = (select oid from pg_database where datname = current_database()) and \
         relation = any ('{}'::oid[]) and pid is distinct from pg_backend_pid() and \
         mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')",
        oids(&members)
    );
    let started = Instant::now();
    let mut waited_for: Option<HashSet<Vec<Option<String>>>> = None;
    loop {
        let rows = query(client, &sql).await?;
        let now = rows.iter().map(|row| (0..row.len()).map(|place| row.get(place).map(str::to_owned)).collect());
        let now: HashSet<Vec<_>> = now.collect();
        let left = match waited_for.take() {
            None => now,
            Some(earlier) => earlier.intersection(&now).cloned().collect(),
        };
        if left.is_empty() || started.elapsed() > WRITERS_LIMIT {
            let written = left.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok()).map(RelationId);
            let written: HashSet<RelationId> = written.collect();
            let is_written = |shape: &&Arc<Shape>| shape.members().any(|member| written.contains(&member));
            return Ok(shapes.iter().filter(is_written).filter_map(|shape| shape.relation).collect());
        }
        waited_for = Some(left);
        sleep(RETRY).await;
    }
}

fn oids(relations: &[RelationId]) -> String {
    let oids: Vec<String> = relations.iter().map(|relation| relation.0.to_string()).collect();
    format!("{{{}}}", oids.join(","))
}

async fn execute(client: &Client, sql: &str) -> Result<(), LoadError> {
    Ok(timeout(ANSWER_LIMIT, client.batch_execute(sql)).await.map_err(|_| LoadError::NoAnswer(ANSWER_LIMIT))??)
}

async fn query(client: &Client, sql: &str) -> Result<Vec<SimpleQueryRow>, LoadError> {
    let messages = timeout(ANSWER_LIMIT, client.simple_query(sql)).await;
    let messages = messages.map_err(|_| LoadError::NoAnswer(ANSWER_LIMIT))??;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}
