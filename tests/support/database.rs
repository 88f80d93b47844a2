//! A database per test, in a cluster that the whole run shares.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};
use walcast::demo::postgres::{Cluster, ClusterOptions};

/// The cluster shared by tests that do not stop servers, make roles or hold transactions open.
pub fn shared_cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres for the tests"))
}

/// A new, empty database, and a connection to it as superuser `postgres`.
pub struct Database {
    pub name: String,
    pub url: String,
    pub client: Client,
}

impl Database {
    pub async fn create() -> Database {
        Database::create_in(shared_cluster()).await
    }

    pub async fn create_in(cluster: &Cluster) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let admin = connect(&cluster.url("postgres", "postgres")).await;
        admin.batch_execute(&format!("create database {name}")).await.expect("create database");
        let url = cluster.url("postgres", &name);
        let client = connect(&url).await;
        Database { name, url, client }
    }
}

/// An ordinary connection; its task ends with the client.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

/// Waits until a query's only value is true: for what Postgres does in its own time.
pub async fn eventually(client: &Client, condition: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let row = client.query_one(&format!("select coalesce(({condition}), false)"), &[]).await.expect("a condition");
        if row.get(0) {
            return;
        }
        assert!(Instant::now() < deadline, "never true: {condition}");
        client.execute("select pg_sleep(0.02)", &[]).await.expect("pg_sleep");
    }
}
