//! People who come and go at random: nobody is left behind on any topic, no presence is an orphan, memory stays flat. Some
//! come back with keys to what they missed.
//!
//! A few seconds by default; `WALCAST_CHURN_SECONDS=1800 cargo test --test main churn -- --nocapture` for the full run.
//! `WALCAST_CHURN_SEED` repeats one.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::support::client::Client;
use crate::support::people::{self, Person};
use crate::support::scene::{ROOMS, Scene};

const WORKERS: u64 = 8;
const SOCKETS_OF_A_WORKER: usize = 12;
const TOPICS: usize = 10;
/// Each is remembered for a week: were they all new, memory would grow.
const RESUME_KEYS: u32 = 100;
const RETENTION: Duration = Duration::from_secs(10);

/// A socket whose reader throws everything away.
struct Socket {
    write: futures_util::stream::SplitSink<
        tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
        Frame,
    >,
    reader: JoinHandle<()>,
    person: Person,
    reference: u64,
}

impl Socket {
    async fn open(address: std::net::SocketAddr, person: Person) -> Option<Socket> {
        let url = format!("ws://{address}/socket/websocket?apikey={}&vsn=2.0.0", person.token());
        let (socket, _) = tokio_tungstenite::connect_async(url).await.ok()?;
        let (write, mut read) = socket.split();
        let reader = tokio::spawn(async move { while let Some(Ok(_)) = read.next().await {} });
        Some(Socket { write, reader, person, reference: 0 })
    }

    async fn push(&mut self, topic: &str, event: &str, payload: Value) -> bool {
        self.reference += 1;
        let reference = self.reference.to_string();
        let join_ref = if event == "phx_join" { json!(reference) } else { Value::Null };
        let frame = json!([join_ref, reference, topic, event, payload]).to_string();
        self.write.send(Frame::text(frame)).await.is_ok()
    }
}

/// As when a laptop is shut: no close frame.
impl Drop for Socket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn work(address: std::net::SocketAddr, seed: u64, until: Instant) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let people = [people::alice(), people::bob()];
    let mut sockets: Vec<Socket> = Vec::new();
    let mut acts = 0;
    while Instant::now() < until {
        acts += 1;
        if sockets.len() < SOCKETS_OF_A_WORKER && (sockets.is_empty() || random.random_ratio(1, 8)) {
            let person = people.choose(&mut random).expect("there are people").clone();
            sockets.extend(Socket::open(address, person).await);
            continue;
        }
        let place = random.random_range(0..sockets.len());
        let topic = format!("realtime:churn-{}", random.random_range(0..TOPICS));
        let socket = &mut sockets[place];
        let lives = match random.random_range(0..20) {
            0..6 => {
                let key = ["", "ada", "bob", "eve"].choose(&mut random).expect("a key");
                let presence = json!({"enabled": random.random_bool(0.5), "key": key});
                let mut config = json!({"presence": presence, "broadcast": {"self": true, "ack": true}});
                if random.random_bool(0.3) {
                    let mut binding = json!({"event": "*", "schema": "public", "table": "posts"});
                    if random.random_bool(0.5) {
                        binding["resume"] = json!(random.random_range(0..RESUME_KEYS).to_string());
                    }
                    config["postgres_changes"] = json!([binding]);
                }
                if random.random_bool(0.1) {
                    config["private"] = json!(true);
                }
                socket.push(&topic, "phx_join", json!({"config": config})).await
            }
            6..9 => socket.push(&topic, "phx_leave", json!({})).await,
            9..13 => {
                let payload = json!({"n": random.random_range(0..3)});
                socket.push(&topic, "presence", json!({"event": "track", "payload": payload})).await
            }
            13 => socket.push(&topic, "presence", json!({"event": "untrack"})).await,
            14..17 => socket.push(&topic, "broadcast", json!({"event": "e", "payload": {"n": acts}})).await,
            17 => {
                let token = socket.person.token();
                socket.push(&topic, "access_token", json!({"access_token": token})).await
            }
            18 => socket.push("phoenix", "heartbeat", json!({})).await,
            19 if random.random_bool(0.5) => {
                let _ = socket.write.close().await;
                false
            }
            _ => false,
        };
        if !lives {
            sockets.swap_remove(place);
        }
    }
    acts
}

fn resident_megabytes(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_left_behind_by_those_who_come_and_go() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seconds = number("WALCAST_CHURN_SECONDS").unwrap_or(5);
    let seed = number("WALCAST_CHURN_SEED").unwrap_or_else(rand::random);
    println!("churn of {seconds} s, seed {seed}");
    let retention = format!("{}s", RETENTION.as_secs());
    let flags =
        ["--presence-calls-max", "1000000", "--joins-per-second-max", "1000000", "--resume-retention", &retention];
    let scene = Scene::with_flags(ROOMS, &flags).await;
    let (start, length) = (Instant::now(), Duration::from_secs(seconds));
    let address = scene.relay.address;
    let workers: Vec<_> =
        (0..WORKERS).map(|worker| tokio::spawn(work(address, seed ^ worker << 32, start + length))).collect();
    let mut early = 0.0;
    let mut id = 0;
    while start.elapsed() < length {
        id += 1;
        scene.execute(&format!("insert into posts values ({id}, 1)")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if early == 0.0 && start.elapsed() > length / 3 {
            early = resident_megabytes(scene.relay.pid());
        }
    }
    let late = resident_megabytes(scene.relay.pid());
    let mut acts = 0;
    for worker in workers {
        acts += worker.await.expect("a worker");
    }
    for metric in
        ["=walcast_connections", "=walcast_channels", "=walcast_topics", "=walcast_presences", "=walcast_subscriptions"]
    {
        scene.relay.until_metric(metric, |value| value == 0.0).await;
    }
    // Whoever could come back for what he missed cannot any more, and nothing is kept for him.
    for metric in ["=walcast_parked_channels", "=walcast_noted_bytes", "=walcast_kept_changes"] {
        scene.relay.until_metric(metric, |value| value == 0.0).await;
    }
    println!("{acts} acts; {early:.1} MB resident after a third, {late:.1} MB at the end");
    assert!(late < early * 1.5 + 16.0, "memory grows: {early:.1} MB after a third, {late:.1} MB at the end");
    // Whoever comes now finds nobody.
    let mut client = Client::connect(&scene.relay, &people::alice()).await;
    for topic in 0..TOPICS {
        let topic = format!("churn-{topic}");
        let config = json!({"presence": {"enabled": true}});
        client.push(&format!("realtime:{topic}"), "phx_join", json!({"config": config})).await;
        let state = client.wait_for("a state", |message| message.event == "presence_state").await;
        assert_eq!(state.payload, json!({}));
    }
}
