//! One connection of a client: frames out, frames in, and no more understanding than the client needs.

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{self, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::world::{ChangeId, Operation, Table};
use std::net::SocketAddr;

pub const TOPIC: &str = "realtime:chaos";

pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    pub port: u16,
    last_ref: u64,
    join_ref: Option<String>,
}

/// What a frame was.
pub enum Heard {
    /// The reply to this ref: whether it is ok, and the payload.
    Reply(String, bool, Value),
    System(Value),
    Event(Event),
    Other(String),
}

pub struct Event {
    pub ids: Vec<u64>,
    pub change: ChangeId,
    pub position: Option<String>,
    pub shows_old: bool,
}

#[derive(Deserialize)]
struct Payload<'a> {
    ids: Vec<u64>,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    table: &'a str,
    #[serde(rename = "type")]
    operation: &'a str,
    record: Option<Record>,
    old_record: Option<Record>,
}

#[derive(Deserialize)]
struct Record {
    n: i64,
    v: Option<i64>,
    walcast_position: Option<String>,
}

impl Socket {
    pub async fn connect(address: SocketAddr, token: &str) -> Result<Socket, tungstenite::Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let port = stream.local_addr()?.port();
        let url = format!("ws://{address}/socket/websocket?apikey={token}&vsn=2.0.0");
        let (stream, _) = client_async(url, stream).await?;
        Ok(Socket { stream, port, last_ref: 0, join_ref: None })
    }

    pub async fn push(&mut self, topic: &str, event: &str, payload: Value) -> Result<String, tungstenite::Error> {
        self.last_ref += 1;
        let reference = self.last_ref.to_string();
        if event == "phx_join" {
            self.join_ref = Some(reference.clone());
        }
        let join_ref = self.join_ref.as_ref().filter(|_| topic == TOPIC);
        let frame = json!([join_ref, reference, topic, event, payload]);
        self.stream.send(Frame::text(frame.to_string())).await?;
        Ok(reference)
    }

    /// The next frame that means something. Safe to be cancelled. `None`: the connection is at its end.
    pub async fn next(&mut self) -> Option<Result<Heard, String>> {
        loop {
            match self.stream.next().await? {
                Ok(Frame::Text(text)) => return Some(decode(text.as_str()).ok_or_else(|| text.as_str().to_owned())),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// A close frame, as a page that is left sends it.
    pub async fn close(mut self) {
        let _ = self.stream.close(None).await;
    }
}

fn decode(text: &str) -> Option<Heard> {
    let (_, reference, topic, event, payload): (Option<&str>, Option<&str>, &str, &str, &RawValue) =
        serde_json::from_str(text).ok()?;
    match event {
        "postgres_changes" => {
            let payload: Payload = serde_json::from_str(payload.get()).ok()?;
            let operation = Operation::named(payload.data.operation)?;
            let (table, old) = (Table::named(payload.data.table)?, payload.data.old_record);
            let shows_old = old.as_ref().is_some_and(|old| old.v.is_some());
            let record = payload.data.record.or(old)?;
            let change = ChangeId::new(table, operation, record.n, record.v.unwrap_or_default());
            Some(Heard::Event(Event { ids: payload.ids, change, position: record.walcast_position, shows_old }))
        }
        "phx_reply" => {
            let payload: Value = serde_json::from_str(payload.get()).ok()?;
            Some(Heard::Reply(reference?.to_owned(), payload["status"] == "ok", payload))
        }
        "system" if topic == TOPIC => Some(Heard::System(serde_json::from_str(payload.get()).ok()?)),
        _ => Some(Heard::Other(event.to_owned())),
    }
}
