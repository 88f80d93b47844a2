//! What the server counts.

use std::sync::Arc;

use hyper::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabels {
    pub status: u16,
}

/// Why a connection was closed as soon as it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refused {
    /// As many connections as there are descriptors for, or as are allowed.
    Sockets,
    /// Too many of them are no WebSocket yet.
    Handshakes,
    /// Its address has as many of those as it may.
    Address,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    pub reason: Refused,
}

/// Why a connection did not become a request or a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Failed {
    /// TLS was not spoken, or not ours.
    Tls,
    /// The handshake of TLS or the head of a request took too long; or an answer was not read.
    Timeout,
    /// The head of a request is above its limit: 431.
    HeadTooLarge,
    /// It is no HTTP: 400.
    Malformed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabels {
    pub reason: Failed,
}

#[derive(Debug, Default)]
pub struct Metrics {
    pub sockets: Gauge,
    pub sockets_max: Gauge,
    pub handshakes: Gauge,
    pub sockets_refused: Family<RefusalLabels, Counter>,
    pub handshakes_failed: Family<FailureLabels, Counter>,
    pub accept_failures: Counter,
    pub inbound_bytes: Gauge,
    pub connections: Gauge,
    pub connections_opened: Counter,
    pub upgrades_refused: Family<StatusLabels, Counter>,
    pub broadcast_requests: Family<StatusLabels, Counter>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Arc<Metrics> {
        let metrics = Metrics::default();
        registry.register("sockets", "TCP connections of clients open now", metrics.sockets.clone());
        registry.register("sockets_max", "TCP connections of clients that there may be", metrics.sockets_max.clone());
        registry.register("handshakes", "Those that are no WebSocket, or not yet", metrics.handshakes.clone());
        let refused = metrics.sockets_refused.clone();
        registry.register("sockets_refused", "Connections closed when they were accepted, by reason", refused);
        let failed = metrics.handshakes_failed.clone();
        registry.register("handshakes_failed", "Connections that came to nothing, by reason", failed);
        let failures = metrics.accept_failures.clone();
        registry.register("accept_failures", "Times that no connection could be accepted", failures);
        let inbound = metrics.inbound_bytes.clone();
        registry.register("inbound_bytes", "Bytes held of large messages that are still arriving", inbound);
        registry.register("connections", "WebSockets open now", metrics.connections.clone());
        registry.register("connections_opened", "WebSockets opened", metrics.connections_opened.clone());
        registry.register("upgrades_refused", "Upgrades refused, by status", metrics.upgrades_refused.clone());
        let requests = metrics.broadcast_requests.clone();
        registry.register("broadcast_requests", "Broadcasts asked for over HTTP, by status of the answer", requests);
        Arc::new(metrics)
    }

    pub fn count_failed(&self, reason: Failed) {
        self.handshakes_failed.get_or_create(&FailureLabels { reason }).inc();
    }

    pub fn broadcast_requests(&self, status: StatusCode) -> Counter {
        self.broadcast_requests.get_or_create(&StatusLabels { status: status.as_u16() }).clone()
    }
}
