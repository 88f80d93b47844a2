//! What the server counts.

use std::sync::Arc;

use hyper::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabels {
    pub status: u16,
}

#[derive(Debug, Default)]
pub struct Metrics {
    pub connections: Gauge,
    pub connections_opened: Counter,
    pub upgrades_refused: Family<StatusLabels, Counter>,
    pub broadcast_requests: Family<StatusLabels, Counter>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Arc<Metrics> {
        let metrics = Metrics::default();
        registry.register("connections", "WebSockets open now", metrics.connections.clone());
        registry.register("connections_opened", "WebSockets opened", metrics.connections_opened.clone());
        registry.register("upgrades_refused", "Upgrades refused, by status", metrics.upgrades_refused.clone());
        let requests = metrics.broadcast_requests.clone();
        registry.register("broadcast_requests", "Broadcasts asked for over HTTP, by status of the answer", requests);
        Arc::new(metrics)
    }

    pub fn broadcast_requests(&self, status: StatusCode) -> Counter {
        self.broadcast_requests.get_or_create(&StatusLabels { status: status.as_u16() }).clone()
    }
}
