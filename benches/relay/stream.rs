//! The stream, from the replication socket through encode and to one client: the relay's CPU per row beside the
//! walsender's, and its throughput beside `pg_recvlogical`'s on the same transport and the same WAL.
//!
//! Each sample's rows are written while the relay is stopped (SIGSTOP), with its subscription in place; `pg_recvlogical`
//! reads them from a slot of its own, then the relay goes on. Every row is routed, encoded and delivered.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::client::Clients;
use super::measure::{Samples, cpu_seconds, size};
use super::relay::Bench;

pub async fn run() {
    let rows = size("WALCAST_BENCH_ROWS", 200_000);
    bulk(rows, 1000).await;
    bulk(rows / 5, 1).await;
}

async fn bulk(rows: usize, per_commit: usize) {
    let bench = Bench::start().await;
    let relay = bench.relay("stream");
    let samples = size("WALCAST_BENCH_SAMPLES", 9);
    let mut clients = Clients::start(1, &relay.address, "messages", "");
    bench.sql.batch_execute("select pg_create_logical_replication_slot('floor', 'pgoutput')").await.expect("a slot");
    let walsender = bench.walsender("stream").await.expect("the relay's stream");
    let (mut ours, mut sender, mut floor_sender) = (Samples::default(), Samples::default(), Samples::default());
    let (mut rate, mut floor_rate, mut floor_cpu) = (Samples::default(), Samples::default(), Samples::default());
    write_rows(&bench, 1000, per_commit).await;
    clients.wait(1000);
    for _ in 0..samples {
        relay.signal("STOP");
        clients.expect(rows);
        write_rows(&bench, rows, per_commit).await;
        let end: String = bench.sql.query_one("select pg_current_wal_lsn()::text", &[]).await.expect("the end").get(0);

        let read = receive(&bench, "floor", &end).await;
        floor_rate.push(rows as f64 / read.seconds);
        floor_sender.push(read.walsender_cpu * 1e6 / rows as f64);
        floor_cpu.push(read.cpu * 1e6 / rows as f64);

        let before = (cpu_seconds(relay.pid()), cpu_seconds(walsender));
        let started = Instant::now();
        relay.signal("CONT");
        clients.arrived();
        rate.push(rows as f64 / started.elapsed().as_secs_f64());
        ours.push((cpu_seconds(relay.pid()) - before.0) * 1e6 / rows as f64);
        sender.push((cpu_seconds(walsender) - before.1) * 1e6 / rows as f64);
    }
    println!("{rows} rows, {per_commit} per commit, unix socket, {samples} samples in turn; CPU in us per row:");
    println!("  relay, socket to client:         {}", ours.with_spread(2));
    println!("  its walsender:                   {}", sender.with_spread(2));
    println!("  relay over its walsender:        {} (goal: at most 1)", ours.ratio_to(&sender).with_spread(2));
    println!("  pg_recvlogical, its walsender:   {}, {}", floor_cpu.with_spread(2), floor_sender.with_spread(2));
    println!("  rows/s, relay, pg_recvlogical:   {}, {}", rate.with_spread(0), floor_rate.with_spread(0));
    println!("  throughput over pg_recvlogical's: {}", rate.ratio_to(&floor_rate).with_spread(2));
}

async fn write_rows(bench: &Bench, rows: usize, per_commit: usize) {
    let insert = format!(
        "do $$ begin for i in 1..{} loop
             insert into messages (session_id, body) select gen_random_uuid(), repeat('x', 100) from generate_series(1, {per_commit});
             commit;
         end loop; end $$",
        rows / per_commit
    );
    bench.sql.batch_execute(&insert).await.expect("the rows");
}

/// What reading a slot took.
pub struct Read {
    pub seconds: f64,
    pub cpu: f64,
    pub walsender_cpu: f64,
}

/// Reads a slot up to a position with pg_recvlogical.
pub async fn receive(bench: &Bench, slot: &str, end: &str) -> Read {
    let started = Instant::now();
    let mut child = Command::new("pg_recvlogical")
        .args(["-d", &bench.url(), "--slot", slot, "--start", "--endpos", end, "-f", "-", "--no-loop", "-F", "0"])
        .args(["-o", "proto_version=1", "-o", "publication_names=supabase_realtime"])
        .stdout(Stdio::null())
        .spawn()
        .expect("pg_recvlogical (Debian: postgresql)");
    let mut read = Read { seconds: 0.0, cpu: 0.0, walsender_cpu: 0.0 };
    let mut walsender = None;
    // Both end with the reading: their CPU is looked at as long as they live.
    while child.try_wait().expect("pg_recvlogical").is_none() {
        if walsender.is_none() {
            walsender = bench.walsender(slot).await;
        }
        read.cpu = cpu_seconds(child.id()).max(read.cpu);
        read.walsender_cpu = walsender.map_or(0.0, cpu_seconds).max(read.walsender_cpu);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    read.seconds = started.elapsed().as_secs_f64();
    read
}
