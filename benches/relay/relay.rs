//! A throw-away Postgres with one table, and the relay beside it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tokio_postgres::{Client, NoTls};
use walcast::demo::postgres::{Cluster, ClusterOptions};

pub const SECRET: &str = "a-secret-for-benches-of-at-least-32-characters";
pub const USER: &str = "11111111-1111-4111-8111-111111111111";

/// A chat message of some 200 bytes in an open table, and the same behind a policy.
const SCHEMA: &str = "
create table messages (id bigint generated always as identity primary key, session_id uuid not null, body text not null,
    created_at timestamptz not null default now());
create table guarded (like messages including all, user_id uuid not null);
alter table guarded enable row level security;
create policy own on guarded for select to authenticated using (user_id = auth.uid());
grant select on messages, guarded to anon, authenticated;
alter publication supabase_realtime add table messages, guarded;
";

/// The binary under test; `WALCAST_BENCH_BINARY` names another build to compare with.
fn binary() -> String {
    std::env::var("WALCAST_BENCH_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_walcast").to_owned())
}

pub struct Bench {
    pub cluster: Cluster,
    pub sql: Client,
}

impl Bench {
    pub async fn start() -> Bench {
        let cluster = Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres");
        let url = cluster.socket_url("postgres", "postgres");
        let setup = Command::new(binary())
            .args(["setup", "--with-auth", "--database-url", &url])
            .stdout(Stdio::null())
            .status()
            .expect("walcast setup");
        assert!(setup.success(), "walcast setup failed");
        let sql = connect(&url).await;
        sql.batch_execute(SCHEMA).await.expect("the schema");
        Bench { cluster, sql }
    }

    pub fn url(&self) -> String {
        self.cluster.socket_url("postgres", "postgres")
    }

    /// The pid of the walsender that serves a slot, if one does.
    pub async fn walsender(&self, slot: &str) -> Option<u32> {
        let active = "select active_pid from pg_replication_slots where slot_name = $1";
        let row = self.sql.query_opt(active, &[&slot]).await.expect("the slot")?;
        row.get::<_, Option<i32>>(0).map(|pid| pid as u32)
    }

    /// Starts the relay on a port of its own and waits until it listens.
    pub fn relay(&self, slot: &str) -> Relay {
        self.relay_with(slot, &[])
    }

    pub fn relay_with(&self, slot: &str, flags: &[&str]) -> Relay {
        // For experiments with settings of its sessions.
        let options = std::env::var("WALCAST_BENCH_OPTIONS").map(|options| format!("?options={options}"));
        let url = self.url() + &options.unwrap_or_default();
        let mut child = Command::new(binary())
            .args(["serve", "--database-url", &url, "--jwt-secret", SECRET])
            .args([
                "--listen",
                "127.0.0.1:0",
                "--slot",
                slot,
                "--connections-max",
                "200000",
                "--joins-per-second-max",
                "1000000",
            ])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .expect("walcast serve");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let address = loop {
            let line = lines.next().expect("walcast ended before it listened").expect("its log");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split_whitespace().next().unwrap_or(rest).to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(|line| drop(line.map(|line| eprintln!("relay: {line}")))));
        Relay { child, address }
    }
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

pub struct Relay {
    child: Child,
    pub address: String,
}

impl Relay {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal}");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let id = self.child.id().to_string();
        for signal in ["-CONT", "-TERM"] {
            let _ = Command::new("kill").args([signal, &id]).status();
        }
        let _ = self.child.wait();
    }
}

/// A token of the user that the benches act as.
pub fn token() -> String {
    let claims = serde_json::json!({"role": "authenticated", "sub": USER, "exp": 4_000_000_000u64});
    let serde_json::Value::Object(claims) = claims else { unreachable!("an object was written") };
    walcast::authz::jwt::mint(SECRET, &claims).expect("a token")
}
