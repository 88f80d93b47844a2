//! A Phoenix client: joins, waits, and says with the relay's log what it waited for in vain.

use std::collections::{HashMap, VecDeque};

use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::{self, Message as Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::people::Person;
use super::relay::{Log, PATIENCE, Relay};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The two wire formats (PROTOCOL 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vsn {
    V1,
    V2,
}

/// One frame from the relay.
#[derive(Clone, Debug)]
pub struct Message {
    /// The frame as it came.
    pub raw: Value,
    pub topic: String,
    pub event: String,
    pub payload: Value,
    pub reference: Value,
}

/// A `postgres_changes` event.
#[derive(Clone, Debug)]
pub struct Change {
    pub topic: String,
    pub ids: Vec<u64>,
    pub data: Value,
}

impl Change {
    pub fn operation(&self) -> &str {
        self.data["type"].as_str().unwrap_or_default()
    }

    pub fn table(&self) -> &str {
        self.data["table"].as_str().unwrap_or_default()
    }

    pub fn record(&self) -> &Value {
        &self.data["record"]
    }

    pub fn old_record(&self) -> &Value {
        &self.data["old_record"]
    }
}

enum Received {
    Message(Box<Message>),
    /// 1006 where the connection broke without a close frame.
    Closed {
        code: u16,
        reason: String,
    },
}

/// A connected client. A task of its own reads its socket, so that a test that looks elsewhere is no slow client.
pub struct Client {
    name: String,
    vsn: Vsn,
    sink: SplitSink<Socket, Frame>,
    received: mpsc::UnboundedReceiver<Received>,
    /// Looked at and put aside by a wait for something else, in order.
    aside: VecDeque<Message>,
    reading: watch::Sender<bool>,
    log: Log,
    last_ref: u64,
    /// The ref of each topic's last join: a leave with another is not for this join (PROTOCOL 3.3).
    join_refs: HashMap<String, String>,
}

impl Client {
    pub async fn connect(relay: &Relay, person: &Person) -> Client {
        Client::connect_as(relay, person, Vsn::V2).await
    }

    pub async fn connect_as(relay: &Relay, person: &Person, vsn: Vsn) -> Client {
        match Client::try_connect(relay, person.name, &person.token(), vsn).await {
            Ok(client) => client,
            Err(error) => panic!("{} could not connect: {error}; the relay's log:\n{}", person.name, relay.log()),
        }
    }

    pub async fn try_connect(relay: &Relay, name: &str, token: &str, vsn: Vsn) -> Result<Client, tungstenite::Error> {
        let version = if vsn == Vsn::V1 { "1.0.0" } else { "2.0.0" };
        let url = format!("ws://{}/socket/websocket?apikey={token}&vsn={version}", relay.address);
        let connected = tokio::time::timeout(PATIENCE, tokio_tungstenite::connect_async(url)).await;
        let (socket, _) = connected.expect("an answer to the upgrade")?;
        let (sink, stream) = socket.split();
        let (sender, received) = mpsc::unbounded_channel();
        let (reading, may_read) = watch::channel(true);
        tokio::spawn(read(stream, sender, may_read, vsn));
        let (name, log) = (name.to_owned(), relay.log_receiver());
        Ok(Client {
            name,
            vsn,
            sink,
            received,
            aside: VecDeque::new(),
            reading,
            log,
            last_ref: 0,
            join_refs: HashMap::new(),
        })
    }

    /// Reads nothing from the socket until [`Client::read_again`].
    pub fn stop_reading(&self) {
        self.reading.send_replace(false);
    }

    pub fn read_again(&self) {
        self.reading.send_replace(true);
    }

    /// Sends a frame; gives its ref.
    pub async fn push(&mut self, topic: &str, event: &str, payload: Value) -> String {
        self.last_ref += 1;
        let reference = self.last_ref.to_string();
        if event == "phx_join" {
            self.join_refs.insert(topic.to_owned(), reference.clone());
        }
        let join_ref = self.join_refs.get(topic);
        let frame = match self.vsn {
            Vsn::V1 => {
                json!({ "topic": topic, "event": event, "payload": payload, "ref": reference, "join_ref": join_ref })
            }
            Vsn::V2 => json!([join_ref, reference, topic, event, payload]),
        };
        if let Err(error) = self.sink.send(Frame::text(frame.to_string())).await {
            self.fail(&format!("{event} could not be sent: {error}"));
        }
        reference
    }

    /// Asks to join `realtime:<channel>` with these `postgres_changes`, without waiting for the answer.
    pub async fn push_join(&mut self, channel: &str, bindings: &Value) -> String {
        let config = json!({ "broadcast": { "ack": false, "self": false }, "presence": { "key": "" },
            "postgres_changes": bindings, "private": false });
        self.push(&topic(channel), "phx_join", json!({ "config": config })).await
    }

    /// Joins and gives the ids of the bindings, in their order. Nothing of the channel comes before the reply.
    pub async fn join(&mut self, channel: &str, bindings: Value) -> Vec<u64> {
        let reference = self.push_join(channel, &bindings).await;
        let (topic, mut early) = (topic(channel), None);
        let reply = self
            .wait_for(&format!("the reply to the join of {channel}"), |message| {
                if message.topic == topic && message.event == "postgres_changes" {
                    early = Some(message.clone());
                }
                message.event == "phx_reply" && message.reference == json!(reference)
            })
            .await;
        if let Some(early) = early {
            self.fail(&format!("an event came before the reply to the join: {}", early.raw));
        }
        if reply.payload["status"] != "ok" {
            self.fail(&format!("the join of {channel} was refused: {}", reply.payload));
        }
        let items = reply.payload["response"]["postgres_changes"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["id"].as_u64().expect("an id is a number")).collect()
    }

    /// Joins, and waits for "Subscribed to PostgreSQL".
    pub async fn subscribe(&mut self, channel: &str, bindings: Value) -> Vec<u64> {
        let ids = self.join(channel, bindings).await;
        self.expect_system(channel, "ok", "Subscribed to PostgreSQL").await;
        ids
    }

    /// The next `system` message of the channel, which must have this status and contain this text; gives its payload.
    pub async fn expect_system(&mut self, channel: &str, status: &str, text: &str) -> Value {
        let topic = topic(channel);
        let what = format!("a system message {text:?} in {channel}");
        let message = self.wait_for(&what, |message| message.topic == topic && message.event == "system").await;
        let said = message.payload["message"].as_str().unwrap_or_default();
        if message.payload["status"] != status || !said.contains(text) {
            self.fail(&format!("expected {what} ({status}), got {}", message.payload));
        }
        message.payload
    }

    pub async fn leave(&mut self, channel: &str) {
        let reference = self.push(&topic(channel), "phx_leave", json!({})).await;
        let is_reply = |message: &Message| message.event == "phx_reply" && message.reference == json!(reference);
        self.wait_for(&format!("the reply to the leave of {channel}"), is_reply).await;
        let topic = topic(channel);
        self.wait_for("phx_close", |message| message.topic == topic && message.event == "phx_close").await;
        // What had been on its way to the channel that is no more.
        self.aside.retain(|message| message.topic != topic);
    }

    /// A heartbeat and its reply: the connection lives.
    pub async fn heartbeat(&mut self) {
        let reference = self.push("phoenix", "heartbeat", json!({})).await;
        let is_reply = |message: &Message| message.topic == "phoenix" && message.reference == json!(reference);
        self.wait_for("the reply to the heartbeat", is_reply).await;
    }

    /// One without a ref, as supabase-py sends them, and its reply.
    pub async fn heartbeat_without_ref(&mut self) {
        let frame = match self.vsn {
            Vsn::V1 => json!({ "topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": null }),
            Vsn::V2 => json!([null, null, "phoenix", "heartbeat", {}]),
        };
        if let Err(error) = self.sink.send(Frame::text(frame.to_string())).await {
            self.fail(&format!("a heartbeat could not be sent: {error}"));
        }
        self.wait_for("the reply to the heartbeat", |message| message.topic == "phoenix").await;
    }

    /// The next message, whatever it is.
    pub async fn next(&mut self) -> Message {
        if let Some(message) = self.aside.pop_front() {
            return message;
        }
        self.receive("a message").await
    }

    /// The next message, which must be a change.
    pub async fn next_change(&mut self) -> Change {
        let message = self.next().await;
        if message.event != "postgres_changes" {
            self.fail(&format!("expected a change, got {}", message.raw));
        }
        let ids = message.payload["ids"].as_array().cloned().unwrap_or_default();
        let ids = ids.iter().map(|id| id.as_u64().expect("ids are numbers")).collect();
        Change { topic: message.topic, ids, data: message.payload["data"].clone() }
    }

    /// The first message that is meant; the others stay, in order, for [`Client::next`].
    pub async fn wait_for(&mut self, what: &str, mut is_meant: impl FnMut(&Message) -> bool) -> Message {
        if let Some(position) = self.aside.iter().position(&mut is_meant) {
            return self.aside.remove(position).expect("it was just there");
        }
        // For all of it: other messages may go on coming for ever.
        let deadline = tokio::time::Instant::now() + 2 * PATIENCE;
        loop {
            let message = self.receive(what).await;
            if tokio::time::Instant::now() > deadline {
                self.fail(&format!("waited in vain for {what}, while others came"));
            }
            if is_meant(&message) {
                return message;
            }
            self.aside.push_back(message);
        }
    }

    /// Code and reason of the close; messages before it stay for [`Client::next`].
    pub async fn expect_close(&mut self) -> (u16, String) {
        loop {
            match self.next_received("the close").await {
                Received::Message(message) => self.aside.push_back(*message),
                Received::Closed { code, reason } => return (code, reason),
            }
        }
    }

    /// All that came and was not yet looked at. After a close this is all there will ever be.
    pub fn rest(&mut self) -> Vec<Message> {
        while let Ok(Received::Message(message)) = self.received.try_recv() {
            self.aside.push_back(*message);
        }
        self.aside.drain(..).collect()
    }

    async fn receive(&mut self, what: &str) -> Message {
        match self.next_received(what).await {
            Received::Message(message) => *message,
            Received::Closed { code, reason } => self.fail(&format!("closed ({code} {reason:?}) instead of {what}")),
        }
    }

    async fn next_received(&mut self, what: &str) -> Received {
        match tokio::time::timeout(PATIENCE, self.received.recv()).await {
            Ok(Some(received)) => received,
            Ok(None) => self.fail(&format!("the connection is gone instead of {what}")),
            Err(_) => self.fail(&format!("waited {PATIENCE:?} for {what}")),
        }
    }

    /// Ends the test with the relay's log.
    pub fn fail(&self, what: &str) -> ! {
        let log = self.log.borrow();
        let tail = log.len().saturating_sub(20_000);
        let tail = (tail..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
        panic!("{}: {what}\nput aside: {:?}\nthe relay's log:\n{}", self.name, first(&self.aside), &log[tail..]);
    }
}

/// A few, to be shown.
fn first(messages: &VecDeque<Message>) -> Vec<String> {
    messages.iter().take(5).map(|message| message.raw.to_string()).collect()
}

pub fn topic(channel: &str) -> String {
    format!("realtime:{channel}")
}

/// A binding for all events of a table in `public`.
pub fn all_of(table: &str) -> Value {
    json!({ "event": "*", "schema": "public", "table": table })
}

async fn read(
    mut stream: impl StreamExt<Item = Result<Frame, tungstenite::Error>> + Unpin,
    received: mpsc::UnboundedSender<Received>,
    mut may_read: watch::Receiver<bool>,
    vsn: Vsn,
) {
    let mut close = (1006, String::new());
    loop {
        if may_read.wait_for(|may| *may).await.is_err() {
            return;
        }
        let frame = tokio::select! {
            frame = stream.next() => frame,
            changed = may_read.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match frame {
            Some(Ok(Frame::Text(text))) => {
                let _ = received.send(Received::Message(Box::new(decode(&text, vsn))));
            }
            Some(Ok(Frame::Close(frame))) => {
                close = frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => {
                let (code, reason) = close;
                let _ = received.send(Received::Closed { code, reason });
                return;
            }
        }
    }
}

fn decode(text: &str, vsn: Vsn) -> Message {
    let raw: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"));
    let string = |value: &Value| value.as_str().unwrap_or_else(|| panic!("not a string: {value} in {text}")).to_owned();
    let (reference, topic, event, payload) = match vsn {
        Vsn::V1 => (&raw["ref"], &raw["topic"], &raw["event"], &raw["payload"]),
        Vsn::V2 => (&raw[1], &raw[2], &raw[3], &raw[4]),
    };
    let (topic, event) = (string(topic), string(event));
    Message { topic, event, payload: payload.clone(), reference: reference.clone(), raw }
}
