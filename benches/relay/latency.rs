//! From the writing of a row to its event at the client, at a steady rate of single-row commits, beside what
//! `pg_recvlogical` takes to print the same rows.
//!
//! The row carries the time at which its statement was sent, so that commit, flush, walsender and relay are all in it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::client::{Clients, now_micros};
use super::measure::{Samples, size};
use super::relay::{Bench, USER, connect};

const WRITERS: usize = 4;

pub async fn run() {
    let bench = Bench::start().await;
    let relay = bench.relay("latency");
    let rate = size("WALCAST_BENCH_RATE", 1_000);
    let seconds = size("WALCAST_BENCH_SECONDS", 3);
    let rows = rate * seconds / WRITERS * WRITERS;
    let samples = size("WALCAST_BENCH_SAMPLES", 9);
    for (table, what) in [("messages", "open table"), ("guarded", "policy asked of Postgres (oracle)")] {
        let mut clients = Clients::start(1, &relay.address, table, "");
        let (mut p50, mut p99) = (Samples::default(), Samples::default());
        let (mut floor50, mut floor99) = (Samples::default(), Samples::default());
        for sample in 0..samples {
            let slot = format!("latency_floor_{sample}");
            let floor = floor(&bench, &slot, "proto_version=1", "").await;
            clients.latencies();
            clients.expect(rows);
            write_rows(&bench, table, rate, rows).await;
            clients.arrived();
            let ours: Samples = collect(clients.latencies());
            let theirs: Samples = collect(floor.finish(rows).await);
            p50.push(ours.quantile(0.5));
            p99.push(ours.quantile(0.99));
            floor50.push(theirs.quantile(0.5));
            floor99.push(theirs.quantile(0.99));
            // Its walsender outlives the client a little.
            while bench.walsender(&slot).await.is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bench.sql.batch_execute(&format!("select pg_drop_replication_slot('{slot}')")).await.expect("drop");
        }
        println!("{what}, {rate} commits/s for {seconds} s a sample, microseconds from the INSERT to the client:");
        println!("  walcast         p50 {}, p99 {}", p50.with_spread(0), p99.with_spread(0));
        println!("  pg_recvlogical  p50 {}, p99 {}", floor50.with_spread(0), floor99.with_spread(0));
        println!(
            "  ratio           p50 {}, p99 {}",
            p50.ratio_to(&floor50).with_spread(2),
            p99.ratio_to(&floor99).with_spread(2)
        );
    }
}

fn collect(values: Vec<f64>) -> Samples {
    let mut samples = Samples::default();
    values.into_iter().for_each(|value| samples.push(value));
    samples
}

/// Commits at a steady rate over a few connections.
async fn write_rows(bench: &Bench, table: &str, rate: usize, rows: usize) {
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = connect(&bench.url()).await;
        let user = if table == "guarded" { format!(", '{USER}'") } else { String::new() };
        let columns = if table == "guarded" { "session_id, body, user_id" } else { "session_id, body" };
        let statement = format!("insert into {table} ({columns}) values (gen_random_uuid(), $1{user})");
        writers.push(tokio::spawn(async move {
            let insert = client.prepare(&statement).await.expect("prepare");
            let mut interval = tokio::time::interval(Duration::from_micros(1_000_000 * WRITERS as u64 / rate as u64));
            for _ in 0..rows / WRITERS {
                interval.tick().await;
                let body = format!("t={} {writer} {}", now_micros() as u64, "x".repeat(100));
                client.execute(&insert, &[&body]).await.expect("insert");
            }
        }));
    }
    for writer in writers {
        writer.await.expect("a writer");
    }
}

pub struct Floor {
    child: std::process::Child,
    reader: std::thread::JoinHandle<Vec<f64>>,
    rows: Arc<AtomicUsize>,
}

/// pg_recvlogical printing to a pipe; each row's time of arrival less the time in its body. `options` are pgoutput's,
/// `settings` its session's.
pub async fn floor(bench: &Bench, slot: &str, options: &str, settings: &str) -> Floor {
    let create = ["-d", &bench.url(), "--slot", slot, "--create-slot", "-P", "pgoutput"].map(str::to_owned);
    assert!(Command::new("pg_recvlogical").args(create).status().expect("pg_recvlogical").success());
    let mut child = Command::new("pg_recvlogical")
        .args(["-d", &bench.url(), "--slot", slot, "--start", "-f", "-", "--no-loop", "-F", "0"])
        .args(options.split_whitespace().flat_map(|option| ["-o", option]))
        .args(["-o", "publication_names=supabase_realtime"])
        .env("PGOPTIONS", settings)
        .stdout(Stdio::piped())
        .stderr(Stdio::null()) // It complains of being interrupted.
        .spawn()
        .expect("pg_recvlogical");
    while bench.walsender(slot).await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let rows = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&rows);
    let reader = std::thread::spawn(move || {
        let (mut latencies, mut line) = (Vec::new(), Vec::new());
        // Every message ends with a newline; rows are those with a time in them.
        while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if let Some(place) = memchr::memmem::find(&line, b"t=") {
                let digits: String =
                    line[place + 2..].iter().map_while(|b| b.is_ascii_digit().then_some(char::from(*b))).collect();
                if let Ok(sent) = digits.parse::<f64>() {
                    latencies.push(now_micros() - sent);
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
            line.clear();
        }
        latencies
    });
    Floor { child, reader, rows }
}

impl Floor {
    /// Rows that it has printed.
    pub fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    pub async fn finish(mut self, rows: usize) -> Vec<f64> {
        while self.rows.load(Ordering::Relaxed) < rows {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
        self.reader.join().expect("the reader of pg_recvlogical")
    }
}
