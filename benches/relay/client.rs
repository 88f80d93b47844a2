//! Clients in a process of their own: join, count what arrives, report on standard output.
//!
//! `client COUNT ADDRESS TABLE [FILTER]`: each line `joined` once all have joined; then for every line N on standard
//! input it answers, when N more events have arrived over all sockets, with `N LAST_NANOSECONDS` (the latest arrival since
//! the epoch); `latencies` on standard input prints those of all events so far, in microseconds, sorted.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncReadExt;
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

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("clients answer");
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
            tokio::spawn(count_raw(address, filter, counts, joined));
            continue;
        }
        tokio::spawn(async move {
            let permit = joining.acquire_owned().await.expect("open for ever");
            let mut socket = join_channel(&address, &table, &filter).await;
            drop(permit);
            let _ = joined.send(());
            while let Some(Ok(message)) = socket.next().await {
                let Message::Text(text) = message else { continue };
                if !text.contains("postgres_changes\",{\"data\"") {
                    continue;
                }
                if let Some(sent) = sent_at(&text) {
                    let _ = latencies.send(now_micros() - sent);
                }
                counts.frame_bytes.store(text.len() as u64 + 4, Ordering::Relaxed);
                counts.events.fetch_add(1, Ordering::Relaxed);
                counts.changed.notify_one();
            }
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

/// A client of the floor: an event is so many bytes.
async fn count_raw(address: String, bytes: String, counts: Arc<Counts>, joined: tokio::sync::oneshot::Sender<()>) {
    let bytes: usize = bytes.parse().expect("BYTES");
    let mut tcp = tokio::net::TcpStream::connect(address).await.expect("connect");
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
fn sent_at(text: &str) -> Option<f64> {
    let (_, rest) = text.split_once("\"t=")?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..end].parse().ok()
}

pub fn now_micros() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as f64
}
