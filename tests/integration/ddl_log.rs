//! The log of DDL that `walcast setup` installs: one state per transaction, at its place in the stream.

use tokio_postgres::Client;
use walcast::catalog::{Catalog, Roles, State};
use walcast::demo::postgres::Cluster;

use super::setup::{cluster, config, set_up};
use crate::support::database::{Database, connect};

pub const TABLE: &str = "create table t (id int primary key, owner uuid); alter table t enable row level security;
    create policy p on t to authenticated using (owner = auth.uid());
    alter publication supabase_realtime add table t";

/// A database after setup and `sql`. Roles are global: in a cluster of its own.
async fn logged(sql: &str) -> (Cluster, Database) {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    set_up(&mut database, &config(&cluster)).await;
    database.client.batch_execute(sql).await.unwrap();
    (cluster, database)
}

/// The log's newest id, and the state in it.
pub async fn newest(client: &Client) -> (i64, Option<Catalog>) {
    let row = client.query_one("select id, state from walcast.ddl_log order by id desc limit 1", &[]).await.unwrap();
    let state: Option<String> = row.get(1);
    let catalog = state.map(|state| {
        let state = State::parse(&state).expect("a state that can be read");
        Catalog::from_state(state, Roles::default().into(), 0).expect("a catalog")
    });
    (row.get(0), catalog)
}

async fn rows_after(client: &Client, id: i64) -> i64 {
    client.query_one("select count(*) from walcast.ddl_log where id > $1", &[&id]).await.unwrap().get(0)
}

fn policies(catalog: &Catalog, table: &str) -> Vec<String> {
    let relation = catalog.relations.values().find(|relation| relation.name == table).expect("the table");
    relation.policies.iter().map(|policy| policy.using_text.clone().unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_transaction_with_ddl_logs_one_state_as_its_commit_leaves_it() {
    let (_cluster, database) = logged("").await;
    let (start, base) = newest(&database.client).await;
    assert!(base.expect("the base state").relations.is_empty());
    database.client.batch_execute(TABLE).await.unwrap();
    let (id, catalog) = newest(&database.client).await;
    assert_eq!(rows_after(&database.client, start).await, 1, "one implicit transaction, one row");
    assert_eq!(policies(&catalog.unwrap(), "t"), ["(owner = auth.uid())"]);

    database.client.batch_execute("begin; alter policy p on t using (false); rollback").await.unwrap();
    assert_eq!(rows_after(&database.client, id).await, 0);
    database
        .client
        .batch_execute(
            "begin; savepoint a; alter policy p on t using (false); rollback to a;
             alter policy p on t using (id = 1); alter policy p on t using (id = 2); commit",
        )
        .await
        .unwrap();
    assert_eq!(rows_after(&database.client, id).await, 1);
    assert_eq!(policies(&newest(&database.client).await.1.unwrap(), "t"), ["(id = 2)"]);
}

#[tokio::test]
async fn the_state_stands_at_the_transactions_place_in_the_stream() {
    let (_cluster, database) = logged(TABLE).await;
    let made = "select pg_create_logical_replication_slot('s', 'test_decoding')";
    if database.client.query(made, &[]).await.is_err() {
        println!("skipped: this Postgres has no test_decoding");
        return;
    }
    let steps = "insert into t values (1); \
        begin; insert into t values (2); alter policy p on t using (false); insert into t values (3); commit; \
        insert into t values (4)";
    for step in steps.split("; ") {
        database.client.batch_execute(step).await.unwrap();
    }
    let sql = "select data from pg_logical_slot_get_changes('s', null, null)";
    let rows = database.client.query(sql, &[]).await.unwrap();
    let seen = rows.iter().filter_map(|row| {
        let line: &str = row.get(0);
        let known = ["BEGIN", "COMMIT", "public.t: INSERT", "walcast.ddl_log: INSERT", "walcast.ddl_log: UPDATE"];
        known.into_iter().find(|part| line.contains(part))
    });
    let expected = [
        "BEGIN",
        "public.t: INSERT",
        "COMMIT",
        "BEGIN",
        "public.t: INSERT",
        "walcast.ddl_log: INSERT",
        "public.t: INSERT",
        "walcast.ddl_log: UPDATE",
        "COMMIT",
        "BEGIN",
        "public.t: INSERT",
        "COMMIT",
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn immediate_constraints_and_replica_mode_lose_no_ddl() {
    let (_cluster, database) = logged(TABLE).await;
    database
        .client
        .batch_execute(
            "begin; alter policy p on t using (id = 1); set constraints all immediate;
             alter policy p on t using (id = 2); alter policy p on t using (id = 3); commit",
        )
        .await
        .unwrap();
    assert_eq!(policies(&newest(&database.client).await.1.unwrap(), "t"), ["(id = 3)"]);
    database
        .client
        .batch_execute(
            "begin; set local session_replication_role = replica; alter policy p on t using (id = 4); commit",
        )
        .await
        .unwrap();
    assert_eq!(policies(&newest(&database.client).await.1.unwrap(), "t"), ["(id = 4)"]);
}

#[tokio::test]
async fn of_two_transactions_with_ddl_the_later_state_has_both() {
    let (_cluster, database) = logged(TABLE).await;
    database
        .client
        .batch_execute(
            "create table u (id int primary key); create policy q on u using (true);
             alter publication supabase_realtime add table u",
        )
        .await
        .unwrap();
    let other = connect(&database.url).await;
    for round in 0..10 {
        let (a, b) = (format!("(id = {round})"), format!("(id > {round})"));
        other.batch_execute(&format!("begin; alter policy q on u using {a}")).await.unwrap();
        database.client.batch_execute(&format!("begin; alter policy p on t using {b}")).await.unwrap();
        let (one, two) = tokio::join!(other.batch_execute("commit"), database.client.batch_execute("commit"));
        one.and(two).unwrap();
        // Ids do not tell which commit was later: one of the two rows has to know of both changes. Trees, not texts:
        // locks are not released all at once, so that the later one may still find the other table locked.
        let sql = "select state from walcast.ddl_log where state is not null order by id desc limit 2";
        let rows = database.client.query(sql, &[]).await.unwrap();
        let sql = "select array_agg(polqual::text) from pg_policy where polname in ('p', 'q')";
        let trees: Vec<String> = database.client.query_one(sql, &[]).await.unwrap().get(0);
        let has_both = |state: &str| trees.iter().all(|tree| state.contains(&serde_json::to_string(tree).unwrap()));
        assert!(rows.iter().any(|row| has_both(row.get(0))), "round {round}");
    }

    // An old snapshot would take back what others did since: it may not say anything but "reload".
    other.batch_execute("begin isolation level repeatable read; select 1").await.unwrap();
    database.client.batch_execute("alter policy p on t using (id = 10)").await.unwrap();
    other.batch_execute("alter policy q on u using (id = 11); commit").await.unwrap();
    assert!(newest(&database.client).await.1.is_none());
}

#[tokio::test]
async fn a_broken_log_never_fails_anybodys_ddl() {
    let (_cluster, database) = logged(TABLE).await;
    let sabotage = [
        "create or replace function walcast.catalog_state(publications text[], with_texts boolean) returns jsonb
            language sql stable as 'select jsonb_build_object(1/0, 1)'",
        "create or replace function walcast.catalog_state(publications text[], with_texts boolean) returns jsonb
            language sql stable as 'select null::jsonb'",
        "drop trigger fill_state on walcast.ddl_log",
        "drop table walcast.installation",
        "drop table walcast.ddl_log",
    ];
    for (round, breakage) in sabotage.into_iter().enumerate() {
        database.client.batch_execute(breakage).await.unwrap_or_else(|error| panic!("{breakage}: {error:?}"));
        let ddl = format!("alter policy p on t using (id = {round})");
        database.client.batch_execute(&ddl).await.unwrap_or_else(|error| panic!("after {breakage}: {error:?}"));
        if round < 3 {
            assert!(newest(&database.client).await.1.is_none(), "after {breakage}: reload");
        }
    }
}

#[tokio::test]
async fn noise_is_not_logged() {
    let (_cluster, database) = logged("").await;
    let (start, _) = newest(&database.client).await;
    let noise =
        "create temp table x (id serial primary key); alter table x add y int; create index on x (y); drop table x;
        comment on schema public is 'x'; create view v as select 1; create materialized view m as select 1;
        refresh materialized view m; create sequence s";
    for statement in noise.split(';') {
        database.client.batch_execute(statement).await.unwrap();
        assert_eq!(rows_after(&database.client, start).await, 0, "{statement}");
    }
}

#[tokio::test]
async fn a_table_put_into_the_users_publication_leaves_walcasts_own() {
    let (_cluster, database) = logged("").await;
    let own = "select coalesce(array_agg(tablename::text order by tablename), '{}') from pg_publication_tables where pubname = 'walcast' and schemaname <> 'realtime'";
    let own = async |client: &Client| client.query_one(own, &[]).await.unwrap().get::<_, Vec<String>>(0);
    database
        .client
        .batch_execute(
            "create table members (id int primary key); create table parted (id int primary key) partition by range (id);
             create table leaf partition of parted for values from (0) to (9); alter publication walcast add table members, leaf",
        )
        .await
        .unwrap();
    assert_eq!(own(&database.client).await, ["ddl_log", "leaf", "members"]);
    database.client.batch_execute("alter publication supabase_realtime add table members").await.unwrap();
    assert_eq!(own(&database.client).await, ["ddl_log", "leaf"]);
    database.client.batch_execute("alter publication supabase_realtime add table parted").await.unwrap();
    assert_eq!(own(&database.client).await, ["ddl_log"]);
}
