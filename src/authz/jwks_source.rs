//! Where a key set comes from: a file, or an http(s) URL.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Uri;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::jwks::JwksError;

/// A key set is a few KB; more is not a key set.
const BYTES_MAX: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Url(Uri),
}

/// Why no key set came.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the URL has no host")]
    NoHost,
    #[error(transparent)]
    Name(#[from] rustls::pki_types::InvalidDnsNameError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    /// Redirects are not followed: whoever configures a JWKS knows where it is.
    #[error("the server answered {0}")]
    Status(hyper::StatusCode),
    #[error("the body could not be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Jwks(#[from] JwksError),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => write!(f, "{}", path.display()),
            // A query may carry a secret.
            Source::Url(uri) => write!(f, "{}{}", uri.authority().map_or("", |a| a.as_str()), uri.path()),
        }
    }
}

impl Source {
    pub async fn fetch(&self) -> Result<String, SourceError> {
        match self {
            Source::File(path) => Ok(tokio::fs::read_to_string(path).await?),
            Source::Url(uri) => {
                tokio::time::timeout(TIMEOUT, get(uri)).await.map_err(|_| SourceError::Timeout(TIMEOUT))?
            }
        }
    }
}

async fn get(uri: &Uri) -> Result<String, SourceError> {
    let host = uri.host().ok_or(SourceError::NoHost)?.trim_start_matches('[').trim_end_matches(']');
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port)).await?;
    if !https {
        return request(uri, TokioIo::new(tcp)).await;
    }
    let name = ServerName::try_from(host.to_owned())?;
    let tls = tokio_rustls::TlsConnector::from(tls_config()?).connect(name, tcp).await?;
    request(uri, TokioIo::new(tls)).await
}

async fn request<S>(uri: &Uri, stream: S) -> Result<String, SourceError>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let request = hyper::Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("walcast/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(SourceError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), BYTES_MAX).collect().await.map_err(SourceError::Body)?;
        String::from_utf8(body.to_bytes().into()).map_err(|_| SourceError::NotUtf8)
    };
    // The connection is driven beside the exchange, not spawned: it ends with it, and with its deadline.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        closed = connection => {
            closed?;
            exchange.await
        }
    }
}

fn tls_config() -> Result<Arc<rustls::ClientConfig>, SourceError> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn serve_once(response: &'static str) -> (Source, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let uri = format!("http://{}/keys?a=b", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(socket.read_u8().await.unwrap());
            }
            socket.write_all(response.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        (Source::Url(uri), server)
    }

    #[tokio::test]
    async fn a_url_is_fetched_with_host_and_query() {
        let (source, server) = serve_once("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}").await;
        assert_eq!(source.fetch().await.unwrap(), "{\"keys\":[]}");
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /keys?a=b HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
    }

    #[tokio::test]
    async fn a_body_that_ends_with_the_connection_is_whole() {
        let (source, _server) = serve_once("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"keys\":[]}").await;
        assert_eq!(source.fetch().await.unwrap(), "{\"keys\":[]}");
    }

    #[tokio::test]
    async fn another_status_than_success_is_an_error() {
        let (source, _server) = serve_once("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(source.fetch().await, Err(SourceError::Status(status)) if status == 302));
    }
}
