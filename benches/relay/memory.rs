//! Resident memory per idle connection with one filtered subscription; the clients are in another process.

use super::client::Clients;
use super::measure::{resident_bytes, size};
use super::relay::Bench;

pub async fn run() {
    let bench = Bench::start().await;
    let relay = bench.relay("memory");
    let connections = size("WALCAST_BENCH_CONNECTIONS", 10_000);
    // A few first, so that what the first connections bring along is not counted.
    let first = Clients::start(100, &relay.address, "messages", "session_id=eq.00000000-0000-4000-9000-{}");
    let (before, _) = resident_bytes(relay.pid());
    let clients = Clients::start(connections, &relay.address, "messages", "session_id=eq.00000000-0000-4000-8000-{}");
    let (after, peak) = resident_bytes(relay.pid());
    let each = (after - before) as f64 / connections as f64;
    println!("{connections} connections, one eq-filtered subscription each:");
    println!("  relay resident {:.1} MB before, {:.1} MB after, peak {:.1} MB", mb(before), mb(after), mb(peak));
    println!("  {:.2} KB per connection (goal: under 8)", each / 1024.0);
    drop((first, clients));
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
