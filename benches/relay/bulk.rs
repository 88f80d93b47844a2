//! Memory and time of one huge transaction: nobody subscribed, a subscriber that matches a row of it, and one that
//! matches all of it, whose socket then sets the pace; beside the time in which `pg_recvlogical` reads the same.

use std::time::Instant;

use super::client::Clients;
use super::measure::{cpu_seconds, resident_bytes, size};
use super::relay::{Bench, USER};
use super::stream::receive;

const LAST: &str = "00000000-0000-4000-8000-000000000001";

pub async fn run() {
    let rows = size("WALCAST_BENCH_BULK_ROWS", 2_000_000);
    for (table, filter, events, what) in [
        ("guarded", "", 1, "nobody subscribed to the table"),
        ("messages", &*format!("session_id=eq.{LAST}"), 1, "one subscriber, whose filter matches the last row"),
        ("messages", "", rows + 1, "one subscriber, who gets every row"),
    ] {
        let bench = Bench::start().await;
        let relay = bench.relay("bulk");
        bench
            .sql
            .batch_execute("select pg_create_logical_replication_slot('floor', 'pgoutput')")
            .await
            .expect("a slot");
        let mut clients = Clients::start(1, &relay.address, table, filter);
        let (before, _) = resident_bytes(relay.pid());
        let cpu = cpu_seconds(relay.pid());
        let insert = format!(
            "begin;
             insert into messages (session_id, body) select gen_random_uuid(), repeat('x', 100) from generate_series(1, {rows});
             insert into messages (session_id, body) values ('{LAST}', 'the last');
             commit;
             insert into guarded (session_id, body, user_id) values (gen_random_uuid(), 'after it', '{USER}')"
        );
        clients.expect(events);
        bench.sql.batch_execute(&insert).await.expect("the transaction");
        let committed = Instant::now();
        clients.arrived();
        let seconds = committed.elapsed().as_secs_f64();
        let (_, peak) = resident_bytes(relay.pid());
        let cpu = (cpu_seconds(relay.pid()) - cpu) * 1e6 / rows as f64;
        let end: String = bench.sql.query_one("select pg_current_wal_lsn()::text", &[]).await.expect("the end").get(0);
        let floor = receive(&bench, "floor", &end).await;
        println!("{rows} rows in one transaction, {what}:");
        println!("  {seconds:.1} s from commit to the last event; pg_recvlogical alone {:.1} s", floor.seconds);
        println!(
            "  relay: {cpu:.2} us CPU per row, {:.0} MB resident before, {:.0} MB at the peak",
            before as f64 / 1e6,
            peak as f64 / 1e6
        );
    }
}
