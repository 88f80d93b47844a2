//! Who receives what is broadcast over HTTP, and in which frames (PROTOCOL 2.4, 7.2, 7.3).

use tokio_tungstenite::tungstenite::Message;

use super::rest::with_authority;
use crate::support::socket::{Relay, Socket, token};

const JSON: &str = "content-type: application/json\r\n";
const BINARY: &str = "content-type: application/octet-stream\r\n";

/// One socket of each version, joined to the same topic.
async fn both(relay: &Relay, room: &str) -> (Socket, Socket) {
    let mut first = relay.connect_with("/socket/websocket", "1.0.0").await;
    let join = format!(
        r#"{{"topic":"realtime:{room}","event":"phx_join","payload":{{"config":{{}}}},"ref":"1","join_ref":"1"}}"#
    );
    first.send(&join).await;
    assert!(first.text().await.contains(r#""status":"ok""#));
    let mut second = relay.connect().await;
    second.send(&format!(r#"["1","1","realtime:{room}","phx_join",{{"config":{{}}}}]"#)).await;
    assert!(second.text().await.contains(r#""status":"ok""#));
    (first, second)
}

async fn binary(socket: &mut Socket) -> Vec<u8> {
    match socket.next().await {
        Some(Message::Binary(bytes)) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// A frame of kind 4.
fn event(topic: &str, event: &str, encoding: u8, payload: &[u8]) -> Vec<u8> {
    let head = [4, topic.len() as u8, event.len() as u8, 0, encoding];
    [&head, topic.as_bytes(), event.as_bytes(), payload].concat()
}

#[tokio::test]
async fn a_batch_is_received_in_its_order_as_objects() {
    let relay = Relay::start().await;
    let (mut first, mut second) = both(&relay, "rest1").await;
    let batch = r#"{"messages":[
        {"topic":"rest1","event":"ev","payload":{"a":1}},
        {"topic":"other","event":"x","payload":{}},
        {"topic":"rest1","event":"ev2","payload":{"a":2},"private":false,"id":"7"}]}"#;
    assert_eq!(relay.post("/api/broadcast", JSON, batch).await.status, 202);
    let objects = [
        r#"{"event":"ev","payload":{"a":1},"type":"broadcast"}"#,
        r#"{"event":"ev2","meta":{"id":"7"},"payload":{"a":2},"type":"broadcast"}"#,
    ];
    for object in objects {
        first
            .expect(&format!(r#"{{"ref":null,"event":"broadcast","payload":{object},"topic":"realtime:rest1"}}"#))
            .await;
        second.expect(&format!(r#"[null,null,"realtime:rest1","broadcast",{object}]"#)).await;
    }
}

#[tokio::test]
async fn a_single_event_is_received_as_each_version_takes_it() {
    let relay = Relay::start().await;
    let (mut first, mut second) = both(&relay, "room:s").await;
    let text = |event: &str, payload: &str| {
        let payload = format!(r#"{{"event":"{event}","payload":{payload},"type":"broadcast"}}"#);
        format!(r#"{{"ref":null,"event":"broadcast","payload":{payload},"topic":"realtime:room:s"}}"#)
    };
    let path = "/api/broadcast/room%3As/events";
    assert_eq!(relay.post(&format!("{path}/my%20ev"), JSON, r#"{"a":1}"#).await.status, 202);
    first.expect(&text("my ev", r#"{"a":1}"#)).await;
    assert_eq!(binary(&mut second).await, event("realtime:room:s", "my ev", 1, br#"{"a":1}"#));
    // The first version has no frame for bytes: what follows them is what it hears next.
    assert_eq!(relay.post(&format!("{path}/bin"), BINARY, b"\x00\x01\xfe\xff").await.status, 202);
    assert_eq!(binary(&mut second).await, event("realtime:room:s", "bin", 0, b"\x00\x01\xfe\xff"));
    assert_eq!(relay.post(&format!("{path}/x"), JSON, "[1]").await.status, 202);
    first.expect(&text("x", r#"{"_json":[1]}"#)).await;
    assert_eq!(binary(&mut second).await, event("realtime:room:s", "x", 1, br#"{"_json":[1]}"#));
    assert_eq!(relay.post(&format!("{path}/y"), JSON, "").await.status, 202);
    first.expect(&text("y", "{}")).await;
}

#[tokio::test]
async fn private_topics_hear_only_what_is_private_and_allowed() {
    let (relay, _) = with_authority().await;
    let mut private = relay.connect().await;
    let access = token("authenticated", 60);
    let join =
        format!(r#"["1","1","realtime:allowed","phx_join",{{"config":{{"private":true}},"access_token":"{access}"}}]"#);
    private.send(&join).await;
    assert!(private.text().await.contains(r#""status":"ok""#));
    let (_, mut public) = both(&relay, "allowed").await;
    let message = |topic: &str, event: &str, is_private: bool| {
        format!(r#"{{"topic":"{topic}","event":"{event}","payload":{{}},"private":{is_private}}}"#)
    };
    let batch =
        [message("denied", "never", true), message("allowed", "open", false), message("allowed", "closed", true)];
    let batch = format!(r#"{{"messages":[{}]}}"#, batch.join(","));
    assert_eq!(relay.post("/api/broadcast", JSON, batch).await.status, 202);
    let object = |event: &str| {
        format!(r#"[null,null,"realtime:allowed","broadcast",{{"event":"{event}","payload":{{}},"type":"broadcast"}}]"#)
    };
    private.expect(&object("closed")).await;
    public.expect(&object("open")).await;
    assert_eq!(relay.post("/api/broadcast/allowed/events/e?private=true", JSON, "{}").await.status, 202);
    assert_eq!(binary(&mut private).await, event("realtime:allowed", "e", 1, b"{}"));
}

#[tokio::test]
async fn of_a_batch_that_is_too_large_for_a_second_nothing_is_sent() {
    let relay = Relay::with(|channels, _| channels.limits.events_per_second_max = Some(2)).await;
    let (_, mut second) = both(&relay, "t").await;
    let batch = |events: &[&str]| {
        let message = |event: &&str| format!(r#"{{"topic":"t","event":"{event}","payload":{{}}}}"#);
        format!(r#"{{"messages":[{}]}}"#, events.iter().map(message).collect::<Vec<_>>().join(","))
    };
    let refused = relay.post("/api/broadcast", JSON, batch(&["a", "b", "c"])).await;
    let message = r#"{"message":"Too many messages to broadcast, please reduce the batch size"}"#;
    assert_eq!((refused.status, &*refused.body), (429, message));
    assert_eq!(relay.post("/api/broadcast", JSON, batch(&["d"])).await.status, 202);
    second.expect(r#"[null,null,"realtime:t","broadcast",{"event":"d","payload":{},"type":"broadcast"}]"#).await;
}
