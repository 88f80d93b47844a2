//! Two relays and one slot: a rolling restart.

use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::ledger::{LEDGER, write};
use crate::support::relay::{Program, serve_arguments};
use crate::support::scene::{Scene, until};

fn second(scene: &Scene, flags: &[&str]) -> Program {
    let mut arguments = serve_arguments(&scene.database.url, &scene.relay.slot);
    arguments.extend(["--listen", "127.0.0.1:0"].iter().chain(flags).map(|flag| (*flag).to_owned()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Program::spawn(&arguments)
}

async fn holder(scene: &Scene) -> (i32, String) {
    let sql = "select active_pid, application_name from pg_replication_slots s
        join pg_stat_activity a on a.pid = s.active_pid where slot_name = $1";
    let row = scene.database.client.query_one(sql, &[&scene.relay.slot]).await.expect("somebody has the slot");
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_process_waits_for_the_slot_and_takes_it_when_the_last_one_leaves() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let mut scene = Scene::in_cluster(&cluster, LEDGER).await;
    let (pid, name) = holder(&scene).await;
    assert!(name.starts_with("walcast ") && name.ends_with(&format!(":{}", scene.relay.pid())), "{name}");

    let mut next = second(&scene, &[]);
    let waits = next.says(&["the slot is in use", &format!("process {pid}")]).await;
    assert!(waits.contains(&name), "{waits}");
    write(&scene.database.client, 10).await;
    assert_eq!(holder(&scene).await.0, pid, "it does not take what another has");

    scene.relay.terminate();
    let status = scene.relay.exit().await;
    assert!(status.success(), "{status}");
    next.says(&["listening on "]).await;
    assert_ne!(holder(&scene).await.0, pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_the_next_process_takes_the_slot_and_the_last_one_waits_for_it() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let mut scene = Scene::in_cluster(&cluster, LEDGER).await;
    let (pid, name) = holder(&scene).await;
    let mut next = second(&scene, &["--slot-takeover"]);
    let says = next.says(&["terminated to take it over", &format!("process {pid}")]).await;
    assert!(says.contains(&name), "{says}");
    next.says(&["listening on "]).await;
    let (taken_by, _) = holder(&scene).await;
    assert_ne!(taken_by, pid);

    // The last one is not the next one's enemy.
    let mut log = scene.relay.log_receiver();
    let waits = format!("process {taken_by} ");
    let waiting = log.wait_for(|log| log.contains("the slot is in use") && log.contains(&waits));
    tokio::time::timeout(crate::support::relay::PATIENCE, waiting).await.expect("it waits").expect("it runs");
    assert_eq!(holder(&scene).await.0, taken_by);
    drop(next);
    scene.relay.until_ready().await;
    let slot = &scene.relay.slot;
    let again =
        format!("select active_pid not in ({pid}, {taken_by}) from pg_replication_slots where slot_name = '{slot}'");
    until(&scene.database.client, &again).await;
}
