use proptest::prelude::*;

use super::*;
use crate::wal::Lsn;
use crate::wal::pgoutput::{OldTuple, RelationColumn, Tuple, encode};

pub(in crate::change) const TABLE: RelationId = RelationId(16_400);
pub(in crate::change) const OTHER: RelationId = RelationId(16_401);
pub(in crate::change) const LOG: RelationId = RelationId(16_500);

fn bytes(message: Message) -> Bytes {
    encode(&message)
}

pub(in crate::change) fn begin(commit: u64) -> Bytes {
    bytes(Message::Begin(Begin { final_lsn: Lsn(commit), commit_timestamp: 7, xid: commit as u32 }))
}

pub(in crate::change) fn commit(at: u64) -> Bytes {
    bytes(Message::Commit(pgoutput::Commit { commit_lsn: Lsn(at), end_lsn: Lsn(at + 8), commit_timestamp: 7 }))
}

pub(in crate::change) fn relation(id: RelationId, schema: &str, name: &str) -> Bytes {
    let column = RelationColumn { name: "id".into(), type_oid: 23, type_modifier: -1, is_key: true };
    let (schema, name, columns) = (schema.into(), name.into(), vec![column]);
    bytes(Message::Relation(StreamRelation { id, schema, name, replica_identity: b'd', columns }))
}

pub(in crate::change) fn insert(relation: RelationId, value: &str) -> Bytes {
    bytes(Message::Insert { relation, new: Tuple::from_values([Some(value.as_bytes())]) })
}

fn delete(relation: RelationId, value: &str) -> Bytes {
    bytes(Message::Delete { relation, old: OldTuple::Key(Tuple::from_values([Some(value.as_bytes())])) })
}

/// Feeds frames of which nothing has been handed over and everything is wanted.
pub(in crate::change) fn feed(assembler: &mut Assembler, frames: impl IntoIterator<Item = Bytes>) -> Vec<Transaction> {
    let push = |frame| {
        let mut transaction = assembler.push(frame, |_| false, |_, _| true).unwrap();
        while assembler.is_gathering() {
            transaction = assembler.gather().unwrap();
        }
        transaction
    };
    frames.into_iter().filter_map(push).collect()
}

/// What is left in a transaction: `R` with the table's name, or the row's first value.
pub(in crate::change) fn contents(transaction: &mut Transaction) -> Vec<String> {
    std::iter::from_fn(|| transaction.next_message().unwrap())
        .map(|message| match message {
            Message::Relation(relation) => format!("R {}", relation.name),
            Message::Insert { new, .. } => match new.get(0) {
                pgoutput::Datum::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
                other => panic!("{other:?}"),
            },
            Message::Logical { content, .. } => format!("M {}", String::from_utf8_lossy(&content)),
            other => panic!("{other:?}"),
        })
        .collect()
}

pub(in crate::change) fn assembler() -> Assembler {
    Assembler::new(Config::default(), SpillMetrics::default())
}

#[test]
fn a_transaction_comes_whole_at_its_commit() {
    let mut assembler = assembler();
    let frames = [begin(100), relation(TABLE, "public", "t"), insert(TABLE, "1"), insert(TABLE, "2")];
    assert!(feed(&mut assembler, frames).is_empty() && assembler.is_open());
    let mut transactions = feed(&mut assembler, [commit(100)]);
    let [transaction] = &mut transactions[..] else { panic!() };
    assert_eq!((transaction.header.commit_lsn, transaction.header.end_lsn), (Lsn(100), Lsn(108)));
    assert_eq!((transaction.header.xid, transaction.sequence), (100, 1));
    assert_eq!(contents(transaction), ["R t", "1", "2"]);
    assert!(!assembler.is_open());
}

#[test]
fn what_is_not_wanted_is_not_kept() {
    let mut assembler = assembler();
    let frames = [begin(1), relation(TABLE, "public", "t"), insert(TABLE, "1"), insert(OTHER, "2"), commit(1)];
    let push = |frame| assembler.push(frame, |_| false, |relation, _| relation != OTHER).unwrap();
    let mut transaction = frames.into_iter().find_map(push).unwrap();
    assert_eq!(contents(&mut transaction), ["R t", "1"]);
}

#[test]
fn a_transaction_that_was_handed_over_keeps_its_relation_messages_and_nothing_else() {
    let mut assembler = assembler();
    assembler.started(true);
    let log = relation(LOG, "walcast", "ddl_log");
    let frames = [begin(5), log, insert(LOG, "state"), relation(TABLE, "public", "t"), insert(TABLE, "1"), commit(5)];
    let push = |frame| assembler.push(frame, |begin| begin.final_lsn <= Lsn(5), |_, _| true).unwrap();
    let mut transaction = frames.into_iter().find_map(push).unwrap();
    assert_eq!(transaction.ddl_log, DdlLog::Nothing);
    assert_eq!(contents(&mut transaction), ["R t"]);
    // The log was described there, too, and is known by it.
    let transactions = feed(&mut assembler, [begin(9), insert(LOG, "next"), commit(9)]);
    assert!(matches!(transactions[0].ddl_log, DdlLog::Row(..)));
}

#[test]
fn a_lost_connection_forgets_what_had_begun() {
    let mut assembler = assembler();
    feed(&mut assembler, [begin(1), relation(TABLE, "public", "t"), insert(TABLE, "half")]);
    assembler.reset();
    assert!(!assembler.is_open());
    let again = [begin(1), relation(TABLE, "public", "t"), insert(TABLE, "half"), insert(TABLE, "whole"), commit(1)];
    let mut transactions = feed(&mut assembler, again);
    assert_eq!(contents(&mut transactions[0]), ["R t", "half", "whole"]);
    assert_eq!(transactions[0].sequence, 2, "whoever subscribed in between sees it");
}

#[test]
fn of_several_rows_of_the_log_the_last_one_counts_and_deletes_say_nothing() {
    let mut assembler = assembler();
    assembler.started(true);
    let (first, last) = (insert(LOG, "first"), insert(LOG, "last"));
    let frames = [begin(1), relation(LOG, "walcast", "ddl_log"), first, last.clone(), delete(LOG, "1"), commit(1)];
    let mut transactions = feed(&mut assembler, frames);
    let DdlLog::Row(relation, row) = &transactions[0].ddl_log else { panic!("no row") };
    assert_eq!((relation.id, row), (LOG, &last));
    assert!(contents(&mut transactions[0]).is_empty());
}

#[test]
fn a_log_that_is_not_walcasts_own_is_a_table_like_any_other() {
    let mut assembler = assembler();
    assembler.started(false);
    let frames = [begin(1), relation(LOG, "walcast", "ddl_log"), insert(LOG, "forged"), commit(1)];
    let mut transactions = feed(&mut assembler, frames);
    assert_eq!(transactions[0].ddl_log, DdlLog::Nothing);
    assert_eq!(contents(&mut transactions[0]), ["R ddl_log", "forged"]);
}

#[test]
fn a_table_that_took_over_the_logs_oid_is_not_the_log() {
    let mut assembler = assembler();
    assembler.started(true);
    feed(&mut assembler, [begin(1), relation(LOG, "walcast", "ddl_log"), commit(1)]);
    let frames = [begin(2), relation(LOG, "public", "renamed"), insert(LOG, "1"), commit(2)];
    let mut transactions = feed(&mut assembler, frames);
    assert_eq!(transactions[0].ddl_log, DdlLog::Nothing);
    assert_eq!(contents(&mut transactions[0]), ["R renamed", "1"]);
}

#[test]
fn a_row_too_large_to_be_read_is_a_loss_but_for_the_logs() {
    let mut assembler = assembler();
    assembler.started(true);
    assert!(!assembler.unread(Some(TABLE)), "between transactions nothing is lost");
    feed(&mut assembler, [begin(1), relation(LOG, "walcast", "ddl_log")]);
    assert!(assembler.unread(Some(TABLE)));
    assert!(!assembler.unread(Some(LOG)), "the catalog is loaded instead");
    assert_eq!(feed(&mut assembler, [commit(1)])[0].ddl_log, DdlLog::Unread);
    assembler.push(begin(2), |_| true, |_, _| true).unwrap();
    assert!(!assembler.unread(Some(TABLE)), "it was told before");
}

#[test]
fn malformed_and_misplaced_frames_are_errors() {
    let push = |assembler: &mut Assembler, frame: Bytes| assembler.push(frame, |_| false, |_, _| true).map(|_| ());
    for frame in [insert(TABLE, "1"), commit(1), relation(TABLE, "public", "t")] {
        let tag = char::from(frame[0]);
        let error = push(&mut assembler(), frame).unwrap_err();
        assert!(matches!(error, Error::OutsideTransaction(at) if at == tag), "{error}");
    }
    for frame in [b"I\0".as_slice(), b"B\0", b"C", b"R\0\0", b"T\0", b"?", b""] {
        let mut assembler = assembler();
        feed(&mut assembler, [begin(1)]);
        let error = push(&mut assembler, Bytes::copy_from_slice(frame)).unwrap_err();
        assert!(matches!(error, Error::Decode(_)), "{frame:?}: {error}");
    }
    let mut assembler = assembler();
    feed(&mut assembler, [begin(1)]);
    assert!(matches!(push(&mut assembler, begin(2)), Err(Error::Nested)));
}

#[test]
fn a_malformed_row_is_an_error_when_it_is_read_and_not_before() {
    let mut assembler = assembler();
    let mut frame = insert(TABLE, "1").to_vec();
    frame.truncate(frame.len() - 1);
    let mut transactions = feed(&mut assembler, [begin(1), frame.into(), commit(1)]);
    assert!(matches!(transactions[0].next_message(), Err(Error::Decode(_))));
}

#[test]
fn a_large_transaction_goes_to_a_file_and_has_a_limit_there() {
    let metrics = SpillMetrics::default();
    let config = Config { memory_bytes_max: 200, spill_bytes_max: 1000, ..Config::default() };
    let mut small = Assembler::new(config, metrics.clone());
    let rows = |n: usize| (0..n).map(|n| insert(TABLE, &n.to_string()));
    let frames = [begin(1)].into_iter().chain(rows(20)).chain([commit(1)]);
    let mut transactions = feed(&mut small, frames);
    assert!(transactions[0].frames.file.is_some());
    assert!(metrics.bytes.get() > 200, "{}", metrics.bytes.get());
    assert_eq!(contents(&mut transactions[0]), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!((metrics.transactions.get(), metrics.bytes.get()), (1, 0), "it has been read");

    feed(&mut small, [begin(2)]);
    let error = rows(1000).find_map(|row| small.push(row, |_| false, |_, _| true).err()).unwrap();
    assert!(matches!(error, Error::TooLarge(1000)), "{error}");
    assert!(metrics.bytes.get() > 1000);
    small.reset();
    assert_eq!((metrics.transactions.get(), metrics.bytes.get()), (2, 0), "its file is gone");
}

#[test]
fn a_kept_row_does_not_keep_what_was_read_with_it() {
    let mut assembler = assembler();
    let row = insert(TABLE, "1");
    let buffer = Bytes::from([&row[..], &[0; 1 << 18]].concat());
    let frame = buffer.slice(..row.len());
    let mut transactions = feed(&mut assembler, [begin(1), frame, commit(1)]);
    let Some(Message::Insert { new, .. }) = transactions[0].next_message().unwrap() else { panic!() };
    assert!(!buffer.as_ptr_range().contains(&new.frame.as_ptr()));
}

proptest! {
    #[test]
    fn whatever_the_limits_every_row_comes_out_in_order(
        sizes in proptest::collection::vec(0..300usize, 0..60),
        memory_bytes_max in 0..2000usize,
    ) {
        let mut assembler = Assembler::new(Config { memory_bytes_max, ..Config::default() }, SpillMetrics::default());
        let values: Vec<String> = sizes.iter().enumerate().map(|(n, size)| format!("{n}{}", "x".repeat(*size))).collect();
        let rows = values.iter().map(|value| insert(TABLE, value));
        let mut transactions = feed(&mut assembler, [begin(1)].into_iter().chain(rows).chain([commit(1)]));
        prop_assert_eq!(contents(&mut transactions[0]), values);
    }
}

pub(in crate::change) fn truncate(relations: &[RelationId]) -> Bytes {
    bytes(Message::Truncate { relations: relations.into(), cascade: false, restart_identity: false })
}

/// What was gathered apart: a row's first value, or `T`.
pub(in crate::change) fn gathered(transaction: &Transaction) -> Vec<String> {
    let change = |change: &TrackedChange| match change {
        TrackedChange::Truncate(_) => "T".to_owned(),
        TrackedChange::Row(relation, frame) => match pgoutput::decode(frame.clone()).unwrap() {
            Message::Insert { relation: id, new } if id == relation.id => format!("{:?}", new.get(0)),
            other => panic!("{other:?}"),
        },
    };
    transaction.tracked.changes.iter().map(change).collect()
}

#[test]
fn changes_of_tracked_tables_are_gathered_apart_whoever_else_wants_them() {
    let mut assembler = assembler();
    assembler.track([TABLE]);
    let frames = [begin(1), relation(TABLE, "public", "t"), relation(OTHER, "public", "o"), insert(TABLE, "1")];
    let more = [truncate(&[OTHER]), truncate(&[OTHER, TABLE]), insert(OTHER, "2"), insert(TABLE, "3"), commit(1)];
    let mut transactions = feed(&mut assembler, frames.into_iter().chain(more));
    assert_eq!(gathered(&transactions[0]), ["Text([49])", "T", "Text([51])"]);
    assert_eq!(contents(&mut transactions[0]), ["R t", "R o", "1", "2", "3"]);
    // The relation was described before; nobody else wants the row.
    let push = |frame| assembler.push(frame, |_| false, |_, _| false).unwrap();
    let mut transaction = [begin(2), insert(TABLE, "4"), commit(2)].into_iter().find_map(push).unwrap();
    assert_eq!((gathered(&transaction), contents(&mut transaction)), (vec!["Text([52])".to_owned()], vec![]));
    let skipped = |frame| assembler.push(frame, |_| true, |_, _| true).unwrap();
    let frames = [begin(2), insert(TABLE, "4"), truncate(&[TABLE]), commit(2)];
    assert!(frames.into_iter().find_map(skipped).unwrap().tracked.is_empty(), "it was applied before");
}

#[test]
fn of_what_is_too_much_or_too_large_only_the_tables_are_named() {
    let mut small = Assembler::new(Config { tracked_bytes_max: 300, ..Config::default() }, SpillMetrics::default());
    small.track([TABLE, OTHER]);
    let rows = |id, count: usize| (0..count).map(move |_| insert(id, "1"));
    let described = [begin(1), relation(TABLE, "public", "t"), relation(OTHER, "public", "o")];
    let frames = described.into_iter().chain(rows(TABLE, 50)).chain(rows(OTHER, 1)).chain([commit(1)]);
    let transactions = feed(&mut small, frames);
    assert_eq!((transactions[0].tracked.missed.clone(), transactions[0].tracked.changes.len()), ([TABLE].into(), 1));
    feed(&mut small, [begin(2), insert(OTHER, "1")]);
    assert!(small.unread(Some(TABLE)));
    let transactions = feed(&mut small, [commit(2)]);
    assert_eq!((transactions[0].tracked.missed.clone(), transactions[0].tracked.changes.len()), ([TABLE].into(), 1));
}
