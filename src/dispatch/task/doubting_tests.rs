//! Tables that were altered while the relay was away: what of the stream cannot be read is told to whom it concerns.
//!
//! The column `note` of `open` was made anew, somewhere before 100: the stream begins before that, and may be of either.

use super::house::House;
use super::*;
use crate::catalog::Altered;
use crate::channels::subscribe::SubscriptionSink;
use crate::dispatch::sample::*;
use crate::resume::store::Restored;
use crate::resume::{self, Ask, Ledger, Link, ResumeMetrics, Since};
use crate::wal::budget::SlotPressure;
use crate::wal::{Origin, Stamp};

/// The earlier relay had handed over everything up to here.
const HANDED_OVER: Lsn = Lsn(30);

async fn restarted() -> House {
    let catalog = altered(OPEN, |open| open.columns[1].attnum = 3);
    let metrics = ResumeMetrics::default();
    let ledger = Arc::new(Ledger::new(metrics.clone()));
    let (_, felt) = watch::channel(SlotPressure::default());
    let restored = Restored { handed_over: HANDED_OVER, is_awaited: true, ..Restored::default() };
    let house = House::with(catalog, None, |dispatch| {
        dispatch.doubt(Altered::by_hand(OPEN, &[2, 3], Lsn(100)));
        dispatch.resume_with(resume::Config::default(), ledger, metrics, restored, felt);
    });
    house.reconnect_before(Lsn(90), None).await;
    house
}

fn stamp(position: Position) -> Stamp {
    Stamp { origin: Origin { system_identifier: "7".into(), timeline: 1 }, position }
}

/// A channel that has everything up to a transaction.
async fn come(house: &House, channel: u64, commit: u64, tables: &[&str]) -> Client {
    let client = Client::new(channel);
    let since = || Since::At(stamp(Position::end_of(Lsn(commit))));
    let ask = |binding| Ask { binding, key: None, since: since(), by_pong: false };
    let mut subscribe = client.subscribe(identity("member", "me"), tables, Some("[reply]"));
    subscribe.resume = Some(Arc::new(Link::new((1..=tables.len() as u32).map(ask).collect())));
    house.handle.subscribe(subscribe);
    house.settled().await;
    client
}

/// Whoever had to wait is looked at again.
async fn a_moment(house: &House) {
    tokio::time::advance(2 * RETRY).await;
    house.settled().await;
}

/// In the order in which they were received: rows by their ids, and what was said of resuming with its positions.
fn story(client: &mut Client) -> Vec<String> {
    let received = client.received();
    let between = |text: &str, begin: &str, end: char| {
        let (_, rest) = text.split_once(begin)?;
        rest.split(end).next().map(str::to_owned)
    };
    let frames = received.split("[null,null,").skip(1);
    let said = |frame: &str| {
        if frame.contains("\"postgres_changes\",{\"data\"") {
            return between(frame, "\"id\":", ',').map(|id| id.trim_end_matches('}').to_owned());
        }
        let state = between(frame, "\"state\":\"", '"')?;
        let lsn = |key: &str| between(frame, key, '"').unwrap().rsplit('/').next().unwrap().to_owned();
        Some(format!("{state} {} {}", lsn("\"from\":\""), lsn("\"position\":\"")))
    };
    frames.filter_map(said).collect()
}

#[tokio::test(start_paused = true)]
async fn a_gap_ends_where_the_last_change_was_left_out() {
    let house = restarted().await;
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    house.stream(transaction(40, &[(OPEN, "3")])).await;
    let mut client = come(&house, 1, 5, &["open"]).await;
    a_moment(&house).await;
    assert_eq!(story(&mut client), [""; 0], "there may be more of it");
    house.stream(transaction(60, &[(OPEN, "4")])).await;
    house.stream(transaction(120, &[(OPEN, "5")])).await;
    a_moment(&house).await;
    assert_eq!(story(&mut client), ["gap 5 3C", "5", "complete 3C 78"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_for_another_reason_is_told_apart() {
    let house = restarted().await;
    // From the year 2000.
    house.stream(transaction(10, &[(KEYLESS, "1")])).await;
    house.stream(transaction(40, &[(OPEN, "2")])).await;
    house.keepalive(Lsn(100)).await;
    let mut client = come(&house, 1, 5, &["open"]).await;
    let received = client.received();
    let place = |text: &str| received.find(text).unwrap_or_else(|| panic!("no {text}: {received}"));
    assert!(place("longer ago") < place("was altered meanwhile"), "{received}");
    let mut other = come(&house, 2, 5, &["secured"]).await;
    assert_eq!(story(&mut other), ["gap 5 A:0", "complete A:0 63"]);
}

#[tokio::test(start_paused = true)]
async fn whom_it_does_not_concern_is_told_of_no_gap() {
    let house = restarted().await;
    let mut other = come(&house, 1, 5, &["secured"]).await;
    let mut later = come(&house, 2, 60, &["open"]).await;
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    house.stream(transaction(60, &[(OPEN, "3")])).await;
    house.keepalive(Lsn(100)).await;
    a_moment(&house).await;
    assert_eq!(story(&mut other), ["complete 5 3C"]);
    assert_eq!(story(&mut later), ["complete 3C 63"], "it has that");
}

/// What the server had not written when the stream began is not waited for.
#[tokio::test(start_paused = true)]
async fn what_is_left_out_while_others_are_sent_what_they_missed_is_told_at_its_place() {
    let house = restarted().await;
    house.stream(transaction(92, &[(KEYLESS, "1")])).await;
    let mut client = come(&house, 1, 94, &["open"]).await;
    house.stream(transaction(96, &[(OPEN, "2")])).await;
    house.stream(transaction(120, &[(OPEN, "3")])).await;
    assert_eq!(story(&mut client), ["gap 5E 60", "complete 60 60", "3"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_live_is_told_that_it_is_not_shown() {
    let house = restarted().await;
    let mut client = Client::new(1);
    house.handle.subscribe(client.subscribe(identity("member", "me"), &["open"], Some("[reply]")));
    house.settled().await;
    house.stream(transaction(20, &[(OPEN, "1")])).await;
    assert!(!client.received().contains("was altered"), "it was handed over long ago");
    house.stream(transaction(40, &[(OPEN, "2")])).await;
    house.stream(transaction(50, &[(OPEN, "3")])).await;
    let received = client.received();
    assert_eq!(received.matches("public.open was altered while the relay was away").count(), 1, "{received}");
    house.stream(transaction(100, &[(OPEN, "4")])).await;
    assert_eq!(client.rows(), ["4"]);
}
