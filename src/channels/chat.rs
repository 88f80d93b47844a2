//! Messages per minute of one person, for chats that want such a limit.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::hub::Subject;

const MINUTE: Duration = Duration::from_secs(60);

/// Counted in minutes of the relay's own, so that a map of those who spoke in this one is all there is.
pub struct Quotas {
    max: Option<u32>,
    spoken: Mutex<Spoken>,
}

#[derive(Default)]
struct Spoken {
    since: Option<Instant>,
    messages: HashMap<Subject, u32, RandomState>,
}

impl Quotas {
    pub fn new(max: Option<u32>) -> Quotas {
        Quotas { max, spoken: Mutex::default() }
    }

    pub fn are_limited(&self) -> bool {
        self.max.is_some()
    }

    /// Counts a message, if there is one left.
    pub fn take(&self, subject: Subject, now: Instant) -> bool {
        let Some(max) = self.max else { return true };
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        if spoken.since.is_none_or(|since| now.saturating_duration_since(since) >= MINUTE) {
            *spoken = Spoken { since: Some(now), ..Spoken::default() };
        }
        let messages = spoken.messages.entry(subject).or_default();
        let has_one = *messages < max;
        *messages += u32::from(has_one);
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_person_has_its_own_messages_and_new_ones_every_minute() {
        let (quotas, start) = (Quotas::new(Some(2)), Instant::now());
        let take = |subject, seconds| quotas.take(Subject(subject), start + Duration::from_secs(seconds));
        assert_eq!([take(1, 0), take(1, 1), take(1, 59), take(2, 59)], [true, true, false, true]);
        assert!(take(1, 60));
    }
}
