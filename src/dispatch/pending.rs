//! Changes that are matched but not yet delivered, and the questions that they wait for.
//!
//! Promise: the deliveries of one channel leave in commit order. A delivery whose questions are answered goes out at
//! once if nothing of its channel waits before it; else it waits in the channel's queue. Channels overtake one another.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::authz::{Answer, OracleError, Verdict};
use crate::catalog::ColumnIndex;
use crate::change::{Change, Row};
use crate::encode::{Computed, ComputedValues, RecordShape};
use crate::wal::Lsn;

/// Held by everything that still has to do with a transaction; the slot is not confirmed past it before all let go.
#[derive(Debug)]
pub struct Ticket;

/// Transactions handed over but not done with, oldest first.
#[derive(Default)]
pub struct Tickets(VecDeque<(Lsn, Arc<Ticket>)>);

impl Tickets {
    pub fn issue(&mut self, end_lsn: Lsn) -> Arc<Ticket> {
        let ticket = Arc::new(Ticket);
        self.0.push_back((end_lsn, Arc::clone(&ticket)));
        ticket
    }

    /// The end of the newest transaction before which nothing is undecided, if that moved.
    pub fn settle(&mut self) -> Option<Lsn> {
        let mut settled = None;
        while let Some((end_lsn, ticket)) = self.0.front() {
            // Ours is the last reference, and nobody can make another from nothing.
            if Arc::strong_count(ticket) > 1 {
                break;
            }
            settled = Some(*end_lsn);
            self.0.pop_front();
        }
        settled
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A question put to Postgres; many deliveries may wait for its one answer.
#[derive(Debug, Default)]
pub struct Asked {
    answer: OnceLock<Result<Answer, OracleError>>,
    /// Subscribers (places in the table) to look at again when the answer is here.
    waiters: Mutex<Vec<usize>>,
}

impl Asked {
    pub fn answer(&self) -> Option<&Result<Answer, OracleError>> {
        self.answer.get()
    }

    /// Remembers the answer; gives who waited for it.
    pub fn settle(&self, answer: Result<Answer, OracleError>) -> Vec<usize> {
        let _ = self.answer.set(answer);
        std::mem::take(&mut *self.waiters.lock().expect("no panic while this lock is held"))
    }

    pub fn wait(&self, subscriber: usize) {
        let mut waiters = self.waiters.lock().expect("no panic while this lock is held");
        if waiters.last() != Some(&subscriber) {
            waiters.push(subscriber);
        }
    }

    fn verdict(&self, row: u32) -> Option<Decision> {
        match self.answer()? {
            Ok(Answer::Verdicts(verdicts)) => Some(match verdicts.get(row as usize) {
                Some(Verdict::Allowed) => Decision::Allowed,
                Some(Verdict::Denied) => Decision::Denied,
                Some(Verdict::Failed) | None => Decision::Failed,
            }),
            Ok(Answer::Json(_)) | Err(_) => Some(Decision::Failed),
        }
    }
}

/// What came of a question about one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    Denied,
    /// Could not be decided: not shown, and the subscriber is told.
    Failed,
}

/// One row of one question.
#[derive(Clone, Debug)]
pub struct Gate {
    pub asked: Arc<Asked>,
    pub row: u32,
}

impl Gate {
    pub fn decision(&self) -> Option<Decision> {
        self.asked.verdict(self.row)
    }
}

/// How the row-level security of a delivery is decided.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `None`: the row may be shown. Else Postgres decides.
    pub row: Option<Gate>,
    pub old: WholeOld,
}

/// Whether more than the key of the old row is shown.
#[derive(Clone, Debug)]
pub enum WholeOld {
    No,
    Yes,
    Ask(Gate),
}

impl WholeOld {
    pub fn known(shown: bool) -> WholeOld {
        if shown { WholeOld::Yes } else { WholeOld::No }
    }
}

impl Policy {
    /// Nothing is left to decide.
    pub fn shown(whole_old: bool) -> Policy {
        Policy { row: None, old: WholeOld::known(whole_old) }
    }
}

/// A change in work, shared by all its deliveries.
#[derive(Debug)]
pub struct PendingChange {
    pub change: Change,
    pub ticket: Arc<Ticket>,
    pub computed: ComputedRows,
    encoded: Mutex<SmallVec<[Encoded; 2]>>,
    _share: Share,
}

/// A part of the bound on what waits, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    bytes: usize,
    budget: Arc<AtomicUsize>,
}

impl Share {
    pub fn take(bytes: usize, budget: &Arc<AtomicUsize>) -> Share {
        budget.fetch_add(bytes, Ordering::Relaxed);
        Share { bytes, budget: Arc::clone(budget) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// JSON that only Postgres can give, by row image: those that have any such column.
#[derive(Clone, Debug, Default)]
pub struct ComputedRows {
    pub new: Option<ComputedRow>,
    pub old: Option<ComputedRow>,
}

#[derive(Clone, Debug)]
pub struct ComputedRow {
    pub gate: Gate,
    pub columns: Arc<[ColumnIndex]>,
}

impl ComputedRows {
    fn rows(&self) -> impl Iterator<Item = &ComputedRow> {
        self.new.iter().chain(&self.old)
    }

    fn failed(&self) -> bool {
        self.rows().any(|row| match row.gate.asked.answer() {
            Some(Ok(Answer::Json(rows))) => !matches!(rows.get(row.gate.row as usize), Some(Some(_))),
            Some(Ok(Answer::Verdicts(_)) | Err(_)) => true,
            None => false,
        })
    }

    /// The values, once they are here.
    pub fn values(&self) -> Computed {
        let values = |row: &ComputedRow| match row.gate.asked.answer() {
            Some(Ok(Answer::Json(rows))) => {
                let values = rows.get(row.gate.row as usize)?.clone()?;
                Some(ComputedValues { columns: Arc::clone(&row.columns), values })
            }
            _ => None,
        };
        Computed { new: self.new.as_ref().and_then(values), old: self.old.as_ref().and_then(values) }
    }
}

#[derive(Debug)]
struct Encoded {
    shape: Arc<RecordShape>,
    whole_old: bool,
    data: Option<Bytes>,
}

impl PendingChange {
    pub fn new(change: Change, ticket: Arc<Ticket>, computed: ComputedRows, budget: &Arc<AtomicUsize>) -> Self {
        let share = Share::take(frame_bytes(&change) + size_of::<Self>(), budget);
        PendingChange { change, ticket, computed, encoded: Mutex::default(), _share: share }
    }

    /// The `data` object for a shape, written once however many ask for it. `None`: it could not be encoded, and
    /// `encode` knows why. It is told whether this is the first time for the change.
    pub fn data(
        &self,
        shape: &Arc<RecordShape>,
        whole_old: bool,
        encode: impl FnOnce(bool) -> Option<Bytes>,
    ) -> Option<Bytes> {
        let mut encoded = self.encoded.lock().expect("no panic while this lock is held");
        let known = encoded.iter().find(|known| Arc::ptr_eq(&known.shape, shape) && known.whole_old == whole_old);
        if let Some(known) = known {
            return known.data.clone();
        }
        let data = encode(encoded.is_empty());
        encoded.push(Encoded { shape: Arc::clone(shape), whole_old, data: data.clone() });
        data
    }
}

/// The frame that the change was decoded from: both rows lie in it.
pub fn frame_bytes(change: &Change) -> usize {
    let bytes = |row: Option<&Row>| row.map_or(0, |row| row.tuple.frame.len());
    bytes(change.new.as_ref()).max(bytes(change.old.row()))
}

/// One frame to be, for one channel.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub change: Arc<PendingChange>,
    /// Client-visible binding ids, each with the SQL part of its filter where it has one.
    pub ids: SmallVec<[(u32, Option<Gate>); 1]>,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    /// The row, if policy and filters let it through.
    Row { shape: Arc<RecordShape>, policy: Policy },
    /// An error without data (PROTOCOL 4.4). It takes its turn like any row.
    Error(Bytes),
}

/// A delivery that waits, counted: one small change may wait for ten thousand channels.
#[derive(Debug)]
pub struct Queued {
    pub delivery: Delivery,
    _share: Share,
}

impl Queued {
    pub fn new(delivery: Delivery, budget: &Arc<AtomicUsize>) -> Queued {
        let ids = if delivery.ids.spilled() { size_of_val(&*delivery.ids) } else { 0 };
        Queued { _share: Share::take(size_of::<Queued>() + ids, budget), delivery }
    }
}

/// What is to be done with a delivery now.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Wait,
    Drop,
    /// It could not be decided.
    Fail,
    Deliver {
        ids: SmallVec<[u32; 4]>,
        whole_old: bool,
    },
}

impl Delivery {
    /// The gates that are not decided yet.
    pub fn undecided(&self) -> impl Iterator<Item = &Arc<Asked>> {
        let (row, old) = match &self.content {
            Content::Row { policy: Policy { row, old }, .. } => (
                row.as_ref().map(|gate| &gate.asked),
                match old {
                    WholeOld::Ask(gate) => Some(&gate.asked),
                    WholeOld::No | WholeOld::Yes => None,
                },
            ),
            Content::Error(_) => (None, None),
        };
        let filters = self.ids.iter().filter_map(|(_, gate)| gate.as_ref().map(|gate| &gate.asked));
        let computed = self.change.computed.rows().map(|row| &row.gate.asked);
        row.into_iter().chain(old).chain(computed).chain(filters).filter(|asked| asked.answer().is_none())
    }

    pub fn outcome(&self) -> Outcome {
        if self.undecided().next().is_some() {
            return Outcome::Wait;
        }
        let whole_old = match &self.content {
            Content::Error(_) => false,
            Content::Row { policy: Policy { row, old }, .. } => {
                match row.as_ref().map(Gate::decision) {
                    None | Some(Some(Decision::Allowed)) => {}
                    Some(Some(Decision::Denied)) => return Outcome::Drop,
                    Some(Some(Decision::Failed) | None) => return Outcome::Fail,
                }
                match old {
                    WholeOld::No => false,
                    WholeOld::Yes => true,
                    WholeOld::Ask(gate) => gate.decision() == Some(Decision::Allowed),
                }
            }
        };
        if self.change.computed.failed() {
            return Outcome::Fail;
        }
        let mut failed = false;
        let mut ids = SmallVec::new();
        for (id, gate) in &self.ids {
            match gate.as_ref().map(Gate::decision) {
                None | Some(Some(Decision::Allowed)) => ids.push(*id),
                Some(Some(Decision::Denied)) => {}
                Some(Some(Decision::Failed) | None) => failed = true,
            }
        }
        match (ids.is_empty(), failed) {
            (false, _) => Outcome::Deliver { ids, whole_old },
            (true, true) => Outcome::Fail,
            (true, false) => Outcome::Drop,
        }
    }
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
