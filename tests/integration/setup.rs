//! `walcast setup`, and what it refuses. Roles are global: each test has a cluster of its own.

use tokio_postgres::Client;
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::setup::{self, Config, Facts, Outcome, Report, Secrets};

use super::ddl_log::{TABLE, newest};
use crate::support::database::{Database, connect};

pub fn cluster() -> Cluster {
    Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres")
}

pub fn config(cluster: &Cluster) -> Config {
    Config { with_auth: true, authority: format!("127.0.0.1:{}", cluster.port()), ..Config::default() }
}

pub async fn set_up(database: &mut Database, config: &Config) -> Report {
    let report = setup::run(&mut database.client, config).await.expect("setup");
    assert_eq!(report.notes().collect::<Vec<_>>(), Vec::<&str>::new());
    report
}

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
