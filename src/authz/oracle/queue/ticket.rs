//! A question's share of the queue's bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Given back when the question is answered.
pub(in crate::authz::oracle) struct Ticket {
    pub(super) bytes: Arc<AtomicUsize>,
    pub(super) size: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.size, Ordering::Relaxed);
    }
}
