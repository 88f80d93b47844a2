//! Who may take the slot from whom.

use walcast::wal::ReaderState;

use crate::support::database::{Database, eventually};
use crate::support::replica::{Replica, config};

async fn published() -> Database {
    let database = Database::create().await;
    let sql = "create table t (id int primary key); create publication app for table t";
    database.client.batch_execute(sql).await.unwrap();
    database
}

async fn holder(database: &Database) -> i32 {
    let sql = "select active_pid from pg_replication_slots where slot_name = $1";
    database.client.query_one(sql, &[&database.name]).await.unwrap().get(0)
}

#[tokio::test]
async fn only_a_walcast_is_ended_for_the_slot() {
    let database = published().await;
    let other = format!("{}?application_name=a%20neighbour", database.url);
    let first = Replica::streaming(config(&other, &database.name)).await;
    let pid = holder(&database).await;
    let mut config = config(&database.url, &database.name);
    config.slot.takes_over = true;
    let mut second = Replica::start(config);
    let mut state = second.handle.state();
    let waiting = state.wait_for(|state| matches!(state, ReaderState::Waiting { .. })).await.unwrap().clone();
    let ReaderState::Waiting { error, .. } = waiting else { unreachable!() };
    assert!(error.contains(&format!("in use by process {pid}")), "{error}");
    assert_eq!(holder(&database).await, pid);
    first.stop().await.unwrap();
    second.until(|replica| !replica.streams.is_empty()).await;
    second.stop().await.unwrap();
}

/// After a network cut the server may believe in our last session for a minute.
#[tokio::test]
async fn a_walsender_of_our_own_that_is_left_over_is_ended() {
    let database = published().await;
    let proxy = crate::support::proxy::Proxy::start(crate::support::standby::address(
        crate::support::database::shared_cluster(),
    ))
    .await;
    let url = format!("postgres://postgres@{}/{}", proxy.address, database.name);
    let mut config = config(&url, &database.name);
    config.receive_timeout = std::time::Duration::from_secs(2);
    let mut replica = Replica::streaming(config).await;
    let left_over = holder(&database).await;
    // Its socket stays open, and says nothing any more.
    proxy.forsake();
    replica.until(|replica| replica.streams.len() == 2).await;
    let gone = format!("select not exists (select from pg_stat_activity where pid = {left_over})");
    eventually(&database.client, &gone).await;
    replica.stop().await.unwrap();
}
