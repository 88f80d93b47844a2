//! The sockets that are open, so that they can be counted and told to go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::channels::{CloseReason, Outbox};

/// A few sockets need no spreading.
const SPREAD_PER_SOCKET: Duration = Duration::from_millis(1);
const STEP: Duration = Duration::from_millis(20);

#[derive(Default)]
pub struct Connections(Mutex<Open>);

#[derive(Default)]
struct Open {
    outboxes: HashMap<u64, Outbox, foldhash::quality::RandomState>,
    next: u64,
    /// Everybody has been told to go, and so is whoever still comes.
    closing: Option<CloseReason>,
}

/// One socket's entry, removed when dropped.
pub struct Entry {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    pub fn enter(self: &Arc<Self>, outbox: Outbox) -> Entry {
        let mut open = self.lock();
        if let Some(reason) = open.closing {
            outbox.close(reason);
        }
        let number = open.next;
        open.next += 1;
        open.outboxes.insert(number, outbox);
        Entry { connections: self.clone(), number }
    }

    pub fn len(&self) -> usize {
        self.lock().outboxes.len()
    }

    /// Tells everybody to go, spread over some time: whoever is closed comes back, and all at once would be a storm.
    pub async fn close_all(&self, reason: CloseReason, spread_max: Duration) {
        let outboxes: Vec<Outbox> = {
            let mut open = self.lock();
            open.closing = Some(reason);
            // In the order of the map, which is nobody's: neighbours of one network do not come back together.
            open.outboxes.values().cloned().collect()
        };
        let spread =
            spread_max.min(SPREAD_PER_SOCKET.saturating_mul(u32::try_from(outboxes.len()).unwrap_or(u32::MAX)));
        let steps = (spread.as_millis() / STEP.as_millis()).max(1) as usize;
        for (step, some) in outboxes.chunks(outboxes.len().div_ceil(steps).max(1)).enumerate() {
            if step > 0 {
                tokio::time::sleep(STEP).await;
            }
            some.iter().for_each(|outbox| outbox.close(reason));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.lock().outboxes.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::channels::outbox;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_told_to_go_little_by_little() {
        for (sockets, expected) in
            [(3, Duration::ZERO), (500, Duration::from_millis(480)), (10_000, Duration::from_millis(1980))]
        {
            let connections = Arc::new(Connections::default());
            let outboxes: Vec<_> =
                (0..sockets).map(|_| Outbox::new(Arc::new(outbox::Config::default()), Arc::default())).collect();
            let _entries: Vec<_> = outboxes.iter().map(|(outbox, _)| connections.enter(outbox.clone())).collect();
            let began = Instant::now();
            connections.close_all(CloseReason::Shutdown, Duration::from_secs(2)).await;
            assert_eq!(began.elapsed(), expected, "{sockets} sockets");
            assert!(outboxes.iter().all(|(outbox, _)| outbox.closed() == Some(CloseReason::Shutdown)));
        }
    }
}
