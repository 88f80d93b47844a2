//! Up to where each key's client has handled what it was sent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::{ResumeKey, ResumeMetrics};
use crate::wal::{Lsn, Position};

/// Keys in memory: 150 bytes each. Beyond it the one that was not heard of for longest is forgotten, told by a metric.
pub const KEYS_MAX: usize = 1_000_000;

/// A key is remembered long beyond the retention, so that whoever comes back late is told of a gap rather than taken for
/// somebody new.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// Shared by sessions, dispatch and the store.
#[derive(Debug)]
pub struct Ledger {
    records: Mutex<Records>,
    /// The end of the last transaction that has been handed over, to everybody whom it concerns.
    handed_over: AtomicU64,
    /// The end of the last transaction that has been routed: what of it is still to be decided waits in its channels' queues.
    routed: AtomicU64,
    is_keeping: AtomicBool,
    /// What of `handed_over` is written down, and that changes are kept.
    written: AtomicU64,
    is_keeping_written: AtomicBool,
    metrics: ResumeMetrics,
}

#[derive(Debug, Default)]
struct Records {
    keys: HashMap<ResumeKey, Record, RandomState>,
    dirty: Vec<ResumeKey>,
    claims: u64,
}

#[derive(Debug)]
struct Record {
    position: Position,
    /// Which claim may move it.
    claim: u64,
    is_dirty: bool,
    heard: Instant,
}

/// The right to say what a key's client has handled, until somebody else claims the key.
#[derive(Debug)]
pub struct Claim {
    ledger: Arc<Ledger>,
    key: ResumeKey,
    number: u64,
}

impl Ledger {
    pub fn new(metrics: ResumeMetrics) -> Ledger {
        Ledger {
            records: Mutex::default(),
            handed_over: AtomicU64::new(0),
            routed: AtomicU64::new(0),
            is_keeping: AtomicBool::new(false),
            written: AtomicU64::new(0),
            is_keeping_written: AtomicBool::new(false),
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().expect("no panic while this lock is held")
    }

    /// Claims a key. `Some`: where its client was; else it is known from now on, at `now_at`.
    pub fn claim(self: &Arc<Ledger>, key: ResumeKey, now_at: Position) -> (Claim, Option<Position>) {
        let mut records = self.lock();
        records.claims += 1;
        let number = records.claims;
        let heard = Instant::now();
        let known = match records.keys.get_mut(&key) {
            Some(record) => {
                (record.claim, record.heard) = (number, heard);
                Some(record.position)
            }
            None => {
                if records.keys.len() >= KEYS_MAX {
                    records.forget_oldest();
                    self.metrics.keys_forgotten.inc();
                }
                records.keys.insert(key, Record { position: now_at, claim: number, is_dirty: false, heard });
                records.touch(key);
                None
            }
        };
        self.metrics.keys.set(records.keys.len() as i64);
        (Claim { ledger: Arc::clone(self), key, number }, known)
    }

    /// What was written down before this process began. What is known already is newer.
    pub fn restore(&self, key: ResumeKey, position: Position) {
        let mut records = self.lock();
        if records.keys.len() < KEYS_MAX {
            let record = Record { position, claim: 0, is_dirty: false, heard: Instant::now() };
            records.keys.entry(key).or_insert(record);
        }
        self.metrics.keys.set(records.keys.len() as i64);
    }

    /// The end of a transaction before which nothing is undecided.
    pub fn handed_over_to(&self, end_lsn: Lsn) {
        self.handed_over.fetch_max(end_lsn.0, Ordering::AcqRel);
    }

    /// What has been queued for everybody whom it concerns.
    pub fn handed_over(&self) -> Lsn {
        Lsn(self.handed_over.load(Ordering::Acquire))
    }

    /// The end of a transaction all of whose changes have been offered to whom they concern.
    pub fn routed_to(&self, end_lsn: Lsn) {
        self.routed.store(end_lsn.0, Ordering::Release);
    }

    /// A channel has been queued everything before it, but for what its link says that it waits for.
    pub fn routed(&self) -> Position {
        Position::through(Lsn(self.routed.load(Ordering::Acquire)))
    }

    /// Dispatch keeps changes from here on, or keeps none.
    pub fn keep(&self, keeps: bool) {
        self.is_keeping.store(keeps, Ordering::Release);
    }

    pub fn is_keeping(&self) -> bool {
        self.is_keeping.load(Ordering::Acquire)
    }

    /// Takes what has to be written down, at most so many at once.
    pub fn take_dirty(&self, most: usize) -> Vec<(ResumeKey, Position)> {
        let mut records = self.lock();
        let rest = records.dirty.len().saturating_sub(most);
        let keys = records.dirty.split_off(rest);
        let taken = keys.into_iter().filter_map(|key| {
            let record = records.keys.get_mut(&key)?;
            record.is_dirty = false;
            Some((key, record.position))
        });
        taken.collect()
    }

    /// Writing failed, or what was written is gone: all of it is to be written again.
    pub fn write_again(&self, keys: impl IntoIterator<Item = ResumeKey>) {
        let mut records = self.lock();
        keys.into_iter().for_each(|key| records.touch(key));
    }

    /// The store's: this is written down.
    pub fn wrote(&self, handed_over: Lsn, is_keeping: bool) {
        self.written.store(handed_over.0, Ordering::Release);
        self.is_keeping_written.store(is_keeping, Ordering::Release);
    }

    /// Up to where the slot may be confirmed. What is confirmed and not written down would, after a restart, be a gap of
    /// which nobody knows.
    pub fn written(&self) -> Option<Lsn> {
        let written = Lsn(self.written.load(Ordering::Acquire));
        (written < self.handed_over()).then_some(written)
    }

    /// Whether a restart would still take what comes after `handed_over` for kept.
    pub fn is_keeping_written(&self) -> bool {
        self.is_keeping_written.load(Ordering::Acquire)
    }

    /// Positions past `known` are of a history that was left, or of another database; what is read begins at `begins`.
    pub fn begin_again(&self, known: Position, begins: Lsn) {
        self.handed_over.store(begins.0, Ordering::Release);
        self.routed.store(begins.0, Ordering::Release);
        self.rewind(known);
    }

    fn rewind(&self, to: Position) {
        let mut records = self.lock();
        let Records { keys, .. } = &mut *records;
        let ahead: Vec<ResumeKey> = keys
            .iter_mut()
            .filter(|(_, record)| record.position > to)
            .map(|(key, record)| {
                record.position = to;
                *key
            })
            .collect();
        ahead.into_iter().for_each(|key| records.touch(key));
    }

    /// Forgets who has not been heard of for long.
    pub fn prune(&self, remembered_for: Duration) {
        let mut records = self.lock();
        records.keys.retain(|_, record| record.heard.elapsed() < remembered_for);
        self.metrics.keys.set(records.keys.len() as i64);
    }
}

impl Records {
    fn touch(&mut self, key: ResumeKey) {
        if let Some(record) = self.keys.get_mut(&key)
            && !std::mem::replace(&mut record.is_dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Of a few that come to hand: looking at all of them would cost a join milliseconds.
    fn forget_oldest(&mut self) {
        let some = self.keys.iter().take(64).min_by_key(|(_, record)| record.heard).map(|(key, _)| *key);
        if let Some(key) = some {
            self.keys.remove(&key);
        }
    }
}

impl Claim {
    /// Everything up to a position has been handled. Positions only move forward, and only for whom the key belongs to.
    pub fn acknowledge(&self, position: Position) {
        let mut records = self.ledger.lock();
        let Some(record) = records.keys.get_mut(&self.key).filter(|record| record.claim == self.number) else { return };
        record.heard = Instant::now();
        if record.position < position {
            record.position = position;
            records.touch(self.key);
            self.ledger.metrics.acknowledgements.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Arc<Ledger> {
        Arc::new(Ledger::new(ResumeMetrics::default()))
    }

    const KEY: ResumeKey = ResumeKey([7; 32]);

    fn at(lsn: u64) -> Position {
        Position::through(Lsn(lsn))
    }

    #[test]
    fn a_key_belongs_to_whom_claimed_it_last() {
        let ledger = ledger();
        let (first, known) = ledger.claim(KEY, at(10));
        assert_eq!(known, None);
        first.acknowledge(at(20));
        let (second, known) = ledger.claim(KEY, at(90));
        assert_eq!(known, Some(at(20)));
        first.acknowledge(at(50));
        assert_eq!(ledger.claim(KEY, at(90)).1, Some(at(20)), "the older channel's word no longer counts");
        drop(second);
    }

    #[test]
    fn positions_only_move_forward() {
        let ledger = ledger();
        let (claim, _) = ledger.claim(KEY, at(10));
        claim.acknowledge(at(30));
        claim.acknowledge(at(20));
        assert_eq!(ledger.claim(KEY, at(90)).1, Some(at(30)));
    }

    #[test]
    fn what_has_changed_is_written_once() {
        let ledger = ledger();
        let (claim, _) = ledger.claim(KEY, at(10));
        assert_eq!(ledger.take_dirty(10), [(KEY, at(10))]);
        assert_eq!(ledger.take_dirty(10), []);
        claim.acknowledge(at(30));
        claim.acknowledge(at(40));
        claim.acknowledge(at(40));
        assert_eq!(ledger.take_dirty(10), [(KEY, at(40))]);
        claim.acknowledge(at(40));
        assert_eq!(ledger.take_dirty(10), []);
        ledger.write_again([KEY]);
        assert_eq!(ledger.take_dirty(10), [(KEY, at(40))]);
    }

    #[test]
    fn what_was_written_down_does_not_overrule_what_is_known() {
        let ledger = ledger();
        ledger.restore(KEY, at(10));
        assert_eq!(ledger.take_dirty(10), [], "it is written already");
        let (claim, known) = ledger.claim(KEY, at(90));
        assert_eq!(known, Some(at(10)));
        claim.acknowledge(at(30));
        ledger.restore(KEY, at(10));
        assert_eq!(ledger.claim(KEY, at(90)).1, Some(at(30)));
    }
}
