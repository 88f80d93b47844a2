//! The accept loop, and the end of everything that it began.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use super::client_stream::{ClientStream, Transport};
use super::doors::{Seat, Visit};
use super::metrics::Failed;
use super::proxies::{self, Peer};
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
                    let is_proxy = proxies::is_trusted(address.ip().to_canonical(), &self.config.trusted_proxies);
                    let Some((seat, visit)) = self.doors.enter((!is_proxy).then(|| address.ip())) else { continue };
                    // Frames are batched by the outbox; Nagle's delay would come on top.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "TCP_NODELAY was refused");
                    }
                    let (server, shutdown) = (self.clone(), shutdown.clone());
                    let peer = Peer { address, is_secure: self.config.tls.is_some() };
                    match self.config.tls.clone() {
                        None => {
                            let stream = self.client_stream(Transport::Tcp(stream), seat);
                            self.tasks.spawn(server.serve_http(stream, peer, visit, shutdown))
                        }
                        Some(tls) => self.tasks.spawn(server.serve_tls(tls, stream, peer, (seat, visit), shutdown)),
                    };
                }
                Err(error) => self.could_not_accept(&error).await,
            }
        }
        drop(listener);
        self.connections.close_all(CloseReason::Shutdown, self.config.drain_spread).await;
        self.tasks.close();
        if tokio::time::timeout(self.config.drain_timeout, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "Some sockets did not close in time and were cut");
        }
    }

    /// A client that is gone already says nothing of the next one. Anything else does: without descriptors or memory,
    /// those who are here go on, and those who come wait in the kernel's queue.
    async fn could_not_accept(&self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        self.services.metrics.accept_failures.inc();
        if let Some(times) = self.doors.accept_failures.count(Instant::now()) {
            let sockets = self.services.metrics.sockets.get();
            tracing::warn!(%error, times, sockets, "Connections cannot be accepted");
        }
        tokio::time::sleep(ACCEPT_RETRY).await;
    }

    fn client_stream(&self, transport: Transport, seat: Seat) -> ClientStream {
        ClientStream::new(transport, self.config.body_timeout, seat)
    }

    /// After the handshake, which may take as long as a request's head, TLS is another task's.
    async fn serve_tls(
        self: Arc<Self>,
        tls: Tls,
        stream: TcpStream,
        peer: Peer,
        (seat, visit): (Seat, Visit),
        shutdown: CancellationToken,
    ) {
        let accepting = Box::pin(tls.accept(stream));
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(self.config.header_timeout, accepting) => accepted,
            () = shutdown.cancelled() => return,
        };
        let outer = match accepted {
            Ok(Ok(outer)) => Box::new(outer),
            Ok(Err(error)) => {
                self.services.metrics.count_failed(Failed::Tls);
                return tracing::debug!(%error, address = %peer.address, "A TLS handshake failed");
            }
            Err(_) => {
                self.services.metrics.count_failed(Failed::Timeout);
                return tracing::debug!(address = %peer.address, "A TLS handshake took too long");
            }
        };
        let (near, far) = match UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => return self.could_not_accept(&error).await,
        };
        let gone = CancellationToken::new();
        let linger = {
            let (server, shutdown) = (self.clone(), shutdown.clone());
            move || if shutdown.is_cancelled() { server.config.drain_linger } else { server.config.close_timeout }
        };
        self.tasks.spawn(tls::carry(outer, far, gone.clone(), linger));
        let stream = self.client_stream(Transport::Local { near, _gone: gone.drop_guard() }, seat);
        self.serve_http(stream, peer, visit, shutdown).await;
    }

    /// Until the connection ends or has become a WebSocket; then the visit is over.
    async fn serve_http(self: Arc<Self>, stream: ClientStream, peer: Peer, _visit: Visit, shutdown: CancellationToken) {
        let has_asked = AtomicBool::new(false);
        let service = service_fn(|mut request| {
            has_asked.store(true, Ordering::Relaxed);
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
                match tokio::time::timeout(self.config.drain_linger, connection.as_mut()).await {
                    Ok(ended) => ended,
                    // Of what has been asked the answer is waited for; a head that does not come is not.
                    Err(_) if has_asked.load(Ordering::Relaxed) => connection.await,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            if let Some(reason) = failed_by(&error) {
                self.services.metrics.count_failed(reason);
            }
            tracing::debug!(%error, address = %peer.address, "An HTTP connection ended early");
        }
    }
}

/// What a client did wrong; `None`: it went away.
fn failed_by(error: &hyper::Error) -> Option<Failed> {
    let is_stalled = || {
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
    };
    match error {
        error if error.is_timeout() || is_stalled() => Some(Failed::Timeout),
        error if error.is_parse_too_large() => Some(Failed::HeadTooLarge),
        error if error.is_parse() => Some(Failed::Malformed),
        _ => None,
    }
}
