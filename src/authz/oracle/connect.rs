//! How the oracle reaches the database: plugged in, so that TLS, sockets and passwords stay elsewhere.

use futures_util::future::BoxFuture;
use tokio_postgres::{CancelToken, Client};

use crate::wal::Conninfo;

pub type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// A new session, and the future that drives it (spawned by whoever uses the session).
pub struct Connected {
    pub client: Client,
    pub connection: BoxFuture<'static, Result<(), tokio_postgres::Error>>,
}

/// Opens sessions of the oracle's login.
pub trait Connect: Send + Sync + 'static {
    fn connect(&self) -> BoxFuture<'_, Result<Connected, ConnectError>>;

    /// Sends a cancel request, over the same kind of transport.
    fn cancel(&self, token: CancelToken) -> BoxFuture<'static, Result<(), ConnectError>>;
}

/// Without TLS, for unix sockets, loopback and tests.
pub struct PlainConnect(pub tokio_postgres::Config);

impl Connect for PlainConnect {
    fn connect(&self) -> BoxFuture<'_, Result<Connected, ConnectError>> {
        Box::pin(async {
            let (client, connection) = self.0.connect(tokio_postgres::NoTls).await?;
            Ok(Connected { client, connection: Box::pin(connection) })
        })
    }

    fn cancel(&self, token: CancelToken) -> BoxFuture<'static, Result<(), ConnectError>> {
        Box::pin(async move { Ok(token.cancel_query(tokio_postgres::NoTls).await?) })
    }
}

/// As the stream connects: the same host, and the same rules for TLS.
impl Connect for Conninfo {
    fn connect(&self) -> BoxFuture<'_, Result<Connected, ConnectError>> {
        Box::pin(async {
            let (client, connection) = Conninfo::connect(self).await?;
            Ok(Connected { client, connection })
        })
    }

    fn cancel(&self, token: CancelToken) -> BoxFuture<'static, Result<(), ConnectError>> {
        let conninfo = self.clone();
        Box::pin(async move { Ok(conninfo.cancel(token).await?) })
    }
}
