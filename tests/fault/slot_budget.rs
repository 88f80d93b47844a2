//! WAL torture: what the slot may hold back of a database's disk. `WALCAST_TORTURE_SECONDS` for a long one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::Client as Postgres;
use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::client::{Client, Message, all_of};
use crate::support::database::{Database, connect};
use crate::support::ledger::{LEDGER, Subscribers, write};
use crate::support::people::alice;
use crate::support::relay::{self, PATIENCE, Program, Relay, pause_between_polls};
use crate::support::scene::{execute, from_env, prepared, until};

const SEGMENT: i64 = 16 << 20;
const MEGABYTE: i64 = 1 << 20;

/// A table that nobody follows.
const BUSY: &str = "create table busy (id bigint generated always as identity, filler text)";

fn cluster(settings: &[&str]) -> Cluster {
    let settings = settings.iter().map(|line| (*line).to_owned()).collect();
    Cluster::start(&ClusterOptions { settings, ..ClusterOptions::default() }).expect("a cluster")
}

/// What the slot holds back.
async fn retained(postgres: &Postgres, slot: &str) -> i64 {
    let sql = "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 from pg_replication_slots where slot_name = $1";
    postgres.query_one(sql, &[&slot]).await.expect("the slot").try_get(0).expect("a slot that is not lost")
}

/// Segments of WAL, most of them empty: to a slot one is as good as another.
async fn write_segments(postgres: &Postgres, count: usize) {
    for _ in 0..count {
        execute(postgres, "insert into busy (filler) values ('a row')").await;
        execute(postgres, "select pg_switch_wal()").await;
    }
}

/// The server writes down what may be forgotten every 15 seconds, and at each of these.
async fn look(postgres: &Postgres) {
    execute(postgres, "checkpoint").await;
}

/// Waits until the slot has moved on as far as it can.
async fn until_little_is_retained(postgres: &Postgres, slot: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        look(postgres).await;
        let retained = retained(postgres, slot).await;
        if retained < SEGMENT {
            return;
        }
        assert!(Instant::now() < deadline, "{retained} bytes are still held");
        pause_between_polls().await;
    }
}

async fn until_logged(relay: &Relay, words: &[&str]) {
    let mut log = relay.log_receiver();
    let said = log.wait_for(|log| log.lines().any(|line| words.iter().all(|word| line.contains(word))));
    if tokio::time::timeout(PATIENCE, said).await.is_err() {
        panic!("the relay does not say {words:?}; its log:\n{}", relay.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_publication_beside_a_busy_table_stays_within_its_budget() {
    let duration = Duration::from_secs(from_env("WALCAST_TORTURE_SECONDS", 18));
    let cluster = cluster(&[]);
    let database = prepared(&cluster, &format!("{LEDGER}{BUSY}")).await;
    let postgres = &database.client;
    let budget = 96 * MEGABYTE;
    let relay = relay::start(&database.url, &["--slot-lag-max", &budget.to_string()]).await;
    let mut subscribers = Subscribers::join(&relay, postgres).await;

    // Some three megabytes a second: in the 15 seconds between two of the server's looks half of the budget.
    let (began, mut written, mut most) = (Instant::now(), 0, 0);
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    while began.elapsed() < duration {
        pace.tick().await;
        let rows = "insert into busy (filler) select repeat(md5(n::text), 30) from generate_series(1, 280) n";
        execute(postgres, rows).await;
        written += 300 * 1024;
        most = most.max(retained(postgres, &relay.slot).await);
    }
    assert!(most <= budget + SEGMENT, "{most} bytes of WAL were held");
    assert!(relay.metric("=walcast_slot_rung").await < 2.0, "{}", relay.log());
    until_little_is_retained(postgres, &relay.slot).await;
    let lag = "select pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) < 16384 from pg_replication_slots";
    until(postgres, lag).await;
    eprintln!("{} MB were written in {:?}, at most {} MB held", written / MEGABYTE, began.elapsed(), most / MEGABYTE);
    subscribers.expect_all_and_no_more(postgres).await;
}

/// The slot trails on purpose, until that costs too much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_for_those_who_resume_is_let_go_before_the_budget_is_used_up() {
    let cluster = cluster(&[]);
    let database = prepared(&cluster, &format!("{LEDGER}{BUSY}")).await;
    let postgres = &database.client;
    let budget = 160 * MEGABYTE;
    let relay = relay::start(&database.url, &["--slot-lag-max", &budget.to_string()]).await;
    let mut client = Client::connect(&relay, &alice()).await;
    let mut binding = all_of("marks");
    binding["resume"] = "a-key-that-nobody-could-guess".into();
    client.subscribe("marks", json!([binding])).await;
    client.wait_for("word of resuming", |message| message.payload.get("resume").is_some()).await;
    write(postgres, 1).await;
    client.next_change().await;

    let mut most = 0;
    for _ in 0..14 {
        write_segments(postgres, 1).await;
        look(postgres).await;
        most = most.max(retained(postgres, &relay.slot).await);
        // It is measured once a second; a server that writes faster has a larger budget.
        let times = relay.metric("=walcast_slot_measurements_total").await;
        relay.until_metric("=walcast_slot_measurements_total", |now| now >= times + 2.0).await;
        // restart_lsn follows what is confirmed by a look or two.
        look(postgres).await;
    }
    assert!(most > budget / 2, "it was to trail: {most}");
    assert!(most <= budget + SEGMENT, "{most} bytes were held");
    until_logged(&relay, &["rung=GiveUpPromises", "promises of resume are given up"]).await;
    write(postgres, 1).await;
    client.next_change().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_was_away_for_too_long_reads_on_or_begins_anew() {
    let cluster = cluster(&[]);
    let database = prepared(&cluster, &format!("{LEDGER}{BUSY}")).await;
    let postgres = &database.client;
    let budget = ["--slot-lag-max", "32MiB"];
    let mut relay = relay::start(&database.url, &budget).await;

    relay.terminate();
    relay.exit().await;
    write(postgres, 5).await;
    write_segments(postgres, 4).await;
    assert!(retained(postgres, &relay.slot).await > 32 * MEGABYTE);
    relay.restart().await;
    // Nothing is given up: two changes to each row.
    relay.until_metric("changes_without_subscriber", |unheard| unheard >= 10.0).await;
    until_little_is_retained(postgres, &relay.slot).await;
    relay.until_metric("=walcast_slot_rung", |rung| rung == 0.0).await;
    assert_eq!(relay.metric("=walcast_slot_recreated_total").await, 0.0);

    relay.terminate();
    relay.exit().await;
    write(postgres, 5).await;
    write_segments(postgres, 4).await;
    let relay = relay::start(&database.url, &[budget[0], budget[1], "--slot-over-budget", "drop"]).await;
    until_logged(&relay, &["dropped and made anew", "--slot-over-budget"]).await;
    assert_eq!(relay.metric("=walcast_slot_recreated_total").await, 1.0);
    assert!(retained(postgres, &relay.slot).await < SEGMENT);
    let mut subscribers = Subscribers::join(&relay, postgres).await;
    write(postgres, 5).await;
    subscribers.expect_all_and_no_more(postgres).await;
    assert_eq!(relay.metric("changes_without_subscriber").await, 0.0, "the gap was to be a gap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_cannot_go_on_gives_its_slot_up_where_it_is_told_to() {
    let cluster = cluster(&[]);
    let mut stuck = Stuck::new(&cluster, &["--slot-lag-max", "48MiB", "--slot-over-budget", "drop"]).await;
    write_segments(&stuck.postgres, 5).await;
    stuck.expect_gap().await;
    assert!(retained(&stuck.postgres, &stuck.relay.slot).await < 2 * SEGMENT);
    until_logged(&stuck.relay, &["rung=Exceeded"]).await;
    assert_eq!(stuck.relay.metric("=walcast_slot_recreated_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_postgres_takes_away_from_a_running_relay_is_made_anew_and_the_gap_is_told() {
    let cluster = cluster(&["max_slot_wal_keep_size = 32MB", "min_wal_size = 32MB", "max_wal_size = 32MB"]);
    let mut stuck = Stuck::new(&cluster, &[]).await;
    write_segments(&stuck.postgres, 5).await;
    look(&stuck.postgres).await;
    stuck.expect_gap().await;
    until_logged(&stuck.relay, &["dropped and made anew", "Postgres has invalidated it"]).await;
    assert_eq!(stuck.relay.metric("=walcast_slot_recreated_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_rows_that_the_slot_keeps_have_a_budget_too() {
    let cluster = cluster(&[]);
    let stuck = Stuck::new(&cluster, &["--slot-xmin-age-max", "200"]).await;
    for _ in 0..160 {
        execute(&stuck.postgres, "select pg_current_xact_id()").await;
    }
    // Nobody else is to blame, so it is walcast that has to let go.
    until_logged(&stuck.relay, &["rung=GiveUpPromises"]).await;
    assert!(stuck.relay.metric("=walcast_slot_catalog_xmin_age").await >= 150.0);
    assert_eq!(stuck.relay.metric("=walcast_slot_pins").await, 0.0);
}

/// A relay with a commit that is never decided: it holds the position.
struct Stuck {
    relay: Relay,
    client: Client,
    postgres: Postgres,
}

impl Stuck {
    async fn new(cluster: &Cluster, flags: &[&str]) -> Stuck {
        let dreams = "
            create function dream() returns boolean language plpgsql as
                $$ begin perform pg_sleep(600); return true; end $$;
            create table dreams (id int primary key);
            alter table dreams enable row level security;
            create policy slow on dreams for select to authenticated using (dream());
            grant select on dreams to authenticated;
            alter publication supabase_realtime add table dreams;";
        let Database { url, client: postgres, .. } = prepared(cluster, &format!("{BUSY};{dreams}")).await;
        let flags: Vec<&str> = flags.iter().chain(&["--authz-timeout", "10min"]).copied().collect();
        let relay = relay::start(&url, &flags).await;
        let mut client = Client::connect(&relay, &alice()).await;
        client.subscribe("dreams", json!([all_of("dreams")])).await;
        execute(&postgres, "insert into dreams values (1)").await;
        until(&postgres, "select exists (select from pg_stat_activity where wait_event = 'PgSleep')").await;
        Stuck { relay, client, postgres }
    }

    async fn expect_gap(&mut self) {
        let is_gap = |message: &Message| {
            message.event == "system" && message.payload["message"].as_str().is_some_and(|text| text.contains("lost"))
        };
        self.client.wait_for("the gap", is_gap).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_somebody_else_is_named_and_the_slot_is_not_given_up_for_it() {
    let cluster = cluster(&["max_prepared_transactions = 5"]);
    let database = prepared(&cluster, &format!("{LEDGER}{BUSY}")).await;
    let postgres = &database.client;
    let flags = ["--slot-lag-max", "48MiB", "--slot-over-budget", "drop"];
    let relay = relay::start(&database.url, &flags).await;
    let mut subscribers = Subscribers::join(&relay, postgres).await;

    let forgetful = connect(&format!("{}?application_name=forgetful", database.url)).await;
    execute(&forgetful, "begin; insert into busy (filler) values ('and then went home')").await;
    let pid: i32 = forgetful.query_one("select pg_backend_pid()", &[]).await.expect("a pid").get(0);
    hold(postgres, &relay).await;
    let culprit = format!("process {pid} (");
    until_logged(&relay, &["rung=Exceeded", &culprit, "forgetful", "idle in transaction"]).await;
    relay.until_metric("=walcast_slot_pinned_by_pid", |by| by == f64::from(pid)).await;
    assert!(relay.metric("=walcast_slot_pinned_seconds").await > 0.0);

    // Whoever asks is told the same.
    let shown = slot_show(&database.url, &relay.slot).await;
    assert_eq!((&shown["rung"], &shown["pins"][0]["pid"]), (&json!("exceeded"), &json!(pid)), "{shown}");
    let check = ["check", "--database-url", &database.url, "--slot", &relay.slot, "--slot-lag-max", "48MiB"];
    let mut check = Program::spawn(&check);
    check.exit().await;
    let found = check.finished().await;
    assert!(found.contains("WARN  open transaction: process") && found.contains(&culprit), "{found}");

    // Nothing is given up, nothing stands still.
    write(postgres, 5).await;
    subscribers.expect_all_and_no_more(postgres).await;
    assert_eq!(relay.metric("=walcast_slot_recreated_total").await, 0.0);
    execute(&forgetful, "prepare transaction 'orphan'").await;
    execute(postgres, "insert into busy (filler) values ('news for the log')").await;
    until_pinned_by_name(&database.url, &relay.slot, "orphan").await;
    execute(&forgetful, "rollback prepared 'orphan'").await;
    until_little_is_retained(postgres, &relay.slot).await;
    relay.until_metric("=walcast_slot_rung", |rung| rung == 0.0).await;
    until_logged(&relay, &["within its budget again"]).await;
}

/// Writes until the slot holds back more than 48 MiB although the relay has confirmed everything.
async fn hold(postgres: &Postgres, relay: &Relay) {
    look(postgres).await;
    write_segments(postgres, 4).await;
    look(postgres).await;
    relay.until_metric("=walcast_wal_slot_lag_bytes", |lag| lag < MEGABYTE as f64).await;
    relay.until_metric("=walcast_slot_rung", |rung| rung == 3.0).await;
    // The slot's catalog_xmin comes to the transaction by a look or two.
    let deadline = Instant::now() + PATIENCE;
    while relay.metric("=walcast_slot_pins").await == 0.0 {
        assert!(Instant::now() < deadline, "nobody is blamed; the relay's log:\n{}", relay.log());
        execute(postgres, "insert into busy (filler) values ('news')").await;
        look(postgres).await;
        pause_between_polls().await;
    }
}

async fn slot_show(url: &str, slot: &str) -> Value {
    let arguments = ["slot", "show", "--database-url", url, "--slot", slot, "--slot-lag-max", "48MiB", "--json"];
    let mut show = Program::spawn(&arguments);
    show.exit().await;
    let shown = show.finished().await;
    serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{error}: {shown}"))
}

async fn until_pinned_by_name(url: &str, slot: &str, name: &str) {
    let shown = slot_show(url, slot).await;
    assert_eq!(shown["pins"][0]["prepared"], name, "{shown}");
    assert_eq!(shown["pins"][0]["pid"], Value::Null);
    assert!(shown["pins"][0]["remedy"].as_str().is_some_and(|text| text.contains("rollback prepared 'orphan'")));
}
