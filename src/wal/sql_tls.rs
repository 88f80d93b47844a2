//! TLS for ordinary SQL connections, under the rules of [`super::tls`].
//!
//! Not tokio-postgres-rustls: its 0.13 parses the certificate as something else and so never binds the login to the
//! channel.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::conninfo::Conninfo;
use super::tls::{self, TlsError};

/// What tokio-postgres is given to speak TLS with.
#[derive(Clone)]
pub(super) struct SqlTls(TlsConnector);

impl SqlTls {
    pub(super) fn new(conninfo: &Conninfo) -> Result<Self, TlsError> {
        Ok(SqlTls(TlsConnector::from(Arc::new(tls::client_config(conninfo)?))))
    }
}

impl<S> MakeTlsConnect<S> for SqlTls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = SqlTlsStream<S>;
    type TlsConnect = SqlTlsTo;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<SqlTlsTo, InvalidDnsNameError> {
        Ok(SqlTlsTo { connector: self.0.clone(), name: ServerName::try_from(host)?.to_owned() })
    }
}

/// The same, for one host.
pub(super) struct SqlTlsTo {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S> TlsConnect<S> for SqlTlsTo
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = SqlTlsStream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<SqlTlsStream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { Ok(SqlTlsStream(self.connector.connect(self.name, stream).await?)) })
    }
}

pub(super) struct SqlTlsStream<S>(TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for SqlTlsStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificate = self.0.get_ref().1.peer_certificates().and_then(|certificates| certificates.first());
        match certificate.and_then(tls::server_end_point) {
            Some(hash) => ChannelBinding::tls_server_end_point(hash),
            None => ChannelBinding::none(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for SqlTlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SqlTlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
