//! Questions that wait for a session.
//!
//! Two lanes. The fast one is first come, first served, and a question may hold it up for `slow_after` at most; then
//! it, and every later question of the same table and role, goes to the slow lane, where tables take turns and have
//! sessions of their own. So a policy that sleeps hurts its own table's subscribers and nobody else's.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::OracleError;
use super::job::{Job, LaneKey};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Fast,
    Slow,
}

/// The first pause before asking again whether a transaction is visible; it doubles up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Ordinarily milliseconds are enough; a standby that takes long is asked about twenty times a second.
const PAUSE_MAX: Duration = Duration::from_millis(50);

pub(super) struct Queue {
    state: Mutex<State>,
    fast: Notify,
    slow: Notify,
    /// What all unanswered questions are worth, wherever they are.
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    fast: VecDeque<Job>,
    /// Tables of the slow lane, in the order of their turns.
    turns: VecDeque<LaneKey>,
    slow: HashMap<LaneKey, VecDeque<Job>>,
    /// Whose questions go to the slow lane.
    known_slow: HashMap<LaneKey, Slowness>,
    /// Waiting for their transaction to become visible.
    later: BinaryHeap<Reverse<Later>>,
    idle: usize,
    sequence: u64,
    /// Why nothing more is taken.
    closed: Option<OracleError>,
}

#[derive(Default)]
struct Slowness {
    /// The last question was not answered in time.
    silent: bool,
    /// Quick answers since the last slow one.
    quick: u32,
}

/// A policy that sleeps for some people only must not be back in the fast lane after each of the others.
const QUICK_ANSWERS_MIN: u32 = 32;

struct Later {
    due: Instant,
    sequence: u64,
    job: Job,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Later {}
impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

/// A question's share of the queue's bound, given back when it is answered.
pub(super) struct Ticket {
    bytes: Arc<AtomicUsize>,
    size: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.size, Ordering::Relaxed);
    }
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Queue {
        Queue {
            state: Mutex::default(),
            fast: Notify::new(),
            slow: Notify::new(),
            bytes: Arc::new(AtomicUsize::new(0)),
            bytes_max,
        }
    }

    /// Room for a question of this size. One is always let in: a question larger than the bound would never be asked.
    pub(super) fn ticket(&self, size: usize) -> Option<Ticket> {
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        let ticket = Ticket { bytes: Arc::clone(&self.bytes), size };
        (before == 0 || before.saturating_add(size) <= self.bytes_max).then_some(ticket)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At the end of its lane.
    pub(super) fn push(&self, job: Job) {
        self.place(job, false);
    }

    /// At the head of its lane: it has waited already.
    pub(super) fn push_again(&self, job: Job) {
        self.place(job, true);
    }

    fn place(&self, job: Job, front: bool) {
        let mut state = self.state();
        if let Some(closed) = state.closed.clone() {
            drop(state);
            return job.fail(closed);
        }
        match state.place(job, front) {
            Lane::Fast => self.fast.notify_one(),
            Lane::Slow => self.slow.notify_one(),
        }
    }

    /// After a pause, without holding a session meanwhile. It waits as long as it takes: with a slow synchronous
    /// standby a transaction is streamed long before anybody can see it.
    pub(super) fn push_later(&self, mut job: Job) {
        let pause = PAUSE_MIN.saturating_mul(1 << job.pauses.min(16)).min(PAUSE_MAX);
        job.pauses = job.pauses.saturating_add(1);
        let mut state = self.state();
        if let Some(closed) = state.closed.clone() {
            drop(state);
            return job.fail(closed);
        }
        state.sequence += 1;
        let later = Later { due: Instant::now() + pause, sequence: state.sequence, job };
        state.later.push(Reverse(later));
        drop(state);
        // Whoever waits must wait for the new due time.
        self.fast.notify_one();
    }

    /// The next question of the lane. A session that is busy leaves single questions to idle ones (`busy`).
    pub(super) fn take(&self, lane: Lane, busy: bool) -> Option<Job> {
        let mut state = self.state();
        if state.admit_due(Instant::now()) {
            self.slow.notify_one();
        }
        loop {
            let job = match lane {
                Lane::Fast if busy && state.fast.len() <= state.idle => {
                    // This session's wake-up was meant for an idle one.
                    if !state.fast.is_empty() {
                        self.fast.notify_one();
                    }
                    return None;
                }
                Lane::Fast => state.fast.pop_front()?,
                Lane::Slow => state.take_turn()?,
            };
            if !job.is_abandoned() {
                return Some(job);
            }
        }
    }

    /// Until there may be something to take.
    pub(super) async fn wait(&self, lane: Lane, idle: bool) {
        let due = {
            let mut state = self.state();
            state.idle += usize::from(idle && lane == Lane::Fast);
            state.later.peek().map(|Reverse(later)| later.due)
        };
        let _idle = Idle { queue: self, counted: idle && lane == Lane::Fast };
        let notified = match lane {
            Lane::Fast => self.fast.notified(),
            Lane::Slow => self.slow.notified(),
        };
        match due {
            None => notified.await,
            Some(due) => {
                let _ = tokio::time::timeout_at(due, notified).await;
            }
        }
    }

    /// From now on the table's questions go to the slow lane. `silent`: it was not answered there either.
    pub(super) fn mark_slow(&self, key: &LaneKey, silent: bool) {
        self.state().known_slow.insert(key.clone(), Slowness { silent, quick: 0 });
    }

    /// The slow lane has got a quick answer; after some of them the table is back in the fast one.
    pub(super) fn mark_quick(&self, key: &LaneKey) {
        let mut state = self.state();
        let Some(slowness) = state.known_slow.get_mut(key) else { return };
        slowness.silent = false;
        slowness.quick += 1;
        if slowness.quick >= QUICK_ANSWERS_MIN {
            state.known_slow.remove(key);
        }
    }

    /// Whether the table's last question was not answered in time.
    pub(super) fn is_silent(&self, key: &LaneKey) -> bool {
        self.state().known_slow.get(key).is_some_and(|slowness| slowness.silent)
    }

    /// Gives up what has waited for longer than this; for when there is no session at all.
    pub(super) fn expire(&self, limit: Duration) {
        let expired = self.state().drain_older(limit);
        for job in expired {
            job.fail(OracleError::Unreachable);
        }
    }

    /// Takes questions again.
    pub(super) fn open(&self) {
        self.state().closed = None;
    }

    /// Answers everything that waits, now and from now on, with this error.
    pub(super) fn close(&self, error: OracleError) {
        let waiting = self.state().drain(error.clone());
        for job in waiting {
            job.fail(error.clone());
        }
    }
}

/// Counts a waiting session, whatever ends the wait.
struct Idle<'a> {
    queue: &'a Queue,
    counted: bool,
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        if self.counted {
            self.queue.state().idle -= 1;
        }
    }
}

impl State {
    fn place(&mut self, job: Job, front: bool) -> Lane {
        let lane = if self.known_slow.contains_key(&job.key) { Lane::Slow } else { Lane::Fast };
        let jobs = match lane {
            Lane::Fast => &mut self.fast,
            Lane::Slow => {
                let jobs = self.slow.entry(job.key.clone()).or_default();
                if jobs.is_empty() {
                    self.turns.push_back(job.key.clone());
                }
                jobs
            }
        };
        if front {
            jobs.push_front(job)
        } else {
            jobs.push_back(job)
        }
        lane
    }

    fn take_turn(&mut self) -> Option<Job> {
        let key = self.turns.pop_front()?;
        let jobs = self.slow.get_mut(&key)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.slow.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        job
    }

    /// Moves what has waited long enough into its lane; whether any went to the slow one.
    fn admit_due(&mut self, now: Instant) -> bool {
        let mut slow = false;
        while self.later.peek().is_some_and(|Reverse(later)| later.due <= now) {
            let Some(Reverse(later)) = self.later.pop() else { break };
            slow |= self.place(later.job, true) == Lane::Slow;
        }
        slow
    }

    fn drain_older(&mut self, limit: Duration) -> Vec<Job> {
        let mut expired: Vec<Job> = Vec::new();
        let mut sift = |jobs: &mut VecDeque<Job>| {
            let (old, young): (VecDeque<Job>, VecDeque<Job>) =
                jobs.drain(..).partition(|job| job.asked_at.elapsed() >= limit);
            expired.extend(old);
            *jobs = young;
        };
        sift(&mut self.fast);
        self.slow.values_mut().for_each(&mut sift);
        self.slow.retain(|_, jobs| !jobs.is_empty());
        self.turns.retain(|key| self.slow.contains_key(key));
        expired
    }

    fn drain(&mut self, closed: OracleError) -> Vec<Job> {
        self.closed = Some(closed);
        self.turns.clear();
        let slow = std::mem::take(&mut self.slow).into_values().flatten();
        let later = std::mem::take(&mut self.later).into_iter().map(|Reverse(later)| later.job);
        std::mem::take(&mut self.fast).into_iter().chain(slow).chain(later).collect()
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
