//! Tracked tables against a real Postgres: readings that race with writers, and what the stream does not tell.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage};
use walcast::authz::tracked::Refused;
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::dispatch::tracking::Config;

use super::replication::wal_position;
use crate::support::database::{Database, connect, eventually};
use crate::support::follower::{Follower, Rows};
use crate::support::standby::{cluster_with_a_late_standby, let_go, until_one_waits};

const SCHEMA: &str = "
    create domain label as text;
    create table keyed (id int primary key, who text, note label);
    alter table keyed alter note set storage external;
    create table bare (who int, what text);
    alter table bare replica identity full;
    create table parted (id int, region text, v text, primary key (id, region)) partition by list (region);
    create table parted_north partition of parted for values in ('north');
    create table parted_south partition of parted for values in ('south');
    create publication app for table keyed, bare, parted_north, parted_south;
";
const TABLES: [&str; 3] = ["keyed", "bare", "parted"];

/// A cluster of its own: writers hold transactions open, and everybody's new slots would wait for them.
async fn database() -> (Cluster, Database) {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let database = database_in(&cluster).await;
    (cluster, database)
}

async fn database_in(cluster: &Cluster) -> Database {
    let database = Database::create_in(cluster).await;
    database.client.batch_execute(SCHEMA).await.unwrap();
    database
}

async fn contents(client: &Client, table: &str) -> Rows {
    let mut rows = Rows::new();
    for message in client.simple_query(&format!("select * from {table}")).await.unwrap() {
        if let SimpleQueryMessage::Row(row) = message {
            let values = (0..row.len()).map(|place| row.get(place).map(str::to_owned)).collect();
            *rows.entry(values).or_default() += 1;
        }
    }
    rows
}

fn statement(random: &mut StdRng) -> String {
    let (id, other) = (random.random_range(0..40), random.random_range(0..40));
    let region = ["north", "south"][random.random_range(0..2)];
    match random.random_range(0..12) {
        0 | 1 => {
            format!("insert into keyed values ({id}, 'p{other}', repeat('x{other}', 1500)) on conflict do nothing")
        }
        2 => format!("update keyed set who = 'q{other}' where id = {id}"),
        3 => format!(
            "update keyed set id = {other} where id = {id} and not exists (select from keyed where id = {other})"
        ),
        4 => format!("delete from keyed where id = {id}"),
        5 | 6 => format!("insert into bare values ({}, 'w')", id % 5),
        7 => format!("update bare set what = 'v{}' where ctid in (select ctid from bare limit 2)", other % 3),
        8 => "delete from bare where ctid in (select ctid from bare limit 1)".to_owned(),
        9 => format!("insert into parted values ({id}, '{region}', 'p{other}') on conflict do nothing"),
        10 => format!(
            "update parted set region = '{region}' where id = {id} and (select count(*) from parted where id = {id}) = 1"
        ),
        _ => format!("delete from parted where id = {id}"),
    }
}

/// Random transactions with savepoints and rollbacks. What Postgres refuses (a deadlock, a duplicate) is rolled back.
async fn write(url: String, seed: u64, transactions: usize) {
    let client = connect(&url).await;
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..transactions {
        if random.random_range(0..40) == 0 {
            let table = ["bare", "parted_north", "parted", "keyed"][random.random_range(0..4)];
            let _ = client.batch_execute(&format!("truncate {table}")).await;
            continue;
        }
        let mut sql = vec!["begin".to_owned()];
        for _ in 0..random.random_range(1..6) {
            let statement = statement(&mut random);
            match random.random_range(0..4) {
                0 => sql.push(format!("savepoint s; {statement}; rollback to s")),
                1 => sql.push(format!("savepoint s; {statement}; release s")),
                _ => sql.push(statement),
            }
        }
        sql.push(if random.random_range(0..8) == 0 { "rollback" } else { "commit" }.to_owned());
        let mut failed = false;
        for statement in sql {
            failed |= client.batch_execute(&statement).await.is_err();
        }
        if failed {
            let _ = client.batch_execute("rollback").await;
        }
    }
}

/// Goes on until all tables decide, committing so that the stream comes past their readings.
async fn until_all_serve(follower: &mut Follower, client: &Client) {
    for round in 0.. {
        client.execute("insert into bare values ($1, 'last')", &[&round]).await.unwrap();
        follower.until_position(wal_position(client).await).await;
        if follower.serves_all() {
            return;
        }
        follower.step().await;
        assert!(round < 10_000, "never");
    }
}

/// The property of ASSUMPTIONS' experiment 4: whatever races, what is decided by is what the stream says, at each commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_read_beside_writers_are_what_the_stream_says_at_every_commit() {
    let seed: u64 = std::env::var("WALCAST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("WALCAST_SEED={seed}");
    let (_cluster, database) = database().await;
    let mut follower = Follower::start(&database, &TABLES, Config::default()).await;
    let writers: Vec<_> =
        (0..4).map(|writer| tokio::spawn(write(database.url.clone(), seed.wrapping_add(writer), 250))).collect();
    let (mut commits, mut readings) = (0, 0);
    while !writers.iter().all(|writer| writer.is_finished()) {
        commits += usize::from(follower.step().await.is_some());
        if follower.serves_all() && commits > readings * 25 {
            readings += 1;
            follower.read_again();
        }
    }
    until_all_serve(&mut follower, &database.client).await;
    for table in TABLES {
        assert_eq!(follower.rows(table).unwrap(), contents(&database.client, table).await, "{table}");
    }
    println!("{commits} commits, {readings} readings, {:?} comparisons", follower.compared);
    assert!(readings >= 5 && follower.compared > Some(100));
    assert_eq!(follower.broken(), 0, "no row was missing or there twice");
    follower.stop().await;
}

#[tokio::test]
async fn a_rewrite_that_the_stream_does_not_tell_is_found() {
    let (_cluster, database) = database().await;
    let client = &database.client;
    let mut follower = Follower::start(&database, &TABLES, Config::default()).await;
    client.batch_execute("insert into keyed values (1, 'a', 'note')").await.unwrap();
    until_all_serve(&mut follower, client).await;
    // The column is what it was, to the catalog; not its values. A replay does not know.
    follower.compared = None;
    client.batch_execute("alter table keyed alter who type text using upper(who)").await.unwrap();
    follower.until(|follower| follower.rows("keyed").is_none()).await;
    until_all_serve(&mut follower, client).await;
    assert_eq!(follower.rows("keyed").unwrap(), contents(client, "keyed").await);
    client.batch_execute("alter table parted detach partition parted_south").await.unwrap();
    follower.until(|follower| follower.rows("parted").is_none()).await;
    follower.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_decides_nothing() {
    let (_cluster, database) = database().await;
    let client = &database.client;
    client
        .batch_execute("insert into keyed select i, 'w', repeat('x', 500) from generate_series(1, 5000) i")
        .await
        .unwrap();
    client.batch_execute("create table heir () inherits (bare)").await.unwrap();
    let config = Config { memory_bytes_max: 1 << 20, ..Config::default() };
    let mut follower = Follower::start(&database, &TABLES, config).await;
    let keyed = follower.id("keyed");
    follower.until(|follower| follower.tracking.refused(keyed) == Some(&Refused::TooLarge)).await;
    while follower.rows("parted").is_none() {
        client
            .batch_execute("insert into parted values (1, 'north', 'x') on conflict do nothing; delete from parted")
            .await
            .unwrap();
        follower.until_position(wal_position(client).await).await;
    }
    assert_eq!((follower.rows("keyed"), follower.rows("bare")), (None, None), "one is too large, one has heirs");
    follower.stop().await;
}

/// A transaction that was writing when the table came into the publication: what it wrote before is not in the stream.
#[tokio::test]
async fn a_reading_waits_for_those_who_write_the_table() {
    let (_cluster, database) = database().await;
    let client = &database.client;
    let mut follower = Follower::start(&database, &["keyed"], Config::default()).await;
    follower.compared = None;
    client.batch_execute("alter publication app drop table keyed").await.unwrap();
    let writer = connect(&database.url).await;
    writer.batch_execute("begin; insert into keyed values (1, 'early', 'n')").await.unwrap();
    client.batch_execute("alter publication app add table keyed").await.unwrap();
    follower.read_again();
    while follower.tracking.is_due(tokio::time::Instant::now()) {
        follower.step().await;
    }
    let looks =
        "exists (select from pg_stat_activity where query like '%virtualtransaction%' and pid <> pg_backend_pid())";
    eventually(client, looks).await;
    writer.batch_execute("insert into keyed values (2, 'late', 'n'); commit").await.unwrap();
    while follower.rows("keyed").is_none() {
        client.batch_execute("insert into bare values (0, 'x')").await.unwrap();
        follower.until_position(wal_position(client).await).await;
    }
    assert_eq!(follower.rows("keyed").unwrap().len(), 2);
    follower.stop().await;
}

/// Commits in a session that waits for the late standby, and returns when the stream has brought it to the follower.
async fn commit_unseen(database: &Database, follower: &mut Follower, sql: &str) -> (u32, JoinHandle<()>) {
    let writer = connect(&database.url).await;
    writer.batch_execute("set synchronous_commit = on").await.unwrap();
    writer.batch_execute(&format!("begin; {sql}")).await.unwrap();
    let xid: String = writer.query_one("select pg_current_xact_id()::xid::text", &[]).await.unwrap().get(0);
    let xid = xid.parse().unwrap();
    let commit = tokio::spawn(async move { writer.batch_execute("commit").await.unwrap() });
    until_one_waits(&database.client).await;
    while follower.step().await.is_none_or(|header| header.xid != xid) {}
    (xid, commit)
}

/// Returns when the loader has taken a snapshot that does not see all it has to see, and has dropped it.
async fn a_snapshot_is_dropped(database: &Database, follower: &mut Follower) {
    let watch = connect(&database.url).await;
    tokio::select! {
        () = until_all_serve(follower, &database.client) => panic!("tables decide by a snapshot that came too early"),
        () = eventually(&watch, "exists (select from pg_stat_activity where query = 'rollback')") => {}
    }
}

/// Who writes the table holds its lock until the commit is visible, and is waited for by that. Who makes an heir of it
/// holds one that does not keep readers or writers off: only that the stream has told of the commit makes the reading wait.
#[tokio::test]
async fn a_reading_waits_until_what_was_streamed_before_it_is_visible() {
    let cluster = cluster_with_a_late_standby();
    let database = database_in(&cluster).await;
    let client = &database.client;
    let mut follower = Follower::start(&database, &["keyed"], Config::default()).await;
    client.batch_execute("insert into keyed values (1, 'a', 'n')").await.unwrap();
    until_all_serve(&mut follower, client).await;

    let heir = "create table heir () inherits (keyed); insert into heir values (2, 'b', 'n')";
    let told = format!("{heir}; insert into bare values (0, 'late')");
    let (_, commit) = commit_unseen(&database, &mut follower, &told).await;
    follower.read_again();
    a_snapshot_is_dropped(&database, &mut follower).await;
    let_go(&cluster).await;
    commit.await.unwrap();
    client.batch_execute("drop table heir").await.unwrap();
    until_all_serve(&mut follower, client).await;
    assert_eq!(follower.rows("keyed").unwrap(), contents(client, "keyed").await);
    follower.stop().await;
}

/// Whoever looks before the rewrite is visible finds the table where it was.
#[tokio::test]
async fn a_look_for_a_rewrite_waits_until_the_rewrite_is_visible() {
    let cluster = cluster_with_a_late_standby();
    let database = database_in(&cluster).await;
    let client = &database.client;
    let mut follower = Follower::start(&database, &["keyed"], Config::default()).await;
    client.batch_execute("insert into keyed values (1, 'a', 'n')").await.unwrap();
    until_all_serve(&mut follower, client).await;

    // A replay does not know what a rewrite does.
    follower.compared = None;
    let rewrite = "alter table keyed alter who type text using upper(who); insert into bare values (0, 'late')";
    let (xid, commit) = commit_unseen(&database, &mut follower, rewrite).await;
    follower.tracking.ddl(xid);
    a_snapshot_is_dropped(&database, &mut follower).await;
    let_go(&cluster).await;
    commit.await.unwrap();
    until_all_serve(&mut follower, client).await;
    assert_eq!(follower.rows("keyed").unwrap(), contents(client, "keyed").await);
    follower.stop().await;
}
