//! What the replication room counts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio_postgres::Client;

use super::Lsn;
use super::budget::{Budget, SlotPressure};
use super::error::Error;
use super::pins::Pin;
use super::slot::{self, SlotInfo};

/// Handles to the metrics; `default()` counts for nobody.
#[derive(Debug, Default)]
pub struct WalMetrics {
    pub bytes_read: Counter,
    pub frames_read: Counter,
    pub frames_skipped: Counter,
    pub decode_errors: Counter,
    pub reconnects: Counter,
    /// 1 while a stream runs.
    pub streaming: Gauge<i64, AtomicI64>,
    /// Read from the stream, but not confirmed to the server.
    pub lag_bytes: Gauge<i64, AtomicI64>,
    /// How long ago the oldest unconfirmed position was read.
    pub lag_seconds: Gauge<f64, AtomicU64>,
    /// As the server sees it, lags that have not even been read included.
    pub slot_lag_bytes: Gauge<i64, AtomicI64>,
    pub slot_held_bytes: Gauge<i64, AtomicI64>,
    pub slot: SlotMetrics,
    lag: Mutex<Lag>,
}

/// The slot and its budget, as the server sees them.
#[derive(Debug, Default)]
pub struct SlotMetrics {
    pub retained_bytes: Gauge<i64, AtomicI64>,
    pub budget_bytes: Gauge<i64, AtomicI64>,
    pub catalog_xmin_age: Gauge<i64, AtomicI64>,
    pub catalog_xmin_age_budget: Gauge<i64, AtomicI64>,
    /// 0 within, 1 warned, 2 promises given up, 3 exceeded.
    pub rung: Gauge<i64, AtomicI64>,
    /// What may be written before Postgres may give the slot up; -1: it never does.
    pub safe_wal_bytes: Gauge<i64, AtomicI64>,
    /// Transactions of others that keep the slot where it is, looked for above half of the budget.
    pub pins: Gauge<i64, AtomicI64>,
    /// The oldest one's process, or 0 (none, or a prepared transaction).
    pub pinned_by_pid: Gauge<i64, AtomicI64>,
    pub pinned_seconds: Gauge<f64, AtomicU64>,
    /// Looks at the slot: if they stand still, so does all of the above.
    pub measurements: Counter,
    /// Dropped and made anew, with a gap.
    pub recreated: Counter,
}

impl SlotMetrics {
    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("slot");
        let bytes: [(&str, &str, &Gauge<i64, AtomicI64>); 3] = [
            ("retained", "WAL on the server's disk because of the slot", &self.retained_bytes),
            ("budget", "The least of --slot-lag-max and max_slot_wal_keep_size", &self.budget_bytes),
            ("safe_wal", "WAL until Postgres may give the slot up; -1: it never does", &self.safe_wal_bytes),
        ];
        for (name, help, gauge) in bytes {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        let numbers: [(&str, &str, &Gauge<i64, AtomicI64>); 5] = [
            ("catalog_xmin_age", "Transactions whose dead catalog rows the slot keeps", &self.catalog_xmin_age),
            ("catalog_xmin_age_budget", "--slot-xmin-age-max", &self.catalog_xmin_age_budget),
            ("rung", "0 within the budget, 1 warned, 2 promises given up, 3 exceeded", &self.rung),
            ("pins", "Transactions of others that keep the slot where it is", &self.pins),
            ("pinned_by_pid", "Process of the oldest of these; 0: none, or a prepared one", &self.pinned_by_pid),
        ];
        for (name, help, gauge) in numbers {
            registry.register(name, help, gauge.clone());
        }
        let help = "How long the oldest of these has been open";
        registry.register_with_unit("pinned", help, Unit::Seconds, self.pinned_seconds.clone());
        registry.register("measurements", "Looks at the slot", self.measurements.clone());
        registry.register("recreated", "Slots dropped and made anew, with a gap", self.recreated.clone());
    }
}

impl WalMetrics {
    pub fn register(registry: &mut Registry) -> Arc<WalMetrics> {
        let metrics = Arc::new(WalMetrics::default());
        metrics.slot.register(registry);
        let registry = registry.sub_registry_with_prefix("wal");
        let m = &metrics;
        registry.register_with_unit("read", "Read from the replication stream", Unit::Bytes, m.bytes_read.clone());
        registry.register("frames_read", "Messages read from the replication stream", m.frames_read.clone());
        registry.register("frames_skipped", "Messages above the size limit, skipped", m.frames_skipped.clone());
        registry.register("decode_errors", "Messages that could not be decoded", m.decode_errors.clone());
        registry.register("reconnects", "Streams that broke and were begun again", m.reconnects.clone());
        registry.register("streaming", "1 while the replication stream runs", m.streaming.clone());
        registry.register_with_unit("lag", "WAL read but not confirmed", Unit::Bytes, m.lag_bytes.clone());
        registry.register_with_unit(
            "lag",
            "Age of the oldest unconfirmed position",
            Unit::Seconds,
            m.lag_seconds.clone(),
        );
        registry.register_with_unit(
            "slot_lag",
            "WAL written but not confirmed, as pg_replication_slots says",
            Unit::Bytes,
            m.slot_lag_bytes.clone(),
        );
        registry.register_with_unit(
            "slot_held",
            "WAL that Postgres keeps on disk because of the slot",
            Unit::Bytes,
            m.slot_held_bytes.clone(),
        );
        metrics
    }

    /// The reader's position at a status.
    pub(super) fn position(&self, received: Lsn, confirmed: Lsn, now: Instant) {
        self.lag_bytes.set(gauge(received.0.saturating_sub(confirmed.0)));
        let mut lag = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        self.lag_seconds.set(lag.seconds(received, confirmed, now));
    }

    /// Reads the slot over an ordinary connection, and sets what the server knows better. None: there is no such slot.
    pub async fn read_slot(&self, client: &Client, name: &str) -> Result<Option<SlotInfo>, Error> {
        let slot = slot::look_up(client, name).await?;
        self.slot_lag_bytes.set(gauge(slot.as_ref().map_or(0, SlotInfo::lag_bytes)));
        self.slot_held_bytes.set(gauge(slot.as_ref().map_or(0, SlotInfo::held_bytes)));
        Ok(slot)
    }

    /// What the slot comes to.
    pub(super) fn pressure(&self, slot: &SlotInfo, pressure: &SlotPressure, pins: &[Pin], budget: &Budget) {
        let m = &self.slot;
        m.retained_bytes.set(gauge(pressure.retained_bytes));
        m.budget_bytes.set(gauge(budget.bytes_max(slot.keep_bytes_max)));
        m.catalog_xmin_age.set(gauge(pressure.catalog_xmin_age));
        m.catalog_xmin_age_budget.set(gauge(budget.catalog_xmin_age_max));
        m.rung.set(pressure.rung as i64);
        m.safe_wal_bytes.set(slot.safe_wal_bytes.unwrap_or(-1));
        m.pins.set(pins.len() as i64);
        m.pinned_by_pid.set(pins.first().and_then(|pin| pin.pid).map_or(0, i64::from));
        m.pinned_seconds.set(pins.first().map_or(0.0, |pin| pin.seconds));
        m.measurements.inc();
    }
}

fn gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// When positions were read. One entry a second; an hour of them is what we can look back.
#[derive(Debug, Default)]
struct Lag(VecDeque<(Lsn, Instant)>);

impl Lag {
    const ENTRIES_MAX: usize = 3600;

    fn seconds(&mut self, received: Lsn, confirmed: Lsn, now: Instant) -> f64 {
        if self.0.back().is_none_or(|(last, _)| *last < received) && self.0.len() < Self::ENTRIES_MAX {
            self.0.push_back((received, now));
        }
        while self.0.front().is_some_and(|(position, _)| *position <= confirmed) {
            self.0.pop_front();
        }
        self.0.front().map_or(0.0, |(_, read)| now.duration_since(*read).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lag_is_the_age_of_the_oldest_unconfirmed_position() {
        let mut lag = Lag::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lag.seconds(Lsn(10), Lsn(10), at(0)), 0.0);
        assert_eq!(lag.seconds(Lsn(20), Lsn(10), at(1)), 0.0);
        assert_eq!(lag.seconds(Lsn(30), Lsn(10), at(5)), 4.0);
        assert_eq!(lag.seconds(Lsn(30), Lsn(20), at(6)), 1.0);
        assert_eq!(lag.seconds(Lsn(30), Lsn(30), at(7)), 0.0);
    }

    #[test]
    fn every_metric_is_registered() {
        let mut registry = Registry::default();
        let metrics = WalMetrics::register(&mut registry);
        metrics.reconnects.inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for name in [
            "wal_read_bytes_total",
            "wal_reconnects_total 1",
            "wal_lag_seconds",
            "wal_slot_held_bytes",
            "slot_rung 0",
            "slot_budget_bytes",
        ] {
            assert!(text.contains(name), "{name}\n{text}");
        }
    }
}
