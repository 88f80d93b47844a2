//! Presence between sockets.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::socket::{Relay, Socket};

async fn join(relay: &Relay, key: &str) -> Socket {
    let mut socket = relay.connect().await;
    socket
        .send(&format!(
            r#"["1","1","realtime:room","phx_join",{{"config":{{"presence":{{"key":"{key}","enabled":true}}}}}}]"#
        ))
        .await;
    assert!(socket.text().await.contains(r#""status":"ok""#));
    socket
}

async fn track(socket: &mut Socket) {
    socket
        .send(r#"["1","2","realtime:room","presence",{"type":"presence","event":"track","payload":{"on":true}}]"#)
        .await;
}

/// Follows states and diffs until so many are present.
async fn follow(socket: &mut Socket, present: &mut BTreeSet<String>, until: usize) {
    while present.len() != until {
        let frame: Value = serde_json::from_str(&socket.text().await).unwrap();
        let keys = |state: &Value| state.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        match frame[3].as_str().unwrap() {
            "presence_state" => present.extend(keys(&frame[4])),
            "presence_diff" => {
                for key in keys(&frame[4]["joins"]) {
                    assert!(present.insert(key), "nobody joins twice");
                }
                for key in keys(&frame[4]["leaves"]) {
                    assert!(present.remove(&key), "who leaves was there");
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn everybody_sees_everybody_come_and_go_however_they_go() {
    let relay = Relay::start().await;
    let mut watcher = join(&relay, "watcher").await;
    let mut present = BTreeSet::new();
    let mut sockets = Vec::new();
    for number in 0..30 {
        let mut socket = join(&relay, &format!("k{number}")).await;
        track(&mut socket).await;
        sockets.push(socket);
    }
    follow(&mut watcher, &mut present, 30).await;
    for socket in &mut sockets {
        follow(socket, &mut BTreeSet::new(), 30).await;
    }
    assert_eq!(relay.metrics.presences.get(), 30);
    for (number, mut socket) in sockets.into_iter().enumerate() {
        match number % 3 {
            0 => socket.send(r#"["1","3","realtime:room","phx_leave",{}]"#).await,
            1 => drop(socket.0.close(None).await),
            // Cut off.
            _ => drop(socket),
        }
    }
    follow(&mut watcher, &mut present, 0).await;
    assert_eq!((relay.metrics.presences.get(), relay.metrics.topics.get()), (0, 1));
}

#[tokio::test]
async fn a_client_that_comes_back_within_the_grace_is_not_seen_to_leave() {
    let relay = Relay::with(|channels, _| {
        channels.limits.presence_grace = std::time::Duration::from_secs(3600);
    })
    .await;
    let mut watcher = join(&relay, "watcher").await;
    assert!(watcher.text().await.contains("presence_state"));
    for _ in 0..3 {
        let mut socket = join(&relay, "a").await;
        track(&mut socket).await;
        // The reply: it has been tracked.
        while !socket.text().await.contains(r#"["1","2","realtime:room","phx_reply",{"status":"ok""#) {}
        // The close is answered before the connection's end, and the channel goes with that.
        socket.0.close(None).await.unwrap();
        while socket.next().await.is_some() {}
    }
    let mut other = join(&relay, "b").await;
    track(&mut other).await;
    assert!(watcher.text().await.contains(r#""joins":{"a""#));
    assert!(watcher.text().await.contains(r#""joins":{"b""#));
}
