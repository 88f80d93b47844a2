//! The accept loop, and the end of everything that it began.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use super::client_stream::ClientStream;
use super::proxies::Peer;
use super::tls::{self, Tls};
use super::{Server, routes};
use crate::channels::CloseReason;

/// Heads of requests: a token in the query and another in a header, with room to spare.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Out of file descriptors, most likely: waiting lets some come back, where retrying at once would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl Server {
    /// Serves until `shutdown`, then says goodbye to every socket and waits for them, up to the drain timeout.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                // Shutdown first: a busy listener must not put it off.
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    // Frames are batched by the outbox; Nagle's delay would come on top.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "TCP_NODELAY was refused");
                    }
                    let (server, shutdown) = (self.clone(), shutdown.clone());
                    let peer = Peer { address, is_secure: self.config.tls.is_some() };
                    match self.config.tls.clone() {
                        None => self.tasks.spawn(server.serve_http(ClientStream::Tcp(stream), peer, shutdown)),
                        Some(tls) => self.tasks.spawn(server.serve_tls(tls, stream, peer, shutdown)),
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "A connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(listener);
        self.connections.close_all(CloseReason::Shutdown);
        self.tasks.close();
        if tokio::time::timeout(self.config.drain_timeout, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "Some sockets did not close in time and were cut");
        }
    }

    /// After the handshake, which may take as long as a request's head, TLS is another task's.
    async fn serve_tls(self: Arc<Self>, tls: Tls, stream: TcpStream, peer: Peer, shutdown: CancellationToken) {
        let accepting = Box::pin(tls.accept(stream));
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(self.config.header_timeout, accepting) => accepted,
            () = shutdown.cancelled() => return,
        };
        let outer = match accepted {
            Ok(Ok(outer)) => Box::new(outer),
            Ok(Err(error)) => return tracing::debug!(%error, address = %peer.address, "A TLS handshake failed"),
            Err(_) => return tracing::debug!(address = %peer.address, "A TLS handshake took too long"),
        };
        let (near, far) = match UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => return tracing::warn!(%error, "A connection could not be accepted"),
        };
        let gone = CancellationToken::new();
        self.tasks.spawn(tls::carry(outer, far, gone.clone(), self.config.close_timeout));
        let stream = ClientStream::Local { near, _gone: gone.drop_guard() };
        self.serve_http(stream, peer, shutdown).await;
    }

    async fn serve_http(self: Arc<Self>, stream: ClientStream, peer: Peer, shutdown: CancellationToken) {
        let service = service_fn(|mut request| {
            request.extensions_mut().insert(peer);
            routes::answer(self.clone(), request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "An HTTP connection ended early");
        }
    }
}
