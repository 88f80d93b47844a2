//! Memory and time of one huge transaction, with a subscriber of another table and with one that matches a row of it.

use std::time::Instant;

use super::client::Clients;
use super::measure::{cpu_seconds, resident_bytes, size};
use super::relay::Bench;

pub async fn run() {
    let rows = size("WALCAST_BENCH_BULK_ROWS", 2_000_000);
    for (table, filter, what) in [
        ("guarded", "", "nobody subscribed to the table"),
        (
            "messages",
            "session_id=eq.00000000-0000-4000-8000-000000000001",
            "one subscriber, whose filter matches the last row",
        ),
    ] {
        let bench = Bench::start().await;
        let relay = bench.relay("bulk");
        let mut clients = Clients::start(1, &relay.address, table, filter);
        let (before, _) = resident_bytes(relay.pid());
        let cpu = cpu_seconds(relay.pid());
        bench
            .sql
            .batch_execute(&format!(
                "begin; insert into messages (session_id, body) select gen_random_uuid(), repeat('x', 100) from generate_series(1, {rows});
                 insert into messages (session_id, body) values ('00000000-0000-4000-8000-000000000001', 'the last'); commit;
                 insert into guarded (session_id, body, user_id) values (gen_random_uuid(), 'after it', '{}')",
                super::relay::USER
            ))
            .await
            .expect("the transaction");
        let committed = Instant::now();
        clients.wait(1);
        let (_, peak) = resident_bytes(relay.pid());
        println!("{rows} rows in one transaction, {what}:");
        println!("  {:.1} s from commit to its event", committed.elapsed().as_secs_f64());
        let cpu = (cpu_seconds(relay.pid()) - cpu) * 1e6 / rows as f64;
        println!(
            "  relay: {cpu:.2} us CPU per row, {:.0} MB resident before, {:.0} MB at the peak",
            before as f64 / 1e6,
            peak as f64 / 1e6
        );
    }
}
