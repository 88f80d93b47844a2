//! The replication stream against a real Postgres: what comes, in which order, and what is confirmed.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};
use walcast::wal::{Conninfo, Error, Lsn, ReaderState, SlotMode, StreamFrame, WalMetrics, slot, warning};

use crate::support::database::{Database, eventually};
use crate::support::replica::{Replica, Table, config};

const SCHEMA: &str = "
    create table message (id int primary key, body text, sent timestamptz default '2026-01-02 03:04:05.678901+02');
    create table quiet (id int);
    create publication app for table message;
";

async fn chat() -> Database {
    let database = Database::create().await;
    database.client.batch_execute(SCHEMA).await.unwrap();
    database
}

pub async fn wal_position(client: &Client) -> Lsn {
    let row = client.query_one("select pg_current_wal_lsn()::text", &[]).await.unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

async fn server_major(client: &Client) -> i32 {
    let row = client.query_one("select current_setting('server_version_num')::int / 10000", &[]).await.unwrap();
    row.get(0)
}

/// The table's contents as text, under the settings that the stream is pinned to.
async fn contents(client: &Client, table: &str) -> Table {
    let sql = format!("set timezone = 'UTC'; set datestyle = 'ISO'; select * from {table}");
    let messages = client.simple_query(&sql).await.unwrap();
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            let values: Vec<_> = (0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect();
            Some((values[0].clone().unwrap(), values))
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

#[tokio::test]
async fn inserts_updates_deletes_and_truncates_rebuild_the_table() {
    let Database { client, url, name } = chat().await;
    let mut replica = Replica::streaming(config(&url, &name)).await;
    let statements = [
        "insert into message select i, 'body ' || i from generate_series(1, 500) i",
        "update message set body = 'changed' where id % 3 = 0",
        "update message set id = id + 10000 where id % 7 = 0",
        "update message set body = null where id % 5 = 0",
        "delete from message where id % 11 = 0",
        // Unchanged TOAST must come out of the row before.
        "insert into message select -1, string_agg(md5(i::text), '') from generate_series(1, 1000) i",
        "update message set sent = now() where id = -1",
        "insert into message values (-2, E'\\'quotes\\' and \\u00e4\\u20ac\\U0001F600')",
    ];
    for statement in statements {
        client.batch_execute(statement).await.unwrap();
    }
    client.batch_execute("begin; insert into message values (-3); rollback").await.unwrap();
    replica.until_position(wal_position(&client).await).await;
    let expected = contents(&client, "message").await;
    assert!(expected.len() > 400);
    assert_eq!(replica.tables["message"], expected);

    client.batch_execute("begin; truncate message; insert into message values (1); commit").await.unwrap();
    replica.until_position(wal_position(&client).await).await;
    assert_eq!(replica.tables["message"], contents(&client, "message").await);
    assert_eq!(replica.commits.len(), statements.len() + 1);
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_walsender_loses_nothing_and_repeats_nothing() {
    let Database { client, url, name } = chat().await;
    let mut replica = Replica::streaming(config(&url, &name)).await;
    let kill = "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1";
    for round in 0..5 {
        let from = round * 1000;
        for id in from..from + 100 {
            client.execute("insert into message values ($1)", &[&id]).await.unwrap();
        }
        client.execute(kill, &[&name]).await.unwrap();
        client.execute("insert into message values ($1)", &[&(from + 500)]).await.unwrap();
        // A transaction that came twice would panic in the replica: "inserted twice".
        replica.until(|replica| replica.streams.len() as i32 == round + 2).await;
    }
    replica.until_position(wal_position(&client).await).await;
    assert_eq!(replica.tables["message"], contents(&client, "message").await);
    let generations: Vec<_> = replica.streams.iter().map(|started| started.generation).collect();
    assert_eq!(generations, [1, 2, 3, 4, 5, 6]);
    assert!(replica.streams.iter().all(|started| started.lost.is_none()));
    assert!(replica.commits.is_sorted());
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn the_slot_follows_what_was_handed_over_and_not_what_was_read() {
    let Database { client, url, name } = chat().await;
    let mut replica = Replica::streaming(config(&url, &name)).await;
    client.batch_execute("insert into message values (1)").await.unwrap();
    let first = wal_position(&client).await;
    replica.until_position(first).await;
    let condition = |comparison: &str, position: Lsn| {
        format!(
            "select confirmed_flush_lsn {comparison} '{position}' from pg_replication_slots where slot_name = '{name}'"
        )
    };
    eventually(&client, &condition(">=", first)).await;

    replica.dispatches = false;
    client.batch_execute("insert into message values (2)").await.unwrap();
    let second = wal_position(&client).await;
    replica.until(|replica| replica.commits.len() == 2).await;
    // Two more statuses have gone out by the time the server has heard of the position as written.
    eventually(
        &client,
        &format!("select write_lsn >= '{second}' from pg_stat_replication r join pg_replication_slots s on pid = active_pid where slot_name = '{name}'"),
    )
    .await;
    eventually(&client, &condition("<", second)).await;

    let progress = replica.handle.progress().clone();
    progress.dispatched_to(*replica.commits.last().unwrap());
    replica.dispatches = true;
    replica.until_position(second).await;
    eventually(&client, &condition(">=", second)).await;
    assert!(progress.confirmed() <= progress.dispatched() && progress.dispatched() <= progress.received());
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_quiet_publication_confirms_what_other_tables_write() {
    let Database { client, url, name } = chat().await;
    let mut replica = Replica::streaming(config(&url, &name)).await;
    client.batch_execute("insert into quiet select generate_series(1, 10000)").await.unwrap();
    let position = wal_position(&client).await;
    replica.until_position(position).await;
    // 14 sends the transaction, empty.
    assert!(replica.tables.is_empty());
    eventually(
        &client,
        &format!("select confirmed_flush_lsn >= '{position}' from pg_replication_slots where slot_name = '{name}'"),
    )
    .await;
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn the_status_goes_out_while_dispatch_takes_nothing() {
    let Database { client, url, name } = chat().await;
    let mut config = config(&url, &name);
    config.in_flight_bytes_max = 64 * 1024;
    config.status_interval = Duration::from_millis(50);
    let mut replica = Replica::streaming(config).await;
    client
        .batch_execute("insert into message select i, repeat('x', 1000) from generate_series(1, 30000) i")
        .await
        .unwrap();
    let position = wal_position(&client).await;
    let sender = format!(
        "from pg_stat_replication r join pg_replication_slots s on pid = active_pid where slot_name = '{name}'"
    );
    // Nobody takes batches: the walsender has more to send than the sockets and the budget hold.
    eventually(&client, &format!("select sent_lsn > '0/1' and write_lsn < '{position}' {sender}")).await;
    for _ in 0..3 {
        let row = client.query_one(&format!("select reply_time::text {sender}"), &[]).await.unwrap();
        let last: String = row.get(0);
        eventually(&client, &format!("select reply_time > '{last}' {sender}")).await;
    }
    assert!(replica.handle.progress().received() < position);
    assert_eq!(*replica.handle.state().borrow(), ReaderState::Streaming { generation: 1 });
    replica.until_position(position).await;
    assert_eq!(replica.tables["message"].len(), 30000);
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_confirms_what_was_handed_over_and_frees_the_slot() {
    let Database { client, url, name } = chat().await;
    let replica = Replica::streaming(config(&url, &name)).await;
    let progress = replica.handle.progress().clone();
    client.batch_execute("insert into message select generate_series(1, 1000)").await.unwrap();
    replica.stop().await.unwrap();
    let metrics = WalMetrics::default();
    let slot = metrics.read_slot(&client, &name).await.unwrap().expect("the slot stays");
    assert_eq!(metrics.slot_lag_bytes.get() as u64, slot.lag_bytes());
    assert!(slot.held_bytes() >= slot.lag_bytes());
    assert_eq!(slot.confirmed_flush_lsn, progress.dispatched());
    assert_eq!(slot.active_pid, None);

    // Whatever was not handed over before the stop comes now.
    let mut replica = Replica::start(config(&url, &name));
    replica.until_position(wal_position(&client).await).await;
    client.batch_execute("insert into message values (-1)").await.unwrap();
    replica.until(|replica| replica.tables.get("message").is_some_and(|table| table.contains_key("-1"))).await;
    replica.stop().await.unwrap();
    slot::drop(&client, &name).await.unwrap();
    assert_eq!(slot::look_up(&client, &name).await.unwrap(), None);
    assert!(matches!(slot::drop(&client, &name).await, Err(Error::SlotMissing(_))));
}

#[tokio::test]
async fn a_frame_above_the_limit_is_reported_and_what_follows_arrives() {
    let Database { client, url, name } = chat().await;
    let mut config = config(&url, &name);
    config.frame_bytes_max = 1 << 20;
    let mut replica = Replica::streaming(config).await;
    let sql =
        "begin; insert into message values (1, 'z'), (2, repeat('x', 5000000)), (3, repeat('y', 1000000)); commit";
    client.batch_execute(sql).await.unwrap();
    replica.until_position(wal_position(&client).await).await;
    let ids: Vec<_> = replica.tables["message"].keys().cloned().collect();
    assert_eq!(ids, ["1", "3"]);
    let [StreamFrame::SkippedFrame { tag: Some(b'I'), relation: Some(relation), bytes, .. }] = replica.skipped[..]
    else {
        panic!("{:?}", replica.skipped)
    };
    assert!(bytes > 5_000_000);
    let row = client.query_one("select 'message'::regclass::oid", &[]).await.unwrap();
    assert_eq!(row.get::<_, u32>(0), relation.0);
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_temporary_slot_announces_what_a_broken_connection_lost() {
    let Database { client, url, name } = chat().await;
    let mut config = config(&url, &name);
    config.slot.mode = SlotMode::Temporary;
    let mut replica = Replica::streaming(config).await;
    client.batch_execute("insert into message values (1)").await.unwrap();
    let position = wal_position(&client).await;
    replica.until_position(position).await;
    client
        .execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1", &[&name])
        .await
        .unwrap();
    client.batch_execute("insert into message values (2)").await.unwrap();
    replica.until(|replica| replica.streams.len() == 2).await;
    let (from, to) = replica.streams[1].lost.expect("a gap");
    assert!(position <= from && from < to);
    replica.stop().await.unwrap();
    // It goes with the walsender's process, which is a moment later.
    eventually(&client, &format!("select count(*) = 0 from pg_replication_slots where slot_name = '{name}'")).await;
}

/// ASSUMPTIONS 10: on 14 to 17 the stream fails where the publication does not exist in that stretch of history.
#[tokio::test]
async fn an_own_publication_made_after_the_position_is_left_out_until_it_is_passed() {
    let Database { client, url, name } = chat().await;
    if server_major(&client).await >= 18 {
        return; // 18 skips such changes in silence.
    }
    let mut config = config(&url, &name);
    Replica::streaming(config.clone()).await.stop().await.unwrap();
    client.batch_execute("insert into message values (1)").await.unwrap();
    client.batch_execute("create publication walcast for table quiet").await.unwrap();
    client.batch_execute("alter table quiet add primary key (id); insert into quiet values (7)").await.unwrap();
    config.own_publication = Some("walcast".to_owned());
    let mut replica = Replica::start(config);
    replica.until(|replica| replica.streams.len() >= 3).await;
    client.batch_execute("insert into quiet values (8); insert into message values (2)").await.unwrap();
    replica.until_position(wal_position(&client).await).await;
    assert!(replica.tables["message"].contains_key("1") && replica.tables["message"].contains_key("2"));
    assert!(replica.tables["quiet"].contains_key("8"));
    let own: Vec<_> = replica.streams.iter().map(|started| started.own_publication).collect();
    assert_eq!(own, [true, false, true]);
    replica.stop().await.unwrap();
}

/// ASSUMPTIONS 3.
#[tokio::test]
async fn conflicting_column_lists_leave_the_own_publication_out() {
    let Database { client, url, name } = chat().await;
    if server_major(&client).await < 15 {
        return; // 14 has no column lists.
    }
    client.batch_execute("create publication walcast for table message (id)").await.unwrap();
    let mut config = config(&url, &name);
    config.own_publication = Some("walcast".to_owned());
    let mut replica = Replica::streaming(config).await;
    assert!(replica.streams[0].own_publication);
    client.batch_execute("insert into message values (1, 'whole')").await.unwrap();
    replica.until(|replica| !replica.commits.is_empty()).await;
    assert!(!replica.streams.last().unwrap().own_publication);
    assert_eq!(replica.tables["message"]["1"][1].as_deref(), Some("whole"));
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn an_error_that_recurs_is_surfaced_and_left_by_skipping() {
    let Database { client, url, name } = chat().await;
    if server_major(&client).await >= 18 {
        return; // 18 skips such changes in silence.
    }
    let config = config(&url, &name);
    Replica::streaming(config.clone()).await.stop().await.unwrap();
    client.batch_execute("drop publication app").await.unwrap();
    client.batch_execute("insert into message values (1)").await.unwrap();
    client.batch_execute("create publication app for table message").await.unwrap();
    let error = Replica::start(config.clone()).failure().await;
    assert!(matches!(error, Error::Stuck { attempts: 3, .. }), "{error:?}");
    assert!(
        error.chain().contains("walcast slot skip") && error.chain().contains("publication \"app\" does not exist")
    );

    // The walsender that failed lets go of the slot a moment later.
    eventually(&client, &format!("select active_pid is null from pg_replication_slots where slot_name = '{name}'"))
        .await;
    let (from, to) = slot::skip(&client, &name, None).await.unwrap();
    assert!(from < to);
    let mut replica = Replica::streaming(config).await;
    client.batch_execute("insert into message values (2)").await.unwrap();
    replica.until(|replica| !replica.commits.is_empty()).await;
    assert_eq!(replica.tables["message"].keys().collect::<Vec<_>>(), ["2"]);
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn an_undecodable_frame_stops_the_stream_and_is_stuck_if_it_recurs() {
    let Database { client, url, name } = chat().await;
    let mut replica = Replica::streaming(config(&url, &name)).await;
    client.batch_execute("insert into message values (1)").await.unwrap();
    let broken = walcast::wal::pgoutput::decode(b"?".as_slice().into()).unwrap_err();
    for streams in 2..=3 {
        replica.handle.undecodable(Lsn(1), broken);
        replica.until(|replica| replica.streams.len() == streams).await;
    }
    replica.handle.undecodable(Lsn(1), broken);
    let error = replica.failure().await;
    assert!(matches!(error, Error::Stuck { position: Lsn(1), .. }), "{error:?}");
}

#[tokio::test]
async fn asynchronous_commit_is_warned_of() {
    let Database { client, url, name } = chat().await;
    let looked = |client: Client| async move { warning::look(&client).await.unwrap() };
    assert_eq!(looked(client).await, []);
    let conninfo = Conninfo::parse(&url).unwrap();
    let (client, task) = conninfo.connect().await.unwrap();
    tokio::spawn(task);
    client.batch_execute(&format!("alter database {name} set synchronous_commit = off")).await.unwrap();
    let warnings = looked(client).await;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].to_string().contains(&format!("for the database {name}")), "{}", warnings[0]);
}
