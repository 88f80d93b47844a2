//! The walcast binary beside a test's database, for tests that look at it from outside.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::support::database::Database;

/// What differs from the defaults.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    pub jwt_secret: String,
    pub slot: String,
    /// Further flags of `walcast serve`.
    pub flags: Vec<String>,
}

/// A running relay; dropping it ends the process.
pub struct RelayHandle {
    pub address: SocketAddr,
    process: Child,
}

/// Runs `walcast setup --with-auth`, as the owner of a database does once.
pub async fn setup(database: &Database) {
    let url = database.url.clone();
    let setup = move || program().args(["setup", "--database-url", &url, "--with-auth"]).output();
    let output = tokio::task::spawn_blocking(setup).await.expect("walcast setup runs").expect("walcast setup");
    assert!(output.status.success(), "walcast setup failed: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts `walcast serve` on a free port; returns when `/ready` says so.
pub async fn start(database: &Database, options: &RelayOptions) -> RelayHandle {
    let (url, options) = (database.url.clone(), options.clone());
    tokio::task::spawn_blocking(move || start_blocking(&url, &options)).await.expect("the relay starts")
}

fn start_blocking(url: &str, options: &RelayOptions) -> RelayHandle {
    let address = free_address();
    let mut serve = program();
    serve.args(["serve", "--database-url", url, "--jwt-secret", &options.jwt_secret, "--log", "warn"]);
    serve.args(["--listen", &address.to_string(), "--publication", "supabase_realtime", "--slot", &options.slot]);
    serve.args(&options.flags).stdin(Stdio::null());
    let mut handle = RelayHandle { address, process: serve.spawn().expect("walcast serve") };
    handle.wait_until_ready(Duration::from_secs(30));
    handle
}

/// One that no relay of these tests was given before: those that start at the same time must not share one.
fn free_address() -> SocketAddr {
    static GIVEN: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        if !given.contains(&address) {
            given.push(address);
            return address;
        }
    }
}

/// `$WALCAST_BIN`, or the binary that was built with the tests.
fn program() -> Command {
    let built = env!("CARGO_BIN_EXE_walcast").into();
    Command::new(std::env::var_os("WALCAST_BIN").unwrap_or(built))
}

impl RelayHandle {
    fn wait_until_ready(&mut self, limit: Duration) {
        let started = Instant::now();
        while !self.is_ready() {
            if let Some(status) = self.process.try_wait().expect("the relay's status") {
                panic!("walcast serve ended with {status}");
            }
            assert!(started.elapsed() < limit, "walcast serve was not ready within {limit:?}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return false };
        // Whoever else may listen there: it is asked again rather than waited for.
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let request = "GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }
}

impl Drop for RelayHandle {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
