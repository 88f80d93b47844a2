//! The stream, from the replication socket through encode: the relay's CPU per row beside the walsender's, and its
//! throughput beside `pg_recvlogical`'s on the same transport and the same WAL.
//!
//! The backlog is written while nobody reads. Each sample reads it through a fresh copy of one slot.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::client::Clients;
use super::measure::{Samples, cpu_seconds, size, walsenders};
use super::relay::Bench;

pub async fn run() {
    let bench = Bench::start().await;
    let rows = size("WALCAST_BENCH_ROWS", 300_000);
    let samples = size("WALCAST_BENCH_SAMPLES", 9);
    let commits = rows / 1000;
    bench.sql.batch_execute("select pg_create_logical_replication_slot('backlog', 'pgoutput')").await.expect("a slot");
    for _ in 0..commits {
        let insert = "insert into messages (session_id, body) select gen_random_uuid(), repeat('x', 100) from generate_series(1, 1000)";
        bench.sql.batch_execute(insert).await.expect("a commit");
    }
    let row = bench.sql.query_one("select pg_current_wal_lsn()::text", &[]).await.expect("the end");
    let end: String = row.get(0);
    let (mut ours, mut sender, mut floor_sender) = (Samples::default(), Samples::default(), Samples::default());
    let (mut rate, mut floor_rate) = (Samples::default(), Samples::default());
    for sample in 0..samples {
        let slot = format!("floor_{sample}");
        copy_slot(&bench, &slot).await;
        let (seconds, cpu) = receive(&bench, &slot, &end);
        floor_rate.push(rows as f64 / seconds);
        floor_sender.push(cpu * 1e6 / rows as f64);
        bench.sql.batch_execute(&format!("select pg_drop_replication_slot('{slot}')")).await.expect("drop");

        let slot = format!("relay_{sample}");
        copy_slot(&bench, &slot).await;
        let started = Instant::now();
        let relay = bench.relay(&slot);
        // It matches nothing, but has every row routed; `encode` below sends every row through to a socket.
        let mut clients = Clients::start(1, &relay.address, "messages", "");
        // Rows committed before the join are delivered to whoever is subscribed by then; wait for one behind them all.
        bench
            .sql
            .batch_execute("insert into messages (session_id, body) values (gen_random_uuid(), 'end')")
            .await
            .expect("end");
        let wal = walsenders(bench.postmaster());
        wait_until_confirmed(&bench, &slot, &end).await;
        let seconds = started.elapsed().as_secs_f64();
        rate.push(rows as f64 / seconds);
        ours.push(cpu_seconds(relay.pid()) * 1e6 / rows as f64);
        sender.push(wal.iter().map(|pid| cpu_seconds(*pid)).sum::<f64>() * 1e6 / rows as f64);
        clients.expect(0);
        clients.arrived();
        drop((clients, relay));
        bench.sql.batch_execute(&format!("select pg_drop_replication_slot('{slot}')")).await.expect("drop");
    }
    println!("{rows} rows in {commits} commits over a unix socket, {samples} samples each in turn:");
    println!("  relay us CPU per row (start included):      {}", ours.with_spread(2));
    println!("  its walsender us CPU per row:               {}", sender.with_spread(2));
    println!("  relay over walsender: {} (goal: at most 1)", ours.ratio_to(&sender).with_spread(2));
    println!("  pg_recvlogical's walsender us CPU per row:  {}", floor_sender.with_spread(2));
    println!("  rows/s: relay {}, pg_recvlogical {}", rate.with_spread(0), floor_rate.with_spread(0));
    println!("  throughput over pg_recvlogical's: {}", rate.ratio_to(&floor_rate).with_spread(2));
}

async fn copy_slot(bench: &Bench, name: &str) {
    let copy = format!("select pg_copy_logical_replication_slot('backlog', '{name}')");
    bench.sql.batch_execute(&copy).await.expect("a copy of the slot");
}

async fn wait_until_confirmed(bench: &Bench, slot: &str, end: &str) {
    let confirmed =
        format!("select confirmed_flush_lsn >= '{end}' from pg_replication_slots where slot_name = '{slot}'");
    loop {
        let row = bench.sql.query_one(&confirmed, &[]).await.expect("the slot");
        if row.get::<_, bool>(0) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Reads a slot to the end with pg_recvlogical: seconds, and the walsender's CPU seconds.
fn receive(bench: &Bench, slot: &str, end: &str) -> (f64, f64) {
    let started = Instant::now();
    let mut child = Command::new("pg_recvlogical")
        .args(["-d", &bench.url(), "--slot", slot, "--start", "--endpos", end, "-f", "-", "--no-loop"])
        .args(["-o", "proto_version=1", "-o", "publication_names=supabase_realtime"])
        .stdout(Stdio::null())
        .spawn()
        .expect("pg_recvlogical (Debian: postgresql)");
    let mut cpu = 0.0;
    // The walsender ends with its client: its CPU is read as long as it lives.
    while child.try_wait().expect("pg_recvlogical").is_none() {
        for pid in walsenders(bench.postmaster()) {
            cpu = cpu_seconds(pid).max(cpu);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    (started.elapsed().as_secs_f64(), cpu)
}
