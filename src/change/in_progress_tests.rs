use proptest::prelude::*;

use super::super::TrackedChange;
use super::super::assembler::tests::*;
use super::super::assembler::{Config, DdlLog, Step};
use super::*;
use crate::wal::Lsn;
use crate::wal::pgoutput::encode;

/// The transaction, and what it has for subtransactions.
const XID: u32 = 700;
const SUB: u32 = 701;

fn start() -> Bytes {
    encode(&Message::StreamStart { xid: XID, is_first: true })
}

fn goes_on() -> Bytes {
    encode(&Message::StreamStart { xid: XID, is_first: false })
}

fn stop() -> Bytes {
    encode(&Message::StreamStop)
}

fn of(subxid: u32, frame: Bytes) -> Bytes {
    [&frame[..1], &subxid.to_be_bytes(), &frame[1..]].concat().into()
}

fn block(frames: impl IntoIterator<Item = (u32, Bytes)>) -> Vec<Bytes> {
    let frames = frames.into_iter().map(|(subxid, frame)| of(subxid, frame));
    [start()].into_iter().chain(frames).chain([stop()]).collect()
}

/// Not its first one.
fn more(frames: impl IntoIterator<Item = (u32, Bytes)>) -> Vec<Bytes> {
    let mut block = block(frames);
    block[0] = goes_on();
    block
}

fn ends(at: u64) -> Bytes {
    let commit = Commit { commit_lsn: Lsn(at), end_lsn: Lsn(at + 8), commit_timestamp: 7 };
    encode(&Message::StreamCommit { xid: XID, commit })
}

fn aborts(subxid: u32) -> Bytes {
    encode(&Message::StreamAbort { xid: XID, subxid })
}

fn table() -> Bytes {
    relation(TABLE, "public", "t")
}

fn limited(memory_bytes_max: usize) -> Assembler {
    Assembler::new(Config { memory_bytes_max, ..Config::default() }, SpillMetrics::default())
}

#[test]
fn it_comes_whole_at_its_commit_however_many_pass_it() {
    let mut assembler = limited(1 << 20);
    assert!(feed(&mut assembler, block([(XID, table()), (XID, insert(TABLE, "1"))])).is_empty());
    assert!(!assembler.is_open() && assembler.in_progress_bytes() > 0);
    let small = [begin(10), table(), insert(TABLE, "small"), commit(10)];
    assert_eq!(contents(&mut feed(&mut assembler, small)[0]), ["R t", "small"]);
    assert!(feed(&mut assembler, more([(SUB, insert(TABLE, "2"))])).is_empty());
    let mut transactions = feed(&mut assembler, [ends(20)]);
    let [transaction] = &mut transactions[..] else { panic!() };
    assert_eq!((transaction.header.xid, transaction.sequence), (XID, 2));
    assert_eq!((transaction.header.commit_lsn, transaction.header.end_lsn), (Lsn(20), Lsn(28)));
    assert_eq!(contents(transaction), ["R t", "1", "2", "R t"], "the last one is what was said in the meantime");
    assert_eq!(assembler.in_progress_bytes(), 0);
}

#[test]
fn what_was_rolled_back_is_not_read() {
    let mut assembler = limited(1 << 20);
    let rows = [(XID, insert(TABLE, "1")), (SUB, table()), (SUB, insert(TABLE, "2")), (SUB + 1, insert(TABLE, "3"))];
    feed(&mut assembler, block(rows));
    feed(&mut assembler, [aborts(SUB)]);
    assert_eq!(contents(&mut feed(&mut assembler, [ends(20)])[0]), ["1", "R t", "3"]);
    feed(&mut assembler, block([(XID, table()), (XID, insert(TABLE, "1"))]));
    assert!(feed(&mut assembler, [aborts(XID)]).is_empty());
    assert_eq!(assembler.in_progress_bytes(), 0);
    let error = assembler.push(ends(20), |_| false, |_, _| true).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::UnknownInProgress(XID)), "{error}");
}

#[test]
fn who_wants_its_rows_is_asked_at_its_commit() {
    let frames =
        || block([(XID, table()), (XID, insert(TABLE, "1")), (XID, insert(OTHER, "2")), (XID, insert(TABLE, "3"))]);
    let mut assembler = limited(1 << 20);
    for frame in frames() {
        assert!(assembler.push(frame, |_| panic!("not yet"), |_, _| panic!("not yet")).unwrap().is_none());
    }
    let counted = std::cell::Cell::new(0);
    let wanted = |relation, rows| {
        counted.set(counted.get() + rows);
        relation == TABLE
    };
    let mut transaction = assembler.push(ends(20), |_| false, wanted).unwrap().unwrap();
    assert_eq!((contents(&mut transaction), counted.get()), (vec!["R t".into(), "1".into(), "3".into()], 3));
    feed(&mut assembler, frames());
    let mut transaction = assembler.push(ends(20), |_| false, |_, _| false).unwrap().unwrap();
    assert_eq!(contents(&mut transaction), ["R t"], "for the rows that come after it");
}

#[test]
fn one_that_was_handed_over_keeps_its_relation_messages_and_nothing_else() {
    let mut assembler = limited(1 << 20);
    assembler.started(true);
    let log = relation(LOG, "walcast", "ddl_log");
    feed(&mut assembler, block([(XID, log), (XID, insert(LOG, "state")), (XID, table()), (XID, insert(TABLE, "1"))]));
    let mut transaction = assembler.push(ends(20), |begin| begin.final_lsn <= Lsn(20), |_, _| true).unwrap().unwrap();
    assert_eq!((contents(&mut transaction), transaction.ddl_log), (vec!["R t".into()], DdlLog::Nothing));
    assert!(matches!(feed(&mut assembler, [begin(30), insert(LOG, "next"), commit(30)])[0].ddl_log, DdlLog::Row(..)));
}

#[test]
fn what_is_applied_before_it_is_judged_is_found_and_nothing_that_was_rolled_back() {
    let mut assembler = limited(1 << 20);
    assembler.started(true);
    assembler.track([TABLE]);
    let log = relation(LOG, "walcast", "ddl_log");
    let (state, void) = (insert(LOG, "state"), insert(LOG, "void"));
    feed(
        &mut assembler,
        block([(XID, log), (XID, state.clone()), (SUB, void), (XID, table()), (XID, insert(TABLE, "1"))]),
    );
    feed(&mut assembler, more([(SUB, insert(TABLE, "2")), (XID, truncate(&[TABLE])), (XID, insert(TABLE, "3"))]));
    feed(&mut assembler, [aborts(SUB)]);
    let mut transactions = feed(&mut assembler, [ends(20)]);
    let [transaction] = &mut transactions[..] else { panic!() };
    let DdlLog::Row(_, row) = &transaction.ddl_log else { panic!("no row") };
    assert_eq!(row, &state);
    assert_eq!(gathered(transaction), ["Text([49])", "T", "Text([51])"]);
    assert_eq!(contents(transaction), ["R ddl_log", "R t", "1", "3"]);
}

#[test]
fn a_table_described_outside_of_it_is_what_was_said_last() {
    let mut assembler = limited(1 << 20);
    assembler.track([TABLE]);
    let renamed = || relation(TABLE, "public", "renamed");
    // Described in it, then outside of it: the latter holds after it.
    feed(&mut assembler, block([(XID, table()), (XID, insert(TABLE, "1"))]));
    feed(&mut assembler, [begin(10), renamed(), commit(10)]);
    feed(&mut assembler, [ends(20)]);
    let name = |transactions: &[Transaction]| match &transactions[0].tracked.changes[..] {
        [TrackedChange::Row(relation, _)] => relation.name.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(name(&feed(&mut assembler, [begin(30), insert(TABLE, "1"), commit(30)])), "renamed");
    // The other way round.
    feed(&mut assembler, [begin(40), renamed(), commit(40)]);
    feed(&mut assembler, block([(XID, table()), (XID, insert(TABLE, "1"))]));
    feed(&mut assembler, [ends(50)]);
    assert_eq!(name(&feed(&mut assembler, [begin(60), insert(TABLE, "1"), commit(60)])), "t");
}

#[test]
fn a_row_too_large_to_be_read_is_told_at_the_commit_unless_it_was_rolled_back() {
    let mut assembler = limited(1 << 20);
    feed(&mut assembler, [start()]);
    assembler.unread_in_block(XID, Some(TABLE));
    assembler.unread_in_block(SUB, Some(OTHER));
    feed(&mut assembler, [stop(), aborts(SUB)]);
    assert_eq!(feed(&mut assembler, [ends(20)])[0].lost, [Some(TABLE)]);
}

#[test]
fn a_lost_connection_forgets_what_is_in_progress() {
    let mut assembler = limited(1 << 20);
    feed(&mut assembler, [start(), of(XID, insert(TABLE, "1"))]);
    assembler.reset();
    assert!(!assembler.is_open() && assembler.in_progress_bytes() == 0);
    feed(&mut assembler, block([(XID, table()), (XID, insert(TABLE, "1"))]));
    assert_eq!(contents(&mut feed(&mut assembler, [ends(20)])[0]), ["R t", "1"]);
}

#[test]
fn malformed_and_misplaced_frames_are_errors() {
    let push = |frames: &[Bytes]| {
        let mut assembler = limited(1 << 20);
        frames.iter().map(|frame| assembler.push(frame.clone(), |_| false, |_, _| true)).find_map(Result::err)
    };
    for frame in
        [&b"I\0\0"[..], b"I\0\0\0\x01\0\0", b"?\0\0\0\x01", b"R\0\0\0\x01\0", b"T\0\0\0\x01\0", b"B\0\0\0\x01", b""]
    {
        let error = push(&[start(), Bytes::from_static(frame)]);
        assert!(matches!(error, Some(Error::Decode(_))), "{frame:?}: {error:?}");
    }
    for frames in [[begin(1), start()], [begin(1), ends(20)]] {
        assert!(matches!(push(&frames), Some(Error::Nested)));
    }
    assert!(matches!(push(&[goes_on()]), Some(Error::UnknownInProgress(XID))), "its beginning is missing");
    assert!(matches!(push(&[start(), stop(), aborts(XID), goes_on()]), Some(Error::UnknownInProgress(XID))));
    assert!(push(&[aborts(XID)]).is_none(), "nothing is void");
    assert!(push(&[of(XID, insert(TABLE, "1"))]).is_some(), "outside of a block");
    assert!(matches!(push(&[stop()]), Some(Error::OutsideTransaction('E'))));
    assert!(matches!(push(&[start(), start()]), Some(Error::Decode(_))));
}

#[test]
fn there_is_a_limit_to_what_is_in_files() {
    let mut assembler = Assembler::new(
        Config { memory_bytes_max: 200, spill_bytes_max: 1000, ..Config::default() },
        SpillMetrics::default(),
    );
    feed(&mut assembler, [start()]);
    let row = || of(XID, insert(TABLE, "1"));
    let error = (0..1000).find_map(|_| assembler.push(row(), |_| false, |_, _| true).err()).unwrap();
    assert!(matches!(error, Error::TooLarge(1000)), "{error}");
}

#[test]
fn a_broadcast_that_may_have_been_rolled_back_is_not_believed() {
    let sent = || {
        let (prefix, content) = ("walcast.broadcast".to_owned(), Bytes::from_static(b"hello"));
        encode(&Message::Logical { transactional: true, lsn: 1, prefix, content })
    };
    // The message has the transaction's number, whatever it was emitted in.
    let mut assembler = limited(1 << 20);
    assembler.take_broadcasts(true);
    feed(&mut assembler, block([(XID, table()), (SUB, insert(TABLE, "1")), (XID, sent())]));
    feed(&mut assembler, [aborts(SUB)]);
    let error = assembler.push(ends(20), |_| false, |_, _| true).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Unclear(Lsn(28))), "{error}");
    assembler.reset();
    // What is rolled back before it does not have it.
    feed(&mut assembler, block([(XID, table()), (SUB, insert(TABLE, "1"))]));
    feed(&mut assembler, [aborts(SUB)]);
    feed(&mut assembler, more([(XID, sent())]));
    assert_eq!(contents(&mut feed(&mut assembler, [ends(20)])[0]), ["R t", "M hello"]);
    // It was read before.
    feed(&mut assembler, block([(XID, table()), (SUB, insert(TABLE, "1")), (XID, sent())]));
    feed(&mut assembler, [aborts(SUB)]);
    let mut transaction = assembler.push(ends(20), |_| true, |_, _| true).unwrap().unwrap();
    assert_eq!(contents(&mut transaction), ["R t"]);
}

#[test]
fn one_that_begins_again_has_nothing_of_what_came_before() {
    let mut assembler = limited(1 << 20);
    feed(&mut assembler, block([(XID, table()), (XID, insert(TABLE, "1"))]));
    feed(&mut assembler, block([(XID, table()), (XID, insert(TABLE, "2"))]));
    assert_eq!(contents(&mut feed(&mut assembler, [ends(20)])[0]), ["R t", "2"]);
    assert_eq!(assembler.in_progress_bytes(), 0);
}

/// Rows of a table that nobody follows, some megabytes of them, with one of [`TABLE`] behind them.
fn many(assembler: &mut Assembler) {
    let rows = (0..300).map(|_| (XID, insert(OTHER, &"x".repeat(10_000))));
    feed(assembler, block([(XID, table()), (XID, relation(OTHER, "public", "o"))].into_iter().chain(rows)));
    feed(assembler, more([(XID, insert(TABLE, "1"))]));
}

#[test]
fn what_nobody_wants_is_passed_over_in_pieces() {
    let mut assembler = limited(100_000);
    many(&mut assembler);
    let mut transaction = assembler.push(ends(20), |_| false, |relation, _| relation == TABLE).unwrap().unwrap();
    let mut later = 0;
    let found = loop {
        match transaction.step().unwrap() {
            Step::Message(Message::Insert { relation, .. }) => break relation,
            Step::Message(_) => {}
            Step::Later => later += 1,
            Step::End => panic!("it is there"),
        }
    };
    assert_eq!((found, later), (TABLE, 2));
}

#[test]
fn what_is_applied_first_is_looked_for_in_pieces_and_others_join_in_between() {
    let mut assembler = limited(100_000);
    assembler.track([TABLE]);
    many(&mut assembler);
    assert!(assembler.push(ends(20), |_| false, |relation, _| relation == TABLE).unwrap().is_none());
    let mut pieces = 0;
    let mut transaction = loop {
        assert!(assembler.is_gathering());
        assert_eq!((assembler.open_transaction(), assembler.next_sequence()), (Some((1, XID)), 2));
        match assembler.gather().unwrap() {
            Some(transaction) => break transaction,
            None => pieces += 1,
        }
    };
    assert!(!assembler.is_gathering() && !assembler.is_open());
    assert_eq!((pieces, gathered(&transaction)), (2, vec!["Text([49])".to_owned()]));
    assert_eq!(contents(&mut transaction), ["R t", "R o", "1"]);
}

#[test]
fn the_log_is_no_change_and_somebody_elses_log_is_one() {
    for (trusts_log, expected) in [(true, vec!["R ddl_log", "R t", "1"]), (false, vec!["R ddl_log", "x", "R t", "1"])] {
        let mut assembler = limited(1 << 20);
        assembler.started(trusts_log);
        let log = relation(LOG, "walcast", "ddl_log");
        feed(&mut assembler, block([(XID, log), (XID, insert(LOG, "x")), (XID, table()), (XID, insert(TABLE, "1"))]));
        let mut transactions = feed(&mut assembler, [ends(20)]);
        assert_eq!(matches!(transactions[0].ddl_log, DdlLog::Row(..)), trusts_log);
        assert_eq!(contents(&mut transactions[0]), expected);
    }
}

#[test]
fn what_is_in_files_is_counted_until_it_is_read_or_void() {
    let metrics = SpillMetrics::default();
    let mut assembler = Assembler::new(Config { memory_bytes_max: 1000, ..Config::default() }, metrics.clone());
    let rows = || block((0..100).map(|_| (XID, insert(TABLE, "1"))));
    feed(&mut assembler, rows());
    assert!(metrics.transactions.get() == 1 && metrics.bytes.get() > 1000);
    assert!(assembler.in_progress_bytes() > metrics.bytes.get() as u64, "what is in memory, too");
    feed(&mut assembler, [aborts(XID)]);
    assert_eq!((metrics.bytes.get(), assembler.in_progress_bytes()), (0, 0));
    feed(&mut assembler, rows());
    let mut transactions = feed(&mut assembler, [ends(20)]);
    assert!(metrics.bytes.get() > 1000, "it is read from there");
    assert_eq!(contents(&mut transactions[0]).len(), 100);
    drop(transactions);
    assert_eq!((metrics.transactions.get(), metrics.bytes.get()), (2, 0));
}

proptest! {
    /// However the rows fall into blocks, memory and file: those that were not rolled back come out, in order.
    #[test]
    fn the_rows_of_what_was_not_rolled_back_come_out_in_order(
        rows in proptest::collection::vec((0..4u32, 0..200usize, any::<bool>()), 0..60),
        aborted in proptest::collection::hash_set(1..4u32, 0..3),
        memory_bytes_max in 0..3000usize,
        is_tracked in any::<bool>(),
    ) {
        let mut assembler = limited(memory_bytes_max);
        if is_tracked {
            assembler.track([TABLE]);
        }
        feed(&mut assembler, block([(XID, table())]));
        let mut expected = vec!["R t".to_owned()];
        for (n, (sub, size, begins_block)) in rows.iter().enumerate() {
            let value = format!("{n}{}", "x".repeat(*size));
            if *begins_block {
                feed(&mut assembler, more([]));
            }
            feed(&mut assembler, more([(XID + sub, insert(TABLE, &value))]));
            if !aborted.contains(sub) {
                expected.push(value);
            }
        }
        feed(&mut assembler, aborted.iter().map(|sub| aborts(XID + sub)));
        prop_assert_eq!(contents(&mut feed(&mut assembler, [ends(20)])[0]), expected);
    }
}
