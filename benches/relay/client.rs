//! Clients in a process of their own: join, count what arrives, report on standard output.
//!
//! `client COUNT ADDRESS TABLE [FILTER]`: prints `joined` once all have joined; then, for every line N on standard
//! input, `arrived` when N more events have arrived over all sockets. `latencies` prints those of all events since it was
//! last asked, in microseconds; `bytes` the size of the newest event's frame.
//!
//! With `+resume` behind TABLE each has a resume key of its own, the same at the next start. TABLE may also be `room` (FILTER is the number of topics, an event a broadcast), `socketio` (the same, of that server),
//! `presence` (an event is a diff; `present N` waits until every client knows of N), or `raw` (see the floor).
//!
//! After the join a socket is read as bytes, and only the frames' headers are looked at: the clients share the machine
//! with what is measured.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_tungstenite::tungstenite::Message;

use super::relay::token;

/// The other end: what a bench holds of its clients.
pub struct Clients {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Clients {
    /// Starts `count` clients in a process and waits until all have joined; those that resume, until they have asked to.
    pub fn start(count: usize, address: &str, table: &str, filter: &str) -> Clients {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["client", &count.to_string(), address, table, filter])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("clients");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut clients = Clients { child, input, output };
        assert_eq!(clients.line(), "joined");
        clients
    }

    /// Waits for that many events over all sockets.
    pub fn wait(&mut self, events: usize) {
        writeln!(self.input, "{events}").expect("clients take a line");
        self.line();
    }

    /// Ask in advance, so that nothing of it falls into what is measured; then `arrived`.
    pub fn expect(&mut self, events: usize) {
        writeln!(self.input, "{events}").expect("clients take a line");
    }

    pub fn arrived(&mut self) {
        self.line();
    }

    /// Latencies since they were last asked for, in microseconds.
    pub fn latencies(&mut self) -> Vec<f64> {
        writeln!(self.input, "latencies").expect("clients take a line");
        self.line().split_whitespace().filter_map(|number| number.parse().ok()).collect()
    }

    /// Bytes of an event's frame.
    pub fn frame_bytes(&mut self) -> usize {
        writeln!(self.input, "bytes").expect("clients take a line");
        self.line().parse().expect("a number")
    }

    /// Waits until each of them knows that so many are present.
    pub fn present(&mut self, members: usize) {
        writeln!(self.input, "present {members}").expect("clients take a line");
        self.line();
    }

    /// Waits until all together have been told of so many subscriptions and resumptions.
    pub fn told(&mut self, systems: usize) {
        writeln!(self.input, "systems {systems}").expect("clients take a line");
        self.line();
    }

    /// Events that have arrived over all sockets since the start.
    pub fn events(&mut self) -> usize {
        writeln!(self.input, "events").expect("clients take a line");
        self.line().parse().expect("a number")
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("clients answer");
        assert!(read > 0, "the clients have ended");
        line.trim().to_owned()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Counts {
    events: AtomicU64,
    /// Bytes of the newest event's frame, header included.
    frame_bytes: AtomicU64,
    /// System messages: one for a subscription, and one for what became of resuming.
    systems: AtomicU64,
    /// Joins of presence that clients have heard of, all together.
    presences: AtomicU64,
    changed: Notify,
}

/// The process of the clients.
pub async fn run(arguments: &[&str]) {
    let [count, address, table, filter] = arguments else { panic!("client COUNT ADDRESS TABLE FILTER") };
    let count: usize = count.parse().expect("COUNT");
    let counts = Arc::new(Counts::default());
    let (latencies, mut arrived) = mpsc::unbounded_channel();
    let joining = Arc::new(Semaphore::new(64));
    let mut joins = Vec::new();
    for number in 0..count {
        let (counts, joining, latencies) = (Arc::clone(&counts), Arc::clone(&joining), latencies.clone());
        let (address, table) = (address.to_string(), table.to_string());
        // {} in the filter stands for the client's number.
        let filter = filter.replace("{}", &format!("{number:012}"));
        let (joined, join) = tokio::sync::oneshot::channel();
        joins.push(join);
        if table == "raw" {
            tokio::spawn(count_raw(address, filter, counts, joining, joined));
            continue;
        }
        tokio::spawn(async move {
            let permit = joining.acquire_owned().await.expect("open for ever");
            let room = || number % filter.parse::<usize>().unwrap_or(1);
            let (socket, marker) = match &*table {
                "room" => (join_room(&address, room()).await, &b"say"[..]),
                "socketio" => (open_socketio(&address, &format!("room-{}", room())).await, &b"[\"say\""[..]),
                "presence" => (join_presence(&address, number).await, &b"\"presence_diff\""[..]),
                _ => (join_channel(&address, &table, &filter, number).await, &b"\"postgres_changes\",{\"data\""[..]),
            };
            drop(permit);
            let _ = joined.send(());
            count_events(socket.into_inner(), marker, &counts, &latencies).await;
        });
    }
    for join in joins {
        join.await.expect("every client joins");
    }
    println!("joined");
    let (lines, mut commands) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    let mut seen = 0;
    while let Some(line) = commands.recv().await {
        if line == "latencies" {
            let mut all = Vec::new();
            while let Ok(latency) = arrived.try_recv() {
                all.push(latency.to_string());
            }
            println!("{}", all.join(" "));
            continue;
        }
        if line == "events" {
            println!("{}", counts.events.load(Ordering::Relaxed));
            continue;
        }
        if let Some(members) = line.strip_prefix("present ") {
            let members: u64 = members.parse().expect("a number of members");
            // Each knows of all: from its state, or from diffs.
            while counts.presences.load(Ordering::Relaxed) < members * members {
                counts.changed.notified().await;
            }
            println!("present");
            continue;
        }
        if let Some(systems) = line.strip_prefix("systems ") {
            let systems: u64 = systems.parse().expect("a number of messages");
            while counts.systems.load(Ordering::Relaxed) < systems {
                counts.changed.notified().await;
            }
            println!("told");
            continue;
        }
        if line == "bytes" {
            println!("{}", counts.frame_bytes.load(Ordering::Relaxed));
            continue;
        }
        seen += line.parse::<u64>().expect("a number of events");
        while counts.events.load(Ordering::Relaxed) < seen {
            counts.changed.notified().await;
        }
        println!("arrived");
    }
}

/// Phoenix' heartbeat as a client's frame (RFC 6455, 5.3), masked with zeros.
fn heartbeat() -> Vec<u8> {
    let text = br#"[null,"h","phoenix","heartbeat",{}]"#;
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text);
    frame
}

async fn count_events(
    mut tcp: tokio::net::TcpStream,
    marker: &[u8],
    counts: &Counts,
    latencies: &mpsc::UnboundedSender<f64>,
) {
    let mut buffer = bytes::BytesMut::with_capacity(1 << 10);
    // Not at once: ten thousand heartbeats in the middle of a sample would be seen in it.
    let mut beat = tokio::time::interval(std::time::Duration::from_secs(25));
    beat.reset();
    loop {
        if buffer.capacity() - buffer.len() < 512 {
            buffer.reserve(64 << 10);
        }
        tokio::select! {
            read = tcp.read_buf(&mut buffer) => if !read.is_ok_and(|count| count > 0) { return },
            _ = beat.tick() => if tcp.write_all(&heartbeat()).await.is_err() { return },
        }
        let mut events = 0;
        while let Some((header, payload)) = frame_size(&buffer) {
            if buffer.len() < header + payload {
                break;
            }
            let frame = buffer.split_to(header + payload);
            let head = &frame[header..frame.len().min(header + 80)];
            if marker == b"\"presence_diff\"" {
                count_presences(&frame[header..], counts);
            }
            if marker == b"[\"say\"" && head == b"2" {
                // Engine.IO's heartbeat: the server asks.
                let _ = tcp.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'3']).await;
            }
            if memchr::memmem::find(head, b"\"system\",{").is_some() {
                counts.systems.fetch_add(1, Ordering::Relaxed);
                counts.changed.notify_one();
            }
            if memchr::memmem::find(head, marker).is_none() {
                continue;
            }
            if let Some(sent) = sent_at(&frame[header..]) {
                let _ = latencies.send(now_micros() - sent);
            }
            counts.frame_bytes.store(frame.len() as u64, Ordering::Relaxed);
            events += 1;
        }
        if events > 0 {
            counts.events.fetch_add(events, Ordering::Relaxed);
            counts.changed.notify_one();
        }
    }
}

/// Presences in a state, and joins in a diff.
fn count_presences(payload: &[u8], counts: &Counts) {
    let end = memchr::memmem::find(payload, b"\"leaves\"").unwrap_or(payload.len());
    let presences = memchr::memmem::find_iter(&payload[..end], b"\"metas\"").count() as u64;
    if presences > 0 {
        counts.presences.fetch_add(presences, Ordering::Relaxed);
        counts.changed.notify_one();
    }
}

/// Bytes of a server's frame: header and payload.
fn frame_size(buffer: &[u8]) -> Option<(usize, usize)> {
    match buffer.get(1)? {
        126 => Some((4, usize::from(u16::from_be_bytes(*buffer.get(2..)?.first_chunk()?)))),
        127 => Some((10, u64::from_be_bytes(*buffer.get(2..)?.first_chunk()?) as usize)),
        length => Some((2, usize::from(*length))),
    }
}

/// A client of the floor: an event is so many bytes.
async fn count_raw(
    address: String,
    bytes: String,
    counts: Arc<Counts>,
    joining: Arc<Semaphore>,
    joined: tokio::sync::oneshot::Sender<()>,
) {
    let bytes: usize = bytes.parse().expect("BYTES");
    // Few at once: a listener's queue that overflows makes them wait for seconds.
    let permit = joining.acquire_owned().await.expect("open for ever");
    let mut tcp = tokio::net::TcpStream::connect(address).await.expect("connect");
    drop(permit);
    let _ = joined.send(());
    let (mut buffer, mut read) = (vec![0; 4096], 0);
    while let Ok(count @ 1..) = tcp.read(&mut buffer).await {
        read += count;
        counts.events.fetch_add((read / bytes) as u64, Ordering::Relaxed);
        read %= bytes;
        counts.changed.notify_one();
    }
}

pub type Socket = tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>;

/// A socket of walcast's.
pub async fn open(address: &str) -> Socket {
    let tcp = tokio::net::TcpStream::connect(address).await.expect("connect");
    let url = format!("ws://{address}/socket/websocket?vsn=2.0.0&apikey={}", token());
    tokio_tungstenite::client_async(url, tcp).await.expect("upgrade").0
}

/// A socket of the Socket.IO server's, in a room unless that is empty.
pub async fn open_socketio(address: &str, room: &str) -> Socket {
    let tcp = tokio::net::TcpStream::connect(address).await.expect("connect");
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket&room={room}");
    let (mut socket, _) = tokio_tungstenite::client_async(url, tcp).await.expect("upgrade");
    wait_for(&mut socket, "0{").await;
    socket.send(Message::text("40")).await.expect("connect");
    wait_for(&mut socket, "40{").await;
    socket
}

/// Reads up to a text frame that has this in it.
async fn wait_for(socket: &mut Socket, text: &str) {
    loop {
        let message = socket.next().await.expect("an answer").expect("an answer");
        if matches!(&message, Message::Text(answer) if answer.contains(text)) {
            return;
        }
    }
}

async fn join_room(address: &str, room: usize) -> Socket {
    let mut socket = open(address).await;
    let join = serde_json::json!(["1", "1", format!("realtime:room-{room}"), "phx_join", {"config": {}}]);
    socket.send(Message::text(join.to_string())).await.expect("join");
    wait_for(&mut socket, "phx_reply").await;
    socket
}

/// Joins and tracks; the answers are read with the events.
async fn join_presence(address: &str, number: usize) -> Socket {
    let mut socket = open(address).await;
    let config = serde_json::json!({"presence": {"enabled": true, "key": format!("member-{number}")}});
    let join = serde_json::json!(["1", "1", "realtime:present", "phx_join", {"config": config}]);
    // Not waited for: what follows the reply would be read with it, and is to be counted.
    socket.send(Message::text(join.to_string())).await.expect("join");
    let track =
        serde_json::json!({"type": "presence", "event": "track", "payload": {"online_at": 1, "name": "somebody"}});
    let track = serde_json::json!(["1", "2", "realtime:present", "presence", track]);
    socket.send(Message::text(track.to_string())).await.expect("track");
    socket
}

async fn join_channel(address: &str, table: &str, filter: &str, number: usize) -> Socket {
    let mut socket = open(address).await;
    let (table, resumes) = table.strip_suffix("+resume").map_or((table, false), |table| (table, true));
    let mut binding = serde_json::json!({"event": "*", "schema": "public", "table": table});
    if resumes {
        binding["resume"] = format!("of client {number}").into();
    }
    if !filter.is_empty() {
        binding["filter"] = filter.into();
    }
    let join = serde_json::json!(["1", "1", "realtime:bench", "phx_join", {"config": {"postgres_changes": [binding]}}]);
    socket.send(Message::text(join.to_string())).await.expect("join");
    if resumes {
        // What was missed follows at once, and is to be counted.
        return socket;
    }
    loop {
        let message = socket.next().await.expect("an answer").expect("an answer");
        let Message::Text(text) = message else { continue };
        assert!(!text.contains("\"status\":\"error\""), "{text}");
        if text.contains("Subscribed to PostgreSQL") {
            return socket;
        }
    }
}

/// A body that begins with `t=` and microseconds says when its row was written.
fn sent_at(payload: &[u8]) -> Option<f64> {
    let rest = &payload[memchr::memmem::find(payload, b"\"t=")? + 3..];
    let digits = &rest[..rest.iter().position(|byte| !byte.is_ascii_digit())?];
    std::str::from_utf8(digits).ok()?.parse().ok()
}

pub fn now_micros() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as f64
}
