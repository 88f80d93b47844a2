//! Plain requests, and upgrades that are refused: written by hand, because a client library would hide what is compared.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::client::{Request, generate_key};

use super::transcript::{self, RATE_HEADERS, Response};

pub fn upgrade_request(target: &str, host: &str, headers: &[(String, String)]) -> Result<Request, String> {
    let mut request = Request::builder()
        .uri(format!("ws://{host}{target}"))
        .header("host", host)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .header("sec-websocket-extensions", "permessage-deflate; client_max_window_bits");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(()).map_err(|error| error.to_string())
}

pub async fn refused_upgrade(
    address: SocketAddr,
    target: &str,
    host: &str,
    headers: &[(String, String)],
) -> Result<Response, String> {
    let request = upgrade_request(target, host, headers)?;
    let mut text = format!("GET {target} HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().map_err(|error| error.to_string())?));
    }
    exchange(address, format!("{text}\r\n").as_bytes()).await
}

/// As the recording's client sends it, with the connection kept alive.
pub async fn request(address: SocketAddr, request: &transcript::Request) -> Result<Response, String> {
    let mut head = format!("{} {} HTTP/1.1\r\nconnection: keep-alive\r\n", request.method, request.path);
    if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("host: realtime-dev.localhost\r\n");
    }
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !request.body.is_empty() || request.method == "POST" {
        head.push_str(&format!("content-length: {}\r\n", request.body.len()));
    }
    exchange(address, &[head.as_bytes(), b"\r\n", &request.body].concat()).await
}

async fn exchange(address: SocketAddr, request: &[u8]) -> Result<Response, String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    stream.write_all(request).await.map_err(|error| error.to_string())?;
    let mut received = Vec::new();
    loop {
        if let Some(response) = complete(&received)? {
            return Ok(response);
        }
        let read = stream.read_buf(&mut received).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err(format!("the answer breaks off: {}", String::from_utf8_lossy(&received)));
        }
    }
}

fn complete(received: &[u8]) -> Result<Option<Response>, String> {
    let text = String::from_utf8_lossy(received);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let header = |wanted: &str| {
        let named =
            |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_string()));
        head.lines().filter_map(named).find(|(name, _)| name == wanted).map(|(_, value)| value)
    };
    let length: usize =
        header("content-length").map_or(Ok(0), |value| value.parse()).map_err(|_| "a bad content-length")?;
    if body.len() < length {
        return Ok(None);
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status line")?;
    Ok(Some(Response {
        status,
        content_type: header("content-type"),
        allow_origin: header("access-control-allow-origin"),
        has_rate: RATE_HEADERS.iter().all(|name| header(name).is_some()),
        body: body[..length].to_string(),
    }))
}
