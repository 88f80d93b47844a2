//! Broadcast, presence and broadcast from the database, against bare writes of the same frames and a Socket.IO room.
//!
//! Closed loop: the next message when everybody has the last ones. CPU of the server's process, receiving included, per
//! delivery. Socket.IO is npm's (`npm ci` in benches/relay/socketio); without it its lines are left out.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Clients, Socket, now_micros, open};
use super::fanout::Floor;
use super::measure::{Samples, cpu_seconds, size};
use super::relay::{Bench, Relay};

/// What is said: a cursor move, or a short line of chat.
const BODY: &str = "It is what it is, and whoever hears it hears all of it.";

pub async fn run() {
    let bench = Bench::start().await;
    let relay = bench.relay_with("rooms", &["--channels-per-connection-max", "2000"]);
    let samples = size("WALCAST_BENCH_SAMPLES", 9);
    let peer = Peer::start();
    if peer.is_none() {
        println!("Socket.IO is not installed (npm ci in benches/relay/socketio): it is left out");
    }
    let rounds = size("WALCAST_BENCH_ROUNDS", 60);
    said(&relay, peer.as_ref(), (1_000, 1), rounds, 1, samples).await;
    said(&relay, peer.as_ref(), (1_000, 1), rounds, 10, samples).await;
    said(&relay, peer.as_ref(), (10_000, 1_000), 1_000, 1, samples).await;
    presence(&relay, size("WALCAST_BENCH_PRESENT", 1_000)).await;
    database(&bench, &relay).await;
}

/// Messages to topics of so many members in all; each topic is spoken to in turn. `at_once` of them are on their way
/// before they are waited for, as when several people move their cursors.
async fn said(
    relay: &Relay,
    peer: Option<&Peer>,
    (members, topics): (usize, usize),
    rounds: usize,
    at_once: usize,
    samples: usize,
) {
    let mut ours = Ours::start(relay, members, topics).await;
    let mut theirs = match peer {
        Some(peer) => Some(Theirs::start(peer, members, topics).await),
        None => None,
    };
    let audience = members / topics;
    ours.say(1, 1, audience).await;
    let bytes = ours.clients.frame_bytes();
    let mut floor = Floor::start(members, bytes);
    let (mut relays, mut floors, mut peers) = (Samples::default(), Samples::default(), Samples::default());
    let deliveries = (rounds * audience) as f64;
    for _ in 0..samples {
        let before = cpu_seconds(relay.pid());
        ours.say(rounds, at_once, audience).await;
        relays.push((cpu_seconds(relay.pid()) - before) * 1e6 / deliveries);
        // A round of the floor writes to every socket; as many deliveries as ours had.
        let floor_rounds = (rounds / topics).max(1);
        let before = cpu_seconds(floor.pid());
        for _ in 0..floor_rounds {
            floor.round(members);
        }
        floors.push((cpu_seconds(floor.pid()) - before) * 1e6 / (floor_rounds * members) as f64);
        if let (Some(theirs), Some(peer)) = (&mut theirs, peer) {
            let before = cpu_seconds(peer.child.id());
            theirs.say(rounds, at_once, audience).await;
            peers.push((cpu_seconds(peer.child.id()) - before) * 1e6 / deliveries);
        }
    }
    println!(
        "broadcast to {topics} topic(s) of {audience} members, {bytes} bytes, {rounds} messages a sample, {at_once} at once:"
    );
    println!("  relay us CPU per delivery: {}", relays.with_spread(2));
    println!(
        "  floor us CPU per delivery: {} ratio {}",
        floors.with_spread(2),
        relays.ratio_to(&floors).with_spread(2)
    );
    if theirs.is_some() {
        let ratio = peers.ratio_to(&relays).with_spread(1);
        println!("  Socket.IO us CPU per delivery: {} ratio {ratio} (goal: at least 5)", peers.with_spread(2));
    }
}

/// Walcast's members, and somebody who is on every topic and speaks.
struct Ours {
    clients: Clients,
    speaker: Socket,
    topics: usize,
}

impl Ours {
    async fn start(relay: &Relay, members: usize, topics: usize) -> Ours {
        let clients = Clients::start(members, &relay.address, "room", &topics.to_string());
        let mut speaker = open(&relay.address).await;
        for topic in 0..topics {
            let join = json!([topic.to_string(), topic.to_string(), format!("realtime:room-{topic}"), "phx_join", {"config": {}}]);
            speaker.send(Message::text(join.to_string())).await.expect("join");
            while !matches!(speaker.next().await, Some(Ok(Message::Text(text))) if text.contains("phx_reply")) {}
        }
        Ours { clients, speaker, topics }
    }

    async fn say(&mut self, messages: usize, at_once: usize, audience: usize) {
        for number in 0..messages {
            let topic = number % self.topics;
            if number % at_once == 0 {
                self.clients.expect(audience * at_once.min(messages - number));
            }
            let payload = json!({"type": "broadcast", "event": "say", "payload": {"body": BODY, "n": number}});
            let frame = json!([topic.to_string(), "9", format!("realtime:room-{topic}"), "broadcast", payload]);
            self.speaker.send(Message::text(frame.to_string())).await.expect("say");
            if (number + 1) % at_once == 0 || number + 1 == messages {
                self.clients.arrived();
            }
        }
    }
}

/// The Socket.IO server's process.
struct Peer {
    child: Child,
    address: String,
}

impl Peer {
    fn start() -> Option<Peer> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/relay/socketio");
        if !here.join("node_modules").exists() {
            return None;
        }
        let mut node = Command::new("node");
        let mut child = node.arg("server.mjs").current_dir(here).stdout(Stdio::piped()).spawn().ok()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take()?).read_line(&mut address).ok()?;
        Some(Peer { child, address: address.trim().to_owned() })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Theirs {
    clients: Clients,
    speaker: Socket,
    topics: usize,
}

impl Theirs {
    async fn start(peer: &Peer, members: usize, topics: usize) -> Theirs {
        let clients = Clients::start(members, &peer.address, "socketio", &topics.to_string());
        let speaker = super::client::open_socketio(&peer.address, "").await;
        Theirs { clients, speaker, topics }
    }

    async fn say(&mut self, messages: usize, at_once: usize, audience: usize) {
        for number in 0..messages {
            if number % at_once == 0 {
                self.clients.expect(audience * at_once.min(messages - number));
            }
            let event = json!(["say", format!("room-{}", number % self.topics), {"body": BODY, "n": number}]);
            self.speaker.send(Message::text(format!("42{event}"))).await.expect("say");
            if (number + 1) % at_once == 0 || number + 1 == messages {
                self.clients.arrived();
            }
        }
    }
}

/// So many members join one topic and are present within a second or so: each diff goes to all who are there.
async fn presence(relay: &Relay, members: usize) {
    let before = cpu_seconds(relay.pid());
    let start = Instant::now();
    let mut clients = Clients::start(members, &relay.address, "presence", "");
    // Whoever joins nth hears of itself and of all who come later: n(n+1)/2 diffs, less those who had tracked before.
    clients.present(members);
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds(relay.pid()) - before);
    let diffs = clients.events();
    let bytes = clients.frame_bytes();
    let mut floor = Floor::start(members, bytes);
    let rounds = (diffs / members).max(1);
    let before = cpu_seconds(floor.pid());
    for _ in 0..rounds {
        floor.round(members);
    }
    let of_floor = (cpu_seconds(floor.pid()) - before) * 1e6 / (rounds * members) as f64;
    let per_diff = cpu * 1e6 / diffs as f64;
    println!(
        "presence of {members} members who join and track at once: everybody knows everybody after {seconds:.2} s"
    );
    println!(
        "  {diffs} diffs of {bytes} bytes: {per_diff:.2} us CPU each, joins included; bare writes {of_floor:.2}, ratio {:.2}",
        per_diff / of_floor
    );
}

/// `realtime.send` at a steady rate, to a topic of ten.
async fn database(bench: &Bench, relay: &Relay) {
    let (rate, seconds) = (size("WALCAST_BENCH_RATE", 2_000), size("WALCAST_BENCH_SECONDS", 10));
    let members = 10;
    let mut clients = Clients::start(members, &relay.address, "room", "1");
    let before = cpu_seconds(relay.pid());
    clients.expect(rate * seconds * members);
    let start = Instant::now();
    // Ten at a time: one session sends no faster than it commits.
    let batch = 10;
    let send = "select realtime.send(jsonb_build_object('body', $1::text), 'say', 'room-0', false) from generate_series(1, $2::int)";
    let send = bench.sql.prepare(send).await.expect("realtime.send");
    for number in 0..rate * seconds / batch {
        let due = std::time::Duration::from_secs_f64((number * batch) as f64 / rate as f64);
        tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
        let body = format!("t={}", now_micros() as u64);
        bench.sql.execute(&send, &[&body, &(batch as i32)]).await.expect("send");
    }
    clients.arrived();
    let (took, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds(relay.pid()) - before);
    let mut latencies = Samples::default();
    clients.latencies().into_iter().for_each(|latency| latencies.push(latency / 1000.0));
    let messages = rate * seconds;
    println!(
        "{messages} broadcasts from the database to {members} members in {took:.1} s ({:.0}/s, asked for {rate}/s):",
        messages as f64 / took
    );
    println!(
        "  relay {:.1} us CPU per message; INSERT to client p50 {:.2} ms, p99 {:.2} ms",
        cpu * 1e6 / messages as f64,
        latencies.median(),
        latencies.quantile(0.99)
    );
}
