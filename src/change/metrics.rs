//! What is counted of transactions too large for memory.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Handles; `default()` counts for nobody.
#[derive(Clone, Debug, Default)]
pub struct SpillMetrics {
    pub transactions: Counter,
    pub bytes: Gauge,
}

impl SpillMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Transactions above --transaction-buffer-max, held in a file until they are delivered";
        registry.register("transactions_spilled", help, self.transactions.clone());
        registry.register("spilled_bytes", "Bytes in such files now", self.bytes.clone());
    }
}

/// What one file adds to the gauge, until it is closed.
#[derive(Debug)]
pub struct Spilled {
    bytes: i64,
    gauge: Gauge,
}

impl Spilled {
    pub fn begin(metrics: &SpillMetrics) -> Spilled {
        metrics.transactions.inc();
        Spilled { bytes: 0, gauge: metrics.bytes.clone() }
    }

    pub fn add(&mut self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        self.gauge.inc_by(bytes);
    }
}

impl Drop for Spilled {
    fn drop(&mut self) {
        self.gauge.dec_by(self.bytes);
    }
}
