//! What can be wrong with a server, a slot or a publication: each is named, with what to do about it.

use std::time::Duration;

use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::wal::slot::SlotMode;
use walcast::wal::{Error, ReaderState, slot};

use crate::support::database::{Database, connect, eventually, shared_cluster};
use crate::support::replica::{Replica, config};

async fn published() -> Database {
    published_in(shared_cluster()).await
}

async fn published_in(cluster: &Cluster) -> Database {
    let database = Database::create_in(cluster).await;
    database
        .client
        .batch_execute("create table t (id int primary key); create publication app for table t")
        .await
        .unwrap();
    database
}

fn cluster(settings: &[&str]) -> Cluster {
    let settings = settings.iter().map(|line| (*line).to_owned()).collect();
    Cluster::start(&ClusterOptions { settings, ..Default::default() }).unwrap()
}

/// What the reader says while it waits for something transient.
async fn complaint(replica: &Replica) -> String {
    let mut state = replica.handle.state();
    let waiting = state.wait_for(|state| matches!(state, ReaderState::Waiting { .. })).await.unwrap().clone();
    let ReaderState::Waiting { error, .. } = waiting else { unreachable!() };
    error
}

#[tokio::test]
async fn a_missing_publication_is_named_with_its_statement() {
    let Database { url, name, .. } = Database::create().await;
    let error = Replica::start(config(&url, &name)).failure().await;
    assert!(matches!(&error, Error::NoPublication { name, .. } if name == "app"), "{error:?}");
    assert!(error.to_string().contains("CREATE PUBLICATION app"), "{error}");
}

#[tokio::test]
async fn a_missing_own_publication_is_done_without_until_it_is_there() {
    let Database { client, url, name } = published().await;
    let mut config = config(&url, &name);
    config.own_publication = Some("walcast".to_owned());
    let mut replica = Replica::streaming(config).await;
    assert!(!replica.streams[0].own_publication);
    client.batch_execute("create publication walcast").await.unwrap();
    replica.handle.reconnect();
    replica.until(|replica| replica.streams.len() == 2).await;
    assert!(replica.streams[1].own_publication);
    replica.stop().await.unwrap();
}

/// Whoever owns the log could forge states of the catalog.
#[tokio::test]
async fn an_own_publication_that_a_stranger_made_is_not_read() {
    let Database { client, url, name } = published().await;
    let mut config = config(&url, &name);
    config.own_publication = Some("walcast".to_owned());
    client
        .batch_execute(&format!(
            "create role {name}_stranger; grant create on database {name} to {name}_stranger;
             set role {name}_stranger; create schema walcast; create table walcast.ddl_log (id int);
             create publication walcast for table walcast.ddl_log; reset role"
        ))
        .await
        .unwrap();
    let mut replica = Replica::streaming(config).await;
    assert!(!replica.streams[0].own_publication);
    for (what, own) in [("publication walcast", false), ("table walcast.ddl_log", false), ("schema walcast", true)] {
        client.batch_execute(&format!("alter {what} owner to current_user")).await.unwrap();
        replica.handle.reconnect();
        let streams = replica.streams.len() + 1;
        replica.until(|replica| replica.streams.len() == streams).await;
        assert_eq!(replica.streams.last().unwrap().own_publication, own, "{what}");
    }
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_login_without_replication_is_told_how_to_get_it() {
    let Database { client, url, name } = published().await;
    client.batch_execute(&format!("create role {name}_plain login")).await.unwrap();
    let url = url.replace("postgres@", &format!("{name}_plain@"));
    let error = Replica::start(config(&url, &name)).failure().await;
    assert_eq!(
        error.to_string(),
        format!("the login {name}_plain may not replicate: as a superuser, ALTER ROLE \"{name}_plain\" REPLICATION")
    );
}

#[tokio::test]
async fn a_slot_of_another_plugin_database_or_mode_is_left_alone() {
    let Database { client, url, name } = published().await;
    client.execute("select pg_create_logical_replication_slot($1, 'test_decoding')", &[&name]).await.unwrap();
    let error = Replica::start(config(&url, &name)).failure().await;
    assert!(matches!(&error, Error::SlotOfAnotherPlugin { plugin, .. } if plugin == "test_decoding"), "{error:?}");
    slot::drop(&client, &name).await.unwrap();

    client.execute("select pg_create_logical_replication_slot($1, 'pgoutput')", &[&name]).await.unwrap();
    let elsewhere = published().await;
    let error = Replica::start(config(&elsewhere.url, &name)).failure().await;
    assert!(matches!(&error, Error::SlotOfAnotherDatabase { database, .. } if *database == name), "{error:?}");

    let mut temporary = config(&url, &name);
    temporary.slot.mode = SlotMode::Temporary;
    let error = Replica::start(temporary).failure().await;
    assert!(matches!(error, Error::SlotIsPermanent { .. }), "{error:?}");

    let error = Replica::start(config(&url, "Not-A-Slot")).failure().await;
    assert!(matches!(error, Error::SlotName(_)), "{error:?}");
}

#[tokio::test]
async fn a_slot_in_use_names_the_process_and_is_taken_over_when_it_is_free() {
    let Database { client, url, name } = published().await;
    let first = Replica::streaming(config(&url, &name)).await;
    let row =
        client.query_one("select active_pid from pg_replication_slots where slot_name = $1", &[&name]).await.unwrap();
    let pid: i32 = row.get(0);
    let mut second = Replica::start(config(&url, &name));
    let error = complaint(&second).await;
    assert!(error.contains(&format!("in use by process {pid}")), "{error}");
    assert!(matches!(slot::drop(&client, &name).await, Err(Error::SlotInUse { pid: of, .. }) if of == pid));
    first.stop().await.unwrap();
    second.until(|replica| !replica.streams.is_empty()).await;
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_wal_level_that_is_not_logical_is_named() {
    let cluster = cluster(&["wal_level = replica"]);
    let Database { url, name, .. } = published_in(&cluster).await;
    let error = Replica::start(config(&url, &name)).failure().await;
    assert!(matches!(&error, Error::WalLevel(level) if level == "replica"), "{error:?}");
    assert!(error.to_string().contains("wal_level = logical"));
}

#[tokio::test]
async fn a_server_without_a_free_slot_or_sender_is_named() {
    let cluster = cluster(&["max_replication_slots = 1", "max_wal_senders = 1"]);
    let Database { client, url, name } = published_in(&cluster).await;
    client.batch_execute("select pg_create_physical_replication_slot('taken')").await.unwrap();
    let error = Replica::start(config(&url, &name)).failure().await;
    assert!(matches!(error, Error::NoFreeSlot), "{error:?}");
    client.batch_execute("select pg_drop_replication_slot('taken')").await.unwrap();

    let streaming = Replica::streaming(config(&url, &name)).await;
    let second = Replica::start(config(&url, "second"));
    let error = complaint(&second).await;
    assert!(error.contains("raise max_wal_senders"), "{error}");
    second.stop().await.unwrap();
    streaming.stop().await.unwrap();
}

#[tokio::test]
async fn an_open_transaction_that_holds_up_the_slot_is_named() {
    let cluster = cluster(&["max_prepared_transactions = 5"]);
    let Database { client, url, name } = published_in(&cluster).await;
    let holder = connect(&url).await;
    holder.batch_execute("begin; insert into t values (1)").await.unwrap();
    let pid: i32 = holder.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let mut config = config(&url, &name);
    config.slot.creation_timeout = Duration::from_secs(1);
    let mut replica = Replica::start(config.clone());
    let error = complaint(&replica).await;
    assert!(error.contains(&format!("Held up by: process {pid} (postgres")), "{error}");
    assert!(error.contains("idle in transaction"), "{error}");
    // Nothing is left behind of the attempt, and the next one succeeds when the transaction is over.
    holder.batch_execute("rollback").await.unwrap();
    replica.until(|replica| !replica.streams.is_empty()).await;
    replica.stop().await.unwrap();

    holder.batch_execute("begin; insert into t values (1); prepare transaction 'forgotten'").await.unwrap();
    config.slot.name = "second".to_owned();
    let mut replica = Replica::start(config);
    let error = complaint(&replica).await;
    assert!(error.contains("Held up by: prepared transaction forgotten"), "{error}");
    client.batch_execute("rollback prepared 'forgotten'").await.unwrap();
    replica.until(|replica| !replica.streams.is_empty()).await;
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_lost_slot_is_named_with_the_way_out() {
    let cluster = cluster(&["max_slot_wal_keep_size = 1MB", "min_wal_size = 32MB", "max_wal_size = 32MB"]);
    let Database { client, url, name } = published_in(&cluster).await;
    Replica::streaming(config(&url, &name)).await.stop().await.unwrap();
    for _ in 0..4 {
        client.batch_execute("insert into t select coalesce(max(id), 0) + 1 from t").await.unwrap();
        client.batch_execute("select pg_switch_wal()").await.unwrap();
        client.batch_execute("checkpoint").await.unwrap();
    }
    eventually(&client, &format!("select wal_status = 'lost' from pg_replication_slots where slot_name = '{name}'"))
        .await;
    let mut config = config(&url, &name);
    config.slot.recreates_lost = false;
    let error = Replica::start(config.clone()).failure().await;
    assert!(matches!(error, Error::SlotLost { .. }), "{error:?}");
    assert!(error.to_string().contains("walcast slot drop"), "{error}");

    // Or, as configured, without anybody's help, and the gap is announced.
    let confirmed = slot::look_up(&client, &name).await.unwrap().unwrap().confirmed_flush_lsn;
    config.slot.recreates_lost = true;
    let replica = Replica::streaming(config).await;
    let (from, to) = replica.streams[0].lost.expect("a gap");
    assert!(from == confirmed && to > from);
    assert_eq!(to, replica.streams[0].confirmed);
    replica.stop().await.unwrap();
}

/// 18 gives up slots that nobody has read for long.
#[tokio::test]
async fn a_slot_that_was_idle_for_too_long_is_made_anew() {
    let row = Database::create().await.client.query_one("select current_setting('server_version_num')::int", &[]).await;
    if row.unwrap().get::<_, i32>(0) < 180_000 {
        return;
    }
    let cluster = cluster(&["idle_replication_slot_timeout = 1s"]);
    let Database { client, url, name } = published_in(&cluster).await;
    Replica::streaming(config(&url, &name)).await.stop().await.unwrap();
    let lost = format!("select invalidation_reason is not null from pg_replication_slots where slot_name = '{name}'");
    let checkpoints = async {
        loop {
            client.batch_execute("select pg_switch_wal(); checkpoint").await.unwrap();
            crate::support::relay::pause_between_polls().await;
        }
    };
    let looking = connect(&url).await;
    tokio::select! {
        () = eventually(&looking, &lost) => {}
        () = checkpoints => {}
    }
    let replica = Replica::streaming(config(&url, &name)).await;
    assert!(replica.streams[0].lost.is_some());
    replica.stop().await.unwrap();
}
