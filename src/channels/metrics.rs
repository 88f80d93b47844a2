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
    pub topics: Gauge,
    pub broadcasts: Counter,
    pub broadcasts_delivered: Counter,
    pub broadcasts_undeliverable: Counter,
    pub broadcasts_too_large: Counter,
    pub broadcasts_over_rate: Counter,
    pub broadcasts_refused: Counter,
    pub presences: Gauge,
    pub presence_diffs_delivered: Counter,
    pub channels_expelled: Counter,
    pub topic_questions: Counter,
    pub reads_denied: Counter,
    pub writes_denied: Counter,
    pub replays: Counter,
    pub messages_replayed: Counter,
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
        registry.register("topics", "Topics with somebody on them now", m.topics.clone());
        registry.register("broadcasts", "Broadcasts that were accepted", m.broadcasts.clone());
        registry.register("broadcasts_delivered", "Copies of broadcasts queued", m.broadcasts_delivered.clone());
        registry.register(
            "broadcasts_undeliverable",
            "Copies that a receiver's version of the protocol cannot carry",
            m.broadcasts_undeliverable.clone(),
        );
        registry.register("broadcasts_too_large", "Broadcasts above the size limit", m.broadcasts_too_large.clone());
        registry.register("broadcasts_over_rate", "Broadcasts above the rate limit", m.broadcasts_over_rate.clone());
        registry.register(
            "broadcasts_refused",
            "Broadcasts that are no object, or above a person's limits",
            m.broadcasts_refused.clone(),
        );
        registry.register("presences", "Presences tracked now", m.presences.clone());
        registry.register(
            "presence_diffs_delivered",
            "Copies of presence diffs queued",
            m.presence_diffs_delivered.clone(),
        );
        registry.register("channels_expelled", "Channels closed for a rate limit", m.channels_expelled.clone());
        registry.register("topic_questions", "Questions about rights on private channels", m.topic_questions.clone());
        registry.register("reads_denied", "Private channels that were not let in", m.reads_denied.clone());
        registry.register("writes_denied", "Frames dropped for want of a write right", m.writes_denied.clone());
        registry.register("replays", "Joins that asked for a replay", m.replays.clone());
        registry.register("messages_replayed", "Messages sent again to joins", m.messages_replayed.clone());
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
