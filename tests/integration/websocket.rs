//! A real socket from the upgrade to its end, with dispatch stood in for.

use std::time::Duration;

use futures_util::SinkExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use walcast::channels::{CloseReason, Pushed, frame};

use crate::support::socket::{Relay, Told, token};

#[tokio::test]
async fn a_refused_upgrade_says_why() {
    let relay = Relay::start().await;
    let expired = token("anon", -60);
    let refusals = [
        ("vsn=1.0.0", 401, "API key is missing"),
        ("apikey=&vsn=1.0.0", 401, "The token provided is not a valid JWT"),
        ("apikey=not-a-jwt", 401, "The token provided is not a valid JWT"),
        (&format!("apikey={expired}"), 401, "Token has expired"),
        ("apikey=norole", 401, "Fields `role` and `exp` are required in JWT"),
        ("apikey=badsig", 401, "Failed to validate JWT signature"),
    ];
    for (query, status, error) in refusals {
        let answer = relay.get(&format!("/socket/websocket?{query}")).await;
        assert_eq!((answer.status, answer.body), (status, format!(r#"{{"error":"{error}"}}"#)), "{query}");
        assert!(answer.head.contains("content-type: application/json; charset=utf-8"));
    }
    let bad_version = relay.get(&format!("/socket/websocket?apikey={}&vsn=9.9.9", token("anon", 60))).await;
    assert_eq!((bad_version.status, &*bad_version.body), (403, ""));
}

#[tokio::test]
async fn a_request_that_is_no_upgrade_is_told_so_after_its_token_was_looked_at() {
    let relay = Relay::start().await;
    let path = format!("/socket/websocket?vsn=1.0.0&apikey={}", token("anon", 60));
    let answer = relay.get(&path).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.body, r#"'connection' header must contain 'upgrade', got ["close"]"#);
    assert_eq!(answer.header("content-type"), None);
    let posted = relay.http("POST", &path, "connection: close\r\n").await;
    assert_eq!((posted.status, &*posted.body), (400, ""));
}

#[tokio::test]
async fn sockets_open_on_both_paths_and_by_the_gateways_header() {
    let relay = Relay::start().await;
    for path in ["/socket/websocket", "/realtime/v1/websocket"] {
        let mut socket = relay.connect_with(path, "2.0.0").await;
        socket.send(r#"[null,"1","phoenix","heartbeat",{}]"#).await;
        socket.expect(r#"[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]"#).await;
    }
    let header = [("x-api-key", token("anon", 60))];
    assert_eq!(relay.upgrade_status("/socket/websocket", &header).await, 101);
    // Neither of these is looked at.
    let header = [("authorization", format!("Bearer {}", token("anon", 60))), ("apikey", token("anon", 60))];
    assert_eq!(relay.upgrade_status("/socket/websocket", &header).await, 401);
}

#[tokio::test]
async fn without_a_version_the_socket_speaks_the_first() {
    let relay = Relay::start().await;
    let mut socket = relay.connect_with("/socket/websocket", "1.0.0").await;
    socket.send(r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1","join_ref":null}"#).await;
    socket.expect(r#"{"ref":"1","event":"phx_reply","payload":{"status":"ok","response":{}},"topic":"phoenix"}"#).await;
}

#[tokio::test]
async fn crowds_are_refused_at_the_door() {
    let relay = Relay::with(|channels, _| channels.limits.joined_connections_max = 1).await;
    let mut first = relay.connect().await;
    first.subscribe("a").await;
    let answer = relay.get(&format!("/socket/websocket?apikey={}", token("anon", 60))).await;
    assert_eq!((answer.status, &*answer.body), (429, r#"{"error":"Too many connected users"}"#));
}

#[tokio::test]
async fn the_other_paths_answer_as_recorded() {
    let relay = Relay::start().await;
    let health = relay.get("/healthcheck").await;
    assert_eq!((health.status, &*health.body), (200, "ok"));
    assert_eq!(health.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(health.header("x-request-id").is_some());
    for path in ["/api/ping", "/realtime/v1/api/ping"] {
        let ping = relay.get(path).await;
        assert_eq!((ping.status, &*ping.body), (200, r#"{"message":"Success"}"#));
        let rate = ["x-rate-rolling", "x-rate-limit", "x-rate-limit-remaining"].map(|name| ping.header(name));
        assert!(rate.iter().all(|value| value.is_some_and(|value| value.parse::<u32>().is_ok())), "{rate:?}");
    }
    for path in ["/nope", "/api/nope", "/api/broadcast", "/api/tenants//health", "/realtime/v1/nope"] {
        let missing = relay.get(path).await;
        assert_eq!((missing.status, &*missing.body), (404, "Not Found"), "{path}");
        assert_eq!(missing.header("content-type"), Some("text/html; charset=utf-8"));
    }
    let tenant = relay.get("/api/tenants/realtime-dev/health").await;
    assert_eq!((tenant.status, &*tenant.body), (403, ""));
    let bearer = format!("authorization: Bearer {}\r\nconnection: close\r\n", token("anon", 60));
    let tenant = relay.http("GET", "/api/tenants/realtime-dev/health", &bearer).await;
    assert_eq!(tenant.status, 200);
    assert!(tenant.body.starts_with(r#"{"data":{"healthy":false,"db_connected":false"#));
    assert_eq!(relay.http("HEAD", "/api/tenants/realtime-dev/health", &bearer).await.status, 200);
    assert_eq!(relay.get("/metrics").await.status, 403);
}

#[tokio::test]
async fn readiness_follows_the_stream_and_liveness_does_not() {
    use std::sync::atomic::Ordering;
    let relay = Relay::start().await;
    assert_eq!(relay.get("/ready").await.status, 503);
    relay.readiness.database.store(true, Ordering::Relaxed);
    assert_eq!(relay.get("/ready").await.status, 503);
    relay.readiness.replication.store(true, Ordering::Relaxed);
    let ready = relay.get("/ready").await;
    assert_eq!((ready.status, &*ready.body), (200, r#"{"ready":true,"database":true,"replication":true}"#));
}

#[tokio::test]
async fn metrics_are_for_whoever_has_the_token() {
    let relay = Relay::with(|_, server| server.metrics_token = Some("letmein".into())).await;
    let _socket = relay.connect().await;
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\nconnection: close\r\n");
    assert_eq!(relay.http("GET", "/metrics", &bearer("guess")).await.status, 403);
    let metrics = relay.http("GET", "/metrics", &bearer("letmein")).await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("walcast_connections_opened_total 1"), "{}", metrics.body);
}

#[tokio::test]
async fn preflights_are_answered_here() {
    let relay = Relay::start().await;
    let headers = "origin: http://app.test\r\naccess-control-request-headers: x-mine\r\nconnection: close\r\n";
    let answer = relay.http("OPTIONS", "/realtime/v1/api/broadcast", headers).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-mine"));
    assert_eq!(relay.http("OPTIONS", "/api/ping", "connection: close\r\n").await.status, 404);
}

#[tokio::test]
async fn joins_leaves_and_rejoins_reach_dispatch() {
    let relay = Relay::start().await;
    let mut socket = relay.connect().await;
    socket.subscribe("room").await;
    socket.send(r#"["2","2","realtime:room","phx_join",{"config":{"postgres_changes":[{"table":"t"}]}}]"#).await;
    assert!(socket.text().await.starts_with(r#"["2","2","realtime:room","phx_reply",{"status":"ok""#));
    socket.expect(r#"["1","1","realtime:room","phx_close",{}]"#).await;
    assert!(socket.text().await.contains("Subscribed to PostgreSQL"));
    socket.send(r#"["2","3","realtime:room","phx_leave",{}]"#).await;
    socket.expect(r#"["2","3","realtime:room","phx_reply",{"status":"ok","response":{}}]"#).await;
    socket.expect(r#"["2","2","realtime:room","phx_close",{}]"#).await;

    let told = relay.dispatch.told_at_least(4).await;
    let [first, second] = [&told[0], &told[2]].map(|told| match told {
        Told::Subscribe { channel, role } if role == "anon" => *channel,
        other => panic!("{other:?}"),
    });
    assert_eq!(told[1], Told::Unsubscribe(first));
    assert_eq!(told[3], Told::Unsubscribe(second));
}

#[tokio::test]
async fn a_socket_that_breaks_off_is_unsubscribed() {
    let relay = Relay::start().await;
    let mut socket = relay.connect().await;
    socket.subscribe("room").await;
    drop(socket);
    let told = relay.dispatch.told_at_least(2).await;
    assert!(matches!(told[1], Told::Unsubscribe(_)));
    relay.stop().await;
}

#[tokio::test]
async fn malformed_frames_are_dropped_and_the_socket_lives() {
    let relay = Relay::start().await;
    let mut socket = relay.connect().await;
    for malformed in ["hello", "", "{}", "[]", "null", "123", r#"[null,"1","phoenix"]"#] {
        socket.send(malformed).await;
    }
    for garbage in [&[0][..], &[0xff, 0], &[3, 1], &[0xde, 0xad, 0xbe, 0xef]] {
        socket.0.send(Message::binary(garbage.to_vec())).await.unwrap();
    }
    socket.send(r#"[null,7,"phoenix","heartbeat",{}]"#).await;
    socket.expect(r#"[null,7,"phoenix","phx_reply",{"status":"ok","response":{}}]"#).await;
    assert_eq!(relay.metrics.frames_malformed.get(), 11);
}

#[tokio::test]
async fn a_token_that_expires_closes_its_channel_on_an_open_socket() {
    let relay = Relay::start().await;
    let mut socket = relay.connect().await;
    let token = token("authenticated", 1);
    socket.send(&format!(r#"["1","1","realtime:e","phx_join",{{"config":{{}},"access_token":"{token}"}}]"#)).await;
    socket.expect(r#"["1","1","realtime:e","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#).await;
    socket
        .expect(r#"["1",null,"realtime:e","system",{"message":"Token has expired 0 seconds ago","status":"error","extension":"system","channel":"e"}]"#)
        .await;
    socket.expect(r#"["1","1","realtime:e","phx_close",{}]"#).await;
    socket.send(r#"[null,"2","phoenix","heartbeat",{}]"#).await;
    socket.expect(r#"[null,"2","phoenix","phx_reply",{"status":"ok","response":{}}]"#).await;
}

#[tokio::test]
async fn a_silent_socket_is_closed_though_it_is_sent_to() {
    let relay = Relay::with(|_, server| server.idle_timeout = Duration::from_millis(200)).await;
    let mut silent = relay.connect().await;
    silent.subscribe("room").await;
    relay.dispatch.outbox("realtime:room").push(frame::text(b"news"));
    silent.expect("news").await;
    silent.expect_close(1000, "").await;
}

#[tokio::test]
async fn protocol_pings_are_answered_and_count_against_being_idle() {
    let relay = Relay::with(|_, server| server.idle_timeout = Duration::from_millis(300)).await;
    let mut socket = relay.connect().await;
    let start = tokio::time::Instant::now();
    // As many round trips as fit into three timeouts.
    while start.elapsed() < Duration::from_millis(900) {
        socket.0.send(Message::Ping(b"hi".to_vec().into())).await.unwrap();
        assert_eq!(socket.next().await, Some(Message::Pong(b"hi".to_vec().into())));
    }
    socket.expect_close(1000, "").await;
}

#[tokio::test]
async fn a_close_by_the_client_is_answered() {
    let relay = Relay::start().await;
    let mut socket = relay.connect().await;
    socket.0.close(None).await.unwrap();
    assert!(matches!(socket.next().await, Some(Message::Close(_))));
    assert!(socket.next().await.is_none());
}

#[tokio::test]
async fn a_frame_above_the_limit_closes_with_1009() {
    let relay = Relay::with(|_, server| server.frame_bytes_max = 50_000).await;
    let mut socket = relay.connect().await;
    let _ = socket.0.send(Message::text("x".repeat(100_000))).await;
    socket.expect_close(1009, "").await;
}

#[tokio::test]
async fn a_slow_client_is_told_and_closed_while_others_go_on() {
    let relay = Relay::with(|channels, _| {
        channels.outbox.bytes_max = 200_000;
        channels.outbox.spill_bytes_max = 400_000;
        channels.outbox.grace = Duration::from_secs(3600);
    })
    .await;
    let (mut slow, mut quick) = (relay.connect().await, relay.connect().await);
    slow.subscribe("slow").await;
    quick.subscribe("quick").await;
    let (to_slow, to_quick) = (relay.dispatch.outbox("realtime:slow"), relay.dispatch.outbox("realtime:quick"));

    // The slow one reads nothing; the quick one reads each.
    let body = "x".repeat(60_000);
    let mut sent = 0;
    loop {
        let news = frame::text(format!("{sent} {body}").as_bytes());
        assert_ne!(to_quick.push(news.clone()), Pushed::Closed);
        let pushed = to_slow.push(news);
        assert!(quick.text().await.starts_with(&format!("{sent} ")));
        if pushed == Pushed::Closed {
            break;
        }
        sent += 1;
    }
    assert_eq!(to_slow.closed(), Some(CloseReason::SlowConsumer));

    // What it gets is whole and in order, and then the truth.
    let mut got = 0;
    let last = loop {
        let text = slow.text().await;
        match text.strip_prefix(&format!("{got} ")) {
            Some(rest) => assert_eq!(rest, body),
            None => break text,
        }
        got += 1;
    };
    assert!(got < sent);
    assert!(last.contains(r#"[null,null,"realtime:slow","system",{"message":"Messages were not read fast enough"#));
    slow.expect_close(1013, "SlowConsumer: Messages were not read fast enough").await;
    assert!(relay.dispatch.told_at_least(3).await.iter().any(|told| matches!(told, Told::Unsubscribe(_))));
    to_quick.push(frame::text(b"still here"));
    quick.expect("still here").await;
}

#[tokio::test]
async fn a_client_that_lags_for_longer_than_its_grace_is_closed() {
    let relay = Relay::with(|channels, _| {
        channels.outbox.bytes_max = 1000;
        channels.outbox.spill_bytes_max = 100 << 20;
        channels.outbox.grace = Duration::from_millis(100);
    })
    .await;
    let mut slow = relay.connect().await;
    slow.subscribe("slow").await;
    let outbox = relay.dispatch.outbox("realtime:slow");
    // More than the kernel's buffers hold on both sides.
    for _ in 0..40 {
        outbox.push(frame::text(&vec![b'x'; 1 << 20]));
    }
    relay.dispatch.told_at_least(2).await;
    assert_eq!(outbox.closed(), Some(CloseReason::SlowConsumer));
    let last = loop {
        let text = slow.text().await;
        if !text.starts_with('x') {
            break text;
        }
    };
    assert!(last.contains("Messages were not read fast enough"));
}

#[tokio::test]
async fn pongs_never_land_inside_a_frame() {
    let relay = Relay::with(|channels, _| {
        channels.outbox.bytes_max = 100 << 20;
        channels.outbox.spill_bytes_max = 100 << 20;
    })
    .await;
    let mut socket = relay.connect().await;
    socket.subscribe("room").await;
    let outbox = relay.dispatch.outbox("realtime:room");
    let body = "y".repeat(1_000_000);
    // More than the kernel holds, in three pieces each, as changes are: the socket blocks in the middle of one.
    for number in 0..20 {
        let news = frame::text(format!("{number} {body}").as_bytes());
        outbox.push_chunks([news.slice(..5), news.slice(5..70_000), news.slice(70_000..)]);
    }
    let (mut texts, mut pongs) = (0, 0);
    while texts < 20 || pongs == 0 {
        // The client answers nothing by itself, so each of these is on its way while frames are.
        socket.0.send(Message::Ping(b"p".to_vec().into())).await.unwrap();
        match socket.next().await.unwrap() {
            Message::Text(text) => {
                assert_eq!(text.as_str(), format!("{texts} {body}"));
                texts += 1;
            }
            Message::Pong(_) => pongs += 1,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stopping_server_says_goodbye_to_every_channel() {
    let relay = Relay::start().await;
    let mut socket = relay.connect().await;
    socket.subscribe("room").await;
    let dispatch = relay.dispatch.clone();
    let (_, ()) = tokio::join!(relay.stop(), async {
        socket
            .expect(r#"[null,null,"realtime:room","system",{"message":"Server requested disconnect","status":"ok","extension":"system"}]"#)
            .await;
        socket.expect_close(1012, "").await;
        // The client's side, which the server waits for.
        drop(socket);
    });
    assert!(matches!(dispatch.told()[1], Told::Unsubscribe(_)));
}

/// As they are by default, but for times that a test does not wait for.
fn in_no_hurry(server: &mut walcast::server::Config) {
    let hour = Duration::from_secs(3600);
    (server.close_timeout, server.drain_timeout, server.header_timeout) = (hour, hour, hour);
    server.drain_linger = Duration::from_millis(10);
}

/// What is left of a connection is a close frame, and whoever does not answer it has nothing more to get.
#[tokio::test]
async fn whoever_is_silent_does_not_hold_up_a_stop() {
    let relay = Relay::with(|_, server| in_no_hurry(server)).await;
    let mut half_a_head = TcpStream::connect(relay.address).await.unwrap();
    half_a_head.write_all(b"GET /socket/websocket?apikey=").await.unwrap();
    let mut silent = relay.connect().await;
    silent.subscribe("room").await;
    relay.stop().await;
    assert!(silent.text().await.contains("Server requested disconnect"));
    match silent.next().await {
        Some(Message::Close(Some(close))) => assert_eq!(u16::from(close.code), 1012),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_queued_is_waited_for_at_a_stop() {
    let relay = Relay::with(|channels, server| {
        in_no_hurry(server);
        server.drain_linger = Duration::ZERO;
        channels.outbox.bytes_max = 64 << 20;
        channels.outbox.spill_bytes_max = 64 << 20;
    })
    .await;
    let mut socket = relay.connect().await;
    socket.subscribe("room").await;
    // More than the kernel holds.
    let body = "y".repeat(1_000_000);
    for _ in 0..20 {
        relay.dispatch.outbox("realtime:room").push(frame::text(body.as_bytes()));
    }
    let ((), ()) = tokio::join!(relay.stop(), async {
        for _ in 0..20 {
            socket.expect(&body).await;
        }
        assert!(socket.text().await.contains("Server requested disconnect"));
    });
}
