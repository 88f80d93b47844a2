//! The relay itself ends and comes back on the same port and slot.

use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::client::{Client, all_of};
use crate::support::ledger::{LEDGER, Subscribers, Writer, last, write};
use crate::support::people::alice;
use crate::support::scene::{Scene, until};

/// Changes for which nobody was subscribed, since the relay's start.
const UNHEARD: &str = "changes_without_subscriber";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_sigterm_clients_are_told_and_everything_delivered_is_confirmed() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let mut scene = Scene::in_cluster(&cluster, LEDGER).await;
    let mut subscribers = Subscribers::join(&scene.relay, &scene.database.client).await;
    write(&scene.database.client, 20).await;
    subscribers.expect_all(&scene.database.client).await;

    scene.relay.terminate();
    for client in [&mut subscribers.alice, &mut subscribers.bob, &mut subscribers.anon] {
        let told = client.next().await;
        assert_eq!((told.event.as_str(), &told.payload["message"]), ("system", &"Server requested disconnect".into()));
        assert_eq!(client.expect_close().await.0, 1012);
    }
    let status = scene.relay.exit().await;
    assert!(status.success(), "{status}; its log:\n{}", scene.relay.log());

    // Exactly what is written while it is away is left: two changes to a row of the ledger.
    write(&scene.database.client, 7).await;
    scene.relay.restart().await;
    until_caught_up(&scene).await;
    let unheard = scene.relay.until_metric(UNHEARD, |value| value >= 14.0).await;
    assert_eq!(unheard, 14.0, "of 20 delivered rows some came again, or backlog was counted twice");

    let mut subscribers = Subscribers::join(&scene.relay, &scene.database.client).await;
    subscribers.expect_all_and_no_more(&scene.database.client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_the_slot_is_not_past_what_was_delivered_and_the_backlog_is_accounted_for() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let mut scene = Scene::in_cluster(&cluster, LEDGER).await;
    let positions = "create table positions (n bigint primary key, before pg_lsn, after pg_lsn)";
    scene.execute(positions).await;

    for _ in 0..3 {
        let first = last(&scene.database.client).await + 1;
        let mut subscribers = Subscribers::join(&scene.relay, &scene.database.client).await;
        write_with_positions(&scene, 150).await;
        scene.relay.kill().await;
        // Nobody confirms any more, and everything sent is with the clients.
        let delivered = {
            for client in [&mut subscribers.alice, &mut subscribers.bob, &mut subscribers.anon] {
                client.expect_close().await;
            }
            subscribers.rest()
        };
        for (who, numbers) in [("alice", &delivered.alice), ("bob", &delivered.bob), ("anon", &delivered.anon)] {
            let step = if who == "anon" { 1 } else { 2 };
            assert!(numbers.windows(2).all(|pair| pair[1] - pair[0] == step), "{who} got {numbers:?}");
        }
        let confirmed = bounds_of_confirmed(&scene, first).await;
        let of_anon = delivered.anon.last().copied().unwrap_or(first - 1);
        let of_owners = delivered.alice.last().max(delivered.bob.last()).copied().unwrap_or(first - 1);
        assert!(
            confirmed.surely <= of_anon.min(of_owners),
            "confirmed past row {}, delivered up to {of_anon} and {of_owners}; the relay's log:\n{}",
            confirmed.surely,
            scene.relay.log()
        );

        scene.relay.restart().await;
        until_caught_up(&scene).await;
        // Two changes to a row; only what was not confirmed comes again, and all of it.
        let end = last(&scene.database.client).await;
        let least = 2 * (end - confirmed.perhaps);
        let most = 2 * (end - confirmed.surely);
        let unheard = scene.relay.until_metric(UNHEARD, |value| value >= least as f64).await;
        assert!(unheard <= most as f64, "{unheard} unheard, but only {least} to {most} were not confirmed");
    }

    let mut subscribers = Subscribers::join(&scene.relay, &scene.database.client).await;
    subscribers.expect_all_and_no_more(&scene.database.client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_changed_while_the_relay_was_dead_holds_for_the_backlog() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let mut scene = Scene::in_cluster(&cluster, LEDGER).await;
    let notes = "
        create table notes (id int primary key, secret boolean not null);
        alter table notes enable row level security;
        create policy readable on notes for select to authenticated using (true);
        grant select on notes to authenticated;
        alter publication supabase_realtime add table notes;";
    scene.execute(notes).await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("notes", serde_json::json!([all_of("notes")])).await;
    scene.execute("insert into notes values (1, true)").await;
    assert_eq!(client.next_change().await.record()["id"], 1);

    scene.relay.kill().await;
    scene.execute("insert into notes values (2, true)").await;
    scene.execute("alter policy readable on notes using (not secret)").await;
    let backlog = "insert into notes select n, n % 2 = 1 from generate_series(3, 20000) as n";
    scene.execute(backlog).await;
    scene.relay.restart().await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("notes", serde_json::json!([all_of("notes")])).await;
    scene.execute("insert into notes values (20001, true), (20002, false)").await;

    // She may get some of the backlog or none of it (what was not confirmed comes again to whoever has come back): never
    // a row that the policy of its time hid.
    loop {
        let change = client.next_change().await;
        let (id, secret) = (change.record()["id"].as_i64(), change.record()["secret"].as_bool());
        assert!(secret == Some(false) || id <= Some(2), "{}", change.data);
        if id == Some(20002) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_killed_again_and_again_delivers_to_those_who_come_back() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let mut scene = Scene::in_cluster(&cluster, LEDGER).await;
    for _ in 0..3 {
        let writer = Writer::start(&scene.database.url);
        let written = last(&scene.database.client).await;
        until(&scene.database.client, &format!("select max(n) > {written} + 20 from marks")).await;
        scene.relay.kill().await;
        until(&scene.database.client, &format!("select max(n) > {written} + 60 from marks")).await;
        scene.relay.restart().await;
        writer.stop().await;
        until_caught_up(&scene).await;
        let mut subscribers = Subscribers::join(&scene.relay, &scene.database.client).await;
        write(&scene.database.client, 10).await;
        subscribers.expect_all_and_no_more(&scene.database.client).await;
    }
}

/// Waits until the slot is confirmed up to what is in the WAL now: nothing is left to be delivered.
async fn until_caught_up(scene: &Scene) {
    let postgres = &scene.database.client;
    let lsn: String = postgres.query_one("select pg_current_wal_lsn()::text", &[]).await.expect("a position").get(0);
    let slot = &scene.relay.slot;
    let question =
        format!("select confirmed_flush_lsn >= '{lsn}' from pg_replication_slots where slot_name = '{slot}'");
    until(postgres, &question).await;
}

/// Rows of the ledger, and for each two positions between which its transaction is.
async fn write_with_positions(scene: &Scene, count: usize) {
    let postgres = &scene.database.client;
    let position = || async {
        let row = postgres.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.expect("a position");
        row.get::<_, String>(0)
    };
    let mut positions = Vec::new();
    for _ in 0..count {
        let before = position().await;
        write(postgres, 1).await;
        positions.push((before, position().await));
    }
    let first = last(postgres).await - count as i64 + 1;
    let values: Vec<String> =
        (first..).zip(&positions).map(|(n, (before, after))| format!("({n}, '{before}', '{after}')")).collect();
    scene.execute(&format!("insert into positions values {}", values.join(", "))).await;
}

/// The last row that is confirmed surely, and the last that may be.
struct Confirmed {
    surely: i64,
    perhaps: i64,
}

async fn bounds_of_confirmed(scene: &Scene, first: i64) -> Confirmed {
    let question = format!(
        "select coalesce(max(n) filter (where after <= confirmed_flush_lsn), {first} - 1),
                coalesce(max(n) filter (where before < confirmed_flush_lsn), {first} - 1)
         from positions, pg_replication_slots where slot_name = '{}' and n >= {first}",
        scene.relay.slot
    );
    let row = scene.database.client.query_one(&question, &[]).await.expect("the slot");
    Confirmed { surely: row.get(0), perhaps: row.get(1) }
}
