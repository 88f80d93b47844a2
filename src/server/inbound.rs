//! Large messages that are still arriving: how much of them is held, over all sockets.
//!
//! A client may send all of a frame but its last byte, and a thousand clients may do so at once. Small messages are not
//! counted, so that ordinary traffic touches nothing that is shared.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::metrics::Metrics;

/// What a socket may hold without being counted; what it holds above that is counted in these.
const STEP: usize = 16 << 10;

/// Of the header of a client's frame, masked: a control frame's.
const CONTROL_HEADER_BYTES: usize = 6;

pub struct Inbound {
    bytes: AtomicUsize,
    bytes_max: usize,
    metrics: Arc<Metrics>,
}

/// One socket's unfinished message.
pub struct Unfinished {
    inbound: Arc<Inbound>,
    /// Read since the last whole message.
    read: usize,
    /// Of that, what is counted.
    held: usize,
    /// Since when it is large.
    since: Option<Instant>,
}

/// There is no room for more.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Inbound {
    pub fn new(bytes_max: usize, metrics: Arc<Metrics>) -> Arc<Inbound> {
        Arc::new(Inbound { bytes: AtomicUsize::new(0), bytes_max, metrics })
    }
}

impl Unfinished {
    pub fn new(inbound: Arc<Inbound>) -> Unfinished {
        Unfinished { inbound, read: 0, held: 0, since: None }
    }

    pub fn add(&mut self, bytes: usize) {
        self.read += bytes;
    }

    /// A ping or pong in between is over.
    pub fn control(&mut self, payload: usize) {
        self.read = self.read.saturating_sub(CONTROL_HEADER_BYTES + payload);
    }

    /// Since when the message is one of the large ones, whose bytes and time are limited.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Counts what has come. The clock is asked only when there is something to count: most calls are of writers.
    pub fn settle(&mut self, now: impl FnOnce() -> Instant) -> Result<(), Full> {
        if self.read <= self.held.max(STEP) {
            return Ok(());
        }
        let more = (self.read - self.held).next_multiple_of(STEP);
        let before = self.inbound.bytes.fetch_add(more, Ordering::Relaxed);
        self.held += more;
        self.since.get_or_insert_with(now);
        self.inbound.metrics.inbound_bytes.inc_by(more as i64);
        if before + more > self.inbound.bytes_max { Err(Full) } else { Ok(()) }
    }

    /// The message is whole.
    pub fn finish(&mut self) {
        self.read = 0;
        self.since = None;
        if self.held > 0 {
            let held = std::mem::take(&mut self.held);
            self.inbound.bytes.fetch_sub(held, Ordering::Relaxed);
            self.inbound.metrics.inbound_bytes.dec_by(held as i64);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_messages_count_and_all_of_it_is_given_back() {
        let (metrics, now) = (Arc::new(Metrics::default()), Instant::now());
        let inbound = Inbound::new(100 << 10, Arc::clone(&metrics));
        let [mut one, mut other] = [(); 2].map(|()| Unfinished::new(Arc::clone(&inbound)));
        one.add(STEP);
        assert_eq!((one.settle(|| now), one.since().is_some(), metrics.inbound_bytes.get()), (Ok(()), false, 0));
        one.add(50 << 10);
        assert_eq!((one.settle(|| now), one.since().is_some()), (Ok(()), true));
        other.add(50 << 10);
        assert_eq!(other.settle(|| now), Err(Full));
        drop(other);
        one.finish();
        assert_eq!((one.since().is_some(), metrics.inbound_bytes.get()), (false, 0));
        assert_eq!(inbound.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn pings_are_no_message() {
        let (inbound, now) = (Inbound::new(0, Arc::default()), Instant::now());
        let mut one = Unfinished::new(inbound);
        for _ in 0..10_000 {
            one.add(131);
            one.control(125);
            assert_eq!(one.settle(|| now), Ok(()));
        }
        assert!(one.since().is_none());
    }
}
