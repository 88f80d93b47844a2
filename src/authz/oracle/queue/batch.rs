//! Questions that go out as one.

use std::sync::Arc;

use super::super::group::GroupKey;
use super::super::job::Job;
use super::Queue;

/// The first are the oldest.
pub(in crate::authz::oracle) struct Batch {
    pub(in crate::authz::oracle) jobs: Vec<Job>,
    /// Kept while they are in flight.
    pub(super) hold: Option<Hold>,
}

/// Counts a group's batch in flight, whatever becomes of it.
pub(in crate::authz::oracle) struct Hold {
    pub(super) queue: Arc<Queue>,
    pub(super) key: GroupKey,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if state.landed(&self.key) {
            self.queue.wake_fast(&state);
        }
    }
}

impl Batch {
    /// The questions, and what holds back the others of their group until it is dropped.
    pub(in crate::authz::oracle) fn into_parts(self) -> (Vec<Job>, Option<Hold>) {
        (self.jobs, self.hold)
    }
}
