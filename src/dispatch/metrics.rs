//! What dispatch counts.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::broadcasts::BroadcastMetrics;
use super::tracking::TrackingMetrics;
use crate::change::SpillMetrics;

#[derive(Debug, Default)]
pub struct DispatchMetrics {
    pub transactions: Counter,
    pub changes_read: Counter,
    pub changes_without_subscriber: Counter,
    pub changes_matched: Counter,
    pub events_delivered: Counter,
    pub events_undecided: Counter,
    pub encode_errors: Counter,
    pub changes_cut: Counter,
    pub decisions: Counter,
    pub decisions_left_open: Counter,
    pub decisions_not_compiled: Counter,
    pub topics_decided: Counter,
    pub topics_asked: Counter,
    pub subscribers: Gauge,
    pub subscriptions: Gauge,
    pub pending_bytes: Gauge,
    pub in_progress_bytes: Gauge,
    pub catalog_version: Gauge,
    pub roles_version: Gauge,
    pub tracking: TrackingMetrics,
    pub broadcasts: BroadcastMetrics,
    pub spill: SpillMetrics,
}

impl DispatchMetrics {
    pub fn register(registry: &mut Registry) -> Arc<DispatchMetrics> {
        let metrics = DispatchMetrics::default();
        let counters = [
            ("transactions", "Transactions dispatched", &metrics.transactions),
            ("changes_read", "Row changes of published tables read from the stream", &metrics.changes_read),
            (
                "changes_without_subscriber",
                "Row changes that nobody was subscribed to",
                &metrics.changes_without_subscriber,
            ),
            ("changes_matched", "Row changes that matched a subscription", &metrics.changes_matched),
            ("events_delivered", "Events handed to outboxes", &metrics.events_delivered),
            (
                "events_undecided",
                "Events not shown because a policy or filter could not be decided",
                &metrics.events_undecided,
            ),
            ("decisions", "Rows under row-level security decided in-process", &metrics.decisions),
            (
                "decisions_left_open",
                "Rows of compiled policies that Postgres was asked about all the same",
                &metrics.decisions_left_open,
            ),
            (
                "decisions_not_compiled",
                "Rows decided by Postgres because their policies are not compiled",
                &metrics.decisions_not_compiled,
            ),
            ("topics_decided", "Questions about private channels decided in-process", &metrics.topics_decided),
            ("topics_asked", "Questions about private channels that Postgres was asked", &metrics.topics_asked),
            ("encode_errors", "Rows that could not be turned to JSON", &metrics.encode_errors),
            (
                "changes_cut",
                "Row changes above --record-max, delivered with their small values only",
                &metrics.changes_cut,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("subscribers", "Channels with postgres_changes bindings", &metrics.subscribers),
            ("subscriptions", "Bound subscriptions", &metrics.subscriptions),
            ("pending_bytes", "Row images waiting for an answer of Postgres", &metrics.pending_bytes),
            (
                "in_progress_bytes",
                "Held of large transactions that have not ended, in memory and in files",
                &metrics.in_progress_bytes,
            ),
            ("catalog_version", "Catalog states applied since the start", &metrics.catalog_version),
            ("roles_version", "Changes of roles and memberships applied since the start", &metrics.roles_version),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        metrics.tracking.register(registry);
        metrics.broadcasts.register(registry);
        metrics.spill.register(registry);
        Arc::new(metrics)
    }
}
