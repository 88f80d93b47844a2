//! What the channels count.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::close::CloseReason;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    pub reason: CloseReason,
}

/// A handle per metric; each is an atomic, so that nobody waits for a counter.
#[derive(Debug, Default)]
pub struct Metrics {
    pub channels: Gauge,
    pub joins: Counter,
    pub joins_refused: Counter,
    pub tokens_refused: Counter,
    pub frames_in: Counter,
    pub bytes_in: Counter,
    pub frames_malformed: Counter,
    pub frames_out: Counter,
    pub bytes_out: Counter,
    pub outbox_bytes: Gauge,
    pub outbox_frames_discarded: Counter,
    pub closes: Family<CloseLabels, Counter>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Arc<Metrics> {
        let metrics = Metrics::default();
        let m = &metrics;
        registry.register("channels", "Channels joined now", m.channels.clone());
        registry.register("joins", "Joins that were accepted", m.joins.clone());
        registry.register("joins_refused", "Joins that were answered with an error", m.joins_refused.clone());
        registry.register("tokens_refused", "Channels closed for their token", m.tokens_refused.clone());
        registry.register("frames_in", "Frames received from clients", m.frames_in.clone());
        registry.register("bytes_in", "Payload bytes received from clients", m.bytes_in.clone());
        registry.register("frames_malformed", "Frames dropped because they do not decode", m.frames_malformed.clone());
        registry.register("frames_out", "Frames queued for clients", m.frames_out.clone());
        registry.register("bytes_out", "Bytes written to clients", m.bytes_out.clone());
        registry.register("outbox_bytes", "Bytes queued for clients now", m.outbox_bytes.clone());
        registry.register(
            "outbox_frames_discarded",
            "Frames that a client closed for slowness did not get",
            m.outbox_frames_discarded.clone(),
        );
        registry.register("closes", "Sockets ended, by reason", m.closes.clone());
        Arc::new(metrics)
    }

    pub fn count_close(&self, reason: CloseReason) {
        self.closes.get_or_create(&CloseLabels { reason }).inc();
    }
}
