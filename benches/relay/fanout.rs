//! One commit to many sockets, against one write per socket of the same bytes.
//!
//! Closed loop: the next commit when every client has the last one. CPU of the relay's process, of which the
//! subscription, routing, encoding and the sockets are all part, over that of a process that does nothing but write.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::client::Clients;
use super::measure::{Samples, cpu_seconds, size};
use super::relay::Bench;

pub async fn run() {
    let bench = Bench::start().await;
    let relay = bench.relay("fanout");
    let sockets = size("WALCAST_BENCH_SOCKETS", 1_000);
    let rounds = size("WALCAST_BENCH_ROUNDS", 60);
    let samples = size("WALCAST_BENCH_SAMPLES", 9);
    let mut clients = Clients::start(sockets, &relay.address, "messages", "");
    for changes in [1, 10] {
        commit(&bench, &mut clients, sockets, changes).await;
        let bytes = clients.frame_bytes() * changes;
        let mut floor = Floor::start(sockets, bytes);
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        for _ in 0..samples {
            let before = cpu_seconds(relay.pid());
            for _ in 0..rounds {
                commit(&bench, &mut clients, sockets, changes).await;
            }
            ours.push((cpu_seconds(relay.pid()) - before) * 1e6 / (rounds * sockets * changes) as f64);
            let before = cpu_seconds(floor.child.id());
            for _ in 0..rounds {
                floor.round(sockets);
            }
            theirs.push((cpu_seconds(floor.child.id()) - before) * 1e6 / (rounds * sockets * changes) as f64);
        }
        println!("{changes} change(s) per commit to {sockets} sockets, {bytes} bytes each, {rounds} commits a sample:");
        println!("  relay us CPU per delivery: {}", ours.with_spread(2));
        println!("  floor us CPU per delivery: {}", theirs.with_spread(2));
        println!("  ratio: {} (goal: at most 1.5)", ours.ratio_to(&theirs).with_spread(2));
    }
}

async fn commit(bench: &Bench, clients: &mut Clients, sockets: usize, changes: usize) {
    clients.expect(sockets * changes);
    let insert =
        "insert into messages (session_id, body) select gen_random_uuid(), repeat('x', 100) from generate_series(1, ";
    bench.sql.batch_execute(&format!("{insert}{changes})")).await.expect("a commit");
    clients.arrived();
}

/// The other process, and its clients.
pub struct Floor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    clients: Clients,
}

impl Floor {
    pub fn start(sockets: usize, bytes: usize) -> Floor {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["floor", &sockets.to_string(), &bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the floor");
        let input = child.stdin.take().expect("a pipe");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut address = String::new();
        output.read_line(&mut address).expect("its address");
        let clients = Clients::start(sockets, address.trim(), "raw", &bytes.to_string());
        Floor { child, input, output, clients }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn round(&mut self, sockets: usize) {
        self.clients.expect(sockets);
        writeln!(self.input).expect("the floor takes a line");
        self.output.read_line(&mut String::new()).expect("the floor answers");
        self.clients.arrived();
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Accepts so many sockets, then writes the bytes to each of them for every line on standard input.
pub async fn floor_server(arguments: &[&str]) {
    let [sockets, bytes] = arguments else { panic!("floor SOCKETS BYTES") };
    let (sockets, bytes): (usize, usize) = (sockets.parse().expect("SOCKETS"), bytes.parse().expect("BYTES"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    let mut accepted: Vec<_> = (0..sockets).map(|_| listener.accept().expect("a client").0).collect();
    for socket in &accepted {
        socket.set_nodelay(true).expect("nodelay");
    }
    let frame = vec![b'x'; bytes];
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            return;
        }
        for socket in &mut accepted {
            socket.write_all(&frame).expect("the client reads");
        }
        println!("written");
    }
}
