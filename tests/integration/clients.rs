//! Clients of other languages than those whose packages are run: the frames that they send, as they send them, and what
//! their decoders insist on in the frames that they get (PROTOCOL 11). One that fails them is dropped there without a word.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::people::{ALICE, alice, anon};
use crate::support::relay::{PATIENCE, Relay};
use crate::support::scene::Scene;

const TODOS: &str = "
    create table todos (id int primary key, owner uuid, title text);
    alter table todos enable row level security;
    create policy own on todos for select to authenticated using (owner = auth.uid());
    grant select on todos to anon, authenticated;
    alter publication supabase_realtime add table todos;";

/// A socket, and the frames on it as they are written.
struct Wire(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Wire {
    /// `path` with its query, in the order of the client's own parameters.
    async fn open(relay: &Relay, path: &str) -> Wire {
        let url = format!("ws://{}{path}", relay.address);
        let (socket, _) = tokio_tungstenite::connect_async(url).await.expect("an upgrade");
        Wire(socket)
    }

    async fn send(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("an open socket");
    }

    async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a frame in time");
        next.expect("an open socket").expect("a frame")
    }

    async fn text(&mut self) -> Value {
        let frame = self.next().await;
        serde_json::from_str(frame.to_text().expect("a text frame")).expect("JSON")
    }

    async fn bytes(&mut self) -> Vec<u8> {
        match self.next().await {
            Message::Binary(bytes) => bytes.to_vec(),
            other => panic!("expected a binary frame, got {other:?}"),
        }
    }
}

/// Kind 3: join_ref, ref, topic, event, metadata, encoding, payload (PROTOCOL 2.3).
fn kind_3(topic: &str, reference: &str, event: &str, encoding: u8, payload: &[u8]) -> Message {
    let lengths = ["1", reference, topic, event, ""].map(|text| text.len() as u8);
    let mut frame = [&[3][..], &lengths, &[encoding]].concat();
    for text in ["1", reference, topic, event] {
        frame.extend_from_slice(text.as_bytes());
    }
    frame.extend_from_slice(payload);
    Message::binary(frame)
}

fn kind_4(topic: &str, event: &str, encoding: u8, payload: &[u8]) -> Vec<u8> {
    let head = [4, topic.len() as u8, event.len() as u8, 0, encoding];
    [&head, topic.as_bytes(), event.as_bytes(), payload].concat()
}

// What decoders insist on. -----------------------------------------------------------------------------------------------

/// supabase-py's models: one of them must fit, or the frame is logged and lost. Gives the payload back.
fn as_python_takes_it(frame: &Value) -> &Value {
    let mut keys: Vec<&String> = frame.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["event", "payload", "ref", "topic"], "exactly these keys: {frame}");
    let (event, payload) = (frame["event"].as_str().expect("an event"), &frame["payload"]);
    match event {
        "phx_reply" => {
            assert!(matches!(payload["status"].as_str(), Some("ok" | "error")), "{frame}");
            assert!(payload["response"].is_object(), "{frame}");
        }
        "phx_close" | "phx_error" => assert!(frame["ref"].is_string(), "the ref of the join: {frame}"),
        _ => assert!(frame["ref"].is_null(), "pushes have a ref, and it is null: {frame}"),
    }
    match event {
        "system" => {
            for key in ["channel", "extension", "message", "status"] {
                assert!(payload[key].is_string(), "{key} in {frame}");
            }
        }
        "broadcast" => assert!(payload["event"].is_string() && payload["payload"].is_object(), "{frame}"),
        "presence_diff" => assert!(payload["joins"].is_object() && payload["leaves"].is_object(), "{frame}"),
        "postgres_changes" => change(payload),
        _ => {}
    }
    payload
}

/// What Python, Swift and Dart need of a change, together.
fn change(payload: &Value) {
    let ids = payload["ids"].as_array().expect("ids");
    assert!(!ids.is_empty() && ids.iter().all(Value::is_u64), "ids are integers: {payload}");
    let data = payload["data"].as_object().expect("data");
    let operation = data["type"].as_str().expect("a type");
    assert!(matches!(operation, "INSERT" | "UPDATE" | "DELETE"));
    assert!(data["schema"].is_string() && data["table"].is_string());
    assert_eq!(data.get("errors"), Some(&Value::Null), "the key is there, and null: {payload}");
    assert!(
        data["columns"].as_array().expect("columns").iter().all(|it| it["name"].is_string() && it["type"].is_string())
    );
    assert_eq!(data.contains_key("record"), operation != "DELETE");
    assert_eq!(data.contains_key("old_record"), operation != "INSERT");
    // ISO 8601 with three digits of a second, and Z: what Swift's formatter takes.
    let timestamp = data["commit_timestamp"].as_str().expect("a time");
    let form: String = timestamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z");
}

/// A join reply's bindings: an integer id that is not 0, which Swift takes for none, and a schema.
fn ids_of(reply: &Value) -> Vec<u64> {
    assert_eq!(reply["status"], "ok", "{reply}");
    let bindings = reply["response"]["postgres_changes"].as_array().expect("always a list");
    assert!(bindings.iter().all(|binding| binding["schema"].is_string()), "{reply}");
    bindings.iter().map(|binding| binding["id"].as_u64().filter(|id| *id > 0).expect("an integer above 0")).collect()
}

fn subscribed(channel: &str) -> Value {
    json!({ "message": "Subscribed to PostgreSQL", "status": "ok", "extension": "postgres_changes", "channel": channel })
}

fn without_hint(payload: &Value) -> Value {
    let mut payload = payload.clone();
    payload.as_object_mut().map(|payload| payload.remove("hint"));
    payload
}

// The clients. -----------------------------------------------------------------------------------------------------------

/// realtime-csharp: version 1, `token` beside `apikey`, no join_ref, presence without `enabled`, and the person in a push of
/// its own behind the join.
#[tokio::test]
async fn csharp_joins_without_a_join_ref_and_pushes_its_token_after() {
    let scene = Scene::new(TODOS).await;
    let (key, token) = (anon().token(), alice().token());
    let path = format!("/realtime/v1/websocket?token={token}&apikey={key}&vsn=1.0.0");
    let mut wire = Wire::open(&scene.relay, &path).await;
    let push = |event: &str, payload: Value, reference: &str| json!({ "topic": "realtime:room", "event": event, "payload": payload, "ref": reference });
    let binding = json!({ "schema": "public", "table": "todos", "event": "*" });
    let config = json!({
        "broadcast": { "self": true, "ack": true }, "presence": { "key": "me" }, "postgres_changes": [binding]
    });
    wire.send(&push("phx_join", json!({ "config": config }), "guid-1")).await;
    let reply = wire.text().await;
    assert_eq!((&reply["ref"], &reply["event"]), (&json!("guid-1"), &json!("phx_reply")));
    let ids = ids_of(as_python_takes_it(&reply));
    assert_eq!(without_hint(as_python_takes_it(&wire.text().await)), subscribed("room"));

    // The key alone is anon's, who may see no row; no reply, but bound anew.
    wire.send(&push("access_token", json!({ "access_token": token }), "guid-2")).await;
    assert_eq!(without_hint(as_python_takes_it(&wire.text().await)), subscribed("room"));
    scene.execute(&format!("insert into todos values (1, '{ALICE}', 'mine')")).await;
    let frame = wire.text().await;
    let payload = as_python_takes_it(&frame);
    assert_eq!((&payload["ids"], &payload["data"]["record"]["title"]), (&json!(ids), &json!("mine")));

    let sent = json!({ "type": "broadcast", "event": "cursor", "payload": { "x": 1 } });
    wire.send(&push("broadcast", sent.clone(), "guid-3")).await;
    assert_eq!(as_python_takes_it(&wire.text().await), &sent);
    let ack = wire.text().await;
    assert_eq!((&ack["ref"], &ack["payload"]), (&json!("guid-3"), &json!({ "status": "ok", "response": {} })));

    wire.send(&push("presence", json!({ "type": "presence", "event": "track", "payload": { "n": 1 } }), "guid-4"))
        .await;
    let (one, other) = (wire.text().await, wire.text().await);
    let events = [&one, &other].map(|frame| (as_python_takes_it(frame), frame["event"].as_str()).1);
    assert!(events.contains(&Some("phx_reply")) && events.contains(&Some("presence_diff")), "{one} {other}");
    let diff = if events[0] == Some("presence_diff") { one } else { other };
    assert_eq!(diff["payload"]["joins"]["me"]["metas"][0]["n"], 1);

    wire.send(&json!({ "topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "guid-5" })).await;
    assert_eq!(wire.text().await["ref"], "guid-5");
}

/// A serializer that writes what is not set.
#[tokio::test]
async fn a_table_of_null_is_told_and_the_join_stands() {
    let scene = Scene::new(TODOS).await;
    let mut wire = Wire::open(&scene.relay, &format!("/socket/websocket?apikey={}&vsn=1.0.0", anon().token())).await;
    let binding = json!({ "schema": "public", "table": null, "filter": null, "event": "*" });
    let payload = json!({ "config": { "postgres_changes": [binding] } });
    wire.send(&json!({ "topic": "realtime:room", "event": "phx_join", "payload": payload, "ref": "1" })).await;
    ids_of(as_python_takes_it(&wire.text().await));
    let frame = wire.text().await;
    let system = as_python_takes_it(&frame);
    assert_eq!((&frame["event"], &system["status"]), (&json!("system"), &json!("error")));
    assert!(system["message"].as_str().unwrap().starts_with("No subscription params provided."), "{system}");
}

/// supabase-py: version 1, `join_ref` null, heartbeats without a ref, presence without `type`.
#[tokio::test]
async fn python_decodes_every_kind_of_frame() {
    let scene = Scene::new(TODOS).await;
    let token = alice().token();
    let mut wire = Wire::open(&scene.relay, &format!("/socket/websocket?apikey={token}&vsn=1.0.0")).await;
    let push = |event: &str, payload: Value, reference: &str| json!({ "topic": "realtime:room", "event": event, "payload": payload, "ref": reference, "join_ref": null });
    let config = json!({
        "broadcast": { "ack": true, "self": true }, "presence": { "key": "", "enabled": true }, "private": false,
        "postgres_changes": [{ "event": "*", "schema": "public", "table": "todos" }],
    });
    wire.send(&push("phx_join", json!({ "config": config, "access_token": token }), "1")).await;
    let reply = wire.text().await;
    let echoed = &as_python_takes_it(&reply)["response"]["postgres_changes"][0];
    assert_eq!((&echoed["event"], &echoed["table"]), (&json!("*"), &json!("todos")));
    let mut events = Vec::new();
    for _ in 0..2 {
        let frame = wire.text().await;
        as_python_takes_it(&frame);
        events.push(frame["event"].clone());
    }
    assert_eq!(events, ["system", "presence_state"]);

    for (sql, operation) in [
        (format!("insert into todos values (1, '{ALICE}', 'a')"), "INSERT"),
        ("update todos set title = 'b'".to_owned(), "UPDATE"),
        ("delete from todos".to_owned(), "DELETE"),
    ] {
        scene.execute(&sql).await;
        assert_eq!(as_python_takes_it(&wire.text().await)["data"]["type"], operation);
    }

    wire.send(&json!({ "topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": null })).await;
    let beat = wire.text().await;
    assert_eq!((&beat["topic"], &beat["ref"]), (&json!("phoenix"), &Value::Null), "{beat}");

    for (reference, payload) in
        [("2", json!({ "event": "track", "payload": { "n": 1 } })), ("3", json!({ "event": "untrack", "payload": {} }))]
    {
        wire.send(&push("presence", payload, reference)).await;
        let frames = [wire.text().await, wire.text().await];
        frames.iter().for_each(|frame| assert!(as_python_takes_it(frame).is_object()));
        let reply = frames.iter().find(|frame| frame["event"] == "phx_reply").expect("a reply");
        assert_eq!((&reply["ref"], &reply["payload"]["status"]), (&json!(reference), &json!("ok")));
        assert!(frames.iter().any(|frame| frame["event"] == "presence_diff"));
    }

    wire.send(&push("phx_leave", json!({}), "4")).await;
    as_python_takes_it(&wire.text().await);
    let close = wire.text().await;
    as_python_takes_it(&close);
    assert_eq!((&close["event"], &close["ref"]), (&json!("phx_close"), &json!("1")), "the ref of its join");
}

/// supabase_flutter: version 2, text for JSON, kind 3 for bytes alone.
#[tokio::test]
async fn dart_sends_text_and_bytes_and_reads_integers() {
    let scene = Scene::new(TODOS).await;
    let token = alice().token();
    let mut wire = Wire::open(&scene.relay, &format!("/realtime/v1/websocket?apikey={token}&vsn=2.0.0")).await;
    let config = json!({
        "broadcast": { "ack": true, "self": true }, "presence": { "key": "", "enabled": false }, "private": false,
        "postgres_changes": [{ "event": "INSERT", "schema": "public", "table": "todos", "select": ["id", "title"] }],
    });
    let payload = json!({ "config": config, "access_token": token, "version": "supabase-flutter/2.13.0" });
    wire.send(&json!(["1", "1", "realtime:room", "phx_join", payload])).await;
    let reply = wire.text().await;
    let ids = ids_of(&reply[4]);
    assert_eq!(without_hint(&wire.text().await[4]), subscribed("room"));
    scene.execute(&format!("insert into todos values (1, '{ALICE}', 'a')")).await;
    let frame = wire.text().await;
    assert_eq!((&frame[0], &frame[1], &frame[3]), (&Value::Null, &Value::Null, &json!("postgres_changes")));
    change(&frame[4]);
    assert_eq!((&frame[4]["ids"], &frame[4]["data"]["record"]), (&json!(ids), &json!({ "id": 1, "title": "a" })));

    let sent = json!({ "type": "broadcast", "event": "cursor", "payload": { "x": 1 } });
    wire.send(&json!(["1", "2", "realtime:room", "broadcast", sent])).await;
    assert_eq!(wire.text().await, json!([null, null, "realtime:room", "broadcast", sent]));
    assert_eq!(wire.text().await, json!(["1", "2", "realtime:room", "phx_reply", { "status": "ok", "response": {} }]));
    wire.0.send(kind_3("realtime:room", "3", "file", 0, b"\x00\xff")).await.expect("an open socket");
    assert_eq!(wire.bytes().await, kind_4("realtime:room", "file", 0, b"\x00\xff"));
    assert_eq!(wire.text().await, json!(["1", "3", "realtime:room", "phx_reply", { "status": "ok", "response": {} }]));
}

/// supabase-swift: version 2, `replication_ready: false` always, bindings without an event, kind 3 for everything, and the
/// endpoint for single events even where it falls back to REST.
#[tokio::test]
async fn swift_sends_kind_3_and_single_events() {
    let scene = Scene::new(TODOS).await;
    let token = alice().token();
    let path = format!("/realtime/v1/websocket?apikey={token}&vsn=2.0.0&log_level=info");
    let mut wire = Wire::open(&scene.relay, &path).await;
    let config = json!({
        "broadcast": { "ack": true, "self": true, "replication_ready": false },
        "presence": { "key": "", "enabled": false }, "private": false,
        "postgres_changes": [{ "schema": "public", "table": "todos", "filter": "id=gt.0" }, { "event": "DELETE", "schema": "public" }],
    });
    let payload = json!({ "config": config, "access_token": token, "version": "realtime-swift/2.0.0" });
    wire.send(&json!(["1", "1", "realtime:room", "phx_join", payload])).await;
    let reply = wire.text().await;
    let ids = ids_of(&reply[4]);
    assert_eq!(ids.len(), 2);
    let first = &reply[4]["response"]["postgres_changes"][0];
    assert_eq!(
        first,
        &json!({ "id": ids[0], "schema": "public", "table": "todos", "filter": "id=gt.0" }),
        "as it was sent"
    );
    assert_eq!(without_hint(&wire.text().await[4]), subscribed("room"));
    scene.execute(&format!("insert into todos values (1, '{ALICE}', 'a')")).await;
    // The next frame: `replication_ready: false` brings none.
    let frame = wire.text().await;
    change(&frame[4]);
    assert_eq!(frame[4]["ids"], json!([ids[0]]));

    wire.0.send(kind_3("realtime:room", "2", "cursor", 1, br#"{"x":1.50}"#)).await.expect("an open socket");
    assert_eq!(wire.bytes().await, kind_4("realtime:room", "cursor", 1, br#"{"x":1.50}"#));
    assert_eq!(wire.text().await, json!(["1", "2", "realtime:room", "phx_reply", { "status": "ok", "response": {} }]));

    for (content_type, encoding, body) in
        [("application/json", 1, &br#"{"y":2}"#[..]), ("application/octet-stream", 0, b"\x01")]
    {
        let answer =
            post(&scene.relay, "/realtime/v1/api/broadcast/room/events/late", &token, content_type, body).await;
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        assert_eq!(wire.bytes().await, kind_4("realtime:room", "late", encoding, body));
    }
}

async fn post(relay: &Relay, path: &str, token: &str, content_type: &str, body: &[u8]) -> String {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\napikey: {token}\r\n\
         authorization: Bearer {token}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(relay.address).await?;
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("an answer in time").expect("an answer")
}
