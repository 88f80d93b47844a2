//! A server without a Postgres behind it, and clients of it: for what happens between a socket and a session.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use tokio_util::sync::CancellationToken;
use walcast::authz::{Claims, TokenError};
use walcast::channels::metrics::CloseLabels;
use walcast::channels::{
    self, ChannelId, CloseReason, Hub, Lobby, Outbox, Subscribe, SubscriptionSink, TokenVerifier, system,
};
use walcast::server::metrics::{Failed, FailureLabels, RefusalLabels, Refused};
use walcast::server::{self, Readiness, Server, Services};

/// Nothing in these tests takes so long; what is missing fails here instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tokens are `role:exp`; `norole` and `badsig` are what they say, anything else is malformed.
struct Tokens;

impl TokenVerifier for Tokens {
    fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Claims>, TokenError> {
        match token {
            "norole" => return Err(TokenError::ClaimsMissing),
            "badsig" => return Err(TokenError::Signature),
            _ => {}
        }
        let (role, exp) = token.split_once(':').ok_or(TokenError::Malformed)?;
        let exp: i64 = exp.parse().map_err(|_| TokenError::Malformed)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        if exp <= now {
            return Err(TokenError::Expired { seconds_ago: now - exp });
        }
        Ok(Arc::new(Claims { role: role.into(), exp, sub: None, json: "{}".into() }))
    }
}

/// Stands in for dispatch: activates every subscription at once, and remembers what it was told.
#[derive(Default)]
pub struct Dispatch {
    told: Mutex<Vec<Told>>,
    outboxes: Mutex<HashMap<String, Outbox>>,
    notify: tokio::sync::Notify,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Subscribe { channel: ChannelId, role: String },
    Unsubscribe(ChannelId),
}

impl SubscriptionSink for Dispatch {
    fn subscribe(&self, subscribe: Subscribe) {
        let subscribed = system::subscribed(&subscribe.address, None);
        match subscribe.on_active {
            Some(opening) => opening.open_with(&subscribe.outbox, subscribed),
            None => drop(subscribe.outbox.push(subscribed)),
        }
        let role = subscribe.identity.role.clone();
        self.told.lock().unwrap().push(Told::Subscribe { channel: subscribe.channel, role });
        self.outboxes.lock().unwrap().insert(subscribe.address.topic.to_string(), subscribe.outbox.of_socket().clone());
        self.notify.notify_waiters();
    }

    fn unsubscribe(&self, channel: ChannelId) {
        self.told.lock().unwrap().push(Told::Unsubscribe(channel));
        self.notify.notify_waiters();
    }
}

impl Dispatch {
    /// The outbox behind a topic's latest subscription.
    pub fn outbox(&self, topic: &str) -> Outbox {
        self.outboxes.lock().unwrap()[topic].clone()
    }

    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    /// Waits until dispatch has been told this many things.
    pub async fn told_at_least(&self, count: usize) -> Vec<Told> {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let notified = self.notify.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if self.told().len() >= count {
                    return self.told();
                }
                notified.await;
            }
        });
        waited.await.expect("dispatch is told in time")
    }
}

/// A running server.
pub struct Relay {
    pub address: SocketAddr,
    pub dispatch: Arc<Dispatch>,
    pub readiness: Arc<Readiness>,
    pub metrics: Arc<channels::Metrics>,
    pub server_metrics: Arc<server::Metrics>,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<()>,
}

impl Relay {
    /// With the defaults, but for back-offs: nobody wants to wait for them.
    pub async fn start() -> Relay {
        Relay::with(|_, _| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut channels::Config, &mut server::Config)) -> Relay {
        Relay::with_services(configure, |_| {}).await
    }

    pub async fn with_services(
        configure: impl FnOnce(&mut channels::Config, &mut server::Config),
        serve_with: impl FnOnce(&mut channels::lobby::Services),
    ) -> Relay {
        let mut channels_config = channels::Config::default();
        let mut config = server::Config { connect_error_backoff: Duration::ZERO, ..Default::default() };
        configure(&mut channels_config, &mut config);
        let mut registry = Registry::with_prefix("walcast");
        let metrics = channels::Metrics::register(&mut registry);
        let hub = Arc::new(Hub::new(channels_config.limits.clone(), metrics.clone()));
        let mut services = channels::lobby::Services::new(Arc::new(Tokens));
        serve_with(&mut services);
        let lobby = Lobby::new(channels_config, hub, services, metrics.clone());
        let (dispatch, readiness) = (Arc::new(Dispatch::default()), Arc::new(Readiness::default()));
        let server_metrics = server::Metrics::register(&mut registry);
        let services = Services {
            lobby,
            sink: dispatch.clone(),
            readiness: readiness.clone(),
            metrics: server_metrics.clone(),
            registry: Arc::new(registry),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(Server::new(config, services).serve(listener, shutdown.clone()));
        Relay { address, dispatch, readiness, metrics, server_metrics, shutdown, served }
    }

    pub async fn connect(&self) -> Socket {
        self.connect_with("/socket/websocket", "2.0.0").await
    }

    pub async fn connect_with(&self, path: &str, version: &str) -> Socket {
        self.connect_by(&format!("{path}?apikey={}&vsn={version}", token("anon", 3600))).await
    }

    /// With a query of the test's own.
    pub async fn connect_by(&self, path: &str) -> Socket {
        let url = format!("ws://{}{path}", self.address);
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        Socket(socket)
    }

    /// A request for a socket with these headers, and the status of the answer.
    pub async fn upgrade_status(&self, path: &str, headers: &[(&'static str, String)]) -> u16 {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((_, response)) => response.status().as_u16(),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => response.status().as_u16(),
            Err(error) => panic!("{error}"),
        }
    }

    /// An HTTP request as it is written, and the whole answer to it.
    pub async fn http(&self, method: &str, path: &str, headers: &str) -> Answer {
        self.http_with_body(method, path, headers, b"").await
    }

    pub async fn http_with_body(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: realtime-dev.localhost\r\n{headers}\r\n");
        exchange(stream, &[head.as_bytes(), body].concat()).await
    }

    /// `POST` by somebody with a token, and then the end of the connection. Headers end in `\r\n`.
    pub async fn post(&self, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        let (token, body) = (token("anon", 60), body.as_ref());
        let more = format!("authorization: Bearer {token}\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        self.http_with_body("POST", path, &format!("{headers}{more}"), body).await
    }

    /// `GET`, and then the end of the connection.
    pub async fn get(&self, path: &str) -> Answer {
        self.http("GET", path, "connection: close\r\n").await
    }

    /// Connections that came to nothing for this reason.
    pub fn failed(&self, reason: Failed) -> u64 {
        self.server_metrics.handshakes_failed.get_or_create(&FailureLabels { reason }).get()
    }

    /// Connections that were closed when they were accepted, for this reason.
    pub fn refused(&self, reason: Refused) -> u64 {
        self.server_metrics.sockets_refused.get_or_create(&RefusalLabels { reason }).get()
    }

    /// Sockets that ended for this reason.
    pub fn closes(&self, reason: CloseReason) -> u64 {
        self.metrics.closes.get_or_create(&CloseLabels { reason }).get()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.expect("the server stops in time").unwrap();
    }
}

/// Writes a request, which asks for the connection to be closed, and reads the whole answer.
pub async fn exchange(stream: impl AsyncRead + AsyncWrite, request: &[u8]) -> Answer {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut answer = Vec::new();
    // At once: what is refused by its head is answered before all of it is written.
    let written = async { write.write_all(request).await };
    let (_, answered) = tokio::time::timeout(PATIENCE, async { tokio::join!(written, read.read_to_end(&mut answer)) })
        .await
        .expect("an answer in time");
    if answer.is_empty() {
        answered.unwrap();
    }
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

pub fn token(role: &str, lives_seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    format!("{role}:{}", now + lives_seconds)
}

/// A client's socket.
pub struct Socket<S = TcpStream>(pub WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    pub async fn next(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a frame in time");
        next.map(|message| message.unwrap())
    }

    /// The next text frame; control frames before it are skipped.
    pub async fn text(&mut self) -> String {
        loop {
            match self.next().await.expect("the socket is open") {
                Message::Text(text) => return text.as_str().to_owned(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn expect(&mut self, text: &str) {
        assert_eq!(self.text().await, text);
    }

    /// The close frame, and then the end.
    pub async fn expect_close(&mut self, code: u16, reason: &str) {
        match self.next().await {
            Some(Message::Close(Some(CloseFrame { code: got, reason: text }))) => {
                assert_eq!((u16::from(got), text.as_str()), (code, reason));
            }
            other => panic!("{other:?}"),
        }
        assert!(self.next().await.is_none());
    }

    /// Joins with one binding and reads what comes: the reply and "Subscribed to PostgreSQL".
    pub async fn subscribe(&mut self, room: &str) {
        self.send(&format!(
            r#"["1","1","realtime:{room}","phx_join",{{"config":{{"postgres_changes":[{{"table":"t"}}]}}}}]"#
        ))
        .await;
        assert!(self.text().await.contains(r#""status":"ok""#));
        assert!(self.text().await.contains("Subscribed to PostgreSQL"));
    }
}
