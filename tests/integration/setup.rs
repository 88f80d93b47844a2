//! `walcast setup`, and the log of DDL that it installs. Roles are global: each test has a cluster of its own.

use tokio_postgres::Client;
use walcast::catalog::{Catalog, Roles, State};
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::setup::{self, Config, Facts, Outcome, Report, Secrets};

use crate::support::database::{Database, connect};

fn cluster() -> Cluster {
    Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres")
}

fn config(cluster: &Cluster) -> Config {
    Config { with_auth: true, authority: format!("127.0.0.1:{}", cluster.port()), ..Config::default() }
}

async fn set_up(database: &mut Database, config: &Config) -> Report {
    let report = setup::run(&mut database.client, config).await.expect("setup");
    assert_eq!(report.notes().collect::<Vec<_>>(), Vec::<&str>::new());
    report
}

/// The log's newest id, and the state in it.
async fn newest(client: &Client) -> (i64, Option<Catalog>) {
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

const TABLE: &str = "create table t (id int primary key, owner uuid); alter table t enable row level security;
    create policy p on t to authenticated using (owner = auth.uid());
    alter publication supabase_realtime add table t";

#[tokio::test]
async fn setup_makes_logins_that_can_do_their_work_and_no_more() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let report = set_up(&mut database, &config(&cluster)).await;
    let stream = connect(report.url.as_deref().unwrap()).await;
    let (login, password) = setup::oracle_login(&stream).await.unwrap().expect("the oracle's login");
    stream.query("select pg_create_logical_replication_slot('s', 'pgoutput')", &[]).await.unwrap();
    assert!(stream.query("select walcast.prune_ddl_log(0)", &[]).await.is_ok());
    assert!(stream.query("insert into walcast.ddl_log (tag) values ('forged')", &[]).await.is_err());

    let url = format!("postgres://{login}:{password}@127.0.0.1:{}/{}", cluster.port(), database.name);
    let oracle = connect(&url).await;
    for role in ["anon", "authenticated"] {
        oracle.batch_execute(&format!("set role {role}; select auth.uid(); reset role")).await.unwrap();
    }
    for forbidden in ["set role service_role", "set role walcast", "set role postgres", "table walcast.oracle_login"] {
        assert!(oracle.batch_execute(forbidden).await.is_err(), "{forbidden}");
    }
}

#[tokio::test]
async fn setup_twice_changes_nothing_and_remove_leaves_nothing() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let inventory = "select array_agg(what order by what) from (
        select 'role ' || rolname from pg_roles union all select 'schema ' || nspname from pg_namespace
        where nspname !~ '^pg_(toast_)?temp'
        union all select 'publication ' || pubname from pg_publication
        union all select 'trigger ' || evtname from pg_event_trigger
        union all select 'slot ' || slot_name from pg_replication_slots
        union all select 'function ' || oid::regprocedure from pg_proc where oid >= 16384
        union all select 'member ' || roleid || ' ' || member from pg_auth_members) i(what)";
    let list = async |client: &Client| client.query_one(inventory, &[]).await.unwrap().get::<_, Vec<String>>(0);
    let before = list(&database.client).await;
    let config = config(&cluster);
    set_up(&mut database, &config).await;
    let once = list(&database.client).await;
    let secret = "select password from walcast.oracle_login";
    let password: String = database.client.query_one(secret, &[]).await.unwrap().get(0);
    let again = set_up(&mut database, &config).await;
    assert_eq!(list(&database.client).await, once);
    assert_eq!(database.client.query_one(secret, &[]).await.unwrap().get::<_, String>(0), password);
    assert!(again.url.unwrap().contains(":PASSWORD@"));

    database.client.query("select pg_create_logical_replication_slot('walcast', 'pgoutput')", &[]).await.unwrap();
    let report = setup::remove(&mut database.client, &config).await.unwrap();
    assert_eq!(report.notes().count(), 0, "{report}");
    assert_eq!(list(&database.client).await, before);
}

#[tokio::test]
async fn remove_leaves_what_others_use() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let config = config(&cluster);
    set_up(&mut database, &config).await;
    database.client.batch_execute(TABLE).await.unwrap();
    let report = setup::remove(&mut database.client, &config).await.unwrap();
    assert!(report.notes().count() > 0);
    database.client.batch_execute("select auth.uid(); set role authenticated; reset role").await.unwrap();
    let sql = "select count(*) from pg_publication_tables where pubname = 'supabase_realtime'";
    assert_eq!(database.client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert!(
        database
            .client
            .query_one("select to_regnamespace('walcast')::text", &[])
            .await
            .unwrap()
            .get::<_, Option<String>>(0)
            .is_none()
    );
}

#[tokio::test]
async fn the_dry_run_is_a_script_that_does_the_same_and_shows_no_password() {
    let cluster = cluster();
    let database = Database::create_in(&cluster).await;
    let config = config(&cluster);
    let facts = Facts::read(&database.client, &config).await.unwrap();
    let secrets = Secrets::generate();
    let script = setup::script(&setup::plan(&facts, &config, &secrets));
    assert!(!script.contains(&secrets.stream) && !script.contains(&secrets.oracle));
    assert!(!script.contains("SCRAM-SHA-256"));
    database.client.batch_execute(&script).await.unwrap();
    assert!(newest(&database.client).await.1.is_some());
}

#[tokio::test]
async fn a_transaction_with_ddl_logs_one_state_as_its_commit_leaves_it() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    set_up(&mut database, &config(&cluster)).await;
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
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    set_up(&mut database, &config(&cluster)).await;
    database.client.batch_execute(TABLE).await.unwrap();
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
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    set_up(&mut database, &config(&cluster)).await;
    database.client.batch_execute(TABLE).await.unwrap();
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
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    set_up(&mut database, &config(&cluster)).await;
    database.client.batch_execute(TABLE).await.unwrap();
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
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    set_up(&mut database, &config(&cluster)).await;
    database.client.batch_execute(TABLE).await.unwrap();
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
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    set_up(&mut database, &config(&cluster)).await;
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
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    set_up(&mut database, &config(&cluster)).await;
    let own = "select coalesce(array_agg(tablename::text order by tablename), '{}') from pg_publication_tables where pubname = 'walcast'";
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

#[tokio::test]
async fn an_owner_who_is_no_superuser_gets_what_is_possible_and_is_told_the_rest() {
    let cluster = cluster();
    let admin = Database::create_in(&cluster).await;
    let sql = format!("create role boss login createrole; alter database {} owner to boss", admin.name);
    admin.client.batch_execute(&sql).await.unwrap();
    let mut client = connect(&cluster.url("boss", &admin.name)).await;
    let report = setup::run(&mut client, &config(&cluster)).await.expect("setup without a superuser");
    let notes: Vec<&str> = report.notes().collect();
    assert!(notes.iter().any(|note| note.contains("Event triggers need a superuser")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("alter role \"walcast\" replication bypassrls;")), "{notes:?}");
    assert!(
        report.steps.iter().any(|(title, outcome)| title.contains("log that carries") && *outcome == Outcome::Done)
    );
    assert!(newest(&client).await.1.is_some(), "the base state");
    // The superuser's turn.
    let mut admin = admin;
    let again = setup::run(&mut admin.client, &config(&cluster)).await.unwrap();
    assert_eq!(again.notes().count(), 0, "{again}");
    assert!(again.url.unwrap().contains(":PASSWORD@"));
}

/// What setup runs in the schema, it would run for its owner.
#[tokio::test]
async fn a_schema_that_a_stranger_made_is_not_touched() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let sql = format!(
        "create role mallory; grant create on database {} to mallory; set role mallory; create schema walcast;
         create function walcast.pwn() returns text language plpgsql as
           'begin create role pwned superuser; return 1; end';
         create view walcast.oracle_login as select walcast.pwn() as login, '' as password;
         create view walcast.installation as select array[walcast.pwn()] as created; reset role",
        database.name
    );
    database.client.batch_execute(&sql).await.unwrap();
    let error = setup::run(&mut database.client, &config(&cluster)).await.expect_err("a stranger's").to_string();
    assert!(error.contains("the schema walcast belongs to mallory"), "{error}");
    assert!(setup::remove(&mut database.client, &config(&cluster)).await.is_err());
    assert_eq!(setup::oracle_login(&database.client).await.unwrap(), None);
    let pwned = "select exists (select from pg_roles where rolname = 'pwned')";
    assert!(!database.client.query_one(pwned, &[]).await.unwrap().get::<_, bool>(0));
    database.client.batch_execute("drop schema walcast cascade").await.unwrap();
    set_up(&mut database, &config(&cluster)).await;
}
