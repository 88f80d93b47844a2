//! Everything that the original server was recorded to do, asked of walcast.
//!
//! Each transcript is played against the binary: its client frames are sent (tokens signed again), its SQL is run at its
//! place, and each of its server frames must come, per topic in its order and equal to the recorded one but for
//! [`masks`]; then it is shown that nothing else came. Nothing waits for recorded times.
//!
//! `CONFORMANCE_CASES=pg_select,join_leave` plays those alone.
//!
//! New behaviour of the original gets a new transcript here, a deliberate difference a mask with its reason.

mod connection;
mod features;
mod http;
mod masks;
mod message;
mod relay;
mod replay;
mod token;
mod transcript;

use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::database::Database;
use relay::RelayOptions;
use replay::Stage;
use transcript::Transcript;

const SCHEMA: &str = include_str!("schema.sql");

/// Beginnings of the names of the cases that are played against one relay, one after the other as they were recorded.
const CONNECTIONS: &[&str] = &[
    "access_token_",
    "binary_garbage",
    "close_by_client",
    "connect_",
    "heartbeat",
    "join_",
    "leave_",
    "malformed_frames",
    "message_not_joined",
    "socket_apikey_expires",
    "token_expires_while_joined",
    "too_large_frame",
    "unknown_event",
    "ws_ping",
];
const CHANGES: &[&str] = &["pg_"];
const LIMIT_OF_CHANNELS: &[&str] = &["limit_channels"];

#[tokio::test]
async fn connections_joins_and_tokens_go_as_recorded() {
    play_all(CONNECTIONS, &[]).await;
}

#[tokio::test]
async fn postgres_changes_go_as_recorded() {
    play_all(CHANGES, &[]).await;
}

#[tokio::test]
async fn the_limit_of_channels_goes_as_recorded() {
    play_all(LIMIT_OF_CHANNELS, &["--channels-per-connection-max", "3"]).await;
}

#[test]
fn every_case_is_played_or_says_why_not() {
    for transcript in transcript::all() {
        let name = &transcript.name;
        assert!(is_listed(name) || not_played(name).is_some(), "{name} is in no list");
    }
}

fn is_listed(name: &str) -> bool {
    [CONNECTIONS, CHANGES, LIMIT_OF_CHANNELS].iter().any(|list| begins_with(name, list))
}

fn is_played(name: &str) -> bool {
    is_listed(name) && not_played(name).is_none()
}

/// The reason why a case is not played.
fn not_played(name: &str) -> Option<&'static str> {
    // A version stands behind a dot: `pg_types_filters.` is not `pg_types_filters_valid`.
    let name = format!("{name}.");
    masks::LATER.iter().chain(masks::DIFFERENT).find(|(case, _)| name.starts_with(case)).map(|(_, reason)| *reason)
}

fn begins_with(name: &str, list: &[&str]) -> bool {
    list.iter().any(|beginning| name.starts_with(beginning))
}

fn is_asked_for(name: &str) -> bool {
    std::env::var("CONFORMANCE_CASES").map_or(true, |wanted| wanted.split(',').any(|case| name.starts_with(case)))
}

async fn play_all(list: &[&str], flags: &[&str]) {
    let cases: Vec<Transcript> = transcript::all()
        .into_iter()
        .filter(|case| begins_with(&case.name, list) && not_played(&case.name).is_none() && is_asked_for(&case.name))
        .collect();
    if cases.is_empty() {
        return;
    }

    // A cluster of its own: a new slot waits for every open transaction, and roles are everybody's.
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres");
    let database = Database::create_in(&cluster).await;
    relay::setup(&database).await;
    // As on Supabase, where whatever is made in `public` is granted to the API's roles.
    let defaults =
        "alter default privileges in schema public grant all on tables to anon, authenticated, service_role;";
    database.client.batch_execute(defaults).await.expect("default privileges");
    database.client.batch_execute(schema_of_changes()).await.expect("schema.sql");
    database.client.batch_execute(replay::FENCE_SCHEMA).await.expect("the fence table");

    let options =
        RelayOptions { jwt_secret: token::SECRET.to_string(), flags: flags.iter().map(ToString::to_string).collect() };
    let relay = relay::start(&database, &options).await;
    let stage = Stage { address: relay.address, database: &database.client };
    let mut failures = Vec::new();
    for case in &cases {
        if let Err(failure) = replay::play(&stage, case).await {
            failures.push(failure);
        }
    }
    let (failed, all) = (failures.len(), cases.len());
    assert!(failures.is_empty(), "{failed} of {all} cases differ:\n\n{}\n", failures.join("\n\n"));
}

/// The part of schema.sql that is about tables; the rest is about private channels and broadcast from the database.
fn schema_of_changes() -> &'static str {
    SCHEMA.split("-- private channel policies").next().unwrap_or(SCHEMA)
}
