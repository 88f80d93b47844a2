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
use crate::change::Change;
use crate::encode::{Computed, RecordShape};
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
pub enum Policy {
    /// Allowed; `true`: the whole old row may be shown.
    Open { whole_old: bool },
    /// Allowed if the row is; the old row is shown whole if its own gate (where it has one) allows that.
    Ask { row: Gate, old: Option<Gate>, whole_old: bool },
}

/// A change in work, shared by all its deliveries.
#[derive(Debug)]
pub struct PendingChange {
    pub change: Change,
    pub ticket: Arc<Ticket>,
    pub computed: Option<ComputedRows>,
    encoded: Mutex<SmallVec<[Encoded; 2]>>,
    bytes: usize,
    budget: Arc<AtomicUsize>,
}

/// JSON that only Postgres can give: which rows of which answer.
#[derive(Clone, Debug)]
pub struct ComputedRows {
    pub asked: Arc<Asked>,
    pub columns: Arc<[ColumnIndex]>,
    pub new: Option<u32>,
    pub old: Option<u32>,
}

impl ComputedRows {
    /// The values, once they are here.
    pub fn values(&self) -> Option<Computed> {
        let Some(Ok(Answer::Json(rows))) = self.asked.answer() else { return None };
        let row = |place: Option<u32>| rows.get(place? as usize).cloned();
        Some(Computed { columns: self.columns.to_vec(), new: row(self.new), old: row(self.old) })
    }
}

#[derive(Debug)]
struct Encoded {
    shape: Arc<RecordShape>,
    whole_old: bool,
    data: Option<Bytes>,
}

impl PendingChange {
    pub fn new(change: Change, ticket: Arc<Ticket>, computed: Option<ComputedRows>, budget: &Arc<AtomicUsize>) -> Self {
        let old_bytes = change.old.row().map_or(0, |row| row.tuple.frame.len());
        let bytes = change.new.as_ref().map_or(0, |row| row.tuple.frame.len()).max(old_bytes) + size_of::<Self>();
        budget.fetch_add(bytes, Ordering::Relaxed);
        PendingChange { change, ticket, computed, encoded: Mutex::default(), bytes, budget: Arc::clone(budget) }
    }

    /// The `data` object for a shape, written once however many ask for it. `None`: it could not be encoded, and
    /// `encode` was told why.
    pub fn data(
        &self,
        shape: &Arc<RecordShape>,
        whole_old: bool,
        encode: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Bytes> {
        let mut encoded = self.encoded.lock().expect("no panic while this lock is held");
        let known = encoded.iter().find(|known| Arc::ptr_eq(&known.shape, shape) && known.whole_old == whole_old);
        if let Some(known) = known {
            return known.data.clone();
        }
        let data = encode();
        encoded.push(Encoded { shape: Arc::clone(shape), whole_old, data: data.clone() });
        data
    }
}

impl Drop for PendingChange {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One frame to be, for one channel.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub change: Arc<PendingChange>,
    /// Client-visible binding ids, each with the SQL part of its filter where it has one.
    pub ids: SmallVec<[(u32, Option<Gate>); 1]>,
    pub shape: Arc<RecordShape>,
    pub policy: Policy,
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
        let (row, old) = match &self.policy {
            Policy::Open { .. } => (None, None),
            Policy::Ask { row, old, .. } => (Some(&row.asked), old.as_ref().map(|gate| &gate.asked)),
        };
        let filters = self.ids.iter().filter_map(|(_, gate)| gate.as_ref().map(|gate| &gate.asked));
        let computed = self.change.computed.as_ref().map(|rows| &rows.asked);
        row.into_iter().chain(old).chain(computed).chain(filters).filter(|asked| asked.answer().is_none())
    }

    pub fn outcome(&self) -> Outcome {
        if self.undecided().next().is_some() {
            return Outcome::Wait;
        }
        let whole_old = match &self.policy {
            Policy::Open { whole_old } => *whole_old,
            Policy::Ask { row, old, whole_old } => match row.decision() {
                Some(Decision::Allowed) => match old {
                    None => *whole_old,
                    Some(old) => old.decision() == Some(Decision::Allowed),
                },
                Some(Decision::Denied) => return Outcome::Drop,
                Some(Decision::Failed) | None => return Outcome::Fail,
            },
        };
        if matches!(self.change.computed.as_ref().and_then(|rows| rows.asked.answer()), Some(Err(_))) {
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
