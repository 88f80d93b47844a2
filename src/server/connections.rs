//! The sockets that are open, so that they can be counted and told to go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::channels::{CloseReason, Outbox};

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

    pub fn close_all(&self, reason: CloseReason) {
        let mut open = self.lock();
        open.closing = Some(reason);
        open.outboxes.values().for_each(|outbox| outbox.close(reason));
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
