//! Resuming: what it costs on the path of every change, and a storm of those who come back.
//!
//! The cost: the same commits to as many clients with a resume key as without, of two relays side by side; CPU per delivery.
//! The storm: every client is gone while changes for all of them commit, then all come back at once; beside it somebody
//! whom nothing happened to. Against the same joins with nothing to make up for.

use std::time::Instant;

use super::client::Clients;
use super::measure::{Samples, cpu_seconds, resident_bytes, size};
use super::relay::{Bench, Relay};

/// Changes that each client misses.
const MISSED: usize = 10;
/// Between two rows for the one who stays.
const PACE: std::time::Duration = std::time::Duration::from_millis(5);

pub async fn run() {
    let bench = Bench::start().await;
    cost(&bench).await;
    storm(&bench).await;
}

async fn cost(bench: &Bench) {
    let sockets = size("WALCAST_BENCH_SOCKETS", 1_000);
    let rounds = size("WALCAST_BENCH_ROUNDS", 60);
    let samples = size("WALCAST_BENCH_SAMPLES", 9);
    let relays = [bench.relay("plain"), bench.relay("resumed")];
    let mut clients = [
        Clients::start(sockets, &relays[0].address, "messages", ""),
        Clients::start(sockets, &relays[1].address, "messages+resume", ""),
    ];
    clients[1].told(2 * sockets);
    let mut cpu = [Samples::default(), Samples::default()];
    for sample in 0..=samples {
        let before = relays.each_ref().map(|relay| cpu_seconds(relay.pid()));
        for _ in 0..rounds {
            clients.iter_mut().for_each(|clients| clients.expect(sockets));
            let insert = "insert into messages (session_id, body) values (gen_random_uuid(), repeat('x', 100))";
            bench.sql.batch_execute(insert).await.expect("a commit");
            clients.iter_mut().for_each(Clients::arrived);
        }
        // The first is not counted.
        for number in (0..2).filter(|_| sample > 0) {
            let used = cpu_seconds(relays[number].pid()) - before[number];
            cpu[number].push(used * 1e6 / (rounds * sockets) as f64);
        }
    }
    println!("1 change per commit to {sockets} sockets, us CPU per delivery:");
    println!("  without keys: {}", cpu[0].with_spread(2));
    println!("  with a resume key each: {}", cpu[1].with_spread(2));
    println!("  ratio: {}", cpu[1].ratio_to(&cpu[0]).with_spread(2));
}

async fn storm(bench: &Bench) {
    let count = size("WALCAST_BENCH_CONNECTIONS", 10_000);
    let own = "session_id=eq.00000000-0000-4000-8000-{}";
    let start = |relay: &Relay, table| Clients::start(count, &relay.address, table, own);
    let relay = bench.relay("storm");
    let mut watcher = Watcher::start(&relay);

    let began = (Instant::now(), cpu_seconds(relay.pid()));
    let (plain, latency) = watcher.beside(bench, || start(&relay, "messages")).await;
    let joins = took(&relay, began);
    report("join, nothing missed", joins, joins, &latency);
    drop(plain);

    start(&relay, "messages+resume").told(2 * count);
    miss(bench, count).await;
    watcher.catch_up(bench).await;
    let come_back = |relay: &Relay| {
        let began = (Instant::now(), cpu_seconds(relay.pid()));
        let mut back = start(relay, "messages+resume");
        back.wait(count * MISSED);
        back.told(2 * count);
        (back, took(relay, began))
    };
    let ((back, all), latency) = watcher.beside(bench, || come_back(&relay)).await;
    report(&format!("come back, {MISSED} missed each"), all, joins, &latency);
    println!("    resident {:.0} MB", resident_bytes(relay.pid()).0 as f64 / 1e6);
    drop((back, watcher));

    // Nothing was acknowledged: to those who come back to the next process it is owed again.
    relay.signal("KILL");
    drop(relay);
    let relay = bench.relay("storm");
    let mut watcher = Watcher::start(&relay);
    let ((back, all), latency) = watcher.beside(bench, || come_back(&relay)).await;
    report("the same after kill -9 of the relay", all, joins, &latency);
    drop(back);
}

/// Seconds, and CPU seconds of the relay.
fn took(relay: &Relay, (began, cpu): (Instant, f64)) -> (f64, f64) {
    (began.elapsed().as_secs_f64(), cpu_seconds(relay.pid()) - cpu)
}

fn report(what: &str, (seconds, cpu): (f64, f64), joins: (f64, f64), latency: &Samples) {
    let (p50, p99, most) = (latency.quantile(0.5) / 1e3, latency.quantile(0.99) / 1e3, latency.quantile(1.0) / 1e3);
    println!("  {what}: {seconds:.2} s ({:.2}x), {cpu:.2} s CPU ({:.2}x)", seconds / joins.0, cpu / joins.1);
    println!("    beside it commit to client: p50 {p50:.2}, p99 {p99:.2}, most {most:.2} ms");
}

async fn miss(bench: &Bench, count: usize) {
    for number in 0..count {
        let insert = format!(
            "insert into messages (session_id, body) select ('00000000-0000-4000-8000-' || lpad('{number}', 12, '0'))::uuid,
                repeat('x', 100) from generate_series(1, {MISSED})"
        );
        bench.sql.batch_execute(&insert).await.expect("a commit");
    }
}

/// Somebody who was there all the time, and is sent a row now and then.
struct Watcher {
    clients: Clients,
}

impl Watcher {
    fn start(relay: &Relay) -> Watcher {
        let filter = "session_id=eq.00000000-0000-4000-9000-000000000000";
        Watcher { clients: Clients::start(1, &relay.address, "messages", filter) }
    }

    async fn catch_up(&mut self, bench: &Bench) {
        self.clients.expect(1);
        row(bench).await;
        self.clients.arrived();
        self.clients.latencies();
    }

    /// What it sees of latencies while something else is done.
    async fn beside<R: Send + 'static>(&mut self, bench: &Bench, work: impl FnOnce() -> R) -> (R, Samples) {
        let done = std::sync::atomic::AtomicBool::new(false);
        let (result, rows) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let sql = super::relay::connect(&bench.url()).await;
                    let mut rows = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        insert(&sql).await;
                        rows += 1;
                        tokio::time::sleep(PACE).await;
                    }
                    rows
                })
            });
            let result = work();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            (result, writer.join().expect("the writer"))
        });
        self.clients.wait(rows);
        let mut latency = Samples::default();
        self.clients.latencies().into_iter().for_each(|each| latency.push(each));
        (result, latency)
    }
}

async fn row(bench: &Bench) {
    insert(&bench.sql).await;
}

async fn insert(sql: &tokio_postgres::Client) {
    let insert = "insert into messages (session_id, body) values ('00000000-0000-4000-9000-000000000000', $1)";
    let body = format!("t={}", super::client::now_micros() as u64);
    sql.execute(insert, &[&body]).await.expect("a commit");
}
