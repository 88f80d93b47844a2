//! Broadcasts between sockets, public and private, without a Postgres: the policies and the rows are the test's.

use std::sync::{Arc, Mutex};

use futures_util::SinkExt;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;
use walcast::authz::{TopicAuthority, TopicError, TopicGrant, TopicQuestion};
use walcast::channels::{ReplayError, ReplayRequest, Replayed, ReplayedPayload, Replayer};

use crate::support::socket::{Relay, Socket};

/// Joins and reads the reply.
async fn join(socket: &mut Socket, room: &str, config: &str) {
    send_join(socket, room, config).await;
    let reply = socket.text().await;
    assert!(reply.contains(r#""status":"ok""#), "{reply}");
}

async fn send_join(socket: &mut Socket, room: &str, config: &str) {
    socket.send(&format!(r#"["1","1","realtime:{room}","phx_join",{{"config":{config}}}]"#)).await;
}

fn kind_3(room: &str, event: &str, encoding: u8, payload: &[u8]) -> Message {
    let topic = format!("realtime:{room}");
    let mut frame = vec![3, 1, 1, topic.len() as u8, event.len() as u8, 0, encoding];
    frame.extend_from_slice(format!("19{topic}{event}").as_bytes());
    frame.extend_from_slice(payload);
    Message::binary(frame)
}

#[tokio::test]
async fn what_one_sends_all_get_in_order_and_once() {
    let relay = Relay::start().await;
    let mut receivers = Vec::new();
    for _ in 0..50 {
        let mut socket = relay.connect().await;
        join(&mut socket, "room", "{}").await;
        receivers.push(socket);
    }
    let mut sender = relay.connect().await;
    join(&mut sender, "room", r#"{"broadcast":{"ack":true}}"#).await;
    for number in 0..100 {
        sender.send(&format!(r#"["1","2","realtime:room","broadcast",{{"n":{number}}}]"#)).await;
    }
    for number in 0..100 {
        sender.expect(r#"["1","2","realtime:room","phx_reply",{"status":"ok","response":{}}]"#).await;
        for receiver in &mut receivers {
            receiver.expect(&format!(r#"[null,null,"realtime:room","broadcast",{{"n":{number}}}]"#)).await;
        }
    }
    assert_eq!(relay.metrics.broadcasts_delivered.get(), 5000);
}

#[tokio::test]
async fn binary_frames_reach_each_version_as_it_can_read_them() {
    let relay = Relay::start().await;
    let mut two = relay.connect().await;
    join(&mut two, "bb", r#"{"broadcast":{"ack":true,"self":true}}"#).await;
    let mut one = relay.connect_with("/socket/websocket", "1.0.0").await;
    one.send(r#"{"topic":"realtime:bb","event":"phx_join","payload":{"config":{}},"ref":"3","join_ref":"3"}"#).await;
    assert!(one.text().await.contains(r#""status":"ok""#));

    two.0.send(kind_3("bb", "bin", 0, b"\x00\x01\x02\xff")).await.unwrap();
    assert_eq!(two.next().await, Some(Message::binary(&b"\x04\x0b\x03\x00\x00realtime:bbbin\x00\x01\x02\xff"[..])));
    two.expect(r#"["1","9","realtime:bb","phx_reply",{"status":"ok","response":{}}]"#).await;
    two.0.send(kind_3("bb", "js", 1, br#"{"a":1}"#)).await.unwrap();
    assert_eq!(two.next().await, Some(Message::binary(&b"\x04\x0b\x02\x00\x01realtime:bbjs{\"a\":1}"[..])));
    // The binary one passed it by.
    one.expect(
        r#"{"ref":null,"event":"broadcast","payload":{"event":"js","payload":{"a":1},"type":"broadcast"},"topic":"realtime:bb"}"#,
    )
    .await;
}

type Granted = oneshot::Sender<Result<TopicGrant, TopicError>>;
type Rows = oneshot::Sender<Result<Vec<Replayed>, ReplayError>>;

/// Policies and rows that answer when the test says so.
#[derive(Default)]
struct Database {
    asked: Mutex<Vec<Granted>>,
    questions: Mutex<Vec<TopicQuestion>>,
    replays: Mutex<Vec<Rows>>,
    notify: tokio::sync::Notify,
}

impl TopicAuthority for Database {
    fn ask(&self, question: TopicQuestion) -> oneshot::Receiver<Result<TopicGrant, TopicError>> {
        let (answer, asked) = oneshot::channel();
        self.questions.lock().unwrap().push(question);
        self.asked.lock().unwrap().push(answer);
        self.notify.notify_one();
        asked
    }
}

impl Replayer for Database {
    fn replay(&self, _: ReplayRequest) -> oneshot::Receiver<Result<Vec<Replayed>, ReplayError>> {
        let (answer, asked) = oneshot::channel();
        self.replays.lock().unwrap().push(answer);
        self.notify.notify_one();
        asked
    }
}

impl Database {
    /// Waits for a question, and grants what it asks about.
    async fn grant(&self) {
        let answer = loop {
            let notified = self.notify.notified();
            if let Some(answer) = self.asked.lock().unwrap().pop() {
                break answer;
            }
            notified.await;
        };
        answer.send(Ok(TopicGrant { broadcast: true, presence: true })).unwrap();
    }

    /// Waits until a replay has been asked for.
    async fn replay_asked(&self) {
        loop {
            let notified = self.notify.notified();
            if !self.replays.lock().unwrap().is_empty() {
                return;
            }
            notified.await;
        }
    }

    async fn replay(&self, rows: Vec<Replayed>) {
        self.replay_asked().await;
        let answer = self.replays.lock().unwrap().pop().unwrap();
        answer.send(Ok(rows)).unwrap();
    }
}

async fn with_database() -> (Relay, Arc<Database>) {
    let database = Arc::new(Database::default());
    let relay = Relay::with_services(
        |_, _| {},
        |services| {
            services.authority = Some(database.clone());
            services.replayer = Some(database.clone());
        },
    )
    .await;
    (relay, database)
}

#[tokio::test]
async fn a_private_join_holds_its_own_socket_and_no_other() {
    let (relay, database) = with_database().await;
    let (mut private, mut public) = (relay.connect().await, relay.connect().await);
    send_join(&mut private, "room", r#"{"private":true}"#).await;
    private.send(r#"[null,"2","phoenix","heartbeat",{}]"#).await;
    join(&mut public, "room", "{}").await;
    database.grant().await;
    assert!(private.text().await.contains("phx_reply"), "the join first");
    private.expect(r#"[null,"2","phoenix","phx_reply",{"status":"ok","response":{}}]"#).await;
    assert_eq!(&*database.questions.lock().unwrap()[0].headers, "{}");
    // The first broadcast waits for its right, and those behind it for their turn.
    let mut listener = relay.connect().await;
    send_join(&mut listener, "room", r#"{"private":true}"#).await;
    database.grant().await;
    assert!(listener.text().await.contains("phx_reply"));
    for number in 0..3 {
        private.send(&format!(r#"["1","3","realtime:room","broadcast",{{"n":{number}}}]"#)).await;
    }
    database.grant().await;
    for number in 0..3 {
        listener.expect(&format!(r#"[null,null,"realtime:room","broadcast",{{"n":{number}}}]"#)).await;
    }
    assert_eq!(database.questions.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn headers_of_the_upgrade_reach_the_policies() {
    let (relay, database) = with_database().await;
    let url = format!("ws://{}/socket/websocket?vsn=2.0.0", relay.address);
    let mut request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(url).unwrap();
    let key = crate::support::socket::token("anon", 60);
    request.headers_mut().insert("x-api-key", key.parse().unwrap());
    request.headers_mut().insert("x-tenant", "t1".parse().unwrap());
    request.headers_mut().insert("tenant", "no".parse().unwrap());
    let stream = tokio::net::TcpStream::connect(relay.address).await.unwrap();
    let mut socket = Socket(tokio_tungstenite::client_async(request, stream).await.unwrap().0);
    send_join(&mut socket, "room", r#"{"private":true}"#).await;
    database.grant().await;
    socket.text().await;
    let headers: serde_json::Value = serde_json::from_str(&database.questions.lock().unwrap()[0].headers).unwrap();
    assert_eq!(headers, serde_json::json!({"x-api-key": key, "x-tenant": "t1"}));
}

#[tokio::test]
async fn what_is_sent_while_a_replay_is_read_follows_it() {
    let (relay, database) = with_database().await;
    let mut sender = relay.connect().await;
    send_join(&mut sender, "room", r#"{"private":true,"broadcast":{"ack":true}}"#).await;
    database.grant().await;
    sender.text().await;
    let mut late = relay.connect().await;
    send_join(&mut late, "room", r#"{"private":true,"broadcast":{"replay":{"since":1}}}"#).await;
    database.grant().await;
    // The replay has been asked for when it is answered, so the sender's message comes in between.
    let rows = vec![Replayed { id: "x".into(), event: "old".into(), payload: ReplayedPayload::Json("{}".into()) }];
    database.replay_asked().await;
    sender.send(r#"["1","2","realtime:room","broadcast",{"new":1}]"#).await;
    database.grant().await;
    sender.expect(r#"["1","2","realtime:room","phx_reply",{"status":"ok","response":{}}]"#).await;
    database.replay(rows).await;
    assert!(late.text().await.contains("phx_reply"));
    assert!(late.text().await.contains(r#""meta":{"id":"x","replayed":true}"#));
    late.expect(r#"[null,null,"realtime:room","broadcast",{"new":1}]"#).await;
}

#[tokio::test]
async fn a_channel_that_somebody_else_finds_wanting_is_closed_on_an_idle_socket() {
    let (relay, database) = with_database().await;
    let mut sender = relay.connect().await;
    send_join(&mut sender, "room", r#"{"private":true,"broadcast":{"ack":true}}"#).await;
    database.grant().await;
    sender.text().await;
    let mut late = relay.connect().await;
    send_join(&mut late, "room", r#"{"private":true,"broadcast":{"replay":{"since":1}}}"#).await;
    database.grant().await;
    database.replay_asked().await;
    // More than is held for it meanwhile.
    for _ in 0..2 {
        let big = "x".repeat(700_000);
        sender.send(&format!(r#"["1","2","realtime:room","broadcast",{{"d":"{big}"}}]"#)).await;
    }
    database.grant().await;
    for _ in 0..2 {
        sender.expect(r#"["1","2","realtime:room","phx_reply",{"status":"ok","response":{}}]"#).await;
    }
    database.replay(Vec::new()).await;
    assert!(late.text().await.contains("phx_reply"));
    late.expect(r#"["1",null,"realtime:room","system",{"message":"Realtime was unable to replay messages","status":"error","extension":"system","channel":"room"}]"#).await;
    late.expect(r#"["1","1","realtime:room","phx_close",{}]"#).await;
}
