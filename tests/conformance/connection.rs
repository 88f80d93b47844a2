//! A WebSocket as the recorded client had it; what arrives is kept by topic, since order is promised within one only.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message as Incoming};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::http::upgrade_request;
use super::message::Message;
use super::transcript::Frame;

pub struct Connection {
    socket: WebSocketStream<TcpStream>,
    /// Arrived and not yet asked for, with the length of each.
    held: VecDeque<(Message, usize)>,
    is_v2: bool,
    closed: bool,
}

#[derive(Debug)]
pub enum Heard {
    Message(Box<Message>, usize),
    Pong(Vec<u8>),
    Closed,
}

impl Connection {
    pub async fn open(
        address: SocketAddr,
        target: &str,
        host: &str,
        headers: &[(String, String)],
    ) -> Result<Connection, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let request = upgrade_request(target, host, headers)?;
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let (socket, response) = client_async_with_config(request, stream, Some(config))
            .await
            .map_err(|error| format!("the upgrade failed: {error}"))?;
        // Offered each time, as browsers do, and never taken up (PROTOCOL 1.1).
        if let Some(extensions) = response.headers().get("sec-websocket-extensions") {
            return Err(format!("an extension was negotiated: {extensions:?}"));
        }
        Ok(Connection { socket, held: VecDeque::new(), is_v2: target.contains("vsn=2.0.0"), closed: false })
    }

    pub async fn send(&mut self, frame: Frame) -> Result<(), String> {
        let message = match frame {
            Frame::Text(text) => Incoming::text(text),
            Frame::Binary(bytes) => Incoming::binary(bytes),
        };
        match self.socket.send(message).await {
            // The server may end a connection in the middle of a frame that is too large; the close is expected next.
            Err(Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed) => Ok(()),
            result => result.map_err(|error| error.to_string()),
        }
    }

    pub async fn ping(&mut self, payload: &[u8]) -> Result<(), String> {
        self.socket.send(Incoming::Ping(payload.to_vec().into())).await.map_err(|error| error.to_string())
    }

    /// The next thing that arrives.
    pub async fn hear(&mut self, patience: Duration) -> Result<Heard, String> {
        loop {
            let next =
                timeout(patience, self.socket.next()).await.map_err(|_| format!("nothing came within {patience:?}"))?;
            match next {
                Some(Ok(Incoming::Text(text))) => {
                    let length = text.len();
                    let message = Message::parse(&text).ok_or_else(|| format!("no Phoenix message: {text}"))?;
                    return Ok(Heard::Message(Box::new(message), length));
                }
                Some(Ok(Incoming::Pong(payload))) => return Ok(Heard::Pong(payload.to_vec())),
                Some(Ok(Incoming::Binary(bytes))) => return Err(format!("a binary frame came: {bytes:?}")),
                Some(Ok(Incoming::Ping(_) | Incoming::Frame(_))) => {}
                Some(Ok(Incoming::Close(_))) | Some(Err(_)) | None => {
                    self.closed = true;
                    return Ok(Heard::Closed);
                }
            }
        }
    }

    /// The next message on `topic`; those on others are kept for whoever asks for them.
    pub async fn message(&mut self, topic: &str, patience: Duration) -> Result<Message, String> {
        let position = self.held.iter().position(|(message, _)| message.topic == topic);
        if let Some((message, _)) = position.and_then(|position| self.held.remove(position)) {
            return Ok(message);
        }
        loop {
            match self.hear(patience).await? {
                Heard::Message(message, _) if message.topic == topic => return Ok(*message),
                Heard::Message(message, length) => self.held.push_back((*message, length)),
                other => return Err(format!("expected a message on {topic}, got {other:?}")),
            }
        }
    }

    /// The next message on any topic, and its length in bytes.
    pub async fn any_message(&mut self, patience: Duration) -> Result<(Message, usize), String> {
        if let Some(first) = self.held.pop_front() {
            return Ok(first);
        }
        match self.hear(patience).await? {
            Heard::Message(message, length) => Ok((*message, length)),
            other => Err(format!("expected a message, got {other:?}")),
        }
    }

    /// Sends a heartbeat of our own and waits for its answer; what came before it is held.
    pub async fn heartbeat(&mut self, patience: Duration) -> Result<(), String> {
        let heartbeat = match self.is_v2 {
            true => r#"[null,"fence","phoenix","heartbeat",{}]"#,
            false => r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"fence"}"#,
        };
        self.send(Frame::Text(heartbeat.to_string())).await?;
        loop {
            match self.hear(patience).await? {
                Heard::Message(message, _) if message.reference == "fence" => return Ok(()),
                Heard::Message(message, length) => self.held.push_back((*message, length)),
                other => return Err(format!("expected the answer to a heartbeat, got {other:?}")),
            }
        }
    }

    pub fn held(&self) -> impl Iterator<Item = &Message> {
        self.held.iter().map(|(message, _)| message)
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub async fn close(&mut self, code: Option<u16>, patience: Duration) -> Result<(), String> {
        let frame = code.map(|code| CloseFrame { code: CloseCode::from(code), reason: "".into() });
        self.socket.close(frame).await.map_err(|error| error.to_string())?;
        while !self.closed {
            self.hear(patience).await?;
        }
        Ok(())
    }

    pub async fn closed_by_server(&mut self, patience: Duration) -> Result<(), String> {
        match self.hear(patience).await? {
            Heard::Closed => Ok(()),
            other => Err(format!("expected the server to close, got {other:?}")),
        }
    }
}
