//! A database that is set up, with tables that are published, and a relay for it.

use tokio_postgres::Client as Postgres;
use walcast::demo::postgres::Cluster;

use super::database::{Database, shared_cluster};
use super::relay::{self, PATIENCE, Relay, pause_between_polls};

/// Posts in rooms, for their members: a policy that reads another table.
pub const ROOMS: &str = "
    create table members (room int, member uuid, primary key (room, member));
    create table posts (id int primary key, room int not null);
    alter table posts enable row level security;
    create policy member on posts for select to authenticated
      using (exists (select from members m where m.room = posts.room and m.member = auth.uid()));
    grant select on posts, members to authenticated;
    alter publication supabase_realtime add table posts;";

pub struct Scene {
    pub database: Database,
    pub relay: Relay,
}

impl Scene {
    /// In the cluster that the tests share; `sql` makes what the test is about.
    pub async fn new(sql: &str) -> Scene {
        Scene::with_flags(sql, &[]).await
    }

    pub async fn with_flags(sql: &str, flags: &[&str]) -> Scene {
        let database = prepared(shared_cluster(), sql).await;
        let relay = relay::start(&database.url, flags).await;
        Scene { database, relay }
    }

    /// In a cluster of its own, for tests that break it.
    pub async fn in_cluster(cluster: &Cluster, sql: &str) -> Scene {
        let database = prepared(cluster, sql).await;
        let relay = relay::start(&database.url, &[]).await;
        Scene { database, relay }
    }

    pub async fn execute(&self, sql: &str) {
        execute(&self.database.client, sql).await;
    }

    /// Each by itself, at once after the one before: statements that are sent together are one transaction.
    pub async fn execute_each(&self, statements: &[&str]) {
        for sql in statements {
            execute(&self.database.client, sql).await;
        }
    }
}

/// A new database after `walcast setup --with-auth` and `sql`.
pub async fn prepared(cluster: &Cluster, sql: &str) -> Database {
    let database = Database::create_in(cluster).await;
    relay::set_up(&database.url).await;
    execute(&database.client, sql).await;
    database
}

/// Runs statements that must succeed.
pub async fn execute(client: &Postgres, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        panic!("{error:?}\nin: {sql}");
    }
}

/// Asks until the answer, a boolean, is true: for states of Postgres that nobody announces.
pub async fn until(client: &Postgres, question: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let row = client.query_one(question, &[]).await.unwrap_or_else(|error| panic!("{error:?}\nin: {question}"));
        if row.get::<_, Option<bool>>(0) == Some(true) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "in vain, for {PATIENCE:?}: {question}");
        pause_between_polls().await;
    }
}

/// A size from the environment, for those who want more than the default.
pub fn from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value:?}")),
        Err(_) => default,
    }
}
