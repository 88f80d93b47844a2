//! Clients that break the rules of WebSockets, or stretch them: each is closed with its code, and nobody else is.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use walcast::channels::CloseReason;

use crate::support::relay::{PATIENCE, pause_between_polls};
use crate::support::socket::{Relay, token};

/// A socket whose frames the test writes byte by byte.
struct Raw(TcpStream);

impl Raw {
    async fn open(relay: &Relay) -> Raw {
        let (socket, head) = Raw::open_with(relay, "").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        socket
    }

    async fn open_with(relay: &Relay, headers: &str) -> (Raw, String) {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        let head = format!(
            "GET /socket/websocket?apikey={}&vsn=2.0.0 HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
            token("anon", 3600)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        (Raw(stream), String::from_utf8(answer).unwrap())
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next frame: its first byte and its payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let first = self.0.read_u8().await.unwrap();
            let length = match self.0.read_u8().await.unwrap() {
                126 => usize::from(self.0.read_u16().await.unwrap()),
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.unwrap();
            (first, payload)
        };
        tokio::time::timeout(PATIENCE, read).await.expect("a frame in time")
    }

    /// Code and reason of the close frame, which must be next, and then the end.
    async fn closed(&mut self) -> (u16, String) {
        let (first, payload) = self.frame().await;
        assert_eq!(first, 0x88, "{payload:?}");
        self.0.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest).await;
        assert_eq!(rest, b"", "something follows the close frame");
        (u16::from_be_bytes([payload[0], payload[1]]), String::from_utf8(payload[2..].to_vec()).unwrap())
    }
}

/// A client's frame: first byte, payload; the mask is all zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&header(first, payload.len() as u64)[..], payload].concat()
}

fn header(first: u8, length: u64) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..126 => head.push(0x80 | length as u8),
        126..65_536 => {
            head.push(0x80 | 126);
            head.extend((length as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend(length.to_be_bytes());
        }
    }
    head.extend([0; 4]);
    head
}

const HEARTBEAT: &[u8] = br#"[null,"1","phoenix","heartbeat",{}]"#;

#[tokio::test]
async fn each_breach_of_the_protocol_has_its_code() {
    let relay = Relay::with(|_, server| server.frame_bytes_max = 1000).await;
    let mut bystander = relay.connect().await;
    let piece = || frame(0x00, &[b'x'; 400]);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a length of 2^63", header(0x81, 1 << 63), 1009),
        ("a length of 2^64 - 1", header(0x82, u64::MAX), 1009),
        ("one byte too many", header(0x81, 1001), 1009),
        ("fragments that add up", [frame(0x01, &[b'x'; 400]), piece(), piece()].concat(), 1009),
        ("a ping of 126 bytes", frame(0x89, &[0; 126]), 1002),
        ("a ping in fragments", frame(0x09, b"p"), 1002),
        ("no mask", [&[0x81, 2][..], b"{}"].concat(), 1002),
        ("the bit of compression", frame(0xc1, b"{}"), 1002),
        ("another reserved bit", frame(0xa1, b"{}"), 1002),
        ("a reserved opcode", frame(0x83, b"{}"), 1002),
        ("a reserved control opcode", frame(0x8b, b""), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a message inside of a message", [frame(0x01, b"["), frame(0x81, b"]")].concat(), 1002),
        ("text that is none", frame(0x81, b"\xff\xfe"), 1007),
    ];
    for (what, bytes, code) in &cases {
        let mut raw = Raw::open(&relay).await;
        raw.write(&frame(0x81, HEARTBEAT)).await;
        assert_eq!(raw.frame().await.0, 0x81, "{what}");
        raw.write(bytes).await;
        assert_eq!(raw.closed().await, (*code, String::new()), "{what}");
    }
    bystander.send(std::str::from_utf8(HEARTBEAT).unwrap()).await;
    assert!(bystander.text().await.contains("phx_reply"));
    let counted = || {
        let reasons = [CloseReason::TooLarge, CloseReason::Protocol, CloseReason::NotUtf8];
        reasons.map(|reason| relay.closes(reason)).iter().sum::<u64>()
    };
    until(|| counted() == cases.len() as u64).await;
}

#[tokio::test]
async fn compression_is_not_negotiated_whatever_is_asked() {
    let relay = Relay::start().await;
    let asked = "sec-websocket-extensions: permessage-deflate; client_max_window_bits, x-webkit-deflate-frame\r\n";
    let (mut raw, head) = Raw::open_with(&relay, asked).await;
    assert!(head.starts_with("HTTP/1.1 101") && !head.to_lowercase().contains("extensions"), "{head}");
    raw.write(&frame(0x81, HEARTBEAT)).await;
    assert_eq!(raw.frame().await.0, 0x81);
}

/// All of each but the end, which may never come.
#[tokio::test]
async fn what_is_held_of_unfinished_messages_has_a_limit_over_all_sockets() {
    let relay = Relay::with(|_, server| server.inbound_bytes_max = 150 << 10).await;
    let text = format!(r#"[null,"1","phoenix","heartbeat",{{"a":"{}"}}]"#, "x".repeat(120 << 10));
    let whole = frame(0x81, text.as_bytes());
    let (mut first, mut second) = (Raw::open(&relay).await, Raw::open(&relay).await);
    first.write(&whole[..100 << 10]).await;
    until(|| relay.server_metrics.inbound_bytes.get() >= 100 << 10).await;
    second.write(&whole[..100 << 10]).await;
    assert_eq!(second.closed().await, (1013, "Overloaded: Too many large messages are being received".into()));
    until(|| relay.closes(CloseReason::Overloaded) == 1).await;
    // Pings between fragments change nothing, and the first is whole at last.
    first.write(&whole[100 << 10..]).await;
    assert_eq!(first.frame().await.0, 0x81);
    until(|| relay.server_metrics.inbound_bytes.get() == 0).await;
}

#[tokio::test]
async fn a_large_message_arrives_in_time_or_its_socket_is_closed() {
    let relay = Relay::with(|_, server| server.body_timeout = Duration::from_millis(300)).await;
    let mut raw = Raw::open(&relay).await;
    raw.write(&header(0x01, 20 << 10)).await;
    raw.write(&vec![b'x'; 20 << 10]).await;
    // Bytes that come count against being idle, not against the time of the message.
    while relay.closes(CloseReason::SlowMessage) == 0 {
        if raw.0.write_all(&frame(0x00, b"x")).await.is_err() {
            break;
        }
        pause_between_polls().await;
    }
    assert_eq!(
        raw.frame().await,
        (0x88, [&1008_u16.to_be_bytes()[..], b"SlowMessage: The message did not arrive in time"].concat())
    );
}

#[tokio::test]
async fn whoever_pings_without_reading_is_closed_as_slow_and_holds_up_nobody() {
    let relay = Relay::with(|channels, _| {
        channels.outbox.bytes_max = 100_000;
        channels.outbox.spill_bytes_max = 200_000;
    })
    .await;
    let mut bystander = relay.connect().await;
    let mut raw = Raw::open(&relay).await;
    let pings = frame(0x89, &[0; 125]).repeat(1000);
    let flood = tokio::spawn(async move { while raw.0.write_all(&pings).await.is_ok() {} });
    while relay.closes(CloseReason::SlowConsumer) == 0 {
        bystander.send(std::str::from_utf8(HEARTBEAT).unwrap()).await;
        assert!(bystander.text().await.contains("phx_reply"));
    }
    tokio::time::timeout(PATIENCE, flood).await.expect("its socket is closed").unwrap();
}

#[tokio::test]
async fn nesting_beyond_reason_is_a_malformed_frame_and_no_more() {
    let relay = Relay::start().await;
    let mut socket = relay.connect().await;
    for deep in ["[".repeat(200_000), r#"{"config":"#.repeat(50_000), format!(r#"{{"a":{}"#, "[".repeat(200_000))] {
        socket.send(&format!(r#"["1","1","realtime:room","phx_join",{deep}"#)).await;
        socket.send(&deep).await;
    }
    let closed = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    socket.send(&format!(r#"["1","1","realtime:room","phx_join",{closed}]"#)).await;
    socket.send(std::str::from_utf8(HEARTBEAT).unwrap()).await;
    assert!(socket.text().await.contains("phx_reply"));
    assert_eq!(relay.metrics.frames_malformed.get(), 7);
}

/// Waits for what the server does in its own time.
async fn until(is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            pause_between_polls().await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("in time");
}
