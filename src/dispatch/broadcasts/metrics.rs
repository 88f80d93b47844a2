//! What is counted of broadcasts from the database, and how often trouble is logged.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::{Dropped, Refused};
use crate::dispatch::tracking::ReasonLabel;

#[derive(Clone, Debug, Default)]
pub struct BroadcastMetrics {
    pub broadcast: Counter,
    dropped: Family<ReasonLabel, Counter>,
    refused: Family<ReasonLabel, Counter>,
}

impl BroadcastMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Messages of the database that were broadcast";
        registry.register("database_broadcasts", help, self.broadcast.clone());
        let help = "Messages of the database that were not broadcast: incomplete, or above a limit";
        registry.register("database_broadcasts_dropped", help, self.dropped.clone());
        let help = "Logical messages that were not broadcast: not walcast.send's, or their sender may not";
        registry.register("broadcasts_refused", help, self.refused.clone());
    }

    pub(super) fn dropped(&self, why: Dropped) {
        self.dropped.get_or_create(&ReasonLabel { reason: why.label() }).inc();
    }

    pub(super) fn refused(&self, why: Refused) {
        self.refused.get_or_create(&ReasonLabel { reason: why.label() }).inc();
    }

    /// For tests.
    pub fn times(&self, reason: &'static str) -> u64 {
        let label = ReasonLabel { reason };
        self.dropped.get_or_create(&label).get() + self.refused.get_or_create(&label).get()
    }
}

/// Anybody can send as much nonsense as he likes: each kind of trouble is logged once in this time.
const WORDS_APART: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Words(Vec<(&'static str, Instant, u64)>);

impl Words {
    /// `Some`: it may be logged, with how many others there were since the last time.
    pub(super) fn may_say(&mut self, what: &'static str) -> Option<u64> {
        let now = Instant::now();
        match self.0.iter_mut().find(|(known, ..)| *known == what) {
            None => {
                self.0.push((what, now, 0));
                Some(0)
            }
            Some((_, last, others)) if now.duration_since(*last) >= WORDS_APART => {
                *last = now;
                Some(std::mem::take(others))
            }
            Some((_, _, others)) => {
                *others += 1;
                None
            }
        }
    }
}
