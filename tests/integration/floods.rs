//! Clients that come in numbers, or come and do not go on: slow heads, half-open sockets, and no descriptors left.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use walcast::server::metrics::{Failed, Refused};

use crate::support::client::{Client, all_of};
use crate::support::people::anon;
use crate::support::relay::{PATIENCE, pause_between_polls};
use crate::support::scene::{Scene, from_env};
use crate::support::socket::Relay;

const OPEN: &str = "
    create table open (id int primary key);
    grant select on open to anon;
    alter publication supabase_realtime add table open;";

/// What comes until the other side closes.
async fn all_of_it(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed in time");
    // What was sent and not read makes a reset of the end.
    let _ = read;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn until(is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            pause_between_polls().await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("in time");
}

#[tokio::test]
async fn heads_that_do_not_come_are_not_waited_for() {
    let relay = Relay::with(|_, server| server.header_timeout = Duration::from_millis(300)).await;
    // Nothing; a part; one byte after the other; and nothing after a first request.
    let mut silent = TcpStream::connect(relay.address).await.unwrap();
    let mut partial = TcpStream::connect(relay.address).await.unwrap();
    partial.write_all(b"GET /socket/websocket?apikey=x HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
    let (mut reader, mut writer) = TcpStream::connect(relay.address).await.unwrap().into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            pause_between_polls().await;
        }
    });
    let mut second = TcpStream::connect(relay.address).await.unwrap();
    second.write_all(b"GET /healthcheck HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    for stream in [&mut silent, &mut partial] {
        assert_eq!(all_of_it(stream).await, "");
    }
    assert!(all_of_it(&mut second).await.starts_with("HTTP/1.1 200"));
    let _ = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut Vec::new())).await.expect("it is closed in time");
    trickle.await.unwrap();
    until(|| relay.server_metrics.handshakes.get() == 0).await;
    assert!(relay.failed(Failed::Timeout) >= 3, "{}", relay.failed(Failed::Timeout));
}

#[tokio::test]
async fn heads_have_a_size_and_a_number_of_headers() {
    let relay = Relay::start().await;
    let long = format!("x-long: {}\r\n", "x".repeat(100_000));
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let large_in_all: String = (0..90).map(|number| format!("x-{number}: {}\r\n", "y".repeat(1000))).collect();
    for (count, headers) in (1..).zip([long, many, large_in_all]) {
        let path = "/socket/websocket?apikey=x&vsn=2.0.0";
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        let _ = stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes()).await;
        let answer = all_of_it(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        until(|| relay.failed(Failed::HeadTooLarge) == count).await;
    }
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\r\n\r\n").await.unwrap();
    assert!(all_of_it(&mut stream).await.starts_with("HTTP/1.1 400"));
    assert_eq!(relay.failed(Failed::Malformed), 1);
}

#[tokio::test]
async fn whoever_asks_and_does_not_read_the_answers_is_not_waited_for() {
    let relay = Relay::with(|_, server| server.body_timeout = Duration::from_millis(300)).await;
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let requests = "GET /nothing/here HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000);
    let asked = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, asked).await.expect("it is closed in time");
    until(|| relay.failed(Failed::Timeout) == 1 && relay.server_metrics.sockets.get() == 0).await;
}

#[tokio::test]
async fn half_open_sockets_have_a_limit_and_sockets_beside_them_live() {
    let relay = Relay::with(|_, server| server.handshakes_max = 50).await;
    let mut early = relay.connect().await;
    early.subscribe("early").await;
    until(|| relay.server_metrics.handshakes.get() == 0).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(relay.address).await.unwrap());
    }
    for _ in 0..100 {
        assert_eq!(all_of_it(&mut TcpStream::connect(relay.address).await.unwrap()).await, "");
    }
    assert_eq!(relay.refused(Refused::Handshakes), 100);
    early.send(r#"[null,"1","phoenix","heartbeat",{}]"#).await;
    assert!(early.text().await.contains("phx_reply"));
    drop(silent);
    until(|| relay.server_metrics.handshakes.get() == 0).await;
    relay.connect().await.subscribe("late").await;
}

#[tokio::test]
async fn half_open_sockets_of_one_address_have_a_limit_and_those_of_a_proxy_have_none() {
    let limited = |server: &mut walcast::server::Config| server.connections_per_address_max = Some(2);
    let relay = Relay::with(|_, server| limited(server)).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(relay.address).await.unwrap());
    }
    assert_eq!(all_of_it(&mut TcpStream::connect(relay.address).await.unwrap()).await, "");
    assert_eq!(relay.refused(Refused::Address), 1);

    let relay = Relay::with(|_, server| {
        limited(server);
        server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    for _ in 0..5 {
        silent.push(TcpStream::connect(relay.address).await.unwrap());
    }
    until(|| relay.server_metrics.handshakes.get() == 5).await;
}

#[tokio::test]
async fn connections_have_a_limit_in_all() {
    let relay = Relay::with(|_, server| server.sockets_max = 2).await;
    let (one, _two) = (relay.connect().await, relay.connect().await);
    assert_eq!(all_of_it(&mut TcpStream::connect(relay.address).await.unwrap()).await, "");
    assert_eq!((relay.refused(Refused::Sockets), relay.server_metrics.sockets_max.get()), (1, 2));
    drop(one);
    until(|| relay.server_metrics.sockets.get() == 1).await;
    relay.connect().await.subscribe("room").await;
}

/// Sets the soft and the hard limit of the relay's descriptors.
fn limit_descriptors(pid: u32, limit: &str) {
    let set = Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={limit}")]).status();
    assert!(set.expect("prlimit runs").success());
}

fn descriptors_of(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the relay's descriptors").count()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_it_waits_says_so_and_goes_on_when_there_are_some() {
    let scene = Scene::new(OPEN).await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("open", json!([all_of("open")])).await;
    let pid = scene.relay.pid();
    limit_descriptors(pid, &format!("{}:1000", descriptors_of(pid)));
    let mut waiting = TcpStream::connect(scene.relay.address).await.unwrap();
    waiting.write_all(b"GET /healthcheck HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut log = scene.relay.log_receiver();
    let said = log.wait_for(|log| log.contains("Connections cannot be accepted"));
    tokio::time::timeout(PATIENCE, said).await.expect("it is said in time").expect("it runs");
    scene.execute("insert into open values (1)").await;
    assert_eq!(client.next_change().await.record()["id"], 1);
    limit_descriptors(pid, "1000:1000");
    assert!(all_of_it(&mut waiting).await.starts_with("HTTP/1.1 200"));
    assert!(scene.relay.metric("accept_failures").await >= 1.0);
    assert_eq!(scene.relay.log().matches("Connections cannot be accepted").count(), 1);
}

/// `WALCAST_SOCKETS=12000 cargo test --test main floods -- --nocapture`, as many as the limit of open files has room for.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_sockets_and_as_many_half_open_ones_are_no_trouble() {
    let sockets = from_env("WALCAST_SOCKETS", 300) as usize;
    walcast::server::descriptors::raise_limit();
    let mut scene = Scene::with_flags(OPEN, &["--handshakes-max", &(sockets / 4).to_string()]).await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("open", json!([all_of("open")])).await;
    let (mut open, mut silent) = (Vec::new(), Vec::new());
    for _ in 0..sockets {
        open.push(Client::connect(&scene.relay, &anon()).await);
    }
    for _ in 0..sockets / 2 {
        silent.push(TcpStream::connect(scene.relay.address).await.expect("a connection"));
    }
    // Those above the limit are closed by now, or soon.
    let handshakes = (sockets / 4) as f64;
    for stream in silent.iter_mut().skip(sockets / 4) {
        all_of_it(stream).await;
    }
    scene.execute("insert into open values (1)").await;
    assert_eq!(client.next_change().await.record()["id"], 1);
    drop(silent);
    scene.relay.until_ready().await;
    let refused = scene.relay.until_metric("=walcast_sockets_refused_total", |refused| refused > 0.0).await;
    println!("{sockets} sockets, {handshakes} half-open ones beside them, {refused} refused");
    assert_eq!(scene.relay.metric("=walcast_connections").await, sockets as f64 + 1.0);
    drop(open);
    scene.relay.until_metric("=walcast_sockets", |open| open <= 2.0).await;
}
