//! The network between the relay and Postgres.

use std::net::SocketAddr;
use std::time::Duration;

use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::ledger::{LEDGER, Subscribers, Writer};
use crate::support::people::alice;
use crate::support::proxy::Proxy;
use crate::support::scene::{from_env, prepared, until};
use crate::support::{client::Client, relay};

/// How long the network is away: `WALCAST_TEST_OUTAGE_SECONDS`.
fn outage() -> Duration {
    Duration::from_secs(from_env("WALCAST_TEST_OUTAGE_SECONDS", 4))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_loses_nothing_and_repeats_nothing() {
    break_network(Proxy::cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_network_loses_nothing_and_repeats_nothing() {
    break_network(Proxy::stall).await;
}

async fn break_network(how: impl Fn(&Proxy)) {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let database = prepared(&cluster, LEDGER).await;
    let postgres = &database.client;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], cluster.port()))).await;
    let url = format!("postgres://postgres@{}/{}", proxy.address, database.name);
    let relay = relay::start(&url, &[]).await;
    let mut subscribers = Subscribers::join(&relay, postgres).await;

    let writer = Writer::start(&database.url);
    until(postgres, "select max(n) > 20 from marks").await;
    how(&proxy);
    // The fault itself, not a wait for anything.
    tokio::time::sleep(outage()).await;
    // Clients are served while the database is away.
    Client::connect(&relay, &alice()).await.heartbeat().await;
    proxy.resume();
    writer.stop().await;

    subscribers.expect_all_and_no_more(postgres).await;
}
