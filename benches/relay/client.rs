//! Clients in a process of their own: join, count what arrives, report on standard output.
//!
//! `client COUNT ADDRESS TABLE [FILTER]`: prints `joined` once all have joined; then, for every line N on standard
//! input, `arrived` when N more events have arrived over all sockets. `latencies` prints those of all events since it was
//! last asked, in microseconds; `bytes` the size of the newest event's frame.
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
    /// Starts `count` clients in a process and waits until all have joined.
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
            let socket = join_channel(&address, &table, &filter).await;
            drop(permit);
            let _ = joined.send(());
            count_events(socket.into_inner(), &counts, &latencies).await;
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

async fn count_events(mut tcp: tokio::net::TcpStream, counts: &Counts, latencies: &mpsc::UnboundedSender<f64>) {
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
            if memchr::memmem::find(head, b"\"postgres_changes\",{\"data\"").is_none() {
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

type Socket = tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>;

async fn join_channel(address: &str, table: &str, filter: &str) -> Socket {
    let tcp = tokio::net::TcpStream::connect(address).await.expect("connect");
    let url = format!("ws://{address}/socket/websocket?vsn=2.0.0&apikey={}", token());
    let (mut socket, _) = tokio_tungstenite::client_async(url, tcp).await.expect("upgrade");
    let mut binding = serde_json::json!({"event": "*", "schema": "public", "table": table});
    if !filter.is_empty() {
        binding["filter"] = filter.into();
    }
    let join = serde_json::json!(["1", "1", "realtime:bench", "phx_join", {"config": {"postgres_changes": [binding]}}]);
    socket.send(Message::text(join.to_string())).await.expect("join");
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
