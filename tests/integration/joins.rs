//! Joining while writes go on at full speed: what commits after the join reply arrives, all of it, in order, once.
//!
//! `WALCAST_TEST_JOINS` says how many joins (10,000 for the promise as it is stated).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio_postgres::Client as Postgres;

use crate::support::client::Client;
use crate::support::database::connect;
use crate::support::people::{Person, alice, anon};
use crate::support::scene::{Scene, from_env};

const SOCKETS: u64 = 8;
/// Rows are dealt to lanes; every other channel listens to one lane, by filter.
const LANES: i64 = 4;
/// How many events after the reply are looked at.
const LOOKED_AT: i64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_commits_after_the_join_reply_is_missing() {
    let joins = from_env("WALCAST_TEST_JOINS", 2_000);
    let scene = Scene::new(
        "create table numbers (n bigint primary key, lane bigint not null, owner uuid);
         alter table numbers enable row level security;
         create policy everybody on numbers for select to anon using (true);
         create policy own on numbers for select to authenticated using (owner = auth.uid());
         grant select on numbers to anon, authenticated;
         alter publication supabase_realtime add table numbers;
         insert into numbers values (0, 0, null);",
    )
    .await;
    let relay = Arc::new(scene.relay);
    let url = scene.database.url.clone();
    let enough = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_numbers(connect(&url).await, Arc::clone(&enough)));

    let sockets: Vec<_> = (0..SOCKETS)
        .map(|socket| {
            let (relay, url) = (Arc::clone(&relay), url.clone());
            tokio::spawn(async move {
                let person = if socket % 2 == 0 { anon() } else { alice() };
                let client = Client::connect(&relay, &person).await;
                join_again_and_again(client, person, &connect(&url).await, joins / SOCKETS).await;
            })
        })
        .collect();
    for socket in sockets {
        // A panic in it is the test's.
        if let Err(error) = socket.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    enough.store(true, Ordering::Relaxed);
    let written = writer.await.expect("the writer does not panic");
    println!("{joins} joins while {written} rows were written");
}

/// One row per commit, numbered without a gap, as fast as it goes.
async fn write_numbers(postgres: Postgres, enough: Arc<AtomicBool>) -> i64 {
    postgres.batch_execute("set synchronous_commit = off").await.expect("a setting");
    let sql = format!("insert into numbers values ($1, $1::bigint % {LANES}, '{}')", crate::support::people::ALICE);
    let insert = postgres.prepare(&sql).await.expect("an insert");
    let mut n = 0_i64;
    while !enough.load(Ordering::Relaxed) {
        n += 1;
        postgres.execute(&insert, &[&n]).await.expect("a row");
    }
    n
}

async fn join_again_and_again(mut client: Client, person: Person, postgres: &Postgres, joins: u64) {
    let newest = postgres.prepare("select max(n) from numbers").await.expect("a question");
    for join in 0..joins {
        let (channel, lane) = (format!("{}-{join}", person.name), join as i64 % LANES);
        let filtered = join % 2 == 0;
        let filter = if filtered { format!("lane=eq.{lane}") } else { String::from("n=gt.0") };
        let binding = json!([{ "event": "INSERT", "schema": "public", "table": "numbers", "filter": filter }]);
        client.join(&channel, binding).await;
        // Whatever this does not show yet commits after the reply.
        let visible: i64 = postgres.query_one(&newest, &[]).await.expect("an answer").get(0);
        client.expect_system(&channel, "ok", "Subscribed to PostgreSQL").await;

        let is_mine = |n: &i64| !filtered || n % LANES == lane;
        let mut last: Option<i64> = None;
        let mut looked_at = 0;
        while looked_at < LOOKED_AT {
            let change = client.next_change().await;
            let n = change.record()["n"].as_i64().expect("a number");
            let next = match last {
                Some(last) => (last + 1..).find(is_mine),
                // It may begin earlier than promised, but not later.
                None => Some((visible + 1..).find(is_mine).map_or(n, |first| first.min(n))),
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
