//! What is counted of resuming.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Cheap to clone: all clones count together.
#[derive(Clone, Debug, Default)]
pub struct ResumeMetrics {
    pub keys: Gauge,
    pub keys_forgotten: Counter,
    pub acknowledgements: Counter,
    pub written: Counter,
    pub write_failures: Counter,
    pub resumed: Counter,
    pub gaps: Counter,
    pub changes_replayed: Counter,
    pub events_replayed: Counter,
    pub replaying: Gauge,
    pub kept_changes: Gauge,
    pub kept_bytes: Gauge,
    pub noted_bytes: Gauge,
    pub parked: Gauge,
}

impl ResumeMetrics {
    pub fn register(registry: &mut Registry) -> ResumeMetrics {
        let metrics = ResumeMetrics::default();
        let counters = [
            ("keys_forgotten", "Resume keys forgotten because there were too many", &metrics.keys_forgotten),
            ("acknowledgements", "Positions that clients were found to have", &metrics.acknowledgements),
            ("positions_written", "Positions of resume keys written to the database", &metrics.written),
            ("position_write_failures", "Batches of positions that could not be written", &metrics.write_failures),
            ("resumes", "Channels that were sent what they had missed", &metrics.resumed),
            ("resume_gaps", "Channels that were told of a gap", &metrics.gaps),
            (
                "changes_replayed",
                "Kept changes that were looked at again for those who came back",
                &metrics.changes_replayed,
            ),
            ("events_replayed", "Events sent to those who came back", &metrics.events_replayed),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("resume_keys", "Resume keys whose positions are remembered", &metrics.keys),
            ("replaying_channels", "Channels that are being sent what they had missed", &metrics.replaying),
            ("kept_changes", "Changes kept for those who come back", &metrics.kept_changes),
            ("noted_bytes", "Bytes of what was decided for channels that can be resumed", &metrics.noted_bytes),
            ("parked_channels", "Channels without a socket that are still decided for", &metrics.parked),
            ("kept_bytes", "Bytes of changes kept for those who come back", &metrics.kept_bytes),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        metrics
    }
}
