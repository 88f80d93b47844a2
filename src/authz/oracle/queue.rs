//! Questions that wait for a session.
//!
//! Two lanes. The fast one is first come, first served, and a question may hold it up for `slow_after` at most; then
//! it, and every later question of the same table and role, goes to the slow lane, where tables take turns and have
//! sessions of their own. So a policy that sleeps hurts its own table's subscribers and nobody else's.
//!
//! In the fast lane questions that ask alike ([`GroupKey`](super::group::GroupKey)) form a group. A session that has nothing to do takes what is
//! there at once: nothing is held back while somebody could ask it. A session that is busy may ask more behind what it has
//! in flight, but not of a group that has questions in flight already: these gather, and go out as one with the first
//! session that becomes idle, or when their group's last flight lands. So the more there is to do the less each costs.
//! Only what fills a merged question does not wait. Nothing is merged in the slow lane: there the deadline would hit many
//! for the slowness of all their rows together.

mod batch;
mod later;
mod state;
mod ticket;

use std::cmp::Reverse;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub(super) use batch::{Batch, Hold};
use later::Later;
use state::{MERGED_ROWS_MAX, Slowness, State};
pub(super) use ticket::Ticket;

use super::error::OracleError;
use super::job::{Job, LaneKey};
use super::meanings::Meanings;
use super::policies::Newest;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Fast,
    Slow,
}

/// The first pause before asking again whether a transaction is visible; it doubles up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Ordinarily milliseconds are enough; a standby that takes long is asked about twenty times a second.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// A policy that sleeps for some people only must not be back in the fast lane after each of the others.
const QUICK_ANSWERS_MIN: u32 = 32;

/// So many rows are merged whatever they take: less would multiply the statements of a database that is short of CPU.
const MERGED_ROWS_MIN: usize = 8;

pub(super) struct Queue {
    state: Mutex<State>,
    /// Fast sessions that have nothing in flight. They have a signal of their own: a busy session that passed the others'
    /// on would take it back at once, and again, without ever letting them run.
    idle: Notify,
    /// Fast sessions that have room for more.
    busy: Notify,
    slow: Notify,
    /// What all unanswered questions are worth, wherever they are.
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    /// Of what is asked from now on.
    pub(super) meanings: Meanings,
    /// By which policies that have changed are asked.
    pub(super) newest: Newest,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Queue {
        Queue {
            state: Mutex::default(),
            idle: Notify::new(),
            busy: Notify::new(),
            slow: Notify::new(),
            bytes: Arc::new(AtomicUsize::new(0)),
            bytes_max,
            meanings: Meanings::default(),
            newest: Newest::default(),
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
            Some(Lane::Fast) => self.wake_fast(&state),
            Some(Lane::Slow) => self.slow.notify_one(),
            None => {}
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
        // Whoever waits must wait for the new due time.
        if state.idle > 0 { self.idle.notify_one() } else { self.busy.notify_one() }
    }

    /// There may be something to take. What the idle sessions do not suffice for is for a busy one too.
    fn wake_fast(&self, state: &State) {
        if state.idle > 0 {
            self.idle.notify_one();
        }
        if state.fast.len() > state.idle {
            self.busy.notify_one();
        }
    }

    /// What is next in the lane. A session that is busy leaves single questions to idle ones (`busy`).
    pub(super) fn take(self: &Arc<Self>, lane: Lane, busy: bool) -> Option<Batch> {
        let mut state = self.state();
        if state.admit_due(Instant::now()) {
            self.slow.notify_one();
        }
        loop {
            match lane {
                Lane::Fast if busy && state.fast.len() <= state.idle => {
                    if !state.fast.is_empty() {
                        self.idle.notify_one();
                    }
                    return None;
                }
                Lane::Fast => {
                    let turn = if busy { state.fast.iter().position(|key| state.is_ready(key))? } else { 0 };
                    let key = state.fast.remove(turn)?;
                    if state.leaves_the_lane(&key) {
                        self.slow.notify_one();
                        continue;
                    }
                    let jobs = state.gather(&key);
                    if !jobs.is_empty() {
                        drop(state);
                        return Some(Batch { jobs, hold: Some(Hold { queue: Arc::clone(self), key }) });
                    }
                }
                Lane::Slow => {
                    let job = state.take_turn()?;
                    if !job.is_abandoned() {
                        return Some(Batch { jobs: vec![job], hold: None });
                    }
                }
            }
        }
    }

    /// Until there may be something to take.
    pub(super) async fn wait(&self, lane: Lane, idle: bool) {
        let due = {
            let mut state = self.state();
            if idle && lane == Lane::Fast {
                if !state.fast.is_empty() {
                    // It was held back since this session looked: now it has one.
                    return;
                }
                state.idle += 1;
            }
            state.later.peek().map(|Reverse(later)| later.due)
        };
        let _idle = Idle { queue: self, counted: idle && lane == Lane::Fast };
        let notified = match lane {
            Lane::Fast if idle => self.idle.notified(),
            Lane::Fast => self.busy.notified(),
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

    /// A merged question of so many rows took so long, where a single one may take `slow_after`. Merging must neither
    /// make a question slow nor hold back what several sessions would do at once.
    pub(super) fn pace(&self, key: &LaneKey, rows: usize, took: Duration, slow_after: Duration) {
        let mut state = self.state();
        if took > slow_after / 16 && rows > MERGED_ROWS_MIN {
            state.merged_rows.insert(key.clone(), (rows / 2).max(MERGED_ROWS_MIN));
        } else if took < slow_after / 64
            && let Some(limit) = state.merged_rows.get_mut(key)
            && rows >= *limit
        {
            *limit *= 2;
            if *limit >= MERGED_ROWS_MAX {
                state.merged_rows.remove(key);
            }
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

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
