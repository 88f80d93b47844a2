//! Large transactions, which the server sends before they end: what is seen of them, and when.

use std::sync::OnceLock;

use serde_json::json;
use tokio_postgres::Client as Postgres;
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::wal::slot::SlotMode;

use crate::support::client::{Client, all_of};
use crate::support::database::{Database, connect};
use crate::support::people::{ALICE, BOB, alice, anon, bob};
use crate::support::relay;
use crate::support::scene::{ROOMS, Scene, execute, prepared, until};
use crate::support::station::Station;

const ROWS: usize = 2000;

const THINGS: &str = "
    create table things (id int primary key, name text);
    grant select on things to anon;
    create table unfollowed (id int, name text);
    alter publication supabase_realtime add table things, unfollowed;";

/// Of these tests: their open transactions hold up whoever makes a slot.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&ClusterOptions::default()).expect("a cluster"))
}

/// A database whose server sends what is in progress as soon as that is some hundred rows.
async fn scene(sql: &str) -> Scene {
    with_flags(sql, &[]).await
}

fn in_parts(database: &Database) -> String {
    format!("{}?options=-c%20logical_decoding_work_mem%3D64kB", database.url)
}

async fn with_flags(sql: &str, flags: &[&str]) -> Scene {
    let database = prepared(cluster(), sql).await;
    let url = in_parts(&database);
    let relay = relay::start(&url, flags).await;
    Scene { database, relay }
}

/// Beside the relay, a session for the large transaction and a subscriber of its table.
async fn at_things(flags: &[&str]) -> (Scene, Postgres, Client) {
    let scene = with_flags(THINGS, flags).await;
    let large = connect(&scene.database.url).await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("things", json!([all_of("things")])).await;
    (scene, large, client)
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
    let (scene, large, mut client) = at_things(&[]).await;
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
    // The membership table is followed from here on.
    relay::set_up(&scene.database.url).await;
    let large = connect(&scene.database.url).await;
    let (alices, bobs) = (alice(), bob());
    let mut alice = Client::connect(&scene.relay, &alices).await;
    let mut bob = Client::connect(&scene.relay, &bobs).await;
    for client in [&mut alice, &mut bob] {
        client.subscribe("posts", json!([all_of("posts")])).await;
    }
    // Until the table is loaded, and a transaction after that is read, Postgres is asked, which answers as of now.
    for n in 1.. {
        if scene.relay.metric("tracked_serving").await == 1.0 {
            break;
        }
        scene.execute(&format!("insert into posts values (-{n}, 9)")).await;
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
    let (scene, large, mut client) = at_things(&[]).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subtransactions_by_the_thousand_are_told_apart() {
    let (scene, _, mut client) = at_things(&[]).await;
    let sql = "do $$ begin for n in 1..20000 loop begin
        insert into things values (n, 'sub');
        if n % 10 <> 0 then raise exception 'void'; end if;
        exception when others then null; end; end loop; end $$";
    scene.execute(sql).await;
    scene.execute("insert into things values (0, 'small')").await;
    expect_ids(&mut client, (10..=20_000).step_by(10).chain([0])).await;
    assert_eq!(scene.relay.metric("in_progress_bytes").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_a_time_come_one_after_the_other() {
    let (scene, one, mut client) = at_things(&[]).await;
    let other = connect(&scene.database.url).await;
    for large in [&one, &other] {
        execute(large, "begin").await;
    }
    for block in 0..5 {
        execute(&one, &rows(1 + block * ROWS)).await;
        execute(&other, &rows(100_001 + block * ROWS)).await;
    }
    scene.relay.until_metric("in_progress_bytes", |bytes| bytes > 0.0).await;
    execute(&other, "commit").await;
    scene.execute("insert into things values (0, 'small')").await;
    execute(&one, "commit").await;
    expect_ids(&mut client, (100_001..=100_000 + 5 * ROWS).chain([0]).chain(1..=5 * ROWS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_room_is_read_at_its_commit_and_comes_once() {
    let (scene, large, mut client) =
        at_things(&["--transaction-buffer-max", "1MiB", "--transaction-spill-max", "1kB"]).await;
    // More than there is room for, of a table that nobody follows: at its commit nothing of it is held.
    let others = "insert into unfollowed select n, repeat('x', 100) from generate_series(1, 20000) n";
    execute(&large, &format!("begin; {}; {others}", rows(1))).await;
    scene.relay.log_receiver().wait_for(|log| log.contains("no room")).await.expect("the relay goes on");
    execute(&large, "commit").await;
    scene.execute("insert into things values (0, 'small')").await;
    expect_ids(&mut client, (1..=ROWS).chain([0])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_at_commit_holds_nothing_before() {
    let (scene, large, mut client) = at_things(&["--read-at-commit"]).await;
    execute(&large, &format!("begin; {}", rows(1))).await;
    scene.execute("insert into things values (0, 'small')").await;
    expect_ids(&mut client, [0]).await;
    assert_eq!(scene.relay.metric("in_progress_bytes").await, 0.0);
    execute(&large, "commit").await;
    expect_ids(&mut client, 1..=ROWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_killed_in_the_middle_of_it_gives_all_of_it_afterwards() {
    let (mut scene, large, mut client) = at_things(&[]).await;
    execute(&large, &format!("begin; {}", rows(1))).await;
    scene.relay.until_metric("in_progress_bytes", |bytes| bytes > 0.0).await;
    scene.execute("insert into things values (0, 'small')").await;
    expect_ids(&mut client, [0]).await;
    // What is confirmed lies behind its beginning.
    let now: String = scene.database.client.query_one("select pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let slot = &scene.relay.slot;
    let confirmed =
        format!("select confirmed_flush_lsn >= '{now}' from pg_replication_slots where slot_name = '{slot}'");
    until(&scene.database.client, &confirmed).await;
    scene.relay.kill().await;
    scene.relay.restart().await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("things", json!([all_of("things")])).await;
    execute(&large, &format!("{}; commit", rows(ROWS + 1))).await;
    scene.execute("insert into things values (-1, 'after it')").await;
    expect_ids(&mut client, 1..=2 * ROWS).await;
    assert_eq!(client.next_change().await.record()["id"], -1);
}

/// The server does not say of a message in which subtransaction it was emitted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_of_a_savepoint_that_was_rolled_back_is_not_heard() {
    let database = prepared(cluster(), THINGS).await;
    let mut station = Station::with_slot(SlotMode::Permanent, &in_parts(&database), None).await;
    let send = |event: &str| format!("select walcast.send('a', '{event}', '{{}}', false)");
    // The second one comes after one that was read once more.
    for turn in [1, 2] {
        let (void, more) = (rows(turn * 100_000), rows(turn * 100_000 + 50_000));
        let (kept, lost, last) = (send(&format!("kept {turn}")), send("lost"), send(&format!("last {turn}")));
        let sql = format!("begin; {kept}; savepoint s; {lost}; {void}; rollback to s; {more}; {last}; commit");
        execute(&database.client, &sql).await;
        execute(&database.client, &send("small")).await;
        for event in [format!("kept {turn}"), format!("last {turn}"), "small".to_owned()] {
            assert_eq!(station.next().await.event, event.as_str());
        }
    }
    assert_eq!(station.finish().await, []);
}
