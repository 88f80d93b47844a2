//! From HTTP to a WebSocket (PROTOCOL 1.2 to 1.4).

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime};

use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::addresses::Place;
use super::answer::{self, Answer};
use super::client_stream::ClientStream;
use super::connection::{Connection, Opened};
use super::metrics::StatusLabels;
use super::proxies::{Client, Peer};
use super::{Server, query};
use crate::channels::{LogLevel, Serializer};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Answers a request for a socket: 101 and a task for it, or why not.
pub async fn answer(server: Arc<Server>, mut request: Request<Incoming>) -> Answer {
    match check(&server, &request) {
        Ok(accepted) => {
            let on_upgrade = hyper::upgrade::on(&mut request);
            let answer = switching_protocols(&accepted.key);
            server.tasks.spawn(open(server.clone(), on_upgrade, accepted));
            answer
        }
        Err(refused) => refused.into_answer(&server).await,
    }
}

struct Accepted {
    serializer: Serializer,
    token: Arc<str>,
    headers: Arc<str>,
    key: Vec<u8>,
    place: Place,
    log_level: LogLevel,
}

/// Why there is no socket.
enum Refused {
    /// At once, without content type.
    Bare(StatusCode, Cow<'static, str>),
    /// As JSON, after the back-off.
    Error(StatusCode, Cow<'static, str>),
}

impl Refused {
    async fn into_answer(self, server: &Server) -> Answer {
        let (Refused::Bare(status, _) | Refused::Error(status, _)) = self;
        server.services.metrics.upgrades_refused.get_or_create(&StatusLabels { status: status.as_u16() }).inc();
        tracing::debug!(%status, "An upgrade was refused");
        match self {
            Refused::Bare(_, text) => answer::bare(status, text.into_owned()),
            Refused::Error(_, error) => {
                tokio::time::sleep(server.config.connect_error_backoff).await;
                answer::json(status, serde_json::json!({ "error": error }).to_string())
            }
        }
    }
}

/// In the original's order: method, version, token, users, joins, and only then whether it is an upgrade at all.
fn check(server: &Server, request: &Request<Incoming>) -> Result<Accepted, Refused> {
    if request.method() != Method::GET {
        return Err(Refused::Bare(StatusCode::BAD_REQUEST, "".into()));
    }
    if !server.config.origins.admit(request.headers()) {
        return Err(Refused::Error(StatusCode::FORBIDDEN, "Origin not allowed".into()));
    }
    let query = request.uri().query();
    let version = query::parameter(query, "vsn").unwrap_or(Cow::Borrowed("1.0.0"));
    let serializer = serializer(&version).ok_or_else(|| Refused::Bare(StatusCode::FORBIDDEN, "".into()))?;
    let token = given_token(request.headers(), query)
        .ok_or_else(|| Refused::Error(StatusCode::UNAUTHORIZED, "API key is missing".into()))?;
    let lobby = &server.services.lobby;
    if let Err(error) = lobby.services.verifier.verify(&token, SystemTime::now()) {
        let status = StatusCode::from_u16(error.upgrade_status()).unwrap_or(StatusCode::UNAUTHORIZED);
        return Err(Refused::Error(status, error.upgrade_text().into()));
    }
    if lobby.gate.is_crowded() || server.connections.len() >= server.config.connections_max {
        return Err(Refused::Error(StatusCode::TOO_MANY_REQUESTS, "Too many connected users".into()));
    }
    if !lobby.gate.has_joins(Instant::now()) {
        return Err(Refused::Error(StatusCode::TOO_MANY_REQUESTS, "Too many joins per second".into()));
    }
    let key = check_handshake(request.headers())?;
    let place = place(server, request)?;
    let headers = policy_headers(request.headers());
    let log_level = LogLevel::of(query::parameter(query, "log_level").as_deref());
    Ok(Accepted { serializer, token: token.into(), headers, key, place, log_level })
}

/// The socket's place among those of its address.
fn place(server: &Server, request: &Request<Incoming>) -> Result<Place, Refused> {
    let peer = request.extensions().get::<Peer>().copied().expect("the listener tells of every request whose it is");
    let client = Client::of(peer, request.headers(), &server.config.trusted_proxies);
    tracing::debug!(address = %client.address, secure = client.is_secure, "A socket is opened");
    let crowded = || Refused::Error(StatusCode::TOO_MANY_REQUESTS, "Too many connections from this address".into());
    server.addresses.take(client.address).ok_or_else(crowded)
}

/// `~> 1.0.0` or `~> 2.0.0`, given as a whole semantic version.
fn serializer(version: &str) -> Option<Serializer> {
    let release = version.split(['-', '+']).next()?;
    let mut numbers = release.split('.').map(|number| {
        let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        number.parse::<u32>().ok().filter(|_| is_number)
    });
    let (major, minor, _patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    match (major, minor, numbers.next()) {
        (1, 0, None) => Some(Serializer::V1),
        (2, 0, None) => Some(Serializer::V2),
        _ => None,
    }
}

/// The gateway's header first; without gateway, the parameter. `Authorization` is not looked at.
fn given_token<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Option<Cow<'a, str>> {
    match headers.get(X_API_KEY) {
        Some(value) => Some(String::from_utf8_lossy(value.as_bytes())),
        None => query::parameter(query, "apikey"),
    }
}

/// What policies read as `request.headers`: those that begin with `x-` (PROTOCOL 5). Most sockets have none.
fn policy_headers(headers: &HeaderMap) -> Arc<str> {
    static NONE: LazyLock<Arc<str>> = LazyLock::new(|| "{}".into());
    let own = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-"));
    let own: serde_json::Map<_, _> = own
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned().into()))
        .collect();
    if own.is_empty() { Arc::clone(&NONE) } else { serde_json::Value::Object(own).to_string().into() }
}

/// RFC 6455, 4.2.1, with the original's complaints. Returns the key to be proven.
fn check_handshake(headers: &HeaderMap) -> Result<Vec<u8>, Refused> {
    let complaint = |text: String| Refused::Bare(StatusCode::BAD_REQUEST, text.into());
    if !headers.contains_key(HOST) {
        return Err(complaint("'host' header is absent".into()));
    }
    for (name, token) in [(CONNECTION, "upgrade"), (UPGRADE, "websocket")] {
        let values: Vec<_> = headers.get_all(&name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        let named =
            values.iter().flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token));
        if !named {
            return Err(complaint(format!("'{name}' header must contain '{token}', got {values:?}")));
        }
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty()) else {
        return Err(complaint("'sec-websocket-key' header is absent".into()));
    };
    let versions: Vec<_> = headers.get_all(SEC_WEBSOCKET_VERSION).iter().collect();
    if versions != ["13"] {
        return Err(complaint(format!("'sec-websocket-version' header must equal '13', got {versions:?}")));
    }
    Ok(key.as_bytes().to_vec())
}

/// Compression is not negotiated: nothing is said of extensions.
fn switching_protocols(key: &[u8]) -> Answer {
    let mut answer = answer::bare(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::try_from(derive_accept_key(key)).expect("base64 is a header's value");
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

/// Takes the TCP stream back from hyper and gives it to a task of its own: what the handshake needed is freed with this
/// one, while the socket stays for hours.
async fn open(server: Arc<Server>, on_upgrade: OnUpgrade, accepted: Accepted) {
    let Accepted { serializer, token, headers, place, log_level, .. } = accepted;
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, "An upgrade was not completed"),
    };
    let Some((stream, read)) = take_stream(upgraded) else {
        return tracing::error!("hyper gave back another stream than it was given");
    };
    let opened = Opened { stream, read, serializer, token, headers, place, log_level };
    let connection = Connection::open(server.clone(), opened).await;
    server.tasks.spawn(connection.run());
}

fn take_stream(upgraded: Upgraded) -> Option<(ClientStream, Vec<u8>)> {
    let parts = upgraded.downcast::<TokioIo<ClientStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_versions_are_spoken() {
        for version in ["1.0.0", "1.0.7", "1.0.0-rc.1"] {
            assert_eq!(serializer(version), Some(Serializer::V1), "{version}");
        }
        assert_eq!(serializer("2.0.0"), Some(Serializer::V2));
        for version in ["9.9.9", "1.1.0", "2.1.0", "2.0", "2", "", "2.0.0.0", "x.0.0", "+2.0.0", "2.-0.0"] {
            assert_eq!(serializer(version), None, "{version}");
        }
    }
}
