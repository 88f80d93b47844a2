//! What waits, in which lane and behind what.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::super::error::OracleError;
use super::super::group::GroupKey;
use super::super::job::{Job, LaneKey};
use super::Lane;
use super::later::Later;

/// Rows of a merged question: as many as dispatch puts into one of its own. The statement's fixed cost is that of some
/// ten rows, so that more would gain nothing.
pub(super) const MERGED_ROWS_MAX: usize = 128;
/// And their bytes, as there.
pub(super) const MERGED_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
pub(super) struct State {
    /// Groups with questions, in the order of their turns: each once.
    pub(super) fast: VecDeque<GroupKey>,
    pub(super) groups: HashMap<GroupKey, Group>,
    /// How many rows are merged where that is less than the maximum, for the time that they took.
    pub(super) merged_rows: HashMap<LaneKey, usize>,
    /// Tables of the slow lane, in the order of their turns.
    turns: VecDeque<LaneKey>,
    slow: HashMap<LaneKey, VecDeque<Job>>,
    /// Whose questions go to the slow lane.
    pub(super) known_slow: HashMap<LaneKey, Slowness>,
    /// Waiting for their transaction to become visible.
    pub(super) later: BinaryHeap<Reverse<Later>>,
    pub(super) idle: usize,
    pub(super) sequence: u64,
    /// Why nothing more is taken.
    pub(super) closed: Option<OracleError>,
}

/// Questions of the fast lane that ask alike.
#[derive(Default)]
pub(super) struct Group {
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

#[derive(Default)]
pub(super) struct Slowness {
    /// The last question was not answered in time.
    pub(super) silent: bool,
    /// Quick answers since the last slow one.
    pub(super) quick: u32,
}

impl State {
    /// Where something is now to be taken that was not before.
    pub(super) fn place(&mut self, job: Job, front: bool) -> Option<Lane> {
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
    pub(super) fn is_ready(&self, key: &GroupKey) -> bool {
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
    pub(super) fn leaves_the_lane(&mut self, key: &GroupKey) -> bool {
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
    pub(super) fn gather(&mut self, key: &GroupKey) -> Vec<Job> {
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
    pub(super) fn landed(&mut self, key: &GroupKey) -> bool {
        let Some(group) = self.groups.get_mut(key) else { return false };
        group.in_flight = group.in_flight.saturating_sub(1);
        if group.in_flight == 0 && group.jobs.is_empty() {
            self.groups.remove(key);
            return false;
        }
        group.in_flight == 0
    }

    pub(super) fn take_turn(&mut self) -> Option<Job> {
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
    pub(super) fn admit_due(&mut self, now: Instant) -> bool {
        let mut slow = false;
        while self.later.peek().is_some_and(|Reverse(later)| later.due <= now) {
            let Some(Reverse(later)) = self.later.pop() else { break };
            slow |= self.place(later.job, true) == Some(Lane::Slow);
        }
        slow
    }

    pub(super) fn drain_older(&mut self, limit: Duration) -> Vec<Job> {
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

    pub(super) fn drain(&mut self, closed: OracleError) -> Vec<Job> {
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
