//! A small Phoenix client: what `walcast tail` and the demo listen with. Knows channels, nothing of what comes on them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior, interval_at, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::{Request, Uri};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// As the official clients: the server closes a socket that is silent for a minute.
const HEARTBEAT: Duration = Duration::from_secs(25);
/// How long a connection or a join may take; what the official clients allow.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{0:?} is not the URL of a relay: it begins with ws://, wss://, http:// or https:// and names a host")]
    Url(String),
    #[error("{0} does not answer")]
    Timeout(&'static str),
    #[error("the relay refused the connection: {status} {body}")]
    Refused { status: u16, body: String },
    #[error("the join was refused: {0}")]
    Join(String),
    #[error("the relay closed the connection")]
    Closed,
    #[error("the relay sent what is no Phoenix message: {0}")]
    Malformed(String),
    #[error(transparent)]
    WebSocket(#[from] Box<WebSocketError>),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// One frame of the server.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub topic: String,
    pub event: String,
    pub payload: Value,
    reference: Value,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One socket, with whatever channels are joined on it.
pub struct PhoenixClient {
    socket: WebSocketStream<Box<dyn Stream>>,
    heartbeat: Interval,
    next_reference: u64,
    /// Came while a reply was waited for.
    waiting: VecDeque<Incoming>,
}

impl PhoenixClient {
    /// Connects to the relay at `url` (`ws://host:4000`, or the whole URL of a socket) with an API key.
    pub async fn connect(url: &str, key: &str) -> Result<PhoenixClient, ClientError> {
        let target = Target::parse(url).ok_or_else(|| ClientError::Url(url.to_owned()))?;
        timeout(PATIENCE, PhoenixClient::open(&target, key)).await.map_err(|_| ClientError::Timeout("the relay"))?
    }

    async fn open(target: &Target, key: &str) -> Result<PhoenixClient, ClientError> {
        let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match target.tls {
            false => Box::new(stream),
            true => Box::new(tls(&target.host, stream).await?),
        };
        let request = Request::builder()
            .uri(format!("ws://{}{}?apikey={key}&vsn=2.0.0", target.authority, target.path))
            .header("host", &target.authority)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", generate_key())
            .body(())
            .map_err(|_| ClientError::Url(target.authority.clone()))?;
        let (socket, _) = client_async(request, stream).await.map_err(refused)?;
        let mut heartbeat = interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(PhoenixClient { socket, heartbeat, next_reference: 1, waiting: VecDeque::new() })
    }

    /// Joins a channel with the bindings of `postgres_changes`; from the return on, changes come by [`Self::next`].
    pub async fn join(&mut self, topic: &str, bindings: Value, token: Option<&str>) -> Result<Value, ClientError> {
        let reference = Value::from(self.next_reference.to_string());
        self.next_reference += 1;
        let mut payload = json!({ "config": {
            "broadcast": { "ack": false, "self": false }, "presence": { "key": "" },
            "postgres_changes": bindings, "private": false,
        } });
        if let Some(token) = token {
            payload["access_token"] = token.into();
        }
        self.send(json!([reference, reference, topic, "phx_join", payload])).await?;
        let reply = timeout(PATIENCE, self.reply(&reference)).await.map_err(|_| ClientError::Timeout("the join"))??;
        let response = reply.payload.get("response").cloned().unwrap_or_default();
        if reply.payload.get("status").is_some_and(|status| status == "ok") {
            return Ok(response);
        }
        Err(ClientError::Join(response.get("reason").map_or_else(|| response.to_string(), text)))
    }

    async fn reply(&mut self, reference: &Value) -> Result<Incoming, ClientError> {
        loop {
            let incoming = self.receive().await?;
            if incoming.event == "phx_reply" && incoming.reference == *reference {
                return Ok(incoming);
            }
            self.waiting.push_back(incoming);
        }
    }

    /// The next frame on any channel; keeps the socket alive meanwhile. Safe to cancel.
    pub async fn next(&mut self) -> Result<Incoming, ClientError> {
        loop {
            let incoming = match self.waiting.pop_front() {
                Some(incoming) => incoming,
                None => self.receive().await?,
            };
            if incoming.topic != "phoenix" {
                return Ok(incoming);
            }
        }
    }

    /// What has come already and was not asked for, without waiting.
    pub fn next_waiting(&mut self) -> Option<Incoming> {
        self.waiting.pop_front()
    }

    async fn receive(&mut self) -> Result<Incoming, ClientError> {
        loop {
            tokio::select! {
                message = self.socket.next() => match message {
                    Some(Ok(Message::Text(text))) => return parse(&text),
                    Some(Ok(Message::Close(_))) | None => return Err(ClientError::Closed),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(ClientError::WebSocket(Box::new(error))),
                },
                _ = self.heartbeat.tick() => self.send(json!([null, "heartbeat", "phoenix", "heartbeat", {}])).await?,
            }
        }
    }

    async fn send(&mut self, frame: Value) -> Result<(), ClientError> {
        let sent = self.socket.send(Message::text(frame.to_string())).await;
        sent.map_err(|error| ClientError::WebSocket(Box::new(error)))
    }
}

fn parse(frame: &str) -> Result<Incoming, ClientError> {
    let malformed = || ClientError::Malformed(frame.chars().take(200).collect());
    let parts: [Value; 5] = serde_json::from_str(frame).map_err(|_| malformed())?;
    let [_, reference, Value::String(topic), Value::String(event), payload] = parts else { return Err(malformed()) };
    Ok(Incoming { topic, event, payload, reference })
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn refused(error: WebSocketError) -> ClientError {
    match error {
        WebSocketError::Http(response) => ClientError::Refused {
            status: response.status().as_u16(),
            body: response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned(),
        },
        error => ClientError::WebSocket(Box::new(error)),
    }
}

async fn tls(host: &str, stream: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| ClientError::Url(host.to_owned()))?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

/// Where a URL leads.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Option<Target> {
        let uri: Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri.path().trim_end_matches('/');
        let path = match path.ends_with("/websocket") {
            true => path.to_owned(),
            false if path.is_empty() => "/realtime/v1/websocket".to_owned(),
            false => format!("{path}/websocket"),
        };
        Some(Target { tls, host, port, authority: authority.as_str().to_owned(), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_name_the_host_the_mount_or_the_socket() {
        let path = |url: &str| Target::parse(url).map(|target| target.path);
        assert_eq!(path("ws://localhost:4000").as_deref(), Some("/realtime/v1/websocket"));
        assert_eq!(path("http://localhost:4000/socket").as_deref(), Some("/socket/websocket"));
        assert_eq!(path("wss://x.test/realtime/v1/websocket").as_deref(), Some("/realtime/v1/websocket"));
        assert_eq!(path("localhost:4000"), None);
        let secure = Target::parse("https://x.test").unwrap();
        assert_eq!((secure.tls, secure.port, secure.host.as_str()), (true, 443, "x.test"));
        assert_eq!(Target::parse("ws://[::1]:4000").unwrap().host, "::1");
    }
}
