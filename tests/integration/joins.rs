//! Joining while writes go on at full speed: what commits after the join reply arrives, all of it, in order, once.
//!
//! `WALCAST_TEST_JOINS` says how many joins (10,000 for the promise as it is stated).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde_json::json;
use tokio::sync::Notify;
use tokio_postgres::Client as Postgres;

use crate::support::client::{Client, topic};
use crate::support::database::connect;
use crate::support::people::{ALICE, alice, anon};
use crate::support::relay::PATIENCE;
use crate::support::scene::{Scene, from_env};

const SOCKETS: u64 = 8;
/// Rows are dealt to lanes; every other channel listens to one lane, by filter.
const LANES: i64 = 4;
/// How many events after the reply are looked at.
const LOOKED_AT: i64 = 3;
/// Writes go on as fast as the relay follows: further ahead, each join would wait for a backlog, and prove nothing more.
const LEAD_MAX: i64 = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_commits_after_the_join_reply_is_missing() {
    let joins = from_env("WALCAST_TEST_JOINS", 1_000);
    let scene = Scene::new(
        "create table numbers (n bigint primary key, lane bigint not null);
         create table owned (n bigint primary key, lane bigint not null, owner uuid);
         alter table owned enable row level security;
         create policy own on owned for select to authenticated using (owner = auth.uid());
         grant select on numbers, owned to anon, authenticated;
         alter publication supabase_realtime add table numbers, owned;
         insert into numbers values (0, 0);",
    )
    .await;
    let relay = Arc::new(scene.relay);
    let url = scene.database.url.clone();
    let race = Arc::new(Race::default());
    let observer = Client::connect(&relay, &anon()).await;
    let observer = tokio::spawn(observe(observer, Arc::clone(&race)));
    let writer = tokio::spawn(write_numbers(connect(&url).await, Arc::clone(&race)));

    let sockets: Vec<_> = (0..SOCKETS)
        .map(|socket| {
            let (relay, url) = (Arc::clone(&relay), url.clone());
            tokio::spawn(async move {
                let (person, table) = if socket == 0 { (alice(), "owned") } else { (anon(), "numbers") };
                let client = Client::connect(&relay, &person).await;
                join_again_and_again(client, table, &connect(&url).await, joins / SOCKETS).await;
            })
        })
        .collect();
    for socket in sockets {
        pass_on(socket.await);
    }
    race.is_over.store(true, Ordering::Relaxed);
    let written = pass_on(writer.await);
    pass_on(observer.await);
    println!("{joins} joins while {written} rows were written");
}

/// A panic in a task is the test's.
fn pass_on<T>(ended: Result<T, tokio::task::JoinError>) -> T {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

#[derive(Default)]
struct Race {
    is_over: AtomicBool,
    /// The last number that the observer was sent.
    delivered: AtomicI64,
    progress: Notify,
}

/// Is subscribed all the time, and gets every number once, in order.
async fn observe(mut client: Client, race: Arc<Race>) {
    client.subscribe("observer", json!([{ "event": "INSERT", "schema": "public", "table": "numbers" }])).await;
    while !race.is_over.load(Ordering::Relaxed) {
        let n = client.next_change().await.record()["n"].as_i64().expect("a number");
        let before = race.delivered.swap(n, Ordering::Relaxed);
        if before != 0 && n != before + 1 {
            client.fail(&format!("after {before} came {n}"));
        }
        race.progress.notify_one();
    }
}

/// One row per commit, numbered without a gap.
async fn write_numbers(postgres: Postgres, race: Arc<Race>) -> i64 {
    let sql = format!(
        "with number as (insert into numbers values ($1, $1::bigint % {LANES}) returning n, lane)
         insert into owned select n, lane, '{ALICE}' from number"
    );
    let insert = postgres.prepare(&sql).await.expect("an insert");
    let mut n = 0_i64;
    while !race.is_over.load(Ordering::Relaxed) {
        n += 1;
        postgres.execute(&insert, &[&n]).await.expect("a row");
        while n - race.delivered.load(Ordering::Relaxed) > LEAD_MAX && race.delivered.load(Ordering::Relaxed) > 0 {
            // A failed observer would leave it waiting; whoever joins then fails as well.
            let waited = tokio::time::timeout(PATIENCE, race.progress.notified()).await;
            assert!(waited.is_ok(), "nothing is delivered after {:?}", race.delivered);
        }
    }
    // For the observer, who may have looked whether it is over just before it was.
    n += 1;
    postgres.execute(&insert, &[&n]).await.expect("a row");
    n
}

async fn join_again_and_again(mut client: Client, table: &str, postgres: &Postgres, joins: u64) {
    let newest = postgres.prepare("select max(n) from numbers").await.expect("a question");
    for join in 0..joins {
        let (channel, lane) = (format!("{table}-{join}"), join as i64 % LANES);
        let filtered = join % 2 == 0;
        let filter = if filtered { format!("lane=eq.{lane}") } else { String::from("n=gt.0") };
        let binding = json!([{ "event": "INSERT", "schema": "public", "table": table, "filter": filter }]);
        client.join(&channel, binding).await;
        // Whatever this does not show yet commits after the reply.
        let visible: i64 = postgres.query_one(&newest, &[]).await.expect("an answer").get(0);
        client.expect_system(&channel, "ok", "Subscribed to PostgreSQL").await;

        let is_mine = |n: &i64| !filtered || n % LANES == lane;
        let mut last: Option<i64> = None;
        let mut looked_at = 0;
        while looked_at < LOOKED_AT {
            let change = client.next_change().await;
            if change.topic != topic(&channel) {
                // Of a channel that was left: it crossed the leave on its way.
                continue;
            }
            let n = change.record()["n"].as_i64().expect("a number");
            let next = match last {
                Some(last) => (last + 1..).find(is_mine),
                // It may begin earlier than promised, but not later.
                None => (visible + 1..).find(is_mine).map(|first| first.min(n)),
            };
            if next != Some(n) || !is_mine(&n) {
                let after = last.map_or_else(|| format!("{visible} visible at the reply"), |last| last.to_string());
                client.fail(&format!("join {join}: after {after} came {n}"));
            }
            last = Some(n);
            looked_at += i64::from(n > visible);
        }
        client.leave(&channel).await;
    }
}
