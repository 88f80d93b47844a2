//! What the watcher notices, with nothing of `walcast setup` in the database. Roles and restarts: clusters of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use walcast::catalog::{CatalogUpdate, Watcher, WatcherHandle};
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::wal::Conninfo;

use crate::support::database::{Database, connect};

struct Watched {
    updates: mpsc::Receiver<CatalogUpdate>,
    handle: WatcherHandle,
    stopping: Arc<Notify>,
    _abandon: DropGuard,
}

impl Watched {
    async fn next(&mut self) -> CatalogUpdate {
        let update = tokio::time::timeout(Duration::from_secs(20), self.updates.recv()).await;
        update.expect("an update in time").expect("the watcher lives")
    }

    /// The first update for which it holds; others may come before it.
    async fn until(&mut self, holds: impl Fn(&CatalogUpdate) -> bool) -> CatalogUpdate {
        loop {
            let update = self.next().await;
            if holds(&update) {
                return update;
            }
        }
    }
}

fn watch(database: &Database) -> Watched {
    let (sender, updates) = mpsc::channel(16);
    let stopping = Arc::new(Notify::new());
    let notify = Arc::clone(&stopping);
    let conninfo = Conninfo::parse(&database.url).unwrap();
    let (watcher, handle) = Watcher::new(conninfo, vec!["pub".into()], sender, move || notify.notify_one());
    let abandon = CancellationToken::new();
    tokio::spawn(watcher.run(abandon.clone()));
    Watched { updates, handle, stopping, _abandon: abandon.drop_guard() }
}

const TABLES: &str =
    "create role someone; create table t (id int primary key, a int); create table u (id int primary key);
    create policy p on t using (true); create type mood as enum ('a'); create publication pub for table t";

#[tokio::test]
async fn whatever_changes_is_noticed_within_a_second_or_two() {
    let cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    let database = Database::create_in(&cluster).await;
    database.client.batch_execute(TABLES).await.unwrap();
    let mut watched = watch(&database);
    watched.next().await;
    let changes = [
        "create role other",
        "alter role other bypassrls",
        "grant someone to other",
        "alter role someone noinherit",
        "alter role someone set timezone = 'Asia/Tokyo'",
        "grant select on t to someone",
        "grant select (a) on t to other",
        "grant usage on schema public to other",
        "revoke usage on schema public from public",
        "alter table t enable row level security",
        "alter policy p on t using (id > 1)",
        "alter policy p on t to someone",
        "alter table t rename column a to b",
        "alter table t replica identity full",
        "create function f() returns int language sql as 'select 1'",
        "alter function f() security definer",
        "alter type mood add value 'b'",
        "alter publication pub add table u",
        "alter publication pub drop table u",
        "alter publication pub set (publish = 'insert')",
        "alter table t owner to someone",
        "reassign owned by someone to other",
        "update pg_class set relforcerowsecurity = true where oid = 't'::regclass",
        "drop role if exists nobody; drop publication pub",
    ];
    let mut slowest = Duration::ZERO;
    for change in changes {
        let sql = format!("set session_replication_role = replica; {change}");
        database.client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{change}: {error:?}"));
        let row = database.client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
        let now: walcast::wal::Lsn = row.get::<_, &str>(0).parse().unwrap();
        let started = Instant::now();
        // An update that was already under way may come first.
        watched.until(|update| update.flush_lsn.0 + 40 >= now.0).await;
        slowest = slowest.max(started.elapsed());
    }
    println!("slowest: {slowest:?}");
}

#[tokio::test]
async fn an_unchanged_catalog_is_loaded_once() {
    let cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    let database = Database::create_in(&cluster).await;
    database.client.batch_execute(TABLES).await.unwrap();
    let mut watched = watch(&database);
    watched.next().await;
    // Rows, statistics and temporary files are not the catalog.
    database.client.batch_execute("insert into t select generate_series(1, 1000)").await.unwrap();
    database.client.batch_execute("vacuum analyze t").await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(2500), watched.updates.recv()).await;
    assert!(quiet.is_err(), "nothing has changed");
}

#[tokio::test]
async fn a_request_is_answered_with_what_it_must_see() {
    let cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    let database = Database::create_in(&cluster).await;
    database.client.batch_execute(TABLES).await.unwrap();
    let watched = watch(&database);
    let other = connect(&database.url).await;
    other.batch_execute("begin; alter publication pub add table u").await.unwrap();
    let row = other.query_one("select (pg_current_xact_id()::text::numeric % 4294967296)::int8", &[]).await.unwrap();
    let xid = u32::try_from(row.get::<_, i64>(0)).unwrap();
    let mut answer = watched.handle.refresh(Some(xid));
    // Answered in order: this one is behind the load that waits.
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut answer).await.is_err());
    other.batch_execute("commit").await.unwrap();
    let update = answer.await.unwrap();
    assert!(update.snapshot.sees(xid));
    assert_eq!(update.catalog.relations.len(), 2);
    assert!(watched.handle.flush_lsn().await.unwrap() >= update.flush_lsn);
}

#[tokio::test]
async fn a_shutdown_is_told_and_survived_and_no_request_is_lost() {
    let cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    let database = Database::create_in(&cluster).await;
    database.client.batch_execute(TABLES).await.unwrap();
    let mut watched = watch(&database);
    watched.next().await;
    cluster.stop("fast", Duration::from_secs(30)).unwrap();
    tokio::time::timeout(Duration::from_secs(10), watched.stopping.notified()).await.expect("told of the shutdown");
    let answer = watched.handle.refresh(None);
    cluster.start_server().unwrap();
    let update = tokio::time::timeout(Duration::from_secs(30), answer).await.expect("in time").expect("not lost");
    assert_eq!(update.catalog.relations.len(), 1);
    watched.next().await;
}
