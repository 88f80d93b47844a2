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

use super::fence::FENCE;
use super::http::upgrade_request;
use super::message::Message;
use super::received::Received;
use super::transcript::Frame;

pub struct Connection {
    socket: WebSocketStream<TcpStream>,
    /// Arrived and not yet asked for, with the length of each.
    held: VecDeque<(Received, usize)>,
    is_v2: bool,
    closed: bool,
    /// Other cases' ends are marked by changes that bindings to a whole schema hear of.
    hears_fences: bool,
}

#[derive(Debug)]
pub enum Heard {
    Received(Box<Received>, usize),
    Pong(Vec<u8>),
    Closed(Option<u16>),
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
        let is_v2 = target.contains("vsn=2.0.0");
        Ok(Connection { socket, held: VecDeque::new(), is_v2, closed: false, hears_fences: false })
    }

    pub fn hear_fences(&mut self) {
        self.hears_fences = true;
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
                    if !self.hears_fences && text.contains(FENCE) {
                        continue;
                    }
                    let message = Message::parse(&text).ok_or_else(|| format!("no Phoenix message: {text}"))?;
                    return Ok(Heard::Received(Box::new(Received::Text(message)), text.len()));
                }
                Some(Ok(Incoming::Binary(bytes))) => {
                    let broadcast =
                        Received::parse_binary(&bytes).ok_or_else(|| format!("no frame of kind 4: {bytes:?}"))?;
                    return Ok(Heard::Received(Box::new(broadcast), bytes.len()));
                }
                Some(Ok(Incoming::Pong(payload))) => return Ok(Heard::Pong(payload.to_vec())),
                Some(Ok(Incoming::Ping(_) | Incoming::Frame(_))) => {}
                Some(Ok(Incoming::Close(frame))) => {
                    self.closed = true;
                    return Ok(Heard::Closed(frame.map(|frame| frame.code.into())));
                }
                Some(Err(_)) | None => {
                    self.closed = true;
                    return Ok(Heard::Closed(None));
                }
            }
        }
    }

    /// What has arrived on `topic` and is not taken yet, oldest first.
    pub fn held_on<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Received> {
        self.held.iter().map(|(received, _)| received).filter(move |received| received.topic() == topic)
    }

    /// Takes the one at this place of [`Self::held_on`].
    pub fn take_held(&mut self, topic: &str, place: usize) {
        let on_topic = self.held.iter().enumerate().filter(|(_, (received, _))| received.topic() == topic);
        if let Some(index) = on_topic.map(|(index, _)| index).nth(place) {
            self.held.remove(index);
        }
    }

    /// Waits for one thing more, on whatever topic, and holds it.
    pub async fn hold_one(&mut self, patience: Duration) -> Result<(), String> {
        match self.hear(patience).await? {
            Heard::Received(received, length) => {
                self.held.push_back((*received, length));
                Ok(())
            }
            other => Err(format!("expected a message, got {other:?}")),
        }
    }

    /// The next on any topic, and its length in bytes.
    pub async fn any(&mut self, patience: Duration) -> Result<(Received, usize), String> {
        while self.held.is_empty() {
            self.hold_one(patience).await?;
        }
        self.held.pop_front().ok_or_else(|| "nothing is held".to_string())
    }

    /// The next text on `topic`; the rest is kept for whoever asks for it.
    pub async fn message(&mut self, topic: &str, patience: Duration) -> Result<Message, String> {
        while self.held_on(topic).next().is_none() {
            self.hold_one(patience).await.map_err(|error| format!("on {topic}: {error}"))?;
        }
        let message = self.held_on(topic).next().and_then(Received::text).cloned();
        self.take_held(topic, 0);
        message.ok_or_else(|| format!("expected a text on {topic}"))
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
                Heard::Received(received, length) => match *received {
                    Received::Text(message) if message.reference == "fence" => return Ok(()),
                    received => self.held.push_back((received, length)),
                },
                other => return Err(format!("expected the answer to a heartbeat, got {other:?}")),
            }
        }
    }

    pub fn held(&self) -> impl Iterator<Item = &Received> {
        self.held.iter().map(|(received, _)| received)
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

    /// `code`: the one that the server must give, if any will not do.
    pub async fn closed_by_server(&mut self, code: Option<u16>, patience: Duration) -> Result<(), String> {
        match self.hear(patience).await? {
            Heard::Closed(given) if code.is_none() || given == code => Ok(()),
            other => Err(format!("expected the server to close with {code:?}, got {other:?}")),
        }
    }
}
