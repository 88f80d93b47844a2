//! Small transactions while a large one is made and commits: from the INSERT to the client, at a steady rate, beside what
//! `pg_recvlogical` takes to print the same rows.
//!
//! Relay and floor take turns, each alone with the server and on a slot of its own, made for the turn: side by side two
//! walsenders, their readers and the writers would wait for two processors, not for the large transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use super::client::{Clients, now_micros};
use super::latency::floor;
use super::measure::{Samples, size};
use super::relay::{Bench, connect};

const LAST: &str = "00000000-0000-4000-8000-000000000001";
/// Single-row commits, from before the large transaction until after its last row has arrived.
const PER_SECOND: u64 = 200;

/// One more table for the large transaction, as open as the other.
const SCHEMA: &str = "
create table imports (like messages including all);
grant select on imports to anon, authenticated;
alter publication supabase_realtime add table imports;
";

/// What pg_recvlogical is run with: its name here, pgoutput's options, its session's settings.
const FLOORS: [(&str, &str, &str); 2] = [
    ("pg_recvlogical", "proto_version=1", ""),
    ("pg_recvlogical as walcast reads", "proto_version=2 streaming=on", "-c logical_decoding_work_mem=16MB"),
];

const CASES: [&str; 3] = [
    "walcast, nobody subscribed to the large one's table",
    "walcast, one subscriber of its last row",
    "walcast, one subscriber of all its rows",
];

/// Turns of one kind.
#[derive(Default)]
struct Turns {
    before50: Samples,
    before99: Samples,
    before_max: Samples,
    /// Above the median before: rows that arrived before the COMMIT was sent, and all of them.
    added_in_progress: Samples,
    added: Samples,
    /// Seconds in which a row that was committed took at least 50 ms more.
    stalled: Samples,
}

pub async fn run() {
    let bench = Bench::start().await;
    bench.sql.batch_execute(SCHEMA).await.expect("the schema");
    let rows = size("WALCAST_BENCH_BULK_ROWS", 500_000);
    let rounds = size("WALCAST_BENCH_ROUNDS", 3);
    let mut floors: Vec<Turns> = FLOORS.iter().map(|_| Turns::default()).collect();
    let mut cases: Vec<Turns> = CASES.iter().map(|_| Turns::default()).collect();
    for round in 0..rounds {
        for (place, (turns, (_, options, settings))) in floors.iter_mut().zip(FLOORS).enumerate() {
            turns.push(floor_turn(&bench, &format!("floor_{round}_{place}"), options, settings, rows).await);
        }
        for (place, turns) in cases.iter_mut().enumerate() {
            turns.push(relay_turn(&bench, &format!("relay_{round}_{place}"), place, rows).await);
        }
    }
    println!(
        "{PER_SECOND} commits/s of one row; one of {rows} rows of another table; {rounds} turns each; milliseconds from INSERT to client:"
    );
    for (what, turns) in FLOORS.map(|floor| floor.0).iter().zip(&floors).chain(CASES.iter().zip(&cases)) {
        println!("{what}:");
        let before = [&turns.before50, &turns.before99, &turns.before_max].map(|samples| samples.with_spread(2));
        println!("  before                       p50 {}, p99 {}, most {}", before[0], before[1], before[2]);
        println!("  most added in progress       {}", turns.added_in_progress.with_spread(0));
        println!("  most added                   {}", turns.added.with_spread(0));
        println!("  s in which 50 ms were added  {}", turns.stalled.with_spread(2));
        for ((floor, ..), theirs) in FLOORS.iter().zip(&floors) {
            println!("  most added, over {floor}: {}", turns.added.ratio_to(&theirs.added).with_spread(2));
        }
    }
}

/// When the small rows were written, and the large transaction's COMMIT was sent.
struct Written {
    sent: Vec<f64>,
    begun: f64,
    committing: f64,
}

impl Turns {
    fn push(&mut self, (written, latencies): (Written, Vec<f64>)) {
        assert_eq!(written.sent.len(), latencies.len(), "every small row arrives once");
        let (mut before, mut in_progress, mut all) = (Samples::default(), Samples::default(), Samples::default());
        for (sent, latency) in written.sent.iter().zip(&latencies) {
            let arrived = sent + latency;
            match arrived < written.begun {
                true => before.push(latency / 1e3),
                false => all.push(latency / 1e3),
            }
            if arrived >= written.begun && arrived < written.committing {
                in_progress.push(latency / 1e3);
            }
        }
        let median = before.median();
        let stalled = latencies.iter().filter(|latency| **latency / 1e3 > median + 50.0).count();
        self.before50.push(median);
        self.before99.push(before.quantile(0.99));
        self.before_max.push(before.quantile(1.0));
        self.added_in_progress.push(in_progress.quantile(1.0) - median);
        self.added.push(all.quantile(1.0) - median);
        self.stalled.push(stalled as f64 / PER_SECOND as f64);
    }
}

async fn relay_turn(bench: &Bench, slot: &str, case: usize, rows: usize) -> (Written, Vec<f64>) {
    let relay = bench.relay(slot);
    let mut small = Clients::start(1, &relay.address, "messages", "");
    let mut large = match case {
        0 => None,
        1 => Some((Clients::start(1, &relay.address, "imports", &format!("session_id=eq.{LAST}")), 1)),
        _ => Some((Clients::start(1, &relay.address, "imports", ""), rows)),
    };
    if let Some((large, events)) = &mut large {
        large.expect(*events);
    }
    let (written, ()) = tokio::join!(write(bench, rows, || small.events()), async {
        // Its standard output is read by a thread: the small rows go on meanwhile.
        let arrived = large.map(|(mut large, _)| tokio::task::spawn_blocking(move || large.arrived()));
        if let Some(arrived) = arrived {
            arrived.await.expect("the large transaction's subscriber");
        }
    });
    small.wait(written.sent.len());
    let latencies = small.latencies();
    drop((small, relay));
    drop_slot(bench, slot).await;
    (written, latencies)
}

async fn floor_turn(bench: &Bench, slot: &str, options: &str, settings: &str, rows: usize) -> (Written, Vec<f64>) {
    let floor = floor(bench, slot, options, settings).await;
    let written = write(bench, rows, || floor.rows()).await;
    let latencies = floor.finish(written.sent.len()).await;
    drop_slot(bench, slot).await;
    (written, latencies)
}

async fn drop_slot(bench: &Bench, slot: &str) {
    // Its walsender outlives its client a little.
    while bench.walsender(slot).await.is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.sql.batch_execute(&format!("select pg_drop_replication_slot('{slot}')")).await.expect("drop");
}

/// Small rows all the time; one second in, the large transaction; when what was held up by it has arrived the end.
async fn write(bench: &Bench, rows: usize, mut arrived: impl FnMut() -> usize) -> Written {
    bench.sql.batch_execute("truncate imports; checkpoint").await.expect("an empty table");
    let small = connect(&bench.url()).await;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let sent = Arc::new(AtomicUsize::new(0));
    let small = tokio::spawn(write_small(small, Arc::clone(&sent), stopped));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = now_micros();
    let insert = format!(
        "begin;
         insert into imports (session_id, body) select gen_random_uuid(), repeat('x', 100) from generate_series(2, {rows});
         insert into imports (session_id, body) values ('{LAST}', 'the last')"
    );
    bench.sql.batch_execute(&insert).await.expect("the rows");
    let committing = now_micros();
    bench.sql.batch_execute("commit").await.expect("the commit");
    while arrived() + 10 < sent.load(Ordering::Relaxed) || now_micros() < committing + 1e6 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _ = stop.send(());
    Written { sent: small.await.expect("the writer"), begun, committing }
}

/// One after the other, so that they arrive in this order.
async fn write_small(
    client: Client,
    count: Arc<AtomicUsize>,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) -> Vec<f64> {
    let insert = "insert into messages (session_id, body) values (gen_random_uuid(), $1)";
    let insert = client.prepare(insert).await.expect("prepare");
    let mut interval = tokio::time::interval(Duration::from_micros(1_000_000 / PER_SECOND));
    let mut sent = Vec::new();
    while stopped.try_recv().is_err() {
        interval.tick().await;
        let now = now_micros();
        let body = format!("t={} {}", now as u64, "x".repeat(100));
        client.execute(&insert, &[&body]).await.expect("insert");
        sent.push(now);
        count.store(sent.len(), Ordering::Relaxed);
    }
    sent
}
