//! The checker against diaries that are made up: it must find what is wrong with them, and nothing else.

use std::time::Duration;

use super::binding::Binding;
use super::checker::Checker;
use super::diary::{Diary, Got, Kind, Notice, Position, Reply, Stint};
use super::plan::Plan;
use super::report::{Report, Wrong};
use super::trouble::Log;
use super::truth::{Change, Transaction, Truth};
use super::world::{ChangeId, Operation, Person, Row, Table};

const READER: Person = Person(1);
const SECOND: i64 = 1_000_000;

/// Transaction `n` commits in second `n` and inserts post `n` of room 1, which the reader is a member of from 1 to 49.
fn truth() -> Truth {
    let mut truth = Truth::default();
    for n in 0..100 {
        truth.transactions.push(Transaction { lsn: lsn(n), at: n * SECOND });
        let row = Row { n, v: 0, lane: 0, owner: Person(0), room: 1, secret: false };
        let (table, operation, transaction) = (Table::Posts, Operation::Insert, n as u32);
        truth.changes.push(Change { id: id(n), table, operation, old: None, new: Some(row), transaction });
    }
    truth.timeline.member(1, READER, 1, true);
    truth.timeline.member(1, READER, 50, false);
    truth.finish();
    truth
}

fn lsn(n: i64) -> u64 {
    n as u64 + 1000
}

fn id(n: i64) -> ChangeId {
    ChangeId::new(Table::Posts, Operation::Insert, n, 0)
}

fn position(n: i64) -> Position {
    Position { lsn: lsn(n), index: 0 }
}

/// A stint that began in this second, with these posts, each half a second after its commit or after the one before.
fn stint(joined: i64, posts: impl IntoIterator<Item = i64>) -> Stint {
    let joined_at = joined * SECOND + SECOND / 4;
    let mut at = joined_at;
    let got = posts.into_iter().map(|n| {
        at = (at + 1).max(n * SECOND + SECOND / 2);
        Got { change: id(n), at, position: position(n), bindings: 1, shows_old: false }
    });
    let got: Vec<_> = got.collect();
    Stint { asked_at: joined_at - 10, joined_at: Some(joined_at), got, ended_at: at + 1, ..Stint::default() }
}

fn resumed(joined: i64, state: &str, from: i64, posts: impl IntoIterator<Item = i64>) -> Stint {
    let mut stint = stint(joined, posts);
    let replayed = stint.got.iter().take_while(|got| got.position.lsn <= lsn(joined)).count();
    let (from, to) = (Some(position(from)), Some(position(joined)));
    let (state, reason) = (state.to_owned(), String::from("retention"));
    let at = stint.asked_at + 20;
    stint.notices.push(Notice { at, got: replayed, state, from, position: to, reason });
    stint
}

fn since(n: i64, mut stint: Stint) -> Stint {
    stint.since = Some(position(n));
    stint
}

/// Replies to heartbeats after so many events.
fn beating(mut stint: Stint, replies: &[usize]) -> Stint {
    let at = |got: usize| got.checked_sub(1).map_or(stint.asked_at + 20, |last| stint.got[last].at) + 1;
    stint.replies = replies.iter().map(|got| Reply { at: at(*got), got: *got }).collect();
    stint
}

fn wrongs_with(kind: Kind, stints: Vec<Stint>, log: Log) -> Vec<Wrong> {
    wrongs_of(Binding::everything(), kind, stints, log)
}

fn wrongs_of(binding: Binding, kind: Kind, stints: Vec<Stint>, log: Log) -> Vec<Wrong> {
    let bindings = vec![binding];
    let diary = Diary { number: 0, person: READER, kind, bindings, stints, complaints: Vec::new() };
    let plan = Plan { retention: Duration::from_secs(30), ..Plan::short(1, 1) };
    let mut report = Report::default();
    Checker { truth: &truth(), plan: &plan, log: &log }.check(&diary, &mut report);
    report.violations.iter().map(|violation| violation.wrong).collect()
}

fn wrongs(kind: Kind, stints: Vec<Stint>) -> Vec<Wrong> {
    wrongs_with(kind, stints, Log::default())
}

#[test]
fn what_is_as_it_should_be_passes() {
    assert_eq!(wrongs(Kind::Plain, vec![stint(9, 10..20), stint(29, 30..40)]), []);
    let stints = || vec![resumed(9, "started", 9, 10..20), resumed(29, "complete", 19, 20..40)];
    assert_eq!(wrongs(Kind::Key, stints()), []);
    let mut stints = stints();
    stints[1].since = Some(position(19));
    assert_eq!(wrongs(Kind::Since, stints), []);
}

#[test]
fn what_was_passed_over_is_lost() {
    let without = |hole: i64| (10..20).filter(move |n| *n != hole);
    for kind in [Kind::Plain, Kind::Key, Kind::Since] {
        assert_eq!(wrongs(kind, vec![stint(9, without(15))]), [Wrong::Lost], "{kind:?}");
    }
    // Nobody can say that what follows the last one did not come.
    assert_eq!(wrongs(Kind::Plain, vec![stint(9, 10..12), stint(15, 16..20)]), []);
    let away = vec![resumed(9, "started", 9, 10..12), resumed(15, "complete", 11, 13..20)];
    assert_eq!(wrongs(Kind::Key, away), [Wrong::Lost]);
    // That it comes at last does not mend it: then it is out of order, or was.
    let late = vec![resumed(9, "started", 9, without(15)), resumed(29, "complete", 14, 15..40)];
    assert_eq!(wrongs(Kind::Key, late), [Wrong::Lost]);
}

#[test]
fn what_was_acknowledged_must_not_come_again() {
    let stints = |replies: &[usize], again: i64| {
        vec![beating(resumed(9, "started", 9, 10..20), replies), resumed(29, "complete", again - 1, again..40)]
    };
    // Two replies: what came well before the first of them is acknowledged.
    assert_eq!(wrongs(Kind::Key, stints(&[9, 10], 15)), []);
    assert_eq!(wrongs(Kind::Key, stints(&[9, 10], 14)), [Wrong::Repeated]);
    assert_eq!(wrongs(Kind::Key, stints(&[9], 10)), []);
    // A killed relay may have forgotten what it had not yet written down, and no more.
    let killed = |at| Log { kills: vec![at], ..Log::default() };
    assert_eq!(wrongs_with(Kind::Key, stints(&[9, 10], 10), killed(20 * SECOND)), []);
    assert_eq!(wrongs_with(Kind::Key, stints(&[9, 10], 14), killed(29 * SECOND)), [Wrong::Repeated]);
    let dark = Log { dark: vec![(18 * SECOND, 29 * SECOND)], ..killed(29 * SECOND) };
    assert_eq!(wrongs_with(Kind::Key, stints(&[9, 10], 14), dark), []);
}

#[test]
fn to_those_who_pass_their_position_nothing_comes_again() {
    let stints = vec![resumed(9, "started", 9, 10..20), since(19, resumed(29, "complete", 19, 19..40))];
    assert_eq!(wrongs(Kind::Since, stints), [Wrong::Repeated]);
}

#[test]
fn what_is_out_of_order_is_found() {
    assert_eq!(wrongs(Kind::Plain, vec![stint(9, [10, 12, 11, 13])]), [Wrong::Lost, Wrong::Disorder]);
    assert_eq!(wrongs(Kind::Plain, vec![stint(9, [10, 11, 11, 12])]), [Wrong::Disorder]);
}

#[test]
fn what_one_may_not_see_is_a_leak() {
    assert_eq!(wrongs(Kind::Plain, vec![stint(51, [60])]), [Wrong::Leaked]);
    assert_eq!(wrongs(Kind::Plain, vec![stint(51, [1234])]), [Wrong::Leaked]);
    // Of the time before the membership ended, which nobody must get after it.
    let stints = |posts| vec![resumed(39, "started", 39, 40..45), resumed(59, "complete", 44, posts)];
    assert_eq!(wrongs(Kind::Key, stints(vec![45, 47])), []);
    assert_eq!(wrongs(Kind::Key, stints(vec![])), []);
    assert_eq!(wrongs(Kind::Key, stints(vec![45, 52])), [Wrong::Leaked]);
}

#[test]
fn a_gap_must_be_real_and_what_was_kept_must_come() {
    let stints = |away: i64, from: i64| vec![resumed(2, "started", 2, 3..5), resumed(away, "gap", 4, from..49)];
    assert_eq!(wrongs(Kind::Key, stints(45, 17)), []);
    assert_eq!(wrongs(Kind::Key, stints(30, 5)), [Wrong::FalseGap]);
    // It is told first, and the rest is complete from where it ends.
    let told_both = |end: i64| {
        let mut stints = stints(45, 17);
        let complete = resumed(45, "complete", end, 17..49).notices.remove(0);
        stints[1].notices[0] = Notice { got: 0, position: Some(position(16)), ..stints[1].notices[0].clone() };
        stints[1].notices.push(complete);
        stints[1].since = Some(position(4));
        stints
    };
    assert_eq!(wrongs(Kind::Since, told_both(16)), []);
    assert_eq!(wrongs(Kind::Since, told_both(18)), [Wrong::Position]);
    let found = wrongs(Kind::Key, stints(45, 20));
    assert!(!found.is_empty() && found.iter().all(|wrong| *wrong == Wrong::Lost), "{found:?}");
}

#[test]
fn a_gap_because_a_table_was_altered_covers_what_it_names() {
    // From behind 4 to 20 nothing is shown.
    let told = |until: i64, posts: std::ops::Range<i64>| {
        let mut back = resumed(30, "complete", until, posts);
        let gap = Notice {
            state: "gap".into(),
            got: 0,
            from: Some(position(4)),
            position: Some(position(until)),
            reason: "a table was altered meanwhile, or left the publication".into(),
            ..back.notices[0].clone()
        };
        back.notices.insert(0, gap);
        vec![resumed(2, "started", 2, 3..5), back]
    };
    let log = |altered: &[i64], started: i64, table| Log {
        altered: altered.iter().map(|at| (at * SECOND, table)).collect(),
        starts: vec![started * SECOND],
        ..Log::default()
    };
    let wrongs = |stints, log| {
        let mut wrongs = wrongs_with(Kind::Key, stints, log);
        wrongs.dedup();
        wrongs
    };
    assert_eq!(wrongs(told(20, 21..49), log(&[10], 25, Table::Posts)), []);
    assert_eq!(wrongs(told(20, 22..49), log(&[10], 25, Table::Posts)), [Wrong::Lost], "behind it");
    assert_eq!(wrongs(told(20, 21..49), log(&[], 25, Table::Posts)), [Wrong::FalseGap], "no table was");
    assert_eq!(wrongs(told(20, 21..49), log(&[26], 25, Table::Posts)), [Wrong::FalseGap], "the relay was there");
    assert_eq!(
        wrongs(told(20, 21..49), log(&[10], 15, Table::Posts)),
        [Wrong::FalseGap],
        "it was there before the end"
    );
    assert_eq!(wrongs(told(4, 5..49), log(&[10], 25, Table::Posts)), [Wrong::FalseGap], "nothing is named");
    let mut of_ticks = told(20, 49..49);
    of_ticks[0].got.clear();
    let found = wrongs_of(Binding::ticks(true), Kind::Key, of_ticks, log(&[10], 25, Table::Posts));
    assert_eq!(found, [Wrong::FalseGap], "posts are none of its business");
}

#[test]
fn a_key_must_not_be_forgotten() {
    let stints = || vec![resumed(9, "started", 9, 10..20), resumed(29, "started", 29, 30..40)];
    let found = wrongs(Kind::Key, stints());
    assert_eq!(found.iter().filter(|wrong| **wrong == Wrong::Lost).count(), 10);
    assert_eq!(found.iter().filter(|wrong| **wrong == Wrong::Forgotten).count(), 1);
    // Made in the moment before the kill.
    let killed = Log { kills: vec![10 * SECOND], ..Log::default() };
    assert_eq!(wrongs_with(Kind::Key, stints(), killed), []);
}

#[test]
fn positions_must_be_those_of_the_changes() {
    let mut wrong = stint(9, 10..20);
    wrong.got[3].position = Position { lsn: lsn(13), index: 7 };
    wrong.got[4].position = Position { lsn: lsn(15), index: 0 };
    assert_eq!(wrongs(Kind::Plain, vec![wrong]), [Wrong::Position, Wrong::Disorder]);
    let mut early = resumed(29, "complete", 19, 20..40);
    early.notices[0].got = 3;
    assert_eq!(wrongs(Kind::Key, vec![resumed(9, "started", 9, 10..20), early]), [Wrong::Position]);
}
