//! TLS for clients: a certificate and its key from files, read again when they change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Certificates are renewed weeks before their end: whoever sends no SIGHUP is served by looking now and then.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The WebSocket handshake is HTTP/1.1's.
const ALPN: &[u8] = b"http/1.1";

/// A certificate in use. A cheap handle.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<ServerConfig>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate file {path} cannot be read: {reason}")]
    Certificate { path: PathBuf, reason: String },
    #[error("the certificate file {0} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    #[error("the key file {path} cannot be read: {reason}")]
    Key { path: PathBuf, reason: String },
    #[error("certificate and key cannot be used together: {0}")]
    Rejected(#[from] rustls::Error),
}

impl Tls {
    pub fn load(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        let current = ArcSwap::from_pointee(read(certificate, key)?);
        Ok(Tls(Arc::new(Inner { certificate: certificate.to_owned(), key: key.to_owned(), current })))
    }

    /// Handshakes from here on are made with what the files hold now; what cannot be used changes nothing.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.0.current.store(Arc::new(read(&self.0.certificate, &self.0.key)?));
        Ok(())
    }

    /// Reads the files again at SIGHUP, and when they have changed.
    pub async fn watch(self, shutdown: CancellationToken) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => {
                tracing::warn!(%error, "SIGHUP cannot be listened for: a new certificate needs a restart");
                return shutdown.cancelled().await;
            }
        };
        let mut seen = self.changed_at();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = hangup.recv() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => if self.changed_at() == seen {
                    continue;
                },
            }
            seen = self.changed_at();
            match self.reload() {
                Ok(()) => tracing::info!("the certificate was read again"),
                Err(error) => tracing::error!(%error, "the certificate in use stays"),
            }
        }
    }

    fn changed_at(&self) -> [Option<SystemTime>; 2] {
        [&self.0.certificate, &self.0.key].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.0.current.load_full()).accept(stream).await
    }
}

/// Carries bytes between the encrypted stream and one end of a pair, until both have ended. When the other end is `gone`,
/// what is left has `linger` to reach the client.
pub(super) async fn carry(
    mut outer: Box<TlsStream<TcpStream>>,
    mut inner: UnixStream,
    gone: CancellationToken,
    linger: impl FnOnce() -> Duration,
) {
    let carrying = copy_bidirectional(&mut *outer, &mut inner);
    tokio::pin!(carrying);
    let carried = tokio::select! {
        carried = carrying.as_mut() => carried,
        () = gone.cancelled() => match tokio::time::timeout(linger(), carrying).await {
            Ok(carried) => carried,
            Err(_) => return,
        },
    };
    if let Err(error) = carried {
        tracing::debug!(%error, "A TLS connection ended early");
    }
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let unreadable = |error: rustls::pki_types::pem::Error| TlsError::Certificate {
        path: certificate.to_owned(),
        reason: error.to_string(),
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError::Key { path: key.to_owned(), reason: error.to_string() })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.0.certificate).finish()
    }
}
