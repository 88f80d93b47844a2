//! All limits, hit on purpose. The first table lists them: what counts when one is hit, and the test that hits it. README's
//! tables say the same to people; both are compared with `serve --help`.

use std::time::Duration;

use clap::Args;
use prometheus_client::registry::Registry;
use tokio_tungstenite::tungstenite::Message;
use walcast::authz::AuthzMetrics;
use walcast::channels;
use walcast::config::ServeArgs;
use walcast::dispatch::DispatchMetrics;
use walcast::resume::ResumeMetrics;
use walcast::server;
use walcast::wal::WalMetrics;

use crate::support::relay::{PATIENCE, pause_between_polls};
use crate::support::scene::Scene;
use crate::support::socket::Relay;

/// A flag; the metric; the test, by file and name.
const FLAGS: &[(&str, &str, &str)] = &[
    ("connections-max", "upgrades_refused", "tests/integration/websocket.rs crowds_are_refused_at_the_door"),
    (
        "handshakes-max",
        "sockets_refused",
        "tests/integration/floods.rs half_open_sockets_have_a_limit_and_sockets_beside_them_live",
    ),
    (
        "connections-per-address-max",
        "upgrades_refused",
        "tests/integration/dropin.rs an_address_has_so_many_sockets_as_the_proxy_tells_them_apart",
    ),
    ("channels-per-connection-max", "joins_refused", HERE),
    ("joins-per-second-max", "joins_refused", HERE),
    ("payload-max", "broadcasts_too_large", HERE),
    ("events-per-second-max", "channels_expelled", HERE),
    ("presence-events-per-second-max", "channels_expelled", HERE),
    ("presence-calls-max", "channels_expelled", HERE),
    ("members-per-channel-max", "joins_refused", HERE),
    ("messages-per-minute-max", "broadcasts_refused", HERE),
    ("message-max", "broadcasts_refused", HERE),
    ("frame-max", "closes", "tests/integration/hard_frames.rs each_breach_of_the_protocol_has_its_code"),
    (
        "inbound-max",
        "closes",
        "tests/integration/hard_frames.rs what_is_held_of_unfinished_messages_has_a_limit_over_all_sockets",
    ),
    ("idle-timeout", "closes", "tests/integration/websocket.rs a_silent_socket_is_closed_though_it_is_sent_to"),
    ("outbox-max", "closes", "tests/integration/websocket.rs a_client_that_lags_for_longer_than_its_grace_is_closed"),
    (
        "slow-client-grace",
        "closes",
        "tests/integration/websocket.rs a_client_that_lags_for_longer_than_its_grace_is_closed",
    ),
    (
        "outbox-spill-max",
        "closes",
        "tests/integration/websocket.rs a_slow_client_is_told_and_closed_while_others_go_on",
    ),
    ("record-max", "changes_cut", "src/dispatch/task/tests.rs a_row_above_the_limit_is_cut_and_counted_once"),
    (
        "transaction-buffer-max",
        "transactions_spilled",
        "src/change/assembler_tests.rs a_large_transaction_goes_to_a_file_and_has_a_limit_there",
    ),
    (
        "transaction-spill-max",
        "spilled_bytes",
        "src/change/assembler_tests.rs a_large_transaction_goes_to_a_file_and_has_a_limit_there",
    ),
    (
        "pending-max",
        "pending_bytes",
        "tests/integration/limits.rs rows_that_wait_for_postgres_have_a_limit_and_all_of_them_arrive",
    ),
    (
        "tracked-memory-max",
        "tracked_bytes",
        "src/dispatch/tracking/tests.rs a_table_past_the_limit_is_dropped_until_it_is_another",
    ),
    (
        "slot-lag-max",
        "wal_slot_held_bytes",
        "tests/integration/limits.rs a_slot_that_holds_back_more_than_it_may_is_warned_of",
    ),
    (
        "slot-xmin-age-max",
        "slot_catalog_xmin_age",
        "src/wal/budget.rs what_trails_on_purpose_is_let_go_before_the_budget_is_used_up",
    ),
    ("resume-memory-max", "kept_bytes", "tests/integration/resume.rs what_is_not_kept_is_announced"),
    (
        "wal-frame-max",
        "wal_frames_skipped",
        "tests/integration/replication.rs a_frame_above_the_limit_is_reported_and_what_follows_arrives",
    ),
    ("authz-timeout", "oracle_timeouts", "tests/integration/hostile.rs a_hostile_policy_hurts_nobody_elses_events"),
];

/// What has no flag, in the words of README's second table.
const FIXED: &[(&str, &str, &str)] = &[
    ("TCP connections", "sockets_refused", "tests/integration/floods.rs connections_have_a_limit_in_all"),
    (
        "a handshake of TLS, a request's head: time",
        "handshakes_failed",
        "tests/integration/floods.rs heads_that_do_not_come_are_not_waited_for",
    ),
    (
        "a request's head: size",
        "handshakes_failed",
        "tests/integration/floods.rs heads_have_a_size_and_a_number_of_headers",
    ),
    (
        "an answer that lies unread",
        "handshakes_failed",
        "tests/integration/floods.rs whoever_asks_and_does_not_read_the_answers_is_not_waited_for",
    ),
    (
        "a message above 16 KiB: time",
        "closes",
        "tests/integration/hard_frames.rs a_large_message_arrives_in_time_or_its_socket_is_closed",
    ),
    ("bindings of a channel", "joins_refused", HERE),
    ("a topic's name", "joins_refused", HERE),
    (
        "nesting of JSON",
        "frames_malformed",
        "tests/integration/hard_frames.rs nesting_beyond_reason_is_a_malformed_frame_and_no_more",
    ),
    (
        "requests to the API",
        "broadcast_requests",
        "tests/integration/rest.rs requests_above_the_rate_are_refused_before_their_token_is_looked_at",
    ),
    ("a request's body: size", "broadcast_requests", "tests/integration/rest.rs bodies_end_at_the_limit"),
    (
        "a request's body: time",
        "broadcast_requests",
        "tests/integration/rest.rs a_body_that_does_not_come_is_not_waited_for",
    ),
];

/// Metrics with labels are not shown before there is a first sample.
const FAMILIES: &[&str] =
    &["upgrades_refused", "sockets_refused", "handshakes_failed", "closes", "broadcast_requests", "tracked_bytes"];

const HERE: &str = "tests/integration/limits.rs what_a_client_does_too_much_of_is_told_and_counted";

const README: &str = include_str!("../../README.md");

fn section() -> &'static str {
    let after = README.split_once("\n## Limits\n").expect("a section").1;
    after.split_once("\n## ").expect("another section").0
}

/// The cells of the rows whose first one has this.
fn row(first: &str) -> Vec<&'static str> {
    let mut rows = section().lines().map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>());
    rows.find(|cells| cells[0].split(", ").any(|cell| cell == first) || cells[0] == first).unwrap_or_default()
}

#[test]
fn every_limit_is_listed_with_its_metric_and_its_test() {
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    let mut wrong = Vec::new();
    for argument in command.get_arguments().filter_map(|argument| argument.get_long()) {
        if argument.ends_with("-max") && !FLAGS.iter().any(|(flag, ..)| *flag == argument) {
            wrong.push(format!("--{argument} is in no table here"));
        }
    }
    let mut registry = Registry::with_prefix("walcast");
    let _all = (
        WalMetrics::register(&mut registry),
        AuthzMetrics::register(&mut registry),
        DispatchMetrics::register(&mut registry),
        ResumeMetrics::register(&mut registry),
    );
    let _more = (channels::Metrics::register(&mut registry), server::Metrics::register(&mut registry));
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).expect("text");
    for (flag, ..) in FLAGS {
        let Some(argument) = command.get_arguments().find(|argument| argument.get_long() == Some(flag)) else {
            wrong.push(format!("--{flag} is no flag"));
            continue;
        };
        let default = argument.get_default_values().first().map_or("0", |value| value.to_str().expect("text"));
        let default = if default == "0" { "none" } else { default };
        let name = format!("`--{flag}`");
        let cells = row(&name);
        let place = cells.first().and_then(|cell| cell.split(", ").position(|cell| *cell == name));
        let told = place.and_then(|place| cells.get(1)?.split(", ").nth(place));
        if told != Some(default) {
            wrong.push(format!("README says {told:?} of --{flag}, which is {default} by default"));
        }
    }
    let named = FLAGS.iter().map(|(flag, metric, test)| (format!("`--{flag}`"), *metric, *test));
    let fixed = FIXED.iter().map(|(name, metric, test)| (name.to_string(), *metric, *test));
    for (name, metric, test) in named.chain(fixed) {
        let told = row(&name).last().copied().unwrap_or_default();
        if !told.contains(&format!("`{metric}`")) {
            wrong.push(format!("README's row of {name} does not name {metric}"));
        }
        let is_registered = metrics.contains(&format!("# TYPE walcast_{metric} ")) || FAMILIES.contains(&metric);
        if !is_registered {
            wrong.push(format!("{metric} is no metric"));
        }
        let (file, function) = test.split_once(' ').expect("a file and a name");
        let source = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
        if !source.is_ok_and(|source| source.contains(&format!("fn {function}()"))) {
            wrong.push(format!("{test}, which hits {name}, is no test"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is configured; what is sent; what comes of it, and what is counted.
struct Case {
    name: &'static str,
    configure: fn(&mut channels::Config),
    frames: Vec<String>,
    told: &'static str,
    metric: fn(&channels::Metrics) -> u64,
}

fn join(topic: &str, config: &str) -> String {
    format!(r#"["1","1","realtime:{topic}","phx_join",{{"config":{config}}}]"#)
}

fn broadcast(payload: &str) -> String {
    format!(r#"["1","2","realtime:a","broadcast",{{"type":"broadcast","event":"e","payload":{payload}}}]"#)
}

fn track(payload: &str) -> String {
    format!(r#"["1","3","realtime:a","presence",{{"type":"presence","event":"track","payload":{payload}}}]"#)
}

fn cases() -> Vec<Case> {
    let (room, loud) =
        (|| join("a", "{}"), || join("a", r#"{"broadcast":{"self":true,"ack":true},"presence":{"enabled":true}}"#));
    let joins_refused = |metrics: &channels::Metrics| metrics.joins_refused.get();
    let expelled = |metrics: &channels::Metrics| metrics.channels_expelled.get();
    let large = "x".repeat(5000);
    vec![
        Case {
            name: "channels-per-connection-max",
            configure: |config| config.limits.channels_per_connection_max = 1,
            frames: vec![room(), join("b", "{}")],
            told: "ChannelRateLimitReached: Too many channels",
            metric: joins_refused,
        },
        Case {
            name: "joins-per-second-max",
            configure: |config| config.limits.joins_per_second_max = 1,
            frames: (0..7).map(|n| join(&n.to_string(), "{}")).collect(),
            told: "ClientJoinRateLimitReached: Too many joins per second",
            metric: joins_refused,
        },
        Case {
            name: "members-per-channel-max",
            configure: |config| config.limits.members_per_channel_max = Some(0),
            frames: vec![room()],
            told: "MemberLimitReached: Too many members in this channel",
            metric: joins_refused,
        },
        Case {
            name: "bindings of a channel",
            configure: |config| config.limits.bindings_per_channel_max = 1,
            frames: vec![join("a", r#"{"postgres_changes":[{"table":"a"},{"table":"b"}]}"#)],
            told: r#""status":"error""#,
            metric: joins_refused,
        },
        Case {
            name: "a topic's name",
            configure: |_| {},
            frames: vec![join(&large, "{}")],
            told: r#""status":"error""#,
            metric: joins_refused,
        },
        Case {
            name: "payload-max",
            configure: |config| config.limits.payload_bytes_max = 100,
            frames: vec![loud(), broadcast(&format!("{{\"a\":\"{large}\"}}"))],
            told: "payload_size_exceeded",
            metric: |metrics| metrics.broadcasts_too_large.get(),
        },
        Case {
            name: "message-max",
            configure: |config| config.limits.message_bytes_max = Some(10),
            frames: vec![loud(), broadcast(r#"{"a":"more than ten"}"#)],
            told: "MessageSizeLimitReached: A message may have 10 bytes",
            metric: |metrics| metrics.broadcasts_refused.get(),
        },
        Case {
            name: "messages-per-minute-max",
            configure: |config| config.limits.messages_per_minute_max = Some(1),
            frames: vec![loud(), broadcast("{}"), broadcast("{}")],
            told: "MessageRateLimitReached: Too many messages per minute",
            metric: |metrics| metrics.broadcasts_refused.get(),
        },
        Case {
            name: "events-per-second-max",
            configure: |config| config.limits.events_per_second_max = Some(1),
            frames: [vec![loud()], vec![broadcast("{}"); 20]].concat(),
            told: "Too many messages per second",
            metric: expelled,
        },
        Case {
            name: "presence-events-per-second-max",
            configure: |config| config.limits.presence_events_per_second_max = Some(1),
            frames: [vec![loud()], (0..20).map(|n| track(&format!("{{\"n\":{n}}}"))).collect()].concat(),
            told: "Too many presence messages per second",
            metric: expelled,
        },
        Case {
            name: "presence-calls-max",
            configure: |config| config.limits.presence_calls_max = Some(1),
            frames: vec![loud(), track("{}"), track(r#"{"n":1}"#)],
            told: "Client presence rate limit exceeded",
            metric: expelled,
        },
    ]
}

#[tokio::test]
async fn what_a_client_does_too_much_of_is_told_and_counted() {
    for Case { name, configure, frames, told, metric } in cases() {
        let relay = Relay::with(|channels, _| configure(channels)).await;
        let mut socket = relay.connect().await;
        assert_eq!(metric(&relay.metrics), 0, "{name}");
        let asked = async {
            // Averages are of seconds, so that some limits are only reached a while later.
            let mut sent = frames.iter().cycle();
            let mut first = frames.len();
            loop {
                if let Some(frame) = sent.next().filter(|_| first > 0) {
                    first -= 1;
                    socket.send(frame).await;
                } else {
                    socket.send(frames.last().expect("a frame")).await;
                    pause_between_polls().await;
                }
                let mut heard = String::new();
                while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(5), socket.next()).await {
                    if let Message::Text(text) = message {
                        heard.push_str(&text);
                    }
                }
                if heard.contains(told) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{name}: nobody says {told:?}"));
        assert!(metric(&relay.metrics) >= 1, "{name} is not counted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_holds_back_more_than_it_may_is_warned_of() {
    let scene = Scene::with_flags("create table t (id int primary key)", &["--slot-lag-max", "1"]).await;
    let mut log = scene.relay.log_receiver();
    let said = log.wait_for(|log| log.contains("the slot nears its budget, or is above it"));
    tokio::time::timeout(PATIENCE, said).await.expect("it is said in time").expect("it runs");
    assert!(scene.relay.metric("wal_slot_held_bytes").await > 1.0);
}

const GUARDED: &str = "
    create table guarded (id int primary key, body text not null);
    create function guard() returns boolean language plpgsql as
      $$ begin perform pg_advisory_lock_shared(815); perform pg_advisory_unlock_shared(815); return true; end $$;
    alter table guarded enable row level security;
    create policy guard on guarded for select to authenticated using (guard());
    grant select on guarded to authenticated;
    alter publication supabase_realtime add table guarded;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_wait_for_postgres_have_a_limit_and_all_of_them_arrive() {
    let scene = Scene::with_flags(GUARDED, &["--pending-max", "64KiB", "--authz-timeout", "1h"]).await;
    let mut client = crate::support::client::Client::connect(&scene.relay, &crate::support::people::alice()).await;
    client.subscribe("guarded", serde_json::json!([crate::support::client::all_of("guarded")])).await;
    scene.execute("select pg_advisory_lock(815)").await;
    for id in 0..40 {
        scene
            .execute(&format!(
                "insert into guarded select {id} * 10 + n, repeat('x', 1000) from generate_series(0, 9) n"
            ))
            .await;
    }
    // A transaction that has begun is taken whole.
    let pending = scene.relay.until_metric("=walcast_pending_bytes", |bytes| bytes >= f64::from(64 << 10)).await;
    assert!(pending < f64::from(128 << 10), "{pending} bytes are pending");
    assert!(scene.relay.metric("=walcast_changes_read_total").await < 400.0);
    scene.execute("select pg_advisory_unlock(815)").await;
    for id in 0..400 {
        assert_eq!(client.next_change().await.record()["id"], id);
    }
    scene.relay.until_metric("=walcast_pending_bytes", |bytes| bytes == 0.0).await;
}
