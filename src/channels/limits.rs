//! What one client, and all of them together, may ask for (PROTOCOL 8).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is `None` has no limit. The defaults are those of a machine, not of a plan: what costs memory is limited, rates
/// that the machine itself limits are not.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Supabase's own default; few pages come near it.
    pub channels_per_connection_max: usize,
    /// Bindings are bound, one by one, by the one task that also delivers.
    pub bindings_per_channel_max: usize,
    /// Sockets with a channel joined ("concurrent users"). 4 KB each, so 400 MB.
    pub joined_connections_max: usize,
    /// On average; five seconds' worth may come at once, as when everybody reconnects.
    pub joins_per_second_max: u32,
    /// Of a broadcast's payload.
    pub payload_bytes_max: usize,
    /// Broadcasts, all channels together: each send counts one, and each delivery.
    pub events_per_second_max: Option<u32>,
    /// Tracks, states and deliveries of diffs, all channels together.
    pub presence_events_per_second_max: Option<u32>,
    /// Tracks and untracks of one channel in a window.
    pub presence_calls_max: Option<u32>,
    pub presence_window: Duration,
    /// How long a presence stays whose socket was lost, for its client to come back. Zero: not at all.
    pub presence_grace: Duration,
    /// Channels on one topic.
    pub members_per_channel_max: Option<usize>,
    /// Broadcasts of one person, on whatever sockets.
    pub messages_per_minute_max: Option<u32>,
    /// Of one broadcast's payload, told to the sender; below `payload_bytes_max`.
    pub message_bytes_max: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            channels_per_connection_max: 100,
            bindings_per_channel_max: 100,
            joined_connections_max: 100_000,
            joins_per_second_max: 10_000,
            // Supabase's: 3000 kB, and what it allows for its own encoding.
            payload_bytes_max: 3_000_500,
            events_per_second_max: None,
            presence_events_per_second_max: None,
            // Ten a second, as when a cursor is tracked. Each is delivered to everybody on the topic.
            presence_calls_max: Some(300),
            presence_window: Duration::from_secs(30),
            presence_grace: Duration::ZERO,
            members_per_channel_max: None,
            messages_per_minute_max: None,
            message_bytes_max: None,
        }
    }
}

/// Counts what is counted over all sockets.
pub struct Gate {
    pub limits: Limits,
    seats_taken: AtomicUsize,
    joins: Mutex<Bucket>,
}

/// How many joins are left, filled up as time passes.
struct Bucket {
    joins: f64,
    filled_at: Option<Instant>,
}

/// How much time's worth of joins may come at once: the original takes its average every five seconds.
const BURST_SECONDS: f64 = 5.0;

/// A socket's place among those that have joined something; given back when dropped.
pub struct Seat(Arc<Gate>);

impl Gate {
    pub fn new(limits: Limits) -> Arc<Gate> {
        let joins = Mutex::new(Bucket { joins: 0.0, filled_at: None });
        Arc::new(Gate { limits, seats_taken: AtomicUsize::new(0), joins })
    }

    pub fn is_crowded(&self) -> bool {
        self.seats_taken.load(Ordering::Relaxed) >= self.limits.joined_connections_max
    }

    pub fn take_seat(self: &Arc<Self>) -> Option<Seat> {
        let taken = self.seats_taken.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(self.clone());
        (taken < self.limits.joined_connections_max).then_some(seat)
    }

    /// Counts a join, if there is room for it.
    pub fn take_join(&self, now: Instant) -> bool {
        self.with_joins(now, |joins| {
            let room = *joins >= 1.0;
            if room {
                *joins -= 1.0;
            }
            room
        })
    }

    /// Whether a join would be taken now: asked before a socket is opened for one.
    pub fn has_joins(&self, now: Instant) -> bool {
        self.with_joins(now, |joins| *joins >= 1.0)
    }

    fn with_joins<T>(&self, now: Instant, ask: impl FnOnce(&mut f64) -> T) -> T {
        let rate = f64::from(self.limits.joins_per_second_max);
        let mut bucket = self.joins.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let gained = match bucket.filled_at {
            Some(at) => now.saturating_duration_since(at).as_secs_f64() * rate,
            None => f64::INFINITY,
        };
        bucket.joins = (bucket.joins + gained).min(rate * BURST_SECONDS);
        bucket.filled_at = Some(now);
        ask(&mut bucket.joins)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.seats_taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let gate = Gate::new(Limits { joins_per_second_max: 2, ..Limits::default() });
        let start = Instant::now();
        assert_eq!((0..20).filter(|_| gate.take_join(start)).count(), 10);
        assert!(!gate.has_joins(start));
        let later = start + Duration::from_secs(3);
        assert_eq!((0..20).filter(|_| gate.take_join(later)).count(), 6);
    }

    #[test]
    fn a_seat_is_free_again_when_its_socket_has_left() {
        let gate = Gate::new(Limits { joined_connections_max: 1, ..Limits::default() });
        let seat = gate.take_seat();
        assert!(seat.is_some() && gate.is_crowded() && gate.take_seat().is_none());
        drop(seat);
        assert!(!gate.is_crowded());
        assert!(gate.take_seat().is_some());
    }
}
