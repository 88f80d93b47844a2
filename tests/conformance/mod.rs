//! Everything that the original server was recorded to do, asked of walcast.
//!
//! Each transcript is played against the binary: its client frames are sent (tokens signed again), its SQL is run at its
//! place, and each of its server frames must come, per topic in its order and equal to the recorded one but for
//! [`masks`]; then it is shown that nothing else came. Nothing waits for recorded times, but where times are what is
//! recorded: idle sockets and rates, at a fraction of them.
//!
//! Cases run side by side where they neither hear nor disturb each other ([`lanes`]); those with other limits have a relay
//! of their own.
//!
//! `CONFORMANCE_CASES=pg_select,join_leave` plays those alone.
//!
//! New behaviour of the original gets a new transcript here, a deliberate difference a mask with its reason.

mod connection;
mod features;
mod fence;
mod http;
mod lanes;
mod masks;
mod message;
mod pace;
mod rates;
mod received;
mod relay;
mod renaming;
mod replay;
mod token;
mod transcript;

use std::time::Duration;

use futures_util::StreamExt;
use tokio_postgres::Client;
use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::database::Database;
use relay::RelayOptions;
use replay::Stage;
use transcript::Transcript;

const SCHEMA: &str = include_str!("schema.sql");

/// How many cases are played at once.
const LANES: usize = 12;

/// Cases that are played against one relay.
struct Group {
    /// Beginnings of their names.
    cases: &'static [&'static str],
    flags: &'static [&'static str],
    has_fence: bool,
    /// How many milliseconds are a recorded second, where times count.
    second: Option<u64>,
    play: Play,
}

#[derive(Clone, Copy, PartialEq)]
enum Play {
    EveryFrame,
    Sorts,
}

const ORDINARY: Group = Group {
    cases: &[
        "access_token_",
        "binary_garbage",
        "broadcast_",
        "close_by_client",
        "connect_",
        "db_",
        "heartbeat",
        "join_",
        "leave_",
        "malformed_frames",
        "message_not_joined",
        "payload_too_large_broadcast",
        "pg_wildcard",
        "presence_",
        "private_",
        "replay",
        "replication_ready",
        "rest_",
        "socket_apikey_expires",
        "token_expires_while_joined",
        "too_large_frame",
        "unknown_event",
        "ws_ping",
    ],
    flags: &[],
    has_fence: true,
    second: None,
    play: Play::EveryFrame,
};

/// All but those that hear of every table: they would hear of each other.
const CHANGES: Group = Group { cases: &["pg_"], ..ORDINARY };

const LIMITED: &[Group] = &[
    Group { cases: &["limit_channels"], flags: &["--channels-per-connection-max", "3"], ..ORDINARY },
    // One more than the original had: the fence's.
    Group { cases: &["limit_concurrent_users"], flags: &["--connections-max", "4"], ..ORDINARY },
    Group { cases: &["tenant_private_only"], flags: &["--private-only"], has_fence: false, ..ORDINARY },
    // The average is taken every five seconds, so that these take six and nine.
    Group {
        cases: &["limit_events_broadcast"],
        flags: &["--events-per-second-max", "10"],
        second: Some(500),
        play: Play::Sorts,
        ..ORDINARY
    },
    Group {
        cases: &["limit_presence"],
        flags: &["--presence-events-per-second-max", "2"],
        second: Some(750),
        play: Play::Sorts,
        ..ORDINARY
    },
    // 66 recorded seconds: the original looks every six, walcast closes to the point.
    Group { cases: &["idle_"], flags: &["--idle-timeout", "3300ms"], has_fence: false, second: Some(50), ..ORDINARY },
];

#[tokio::test]
async fn postgres_changes_go_as_recorded() {
    play_all(&[CHANGES]).await;
}

#[tokio::test]
async fn everything_else_goes_as_recorded() {
    play_all(&[ORDINARY]).await;
}

#[tokio::test]
async fn limits_go_as_recorded() {
    play_all(LIMITED).await;
}

#[test]
fn every_case_is_played_or_says_why_not() {
    for transcript in transcript::all() {
        let name = &transcript.name;
        let groups = groups().filter(|group| group.has(name)).count();
        assert_eq!(groups, usize::from(not_played(name).is_none()), "{name}: in how many groups");
    }
}

fn groups() -> impl Iterator<Item = &'static Group> {
    LIMITED.iter().chain([&ORDINARY, &CHANGES])
}

fn is_played(name: &str) -> bool {
    groups().any(|group| group.has(name))
}

/// The reason why a case is not played.
fn not_played(name: &str) -> Option<&'static str> {
    masks::NOT_PLAYED.iter().find(|(case, _)| *case == name).map(|(_, reason)| *reason)
}

impl Group {
    fn has(&self, name: &str) -> bool {
        let is_listed = self.cases.iter().any(|beginning| name.starts_with(beginning));
        let is_elsewhere = self.cases == CHANGES.cases && masks::hears_every_table(name);
        is_listed && !is_elsewhere && not_played(name).is_none()
    }
}

fn is_asked_for(name: &str) -> bool {
    std::env::var("CONFORMANCE_CASES").map_or(true, |wanted| wanted.split(',').any(|case| name.starts_with(case)))
}

/// Plays the groups, side by side, each against a relay of its own; all of them on one database.
async fn play_all(groups: &[Group]) {
    let cases = |group: &Group| -> Vec<Transcript> {
        transcript::all().into_iter().filter(|case| group.has(&case.name) && is_asked_for(&case.name)).collect()
    };
    let asked_for: Vec<(&Group, Vec<Transcript>)> = groups.iter().map(|group| (group, cases(group))).collect();
    if asked_for.iter().all(|(_, cases)| cases.is_empty()) {
        return;
    }

    // A cluster of its own: a new slot waits for every open transaction, and roles are everybody's.
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres");
    let database = Database::create_in(&cluster).await;
    relay::setup(&database).await;
    // As on Supabase, where whatever is made in `public` is granted to the API's roles.
    let defaults =
        "alter default privileges in schema public grant all on tables to anon, authenticated, service_role;";
    for sql in [defaults, SCHEMA, fence::FENCE_SCHEMA] {
        database.client.batch_execute(sql).await.expect("schema.sql");
    }

    let plays = asked_for.iter().filter(|(_, cases)| !cases.is_empty()).enumerate();
    let plays = plays.map(|(index, (group, cases))| play_group(&database, index, group, cases));
    let failures: Vec<String> = futures_util::future::join_all(plays).await.into_iter().flatten().collect();
    let all: usize = asked_for.iter().map(|(_, cases)| cases.len()).sum();
    assert!(failures.is_empty(), "{} of {all} cases differ:\n\n{}\n", failures.len(), failures.join("\n\n"));
}

async fn play_group(database: &Database, index: usize, group: &Group, cases: &[Transcript]) -> Vec<String> {
    let options = RelayOptions {
        jwt_secret: token::SECRET.to_string(),
        slot: format!("{}_{index}", database.name),
        flags: group.flags.iter().map(ToString::to_string).collect(),
    };
    let relay = relay::start(database, &options).await;
    let second = group.second.map(Duration::from_millis);
    let client: &Client = &database.client;
    let stage = Stage { address: relay.address, database: client, has_fence: group.has_fence, second };
    match group.play {
        Play::EveryFrame => {
            let (alone, together): (Vec<_>, Vec<_>) = cases.iter().partition(|case| lanes::disturbs_everybody(case));
            let lanes = futures_util::stream::iter(lanes::lanes(&together))
                .map(|lane| async move { replay::play_lane(stage, &lane).await });
            let mut failures: Vec<String> = lanes.buffer_unordered(LANES).concat().await;
            failures.extend(replay::play_lane(stage, &alone).await);
            failures
        }
        Play::Sorts => {
            let mut failures = Vec::new();
            for case in cases {
                failures.extend(rates::play(&stage, case).await.err());
            }
            failures
        }
    }
}
