//! A standby takes over: another timeline, and a slot that is not there (before 17), or is.

use std::time::Duration;

use tokio_postgres::Client as Postgres;
use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::client::Client;
use crate::support::database::{Database, connect};
use crate::support::ledger::{LEDGER, Subscribers, Writer, write};
use crate::support::proxy::Proxy;
use crate::support::relay::{self, Relay};
use crate::support::scene::{execute, prepared, until};
use crate::support::standby;

const STOP_MAX: Duration = Duration::from_secs(30);
const GAP: &str = "Changes were lost";

/// Two servers, and a name that leads to the first of them.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    database: Database,
    proxy: Proxy,
}

impl Pair {
    async fn new(settings: impl Fn(&Cluster) -> Vec<String>) -> Pair {
        let primary = Cluster::start(&ClusterOptions::default()).expect("a cluster");
        let mut database = prepared(&primary, LEDGER).await;
        let settings = settings(&primary);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let standby = standby::copy_of(&primary, &settings);
        database.client = connect(&database.url).await;
        let proxy = Proxy::start(standby::address(&primary)).await;
        Pair { primary, standby, database, proxy }
    }

    async fn relay(&self, flags: &[&str]) -> Relay {
        relay::start(&format!("postgres://postgres@{}/{}", self.proxy.address, self.database.name), flags).await
    }

    /// The primary is gone, and its name leads to the standby; that one is promoted when the relay has seen it as it is.
    async fn fail_over(&self, relay: &Relay) -> Postgres {
        self.primary.stop("fast", STOP_MAX).expect("the primary stops");
        self.proxy.lead_to(standby::address(&self.standby));
        until_logged(relay, "the server is a standby").await;
        self.promote().await
    }

    async fn promote(&self) -> Postgres {
        standby::promote(&self.standby).await;
        connect(&self.standby.url("postgres", &self.database.name)).await
    }
}

async fn until_logged(relay: &Relay, words: &str) {
    let mut log = relay.log_receiver();
    let said = log.wait_for(|log| log.contains(words));
    if tokio::time::timeout(relay::PATIENCE, said).await.is_err() {
        panic!("the relay does not say {words:?}; its log:\n{}", relay.log());
    }
}

async fn expect_gap(client: &mut Client) {
    let is_gap = |message: &crate::support::client::Message| {
        message.event == "system" && message.payload["message"].as_str().is_some_and(|text| text.contains(GAP))
    };
    client.wait_for("the gap", is_gap).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_promoted_standby_the_slot_is_made_anew_and_the_gap_is_told() {
    let pair = Pair::new(|primary| vec![standby::primary_conninfo(primary)]).await;
    let relay = pair.relay(&[]).await;
    let mut subscribers = Subscribers::join(&relay, &pair.database.client).await;
    write(&pair.database.client, 10).await;
    subscribers.expect_all(&pair.database.client).await;
    standby::until_caught_up(&pair.primary, &pair.standby).await;

    let postgres = pair.fail_over(&relay).await;
    for client in [&mut subscribers.alice, &mut subscribers.bob, &mut subscribers.anon] {
        expect_gap(client).await;
    }
    until_logged(&relay, "the server is on a new timeline").await;
    // What was delivered before is in the new history, and does not come again.
    write(&postgres, 10).await;
    subscribers.expect_all_and_no_more(&postgres).await;
}

/// The standby lags: what clients have got after it never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_history_without_what_was_delivered_everything_begins_anew_in_the_same_process() {
    let pair = Pair::new(|_| Vec::new()).await;
    let mut relay = pair.relay(&[]).await;
    let mut subscribers = Subscribers::join(&relay, &pair.database.client).await;
    write(&pair.database.client, 10).await;
    subscribers.expect_all(&pair.database.client).await;
    let pid = relay.pid();

    pair.primary.stop("fast", STOP_MAX).expect("the primary stops");
    let postgres = pair.promote().await;
    pair.proxy.lead_to(standby::address(&pair.standby));
    for client in [&mut subscribers.alice, &mut subscribers.bob, &mut subscribers.anon] {
        assert_eq!(client.expect_close().await.0, 1012);
    }
    until_logged(&relay, "a standby that lagged took over").await;
    until_logged(&relay, "beginning anew").await;
    relay.until_ready().await;
    assert_eq!(relay.pid(), pid);
    let mut subscribers = Subscribers::join(&relay, &postgres).await;
    write(&postgres, 10).await;
    subscribers.expect_all_and_no_more(&postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_failover_slot_nothing_is_lost() {
    let settings = |primary: &Cluster| {
        let more = ["primary_slot_name = 'standby'", "hot_standby_feedback = on", "sync_replication_slots = on"];
        more.iter().map(|line| (*line).to_owned()).chain([standby::primary_conninfo(primary)]).collect()
    };
    let probe = crate::support::database::shared_cluster();
    let version = connect(&probe.url("postgres", "postgres")).await;
    let version = version.query_one("select current_setting('server_version_num')::int", &[]).await.expect("a version");
    if version.get::<_, i32>(0) < 170_000 {
        return; // Failover slots are 17's.
    }
    let pair = Pair::new(settings).await;
    execute(&pair.database.client, "select pg_create_physical_replication_slot('standby')").await;
    // One that was made without is altered.
    drop(pair.relay(&[]).await);
    let relay = pair.relay(&["--slot-failover"]).await;
    let mut subscribers = Subscribers::join(&relay, &pair.database.client).await;
    // The standby can take the slot over only once it has moved on.
    let writer = Writer::start(&pair.database.url);
    let on_standby = connect(&pair.standby.url("postgres", "postgres")).await;
    let synced = "select exists (select from pg_replication_slots where synced and not temporary)";
    let moving = async {
        loop {
            execute(&pair.database.client, "select pg_log_standby_snapshot()").await;
            relay::pause_between_polls().await;
        }
    };
    tokio::select! {
        () = until(&on_standby, synced) => {}
        () = moving => {}
    }
    writer.stop().await;
    subscribers.expect_all(&pair.database.client).await;
    write(&pair.database.client, 10).await;
    standby::until_caught_up(&pair.primary, &pair.standby).await;

    let postgres = pair.fail_over(&relay).await;
    write(&postgres, 10).await;
    subscribers.expect_all_and_no_more(&postgres).await;
    assert!(!relay.log().contains("are lost"), "{}", relay.log());
}
