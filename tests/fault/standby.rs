//! A synchronous standby that is slow: commits are streamed to the relay long before they are visible to anybody
//! (ASSUMPTIONS: row 1).

use std::time::Duration;

use serde_json::json;
use tokio_postgres::Client as Postgres;
use walcast::demo::postgres::Cluster;

use crate::support::client::{Client, Message, all_of};
use crate::support::database::connect;
use crate::support::people::{ALICE, alice};
use crate::support::scene::{ROOMS, Scene, execute, until};
use crate::support::standby::{cluster_with_a_late_standby, let_go, until_one_waits};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_streamed_before_it_is_visible_is_not_shown_under_the_policy_before_it() {
    let cluster = cluster_with_a_late_standby();
    let scene = Scene::in_cluster(
        &cluster,
        "create table notes (id int primary key, secret boolean not null);
         alter table notes enable row level security;
         create policy readable on notes for select to authenticated using (true);
         grant select on notes to authenticated;
         alter publication supabase_realtime add table notes;",
    )
    .await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("notes", json!([all_of("notes")])).await;
    scene.execute("insert into notes values (1, true)").await;
    assert_eq!(client.next_change().await.record()["id"], 1);

    let transaction = "begin;
        alter policy readable on notes using (not secret);
        insert into notes values (2, true), (3, false);
        commit";
    commit_late(&cluster, &scene, transaction).await;
    scene.execute("insert into notes values (4, true), (5, false)").await;

    assert_eq!(client.next_change().await.record()["id"], 3);
    assert_eq!(client.next_change().await.record()["id"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_that_is_streamed_before_it_is_visible_counts_in_its_own_transaction() {
    let cluster = cluster_with_a_late_standby();
    let scene = Scene::in_cluster(&cluster, ROOMS).await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("posts", json!([all_of("posts")])).await;

    let transaction = format!(
        "begin;
         insert into members values (1, '{ALICE}');
         insert into posts values (1, 1), (2, 2);
         commit"
    );
    commit_late(&cluster, &scene, &transaction).await;
    assert_eq!(client.next_change().await.record()["id"], 1);
    scene.execute("insert into posts values (3, 1)").await;
    assert_eq!(client.next_change().await.record()["id"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_streamed_before_a_join_and_visible_after_its_reply_is_delivered() {
    let cluster = cluster_with_a_late_standby();
    let scene = Scene::in_cluster(
        &cluster,
        "create table rows (id int primary key); grant select on rows to authenticated;
         alter publication supabase_realtime add table rows;",
    )
    .await;
    let writer = connect(&scene.database.url).await;
    execute(&writer, "set synchronous_commit = on").await;
    let commit = tokio::spawn(async move { execute(&writer, "insert into rows values (1)").await });
    let postgres = &scene.database.client;
    until_one_waits(postgres).await;
    until_streamed(postgres, &scene.relay.slot).await;

    // Whoever joins, then reads the table, then follows the events must get every row by one way or the other.
    let mut client = Client::connect(&scene.relay, &alice()).await;
    let reference = client.push_join("rows", &json!([all_of("rows")])).await;
    let is_reply = |message: &Message| message.event == "phx_reply" && message.reference == json!(reference);
    // The relay may hold its reply back until the row is visible; the standby does not wait for it.
    let replied = tokio::time::timeout(Duration::from_secs(2), client.wait_for("the reply", is_reply)).await.is_ok();
    let read = "select count(*) from rows";
    let mut seen: i64 = 0;
    if replied {
        seen = postgres.query_one(read, &[]).await.expect("the table").get(0);
    }
    let_go(&cluster).await;
    commit.await.expect("the commit returns once the standby has it");
    if !replied {
        client.wait_for("the reply", is_reply).await;
        seen = postgres.query_one(read, &[]).await.expect("the table").get(0);
    }
    scene.execute("insert into rows values (2)").await;
    client.expect_system("rows", "ok", "Subscribed to PostgreSQL").await;
    let first = client.next_change().await;
    if seen == 0 {
        assert_eq!(first.record()["id"], 1, "neither read after the reply nor delivered: {}", first.data);
    }
}

/// Commits `transaction`: its WAL is with the relay long before the standby lets it become visible.
async fn commit_late(cluster: &Cluster, scene: &Scene, transaction: &str) {
    let writer = connect(&scene.database.url).await;
    execute(&writer, "set synchronous_commit = on").await;
    let transaction = transaction.to_owned();
    let commit = tokio::spawn(async move { execute(&writer, &transaction).await });
    let postgres = &scene.database.client;
    until_one_waits(postgres).await;
    until_streamed(postgres, &scene.relay.slot).await;
    let_go(cluster).await;
    commit.await.expect("the commit returns once the standby has it");
}

/// Waits until everything that is in the WAL now has been sent to the relay.
async fn until_streamed(postgres: &Postgres, slot: &str) {
    let lsn: String =
        postgres.query_one("select pg_current_wal_flush_lsn()::text", &[]).await.expect("a position").get(0);
    let sent = format!(
        "select sent_lsn >= '{lsn}' from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
         where slot_name = '{slot}'"
    );
    until(postgres, &sent).await;
}
