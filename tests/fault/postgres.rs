//! Postgres stops and comes back.

use std::time::{Duration, Instant};

use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::client::{Client, all_of};
use crate::support::database::connect;
use crate::support::ledger::{LEDGER, Subscribers, Writer, last, write};
use crate::support::people::alice;
use crate::support::scene::{Scene, until};

/// What a fast shutdown may take. A slot that trails and is not let go holds it up for ever (ASSUMPTIONS: row 2).
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_postgres_is_quick_and_loses_nothing() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let scene = Scene::in_cluster(&cluster, LEDGER).await;
    let mut subscribers = Subscribers::join(&scene.relay, &scene.database.client).await;
    let writer = Writer::start(&scene.database.url);
    let mut postgres = connect(&scene.database.url).await;

    for _ in 0..2 {
        let written = last(&postgres).await;
        until(&postgres, &format!("select max(n) > {written} + 20 from marks")).await;
        stop_fast(&cluster);
        cluster.start_server().expect("it starts again");
        postgres = connect(&scene.database.url).await;
    }
    let written = last(&postgres).await;
    until(&postgres, &format!("select max(n) > {written} + 20 from marks")).await;
    writer.stop().await;

    subscribers.expect_all_and_no_more(&postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_shutdown_is_not_held_up_by_a_commit_that_is_still_undecided() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let dreamy = "
        create function dream() returns boolean language plpgsql as $$ begin perform pg_sleep(600); return true; end $$;
        create table dreams (id int primary key);
        alter table dreams enable row level security;
        create policy slow on dreams for select to authenticated using (dream());
        grant select on dreams to authenticated;
        alter publication supabase_realtime add table dreams;";
    let database = crate::support::scene::prepared(&cluster, dreamy).await;
    let relay = crate::support::relay::start(&database.url, &["--authz-timeout", "10min"]).await;
    let mut client = Client::connect(&relay, &alice()).await;
    client.subscribe("dreams", serde_json::json!([all_of("dreams")])).await;

    database.client.batch_execute("insert into dreams values (1)").await.expect("a dream");
    until(&database.client, "select exists (select from pg_stat_activity where wait_event = 'PgSleep')").await;
    stop_fast(&cluster);

    cluster.start_server().expect("it starts again");
    let postgres = connect(&database.url).await;
    // Undecided, hence not confirmed: the question is asked again.
    until(&postgres, "select exists (select from pg_stat_activity where wait_event = 'PgSleep')").await;
    client.heartbeat().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_shutdown_is_not_held_up_by_a_slot_that_trails_for_those_who_resume() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let scene = Scene::in_cluster(&cluster, LEDGER).await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    let mut binding = all_of("marks");
    binding["resume"] = "a-key-that-nobody-could-guess".into();
    client.subscribe("marks", serde_json::json!([binding])).await;
    let mut subscribers = Subscribers::join(&scene.relay, &scene.database.client).await;
    write(&scene.database.client, 20).await;
    subscribers.expect_all(&scene.database.client).await;
    // Delivered, and not confirmed.
    let slot = format!("from pg_replication_slots where slot_name = '{}'", scene.relay.slot);
    let trails = format!("select confirmed_flush_lsn < pg_current_wal_lsn() {slot}");
    scene.relay.until_metric("=walcast_wal_lag_bytes", |lag| lag > 0.0).await;
    until(&scene.database.client, &trails).await;
    stop_fast(&cluster);

    cluster.start_server().expect("it starts again");
    let postgres = connect(&scene.database.url).await;
    subscribers.expect_all_and_no_more(&postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_postgres_loses_nothing_and_repeats_nothing() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let scene = Scene::in_cluster(&cluster, LEDGER).await;
    let mut subscribers = Subscribers::join(&scene.relay, &scene.database.client).await;
    // Delivered and confirmed; after the crash the slot may know less of it (ASSUMPTIONS: experiment 6).
    write(&scene.database.client, 50).await;
    subscribers.expect_all(&scene.database.client).await;
    let writer = Writer::start(&scene.database.url);
    let mut postgres = connect(&scene.database.url).await;

    for _ in 0..2 {
        let written = last(&postgres).await;
        until(&postgres, &format!("select max(n) > {written} + 20 from marks")).await;
        cluster.stop("immediate", SHUTDOWN_MAX).expect("it crashes");
        cluster.start_server().expect("it recovers");
        postgres = connect(&scene.database.url).await;
    }
    let written = last(&postgres).await;
    until(&postgres, &format!("select max(n) > {written} + 20 from marks")).await;
    writer.stop().await;

    subscribers.expect_all_and_no_more(&postgres).await;
}

fn stop_fast(cluster: &Cluster) {
    let started = Instant::now();
    if let Err(error) = cluster.stop("fast", SHUTDOWN_MAX) {
        panic!("after {:?}: {error}\nthe log of Postgres:\n{}", started.elapsed(), cluster.log());
    }
}
