//! Presences whose socket was lost: they stay for a while, so that a client that comes back does not leave and join again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::membership::remove;
use super::{Hub, Topic, lock};
use crate::channels::outbox::Burst;
use crate::channels::subscribe::ChannelId;

pub struct Graces {
    grace: Duration,
    /// The grace is the same for all, so the first ends first.
    given: Mutex<VecDeque<Grace>>,
}

struct Grace {
    ends: Instant,
    topic: Arc<Topic>,
    key: Arc<str>,
    /// Whose socket was lost; whoever takes its presence over has another.
    channel: ChannelId,
}

impl Graces {
    pub fn new(grace: Duration) -> Graces {
        Graces { grace, given: Mutex::default() }
    }

    pub fn are_given(&self) -> bool {
        !self.grace.is_zero()
    }

    pub fn add(&self, topic: &Arc<Topic>, key: &Arc<str>, channel: ChannelId, now: Instant) {
        let grace = Grace { ends: now + self.grace, topic: Arc::clone(topic), key: Arc::clone(key), channel };
        lock(&self.given).push_back(grace);
    }

    fn take_due(&self, now: Instant) -> Option<Grace> {
        let mut given = lock(&self.given);
        given.pop_front_if(|grace| grace.ends <= now)
    }
}

impl Hub {
    /// Whether [`Hub::end_graces`] has to be called from time to time.
    pub fn gives_graces(&self) -> bool {
        self.graces.are_given()
    }

    /// Whoever has not come back by now has left.
    pub fn end_graces(&self, now: Instant) {
        while let Some(Grace { topic, key, channel, .. }) = self.graces.take_due(now) {
            let mut burst = Burst::default();
            let mut state = topic.lock();
            if let Some(diff) = remove(self, &mut state.presence, |presence| presence.end_grace(&key, channel)) {
                state.tell_diff(self, &topic.name, &diff, now, &mut burst);
            }
            let is_empty = state.is_empty();
            drop(state);
            if is_empty {
                self.free(&topic);
            }
        }
    }

    /// Ends graces in time, until told to stop.
    pub async fn keep_graces(self: Arc<Self>, stop: CancellationToken) {
        let mut interval = tokio::time::interval((self.graces.grace / 4).clamp(TICK_MIN, TICK_MAX));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => {}
            }
            self.end_graces(Instant::now());
        }
    }
}

const TICK_MIN: Duration = Duration::from_millis(20);
const TICK_MAX: Duration = Duration::from_secs(1);
