use super::*;
use crate::change::{Layout, OldRow, Operation};
use crate::dispatch::sample::{SECURED, catalog};
use crate::wal::pgoutput::Tuple;

fn change() -> Change {
    let relation = Arc::clone(&catalog().relations[&SECURED]);
    let layout = Arc::new(Layout::identity(Arc::clone(&relation)));
    let new = Some(Row { layout, tuple: Tuple::from_values([Some(&b"1"[..]), None]), key_only: false });
    Change {
        relation,
        operation: Operation::Insert,
        new,
        old: OldRow::Absent,
        kept: None,
        commit_lsn: crate::wal::Lsn::ZERO,
        index: 0,
        commit_timestamp: 0,
    }
}

fn pending(computed: ComputedRows) -> Arc<PendingChange> {
    Arc::new(PendingChange::new(change(), Arc::new(Ticket), computed, &Arc::default()))
}

/// A question that has this answer, or none yet.
fn gate(verdict: Option<Verdict>) -> Gate {
    let asked = Arc::<Asked>::default();
    if let Some(verdict) = verdict {
        asked.settle(Ok(Answer::Verdicts(vec![verdict])));
    }
    Gate { asked, row: 0 }
}

fn delivery(policy: Policy, filters: &[Option<Gate>], computed: ComputedRows) -> Delivery {
    let shape = RecordShape::new(&catalog(), &change().relation, &crate::catalog::ColumnSet::default());
    let ids = (1..).zip(filters.iter().cloned()).collect();
    Delivery { change: pending(computed), ids, content: Content::Row { shape: Arc::new(shape), policy } }
}

fn deliver(ids: &[u32], whole_old: bool) -> Outcome {
    Outcome::Deliver { ids: SmallVec::from_slice(ids), whole_old }
}

use Verdict::{Allowed, Denied, Failed};

#[test]
fn the_policy_decides_first() {
    let outcome = |row, old: Option<Option<Verdict>>, whole_old| {
        let old = old.map_or(WholeOld::known(whole_old), |verdict| WholeOld::Ask(gate(verdict)));
        let policy = Policy { row: Some(gate(row)), old };
        delivery(policy, &[None], ComputedRows::default()).outcome()
    };
    for (row, old, whole_old, expected) in [
        (None, None, false, Outcome::Wait),
        (Some(Allowed), Some(None), false, Outcome::Wait),
        (Some(Allowed), None, false, deliver(&[1], false)),
        (Some(Allowed), None, true, deliver(&[1], true)),
        (Some(Allowed), Some(Some(Allowed)), false, deliver(&[1], true)),
        (Some(Allowed), Some(Some(Denied)), true, deliver(&[1], false)),
        (Some(Allowed), Some(Some(Failed)), true, deliver(&[1], false)),
        (Some(Denied), Some(Some(Allowed)), true, Outcome::Drop),
        (Some(Failed), Some(Some(Allowed)), true, Outcome::Fail),
    ] {
        assert_eq!(outcome(row, old, whole_old), expected, "{row:?} {old:?} {whole_old}");
    }
}

#[test]
fn then_each_filter_decides_for_its_binding() {
    let outcome = |filters: &[Option<Gate>]| delivery(Policy::shown(true), filters, ComputedRows::default()).outcome();
    let filter = |verdict| Some(gate(Some(verdict)));
    assert_eq!(outcome(&[None, filter(Denied), filter(Allowed)]), deliver(&[1, 3], true));
    assert_eq!(outcome(&[filter(Denied), filter(Denied)]), Outcome::Drop);
    assert_eq!(outcome(&[filter(Failed), filter(Denied)]), Outcome::Fail);
    assert_eq!(outcome(&[filter(Failed), filter(Allowed)]), deliver(&[2], true));
    assert_eq!(outcome(&[None, Some(gate(None))]), Outcome::Wait);
}

#[test]
fn an_answer_that_is_missing_or_of_another_kind_denies() {
    let answered = |answer| {
        let asked = Arc::<Asked>::default();
        asked.settle(answer);
        Gate { asked, row: 3 }.decision()
    };
    for answer in [Ok(Answer::Verdicts(vec![Allowed])), Ok(Answer::Json(vec![])), Err(OracleError::Closed)] {
        assert_eq!(answered(answer), Some(Decision::Failed));
    }
}

#[test]
fn values_that_only_postgres_encodes_are_waited_for() {
    let row = |asked: &Arc<Asked>| ComputedRow {
        gate: Gate { asked: Arc::clone(asked), row: 0 },
        columns: [ColumnIndex(1)].into(),
    };
    let (new, old) = (Arc::<Asked>::default(), Arc::<Asked>::default());
    let computed = ComputedRows { new: Some(row(&new)), old: Some(row(&old)) };
    let delivery = delivery(Policy::shown(true), &[None], computed);
    assert_eq!((delivery.outcome(), delivery.undecided().count()), (Outcome::Wait, 2));
    new.settle(Ok(Answer::Json(vec![Some(vec![Some("1".into())])])));
    assert_eq!(delivery.outcome(), Outcome::Wait);
    old.settle(Err(OracleError::Closed));
    assert_eq!(delivery.outcome(), Outcome::Fail);
}

#[test]
fn an_answer_names_who_waited_for_it_and_is_given_once() {
    let asked = Asked::default();
    [4, 4, 7, 4].into_iter().for_each(|place| asked.wait(place));
    assert_eq!(asked.settle(Ok(Answer::Verdicts(vec![Allowed]))), [4, 7, 4]);
    assert_eq!(asked.settle(Err(OracleError::Closed)), [0; 0]);
    assert!(asked.answer().unwrap().is_ok(), "the first answer stays");
}

#[test]
fn transactions_settle_in_order() {
    let mut tickets = Tickets::default();
    let (first, second, third) = (tickets.issue(Lsn(1)), tickets.issue(Lsn(2)), tickets.issue(Lsn(3)));
    drop(second);
    assert_eq!(tickets.settle(), None);
    let held = Arc::clone(&first);
    drop(first);
    assert_eq!(tickets.settle(), None, "a delivery still has it");
    drop(held);
    assert_eq!(tickets.settle(), Some(Lsn(2)));
    drop(third);
    assert_eq!((tickets.settle(), tickets.is_empty()), (Some(Lsn(3)), true));
}

#[test]
fn what_waits_is_counted_until_it_is_gone() {
    let budget = Arc::new(AtomicUsize::new(0));
    let change = PendingChange::new(change(), Arc::new(Ticket), ComputedRows::default(), &budget);
    let of_change = budget.load(Ordering::Relaxed);
    assert!(of_change > 0);
    let content = Content::Error(Bytes::new());
    let delivery = Delivery { change: Arc::new(change), ids: SmallVec::from_iter([(1, None), (2, None)]), content };
    // One small change for a thousand channels: the deliveries are what it costs.
    let queue: Vec<Queued> = (0..1000).map(|_| Queued::new(delivery.clone(), &budget)).collect();
    drop(delivery);
    assert!(budget.load(Ordering::Relaxed) >= 1000 * size_of::<Queued>());
    drop(queue);
    assert_eq!(budget.load(Ordering::Relaxed), 0);
}
