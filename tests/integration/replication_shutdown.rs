//! A server that stops while our slot trails: it must not wait for us, and nothing is lost.

use std::time::{Duration, Instant};

use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::wal::ReaderState;

use super::replication::wal_position;
use crate::support::database::{Database, connect};
use crate::support::replica::{Replica, config};

const SCHEMA: &str = "create table t (id int primary key); create publication app for table t";

/// Long for a server without load, short for one that waits for ever.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

fn stop(cluster: &Cluster, mode: &str) {
    let began = Instant::now();
    cluster.stop(mode, Duration::from_secs(30)).expect("the server stops");
    assert!(began.elapsed() < SHUTDOWN_MAX, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_shutdown_is_not_held_up_by_a_slot_that_trails() {
    let cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    let Database { client, url, name } = Database::create_in(&cluster).await;
    client.batch_execute(SCHEMA).await.unwrap();
    let mut replica = Replica::streaming(config(&url, &name)).await;
    replica.dispatches = false;
    client.batch_execute("insert into t values (1)").await.unwrap();
    replica.until(|replica| replica.commits.len() == 1).await;
    // Read, never handed over: the keepalives alone tell the reader that the server waits.
    tokio::task::block_in_place(|| stop(&cluster, "fast"));
    let before = replica.handle.progress().confirmed();

    cluster.start_server().unwrap();
    replica.tables.clear();
    // Keepalives of the old stream must not confirm what the old stream left outstanding.
    replica.until(|replica| replica.streams.len() == 2).await;
    replica.dispatches = true;
    replica.until(|replica| replica.commits.len() == 2).await;
    assert_eq!(replica.commits[0], replica.commits[1], "the same transaction again, whole");
    assert!(before < replica.commits[0]);
    assert!(replica.tables["t"].contains_key("1"));
    replica.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_shutdown_that_an_ordinary_session_sees_closes_the_stream() {
    let cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    let Database { client, url, name } = Database::create_in(&cluster).await;
    client.batch_execute(SCHEMA).await.unwrap();
    let mut config = config(&url, &name);
    // So little that the reader stands still, and reads no keepalives.
    config.in_flight_bytes_max = 1024;
    let mut replica = Replica::streaming(config).await;
    replica.dispatches = false;
    client.batch_execute("insert into t select generate_series(1, 100000)").await.unwrap();
    let (ordinary, task) = walcast::wal::Conninfo::parse(&url).unwrap().connect().await.unwrap();
    let handle = replica.handle.clone();
    let watcher = tokio::spawn(async move {
        assert!(task.await.is_err(), "57P01");
        handle.notify_server_stopping();
    });
    tokio::task::block_in_place(|| stop(&cluster, "fast"));
    watcher.await.unwrap();
    drop(ordinary);

    cluster.start_server().unwrap();
    replica.until(|replica| replica.streams.len() == 2).await;
    replica.dispatches = true;
    let client = connect(&url).await;
    replica.until_position(wal_position(&client).await).await;
    assert_eq!(replica.tables["t"].len(), 100_000);
    replica.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_server_repeats_nothing() {
    let cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    let Database { client, url, name } = Database::create_in(&cluster).await;
    client.batch_execute(SCHEMA).await.unwrap();
    let mut replica = Replica::streaming(config(&url, &name)).await;
    for id in 0..100 {
        client.execute("insert into t values ($1)", &[&id]).await.unwrap();
    }
    replica.until_position(wal_position(&client).await).await;
    tokio::task::block_in_place(|| stop(&cluster, "immediate"));
    let mut state = replica.handle.state();
    state.wait_for(|state| matches!(state, ReaderState::Waiting { .. })).await.unwrap();
    cluster.start_server().unwrap();
    let client = connect(&url).await;
    client.batch_execute("insert into t values (100)").await.unwrap();
    // A row that came twice would panic in the replica.
    replica.until_position(wal_position(&client).await).await;
    assert_eq!(replica.tables["t"].len(), 101);
    assert_eq!(replica.commits.len(), 101);
    replica.stop().await.unwrap();
}
