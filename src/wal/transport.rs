//! The bytes to and from Postgres: TCP, TLS or a unix socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::conninfo::{Conninfo, Host, SslMode};
use super::error::Error;
use super::tls::{self, TlsError};

/// A connected stream. The walsender sends one small message per change: what makes it fast is reading much at a
/// time, so none of these is wrapped in a buffer of its own.
pub(super) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Transport {
    /// Connects and, where the conninfo wants it, speaks TLS. The caller bounds the time.
    pub(super) async fn connect(conninfo: &Conninfo) -> Result<Transport, Error> {
        let failed = |source| Error::Connect { address: conninfo.address(), source };
        match &conninfo.host {
            Host::Unix(_) => UnixStream::connect(conninfo.socket_path()).await.map(Transport::Unix).map_err(failed),
            Host::Tcp { name, address } => {
                let stream = match address {
                    Some(address) => TcpStream::connect((*address, conninfo.port)).await,
                    None => TcpStream::connect((name.as_str(), conninfo.port)).await,
                }
                .map_err(failed)?;
                stream.set_nodelay(true)?;
                negotiate(stream, name, conninfo).await
            }
        }
    }

    /// The hash that binds a SCRAM login to this TLS session.
    pub(super) fn server_end_point(&self) -> Option<Vec<u8>> {
        match self {
            Transport::Tls(stream) => tls::server_end_point(stream.get_ref().1.peer_certificates()?.first()?),
            Transport::Tcp(_) | Transport::Unix(_) => None,
        }
    }
}

async fn negotiate(mut stream: TcpStream, name: &str, conninfo: &Conninfo) -> Result<Transport, Error> {
    let mode = conninfo.effective_ssl_mode();
    if mode == SslMode::Disable {
        return Ok(Transport::Tcp(stream));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    // One byte and not more: anything that an attacker in the middle puts behind it must not be taken for TLS' own
    // (CVE-2021-23222).
    match stream.read_u8().await.map_err(closed)? {
        b'S' => {}
        b'N' if mode == SslMode::Prefer => return Ok(Transport::Tcp(stream)),
        b'N' => return Err(TlsError::NotOffered.into()),
        other => return Err(Error::Protocol(format!("0x{other:02x} in answer to SSLRequest"))),
    }
    let server_name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls::client_config(conninfo)?));
    match connector.connect(server_name, stream).await {
        Ok(stream) => Ok(Transport::Tls(Box::new(stream))),
        // A certificate that does not convince is no transient network error.
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls) => Err(TlsError::Rustls(rustls.clone()).into()),
            None => Err(Error::Connect { address: conninfo.address(), source: error }),
        },
    }
}

fn closed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Closed,
        _ => Error::Io(error),
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
