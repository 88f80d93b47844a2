//! Questions that wait for a session.
//!
//! Two lanes. The fast one is first come, first served, and a question may hold it up for `slow_after` at most; then
//! it, and every later question of the same table and role, goes to the slow lane, where tables take turns and have
//! sessions of their own. So a policy that sleeps hurts its own table's subscribers and nobody else's.
//!
//! In the fast lane questions that ask alike ([`GroupKey`]) form a group. A session that has nothing to do takes what is
//! there at once: nothing is held back while somebody could ask it. A session that is busy may ask more behind what it has
//! in flight, but not of a group that has questions in flight already: these gather, and go out as one with the first
//! session that becomes idle, or when their group's last flight lands. So the more there is to do the less each costs.
//! Only what fills a merged question does not wait. Nothing is merged in the slow lane: there the deadline would hit many
//! for the slowness of all their rows together.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::OracleError;
use super::group::GroupKey;
use super::job::{Job, LaneKey};
use super::meanings::Meanings;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Fast,
    Slow,
}

/// The first pause before asking again whether a transaction is visible; it doubles up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Ordinarily milliseconds are enough; a standby that takes long is asked about twenty times a second.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Rows of a merged question: as many as dispatch puts into one of its own. The statement's fixed cost is that of some
/// ten rows, so that more would gain nothing.
const MERGED_ROWS_MAX: usize = 128;
/// And their bytes, as there.
const MERGED_BYTES_MAX: usize = 1 << 20;
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
}

#[derive(Default)]
struct State {
    /// Groups with questions, in the order of their turns: each once.
    fast: VecDeque<GroupKey>,
    groups: HashMap<GroupKey, Group>,
    /// How many rows are merged where that is less than the maximum, for the time that they took.
    merged_rows: HashMap<LaneKey, usize>,
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

/// Questions of the fast lane that ask alike.
#[derive(Default)]
struct Group {
    jobs: VecDeque<Job>,
    /// What these are worth together: rows and bytes.
    share: (usize, usize),
    in_flight: usize,
    /// Its key is among the turns.
    has_turn: bool,
}

impl Group {
    fn put(&mut self, job: Job, front: bool) {
        let (rows, bytes) = job.share();
        self.share = (self.share.0 + rows, self.share.1 + bytes);
        put(&mut self.jobs, job, front);
    }

    fn pop(&mut self) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        let (rows, bytes) = job.share();
        self.share = (self.share.0 - rows, self.share.1 - bytes);
        Some(job)
    }

    fn take_all(&mut self) -> VecDeque<Job> {
        self.share = (0, 0);
        std::mem::take(&mut self.jobs)
    }
}

/// Questions that go out as one. The first are the oldest.
pub(super) struct Batch {
    pub(super) jobs: Vec<Job>,
    /// Kept while they are in flight.
    hold: Option<Hold>,
}

/// Counts a group's batch in flight, whatever becomes of it.
pub(super) struct Hold {
    queue: Arc<Queue>,
    key: GroupKey,
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
    pub(super) fn into_parts(self) -> (Vec<Job>, Option<Hold>) {
        (self.jobs, self.hold)
    }
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
            idle: Notify::new(),
            busy: Notify::new(),
            slow: Notify::new(),
            bytes: Arc::new(AtomicUsize::new(0)),
            bytes_max,
            meanings: Meanings::default(),
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

impl State {
    /// Where something is now to be taken that was not before.
    fn place(&mut self, job: Job, front: bool) -> Option<Lane> {
        if self.known_slow.contains_key(&job.key) {
            let jobs = self.slow.entry(job.key.clone()).or_default();
            if jobs.is_empty() {
                self.turns.push_back(job.key.clone());
            }
            put(jobs, job, front);
            return Some(Lane::Slow);
        }
        self.sequence += 1;
        let key = job.group(self.sequence);
        self.groups.entry(key.clone()).or_default().put(job, front);
        // Nobody is woken for what is held back.
        let is_for_somebody = self.idle > 0 || self.is_ready(&key);
        self.give_turn(key, front);
        is_for_somebody.then_some(Lane::Fast)
    }

    /// Whether a session that is busy may ask of it.
    fn is_ready(&self, key: &GroupKey) -> bool {
        let Some(group) = self.groups.get(key) else { return true };
        group.in_flight == 0
            || group.jobs.front().is_none_or(|first| {
                let (rows, bytes) = group.share;
                rows >= self.rows_max(&first.key) || bytes >= MERGED_BYTES_MAX
            })
    }

    fn give_turn(&mut self, key: GroupKey, front: bool) {
        if let Some(group) = self.groups.get_mut(&key)
            && !group.has_turn
            && !group.jobs.is_empty()
        {
            group.has_turn = true;
            put(&mut self.fast, key, front);
        }
    }

    fn rows_max(&self, key: &LaneKey) -> usize {
        self.merged_rows.get(key).copied().unwrap_or(MERGED_ROWS_MAX)
    }

    /// The group whose turn it is has become silent while it waited. One that is merely slow may stay: under load that
    /// says little, and the slow lane has few sessions.
    fn leaves_the_lane(&mut self, key: &GroupKey) -> bool {
        let Some(group) = self.groups.get_mut(key) else { return false };
        let is_silent = |key| self.known_slow.get(key).is_some_and(|slowness| slowness.silent);
        let is_slow = group.jobs.front().is_some_and(|first| is_silent(&first.key));
        if is_slow {
            group.has_turn = false;
            let jobs = group.take_all();
            if group.in_flight == 0 {
                self.groups.remove(key);
            }
            for job in jobs {
                self.place(job, false);
            }
        }
        is_slow
    }

    /// The oldest questions of a group, within the bounds; the first whatever its size.
    fn gather(&mut self, key: &GroupKey) -> Vec<Job> {
        let Some(first) = self.groups.get(key).and_then(|group| group.jobs.front()) else { return Vec::new() };
        let rows_max = self.rows_max(&first.key);
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        group.has_turn = false;
        let (mut jobs, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(job) = group.pop() {
            if job.is_abandoned() {
                continue;
            }
            let share = job.share();
            (rows, bytes) = (rows + share.0, bytes + share.1);
            if !jobs.is_empty() && (rows > rows_max || bytes > MERGED_BYTES_MAX) {
                group.put(job, true);
                break;
            }
            jobs.push(job);
        }
        group.in_flight += usize::from(!jobs.is_empty());
        if jobs.is_empty() && group.in_flight == 0 {
            self.groups.remove(key);
        }
        self.give_turn(key.clone(), false);
        jobs
    }

    /// A batch of the group is no longer in flight; whether that sets others free.
    fn landed(&mut self, key: &GroupKey) -> bool {
        let Some(group) = self.groups.get_mut(key) else { return false };
        group.in_flight = group.in_flight.saturating_sub(1);
        if group.in_flight == 0 && group.jobs.is_empty() {
            self.groups.remove(key);
            return false;
        }
        group.in_flight == 0
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
            slow |= self.place(later.job, true) == Some(Lane::Slow);
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
        for group in self.groups.values_mut() {
            let mut jobs = group.take_all();
            sift(&mut jobs);
            jobs.into_iter().for_each(|job| group.put(job, false));
        }
        self.groups.retain(|_, group| !group.jobs.is_empty() || group.in_flight > 0);
        self.fast.retain(|key| self.groups.get(key).is_some_and(|group| !group.jobs.is_empty()));
        for group in self.groups.values_mut().filter(|group| group.jobs.is_empty()) {
            group.has_turn = false;
        }
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
        self.fast.clear();
        let fast = std::mem::take(&mut self.groups).into_values().flat_map(|group| group.jobs);
        fast.chain(slow).chain(later).collect()
    }
}

fn put<T>(queue: &mut VecDeque<T>, item: T, front: bool) {
    if front { queue.push_front(item) } else { queue.push_back(item) }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
