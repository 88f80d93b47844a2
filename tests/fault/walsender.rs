//! Sessions of the relay that are terminated by somebody.

use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::ledger::{LEDGER, Subscribers, Writer, last};
use crate::support::scene::{Scene, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_walsender_loses_nothing_and_repeats_nothing() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let scene = Scene::in_cluster(&cluster, LEDGER).await;
    let postgres = &scene.database.client;
    let mut subscribers = Subscribers::join(&scene.relay, postgres).await;

    let writer = Writer::start(&scene.database.url);
    for round in 1..=3 {
        let written = last(postgres).await;
        until(postgres, &format!("select max(n) > {written} + 20 from marks")).await;
        let slot = format!("from pg_replication_slots where slot_name = '{}'", scene.relay.slot);
        let row = postgres.query_one(&format!("select active_pid, pg_terminate_backend(active_pid) {slot}"), &[]).await;
        let pid: i32 = row.expect("the slot").try_get(0).unwrap_or_else(|_| panic!("round {round}: nobody streams"));
        until(postgres, &format!("select active_pid <> {pid} {slot}")).await;
    }
    writer.stop().await;

    subscribers.expect_all_and_no_more(postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminating_every_session_of_the_relay_loses_nothing_and_repeats_nothing() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let scene = Scene::in_cluster(&cluster, LEDGER).await;
    let postgres = &scene.database.client;
    let mut subscribers = Subscribers::join(&scene.relay, postgres).await;

    let writer = Writer::start(&scene.database.url);
    for _ in 0..3 {
        let written = last(postgres).await;
        until(postgres, &format!("select max(n) > {written} + 20 from marks")).await;
        // The writer's too: it goes on with another.
        let all = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where backend_type in ('client backend', 'walsender') and pid <> pg_backend_pid()";
        postgres.query_one(all, &[]).await.expect("sessions are terminated");
    }
    writer.stop().await;

    subscribers.expect_all_and_no_more(postgres).await;
}
