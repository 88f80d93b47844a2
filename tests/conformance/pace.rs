//! Recorded times, played at a fraction of them.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Whoever is late stays late: what was recorded a second apart never comes closer.
pub struct Pace {
    began: Instant,
    /// How long a recorded second is.
    second: Duration,
}

impl Pace {
    pub fn new(second: Duration) -> Pace {
        Pace { began: Instant::now(), second }
    }

    /// Waits for a recorded time, in seconds since the case began.
    pub async fn wait_until(&mut self, at: f64) {
        let due = self.began + self.second.mul_f64(at);
        self.began += Instant::now().saturating_duration_since(due);
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn distances_are_kept_by_whoever_is_late() {
        let (start, mut pace) = (Instant::now(), Pace::new(Duration::from_millis(100)));
        pace.wait_until(10.0).await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(5)).await;
        pace.wait_until(20.0).await;
        pace.wait_until(30.0).await;
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    }
}
