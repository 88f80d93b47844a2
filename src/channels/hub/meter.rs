//! Events per second on an average, as the original takes it (PROTOCOL 8): up to twelve buckets of five seconds, and
//! looked at when one is full. So a burst passes, and what is too much is too much until the average has fallen.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

const BUCKET_MILLIS: u64 = 5_000;
const BUCKETS: usize = 12;

/// Costs nothing where there is no limit.
pub struct Meter {
    max: Option<u32>,
    start: Instant,
    count: AtomicU64,
    /// The number of the bucket that is being filled.
    bucket: AtomicU64,
    is_over: AtomicBool,
    full: Mutex<VecDeque<u64>>,
}

impl Meter {
    pub fn new(max: Option<u32>) -> Meter {
        Meter {
            max,
            start: Instant::now(),
            count: AtomicU64::new(0),
            bucket: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            full: Mutex::default(),
        }
    }

    pub fn add(&self, events: u64, now: Instant) {
        if self.max.is_some() {
            self.turn(now);
            self.count.fetch_add(events, Ordering::Relaxed);
        }
    }

    pub fn is_over(&self, now: Instant) -> bool {
        if self.max.is_none() {
            return false;
        }
        self.turn(now);
        self.is_over.load(Ordering::Relaxed)
    }

    pub fn average(&self, now: Instant) -> f64 {
        self.turn(now);
        average(&self.full.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn turn(&self, now: Instant) {
        let bucket = now.saturating_duration_since(self.start).as_millis() as u64 / BUCKET_MILLIS;
        if bucket <= self.bucket.load(Ordering::Relaxed) {
            return;
        }
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = bucket.saturating_sub(self.bucket.load(Ordering::Relaxed));
        if passed == 0 {
            return;
        }
        full.push_back(self.count.swap(0, Ordering::Relaxed));
        full.extend(std::iter::repeat_n(0, (passed - 1).min(BUCKETS as u64) as usize));
        while full.len() > BUCKETS {
            full.pop_front();
        }
        self.is_over.store(self.max.is_some_and(|max| average(&full) > f64::from(max)), Ordering::Relaxed);
        self.bucket.store(bucket, Ordering::Relaxed);
    }
}

fn average(full: &VecDeque<u64>) -> f64 {
    let seconds = full.len() as f64 * BUCKET_MILLIS as f64 / 1000.0;
    if full.is_empty() { 0.0 } else { full.iter().sum::<u64>() as f64 / seconds }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn too_much_is_noticed_when_five_seconds_are_over_and_until_the_average_has_fallen() {
        let (meter, start) = (Meter::new(Some(10)), Instant::now());
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        meter.add(600, at(0.1));
        assert!(!meter.is_over(at(4.0)));
        assert!(meter.is_over(at(5.2)));
        // 600 in 55 seconds are 10.9 per second, in 60 they are 10.
        assert!(meter.is_over(at(59.9)));
        assert!(!meter.is_over(at(60.2)));
        assert!(!meter.is_over(at(5000.0)));
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let meter = Meter::new(None);
        meter.add(u64::MAX / 2, Instant::now());
        assert!(!meter.is_over(Instant::now() + Duration::from_secs(10)));
    }
}
