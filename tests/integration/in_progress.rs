//! Large transactions, which the server sends before they end: what is seen of them, and when.

use serde_json::json;

use crate::support::client::{Client, all_of};
use crate::support::database::connect;
use crate::support::database::shared_cluster;
use crate::support::people::{ALICE, BOB, alice, anon, bob};
use crate::support::relay;
use crate::support::scene::{ROOMS, Scene, execute, prepared};

const ROWS: usize = 2000;

const THINGS: &str = "
    create table things (id int primary key, name text);
    grant select on things to anon;
    alter publication supabase_realtime add table things;";

/// A database whose server sends what is in progress as soon as that is some hundred rows.
async fn scene(sql: &str) -> Scene {
    let database = prepared(shared_cluster(), sql).await;
    let url = format!("{}?options=-c%20logical_decoding_work_mem%3D64kB", database.url);
    let relay = relay::start(&url, &[]).await;
    Scene { database, relay }
}

fn rows(from: usize) -> String {
    format!("insert into things select n, repeat('x', 100) from generate_series({from}, {}) n", from + ROWS - 1)
}

async fn expect_ids(client: &mut Client, ids: impl IntoIterator<Item = usize>) {
    for id in ids {
        assert_eq!(client.next_change().await.record()["id"], id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_transactions_pass_a_large_one_and_who_joins_before_its_commit_gets_all_of_it() {
    let scene = scene(THINGS).await;
    let large = connect(&scene.database.url).await;
    let mut early = Client::connect(&scene.relay, &anon()).await;
    early.subscribe("early", json!([all_of("things")])).await;
    execute(&large, &format!("begin; {}", rows(1))).await;
    // Rolled back after it was sent.
    execute(&large, &format!("savepoint s; {}; rollback to s", rows(10_000))).await;
    scene.relay.until_metric("in_progress_bytes", |bytes| bytes > 0.0).await;
    let mut late = Client::connect(&scene.relay, &anon()).await;
    late.subscribe("late", json!([all_of("things")])).await;
    scene.execute("insert into things values (0, 'small')").await;
    for client in [&mut early, &mut late] {
        expect_ids(client, [0]).await;
    }
    execute(&large, &format!("alter table things add note text default 'new'; {}; commit", rows(ROWS + 1))).await;
    scene.execute("insert into things values (-1, 'after it')").await;
    for client in [&mut early, &mut late] {
        expect_ids(client, 1..=2 * ROWS).await;
        let after = client.next_change().await;
        assert_eq!(after.record(), &json!({ "id": -1, "name": "after it", "note": "new" }));
    }
    assert_eq!(scene.relay.metric("in_progress_bytes").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_rolled_back_is_seen_by_nobody_and_leaves_nothing() {
    let scene = scene(THINGS).await;
    let large = connect(&scene.database.url).await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("things", json!([all_of("things")])).await;
    execute(&large, &format!("begin; {}", rows(1))).await;
    scene.relay.until_metric("in_progress_bytes", |bytes| bytes > 0.0).await;
    execute(&large, "rollback").await;
    scene.execute("insert into things values (0, 'small')").await;
    expect_ids(&mut client, [0]).await;
    scene.relay.until_metric("in_progress_bytes", |bytes| bytes == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_judged_by_memberships_as_its_commit_leaves_them() {
    let scene = scene(ROOMS).await;
    let large = connect(&scene.database.url).await;
    let (alices, bobs) = (alice(), bob());
    let mut alice = Client::connect(&scene.relay, &alices).await;
    let mut bob = Client::connect(&scene.relay, &bobs).await;
    for client in [&mut alice, &mut bob] {
        client.subscribe("posts", json!([all_of("posts")])).await;
    }
    let posts =
        |from: usize| format!("insert into posts select n, 1 from generate_series({from}, {}) n", from + ROWS - 1);
    let member = |id: &str| format!("insert into members values (1, '{id}')");
    execute(&large, &format!("begin; savepoint s; {}; {}; rollback to s", member(BOB), posts(10_000))).await;
    execute(&large, &posts(1)).await;
    scene.relay.until_metric("in_progress_bytes", |bytes| bytes > 0.0).await;
    execute(&large, &format!("{}; {}; commit", member(ALICE), posts(ROWS + 1))).await;
    expect_ids(&mut alice, 1..=2 * ROWS).await;
    scene.execute(&format!("{}; insert into posts values (0, 1)", member(BOB))).await;
    expect_ids(&mut bob, [0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_in_the_middle_of_it_gives_all_of_it_once() {
    let scene = scene(THINGS).await;
    let large = connect(&scene.database.url).await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("things", json!([all_of("things")])).await;
    execute(&large, &format!("begin; {}", rows(1))).await;
    scene.relay.until_metric("in_progress_bytes", |bytes| bytes > 0.0).await;
    scene.execute("insert into things values (0, 'small')").await;
    expect_ids(&mut client, [0]).await;
    let walsender =
        "select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()";
    scene.execute(walsender).await;
    execute(&large, &format!("{}; commit", rows(ROWS + 1))).await;
    expect_ids(&mut client, 1..=2 * ROWS).await;
    scene.execute("insert into things values (-1, 'after it')").await;
    assert_eq!(client.next_change().await.record()["id"], -1);
}
