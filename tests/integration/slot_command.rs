//! `walcast slot`, as an operator types it.

use serde_json::{Value, json};

use crate::support::database::{Database, connect, eventually};
use crate::support::relay::Program;
use crate::support::replica::{Replica, config};

const SCHEMA: &str = "create table t (id int primary key); create publication app for table t";

async fn database() -> Database {
    let database = Database::create().await;
    database.client.batch_execute(SCHEMA).await.unwrap();
    database
}

/// What it says, and whether it succeeds.
async fn slot(database: &Database, verb: &str, more: &[&str]) -> (bool, String) {
    let fixed = ["slot", verb, "--database-url", &database.url, "--slot", &database.name];
    let arguments: Vec<&str> = fixed.iter().chain(more).copied().collect();
    let mut program = Program::spawn(&arguments);
    let status = program.exit().await;
    (status.success(), program.finished().await)
}

async fn shown(database: &Database) -> Value {
    let (_, text) = slot(database, "show", &["--json"]).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn the_slot_is_shown_and_dropped() {
    let database = database().await;
    let (found, text) = slot(&database, "show", &[]).await;
    assert!(!found && text.contains("There is no slot"), "{text}");
    assert_eq!(shown(&database).await, json!({ "name": database.name, "exists": false }));

    let replica = Replica::streaming(config(&database.url, &database.name)).await;
    let sql = "select active_pid from pg_replication_slots where slot_name = $1";
    let pid: i32 = database.client.query_one(sql, &[&database.name]).await.unwrap().get(0);
    let report = shown(&database).await;
    for (key, value) in [
        ("active_pid", json!(pid)),
        ("plugin", json!("pgoutput")),
        ("rung", json!("within")),
        ("slot_lag_max", json!(4_i64 << 30)),
        ("lost", Value::Null),
    ] {
        assert_eq!(report[key], value, "{key} in {report}");
    }
    let (found, text) = slot(&database, "show", &[]).await;
    assert!(found && text.contains(&format!("by process {pid}: walcast as postgres")), "{text}");
    assert!(text.contains("of 4.0 GB (0 %): within"), "{text}");

    let (dropped, text) = slot(&database, "drop", &[]).await;
    assert!(
        !dropped && text.contains(&format!("in use by process {pid} (walcast")) && text.contains("--force"),
        "{text}"
    );
    replica.stop().await.unwrap();
    let (dropped, text) = slot(&database, "drop", &[]).await;
    assert!(dropped && text.contains("Dropped the slot"), "{text}");
    let (dropped, text) = slot(&database, "drop", &[]).await;
    assert!(!dropped && text.contains("there is no replication slot"), "{text}");
}

#[tokio::test]
async fn a_slot_that_is_read_is_dropped_by_force_alone_and_its_reader_tells_of_the_gap() {
    let database = database().await;
    let mut replica = Replica::streaming(config(&database.url, &database.name)).await;
    database.client.batch_execute("insert into t values (1)").await.unwrap();
    replica.until(|replica| replica.commits.len() == 1).await;
    let (dropped, text) = slot(&database, "drop", &["--force"]).await;
    assert!(dropped && text.contains("Terminated process"), "{text}");
    database.client.batch_execute("insert into t values (2)").await.unwrap();
    replica.until(|replica| replica.streams.len() >= 2).await;
    assert!(replica.streams.iter().skip(1).any(|started| started.lost.is_some()), "{:?}", replica.streams);
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_slot_of_somebody_else_is_left_alone() {
    let database = database().await;
    let create = "select pg_create_logical_replication_slot($1, 'test_decoding')";
    database.client.execute(create, &[&database.name]).await.unwrap();
    for verb in [&["drop", "--force"][..], &["skip", "--all"]] {
        let (done, text) = slot(&database, verb[0], &verb[1..]).await;
        assert!(!done && text.contains("belongs to the plugin \"test_decoding\""), "{text}");
    }
}

/// One transaction is left out: the one with the position, neither more nor less.
#[tokio::test]
async fn a_position_is_skipped_to_the_end_of_its_transaction() {
    let database = database().await;
    Replica::streaming(config(&database.url, &database.name)).await.stop().await.unwrap();
    let position = || async {
        let row = database.client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
        row.get::<_, String>(0)
    };
    let other = connect(&database.url).await;
    database.client.batch_execute("insert into t values (1)").await.unwrap();
    database.client.batch_execute("begin; insert into t values (2)").await.unwrap();
    let inside = position().await;
    other.batch_execute("create table elsewhere (id int); drop table elsewhere").await.unwrap();
    database.client.batch_execute("insert into t values (3); commit").await.unwrap();
    database.client.batch_execute("insert into t values (4)").await.unwrap();
    // What ends before the position, and what ends after it and before its own transaction, is read first as ever; here
    // nobody has, so it goes with it.
    let (done, text) = slot(&database, "skip", &["--past", &inside]).await;
    assert!(done && text.contains("given up"), "{text}");
    let (done, text) = slot(&database, "skip", &["--past", &inside]).await;
    assert!(done, "{text}");
    let mut replica = Replica::streaming(config(&database.url, &database.name)).await;
    replica.until(|replica| replica.tables.get("t").is_some_and(|table| table.contains_key("4"))).await;
    assert_eq!(replica.tables["t"].keys().collect::<Vec<_>>(), ["4"]);

    let (done, text) = slot(&database, "skip", &["--all"]).await;
    assert!(!done && text.contains("in use by process"), "{text}");
    replica.stop().await.unwrap();
    let (done, text) = slot(&database, "skip", &["--past", "FF/0"]).await;
    assert!(!done && text.contains("no transaction ends after FF/0"), "{text}");
    let copies = format!("select count(*) = 0 from pg_replication_slots where slot_name = '{}_copy'", database.name);
    eventually(&database.client, &copies).await;
    let (done, text) = slot(&database, "skip", &[]).await;
    assert!(!done && text.contains("--past"), "{text}");
    let (done, _) = slot(&database, "skip", &["--to", &position().await]).await;
    assert!(done);
}
