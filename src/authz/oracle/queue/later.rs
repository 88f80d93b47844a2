//! A question whose transaction is not visible yet: the one that is due first comes first.

use std::cmp::Ordering;

use tokio::time::Instant;

use super::super::job::Job;

pub(super) struct Later {
    pub(super) due: Instant,
    pub(super) sequence: u64,
    pub(super) job: Job,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}
