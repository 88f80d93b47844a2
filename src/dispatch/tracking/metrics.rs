//! What is counted of tracked tables.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::authz::tracked::Broken;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TableLabel {
    pub table: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: &'static str,
}

#[derive(Clone, Debug, Default)]
pub struct TrackingMetrics {
    pub rows: Family<TableLabel, Gauge>,
    pub bytes: Family<TableLabel, Gauge>,
    pub serving: Gauge,
    pub loads: Counter,
    pub broken: Family<ReasonLabel, Counter>,
}

impl TrackingMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("tracked_rows", "Rows kept of a table that policies read", self.rows.clone());
        registry.register("tracked_bytes", "Memory that they take, about", self.bytes.clone());
        let help = "Tables that policies can be decided by: loaded, and as current as the stream";
        registry.register("tracked_serving", help, self.serving.clone());
        registry.register("tracked_loads", "Tables that were read as a whole", self.loads.clone());
        let help = "Tables that had to be read again because what was kept of them was not whole";
        registry.register("tracked_broken", help, self.broken.clone());
    }

    pub fn broken(&self, why: &Broken) {
        self.broken.get_or_create(&ReasonLabel { reason: why.label() }).inc();
    }

    /// How often for a reason.
    pub fn times_broken(&self, reason: &'static str) -> u64 {
        self.broken.get_or_create(&ReasonLabel { reason }).get()
    }

    pub fn set(&self, table: &str, rows: usize, bytes: usize) {
        let label = TableLabel { table: table.to_owned() };
        self.rows.get_or_create(&label).set(rows as i64);
        self.bytes.get_or_create(&label).set(bytes as i64);
    }

    pub fn remove(&self, table: &str) {
        let label = TableLabel { table: table.to_owned() };
        self.rows.remove(&label);
        self.bytes.remove(&label);
    }
}
