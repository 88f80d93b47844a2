//! Clients that come back, with a stream and an oracle made by hand.

use super::house::House;
use super::*;
use crate::authz::{Identity, OracleError, Verdict};
use crate::catalog::Relation;
use crate::catalog::watcher::ByHand;
use crate::channels::subscribe::SubscriptionSink;
use crate::dispatch::sample::*;
use crate::resume::store::Restored;
use crate::resume::{self, Ask, Holder, Ledger, Link, ResumeKey, ResumeMetrics, Since};
use crate::wal::budget::{Rung, SlotPressure};
use crate::wal::{Origin, Stamp};

fn person(sub: &str) -> Arc<Identity> {
    identity("member", sub)
}

async fn resuming(
    catalog: Catalog,
    watcher: Option<WatcherHandle>,
) -> (House, Arc<Ledger>, watch::Sender<SlotPressure>) {
    let (house, ledger, pressure) = without_stream(catalog, watcher);
    house.reconnect_after(None).await;
    (house, ledger, pressure)
}

fn without_stream(
    catalog: Catalog,
    watcher: Option<WatcherHandle>,
) -> (House, Arc<Ledger>, watch::Sender<SlotPressure>) {
    let metrics = ResumeMetrics::default();
    let ledger = Arc::new(Ledger::new(metrics.clone()));
    let (pressure, felt) = watch::channel(SlotPressure::default());
    let known = Arc::clone(&ledger);
    let house = House::with(catalog, watcher, |dispatch| {
        dispatch.resume_with(resume::Config::default(), known, metrics, Restored::default(), felt);
    });
    (house, ledger, pressure)
}

/// A channel that asks to be resumed, by a key of that person's.
async fn come(house: &House, channel: u64, who: &Arc<Identity>, table: &str) -> (Client, Arc<Link>) {
    let client = Client::new(channel);
    let key = ResumeKey::new("k", &Holder::of(who), table);
    let link = Arc::new(Link::new(vec![Ask { binding: 1, key: Some(key), since: Since::Absent, by_pong: false }]));
    let mut subscribe = client.subscribe(Arc::clone(who), &[table], Some("[reply]"));
    subscribe.resume = Some(Arc::clone(&link));
    house.handle.subscribe(subscribe);
    house.settled().await;
    (client, link)
}

async fn go(house: &House, client: &Client) {
    client.outbox.end();
    house.handle.unsubscribe(client.channel);
    house.settled().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_for_one_person_is_not_sent_to_another() {
    let (mut house, ..) = resuming(catalog(), None).await;
    let (mut client, link) = come(&house, 1, &person("alice"), "secured").await;
    assert!(client.received().contains("\"started\""));
    // Somebody else signs in on the same channel.
    link.revoke();
    house.handle.subscribe(client.subscribe(person("bob"), &["secured"], None));
    house.settled().await;
    house.stream(transaction(10, &[(SECURED, "1")])).await;
    let question = house.question();
    house.answer(question, Verdict::Allowed).await;
    assert_eq!(client.rows(), ["1"]);
    go(&house, &client).await;
    let (mut client, _) = come(&house, 2, &person("alice"), "secured").await;
    assert_eq!(client.rows(), [""; 0], "it was for bob");
    let question = house.question();
    house.answer(question, Verdict::Denied).await;
    let received = client.received();
    assert!(received.contains("\"complete\"") && !received.contains("\"id\":1"), "{received}");
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_under_other_claims_is_decided_again() {
    let (mut house, ..) = resuming(catalog(), None).await;
    let with = |claims: &str| {
        Arc::new(Identity { role: "member".into(), claims: format!("{{\"sub\":\"me\",{claims}}}").into() })
    };
    let (client, _) = come(&house, 1, &with("\"exp\":1,\"aal\":\"aal2\""), "secured").await;
    house.stream(transaction(10, &[(SECURED, "1")])).await;
    let question = house.question();
    house.answer(question, Verdict::Allowed).await;
    go(&house, &client).await;
    let (mut client, _) = come(&house, 2, &with("\"aal\":\"aal2\",\"exp\":2"), "secured").await;
    assert_eq!(client.rows(), ["1"], "only the time is another");
    go(&house, &client).await;
    let (mut client, _) = come(&house, 3, &with("\"aal\":\"aal1\",\"exp\":2"), "secured").await;
    assert_eq!(client.rows(), [""; 0]);
    let question = house.question();
    house.answer(question, Verdict::Denied).await;
    assert!(client.received().contains("\"complete\""));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_decided_is_told_again_until_it_is_acknowledged() {
    let (mut house, ..) = resuming(catalog(), None).await;
    let (mut client, _) = come(&house, 1, &person("alice"), "secured").await;
    house.stream(transaction(10, &[(SECURED, "1")])).await;
    let (_, reply) = house.question();
    reply.send(Err(OracleError::Timeout(Duration::from_secs(5)))).unwrap();
    house.settled().await;
    assert!(client.received().contains("could not be evaluated"));
    // Its network was gone by then, which nobody knew.
    go(&house, &client).await;
    let (mut client, link) = come(&house, 2, &person("alice"), "secured").await;
    assert!(client.received().contains("\"gap\""));
    // And again, before its end is known.
    let (mut third, _) = come(&house, 3, &person("alice"), "secured").await;
    assert!(third.received().contains("\"gap\""));
    drop(link);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_before_the_stream_waits_for_it() {
    let (house, ledger, _) = without_stream(catalog(), None);
    let key = ResumeKey::new("k", &Holder::of(&person("alice")), "open");
    ledger.restore(key.unwrap(), Position::through(Lsn(1)));
    let (mut client, _) = come(&house, 1, &person("alice"), "open").await;
    let (mut gone, _) = come(&house, 2, &person("bob"), "open").await;
    house.handle.unsubscribe(gone.channel);
    assert_eq!(client.received(), "", "nobody knows of which history its position is");
    house.reconnect_after(None).await;
    let received = client.received();
    assert!(received.starts_with("[reply]") && received.contains("\"complete\""), "{received}");
    assert!(received.contains("\"7:1:"), "{received}");
    assert_eq!(gone.received(), "");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_answer_holds_back_its_own_channel_alone() {
    let (mut house, ledger, _) = resuming(catalog(), None).await;
    let (mut alice, hers) = come(&house, 1, &person("alice"), "secured").await;
    let (mut bob, his) = come(&house, 2, &person("bob"), "open").await;
    let beat = |link: &Link| {
        link.heartbeat(ledger.routed());
        link.acknowledged().lsn
    };
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    house.stream(transaction(20, &[(SECURED, "2"), (OPEN, "2")])).await;
    house.stream(transaction(30, &[(SECURED, "3"), (OPEN, "3")])).await;
    let first = house.question();
    assert!(beat(&hers) < Lsn(20) && beat(&his) < Lsn(20), "no heartbeat before this one");
    assert_eq!(bob.rows(), ["1", "2", "3"]);
    assert!(beat(&his) >= Lsn(30), "another's question is nothing to him");
    assert_eq!(beat(&hers), Lsn(19), "up to the first that waits");
    house.answer(first, Verdict::Allowed).await;
    assert_eq!(alice.rows(), ["2"]);
    assert_eq!(beat(&hers), Lsn(19), "as of the reply before");
    assert_eq!(beat(&hers), Lsn(29));
    let second = house.question();
    house.answer(second, Verdict::Denied).await;
    beat(&hers);
    assert!(beat(&hers) >= Lsn(30), "nothing waits any more");
}

/// Of what it adopted the first is decided, and all at once it is live, with the others before it.
#[tokio::test(start_paused = true)]
async fn what_is_adopted_undecided_is_not_acknowledged() {
    let (mut house, ledger, _) = resuming(catalog(), None).await;
    let (client, _) = come(&house, 1, &person("alice"), "secured").await;
    house.stream(transaction(10, &[(SECURED, "1")])).await;
    house.stream(transaction(20, &[(SECURED, "2")])).await;
    go(&house, &client).await;
    let (_client, link) = come(&house, 2, &person("alice"), "secured").await;
    link.go_live();
    let beat = || {
        link.heartbeat(ledger.routed());
        link.acknowledged().lsn
    };
    beat();
    assert_eq!(beat(), Lsn(9));
    let first = house.question();
    house.answer(first, Verdict::Allowed).await;
    beat();
    assert_eq!(beat(), Lsn(19));
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_was_told_in_vain_is_told_again() {
    let (house, ..) = resuming(catalog(), None).await;
    let (mut client, _) = come(&house, 1, &person("alice"), "open").await;
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    house.reconnect_after(Some((Lsn(11), Lsn(20)))).await;
    assert!(client.received().contains("Changes were lost"));
    house.stream(transaction(30, &[(OPEN, "2")])).await;
    go(&house, &client).await;
    let (mut client, link) = come(&house, 2, &person("alice"), "open").await;
    let received = client.received();
    assert!(received.contains("\"gap\"") && received.contains("\"id\":2"), "{received}");
    // Whoever has acknowledged it knows.
    link.heartbeat(Position::through(Lsn(31)));
    link.heartbeat(Position::through(Lsn(31)));
    go(&house, &client).await;
    let (mut client, _) = come(&house, 3, &person("alice"), "open").await;
    assert!(client.received().contains("\"complete\""));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_cannot_be_asked_while_nobody_is_there_is_told_later() {
    let deny = |relation: &mut Relation| relation.policies[0].using_text = None;
    let (house, ..) = resuming(altered(SECURED, deny), None).await;
    let (client, _) = come(&house, 1, &person("alice"), "secured").await;
    go(&house, &client).await;
    house.stream(transaction(10, &[(SECURED, "1")])).await;
    let (mut client, _) = come(&house, 2, &person("alice"), "secured").await;
    let received = client.received();
    assert!(received.contains("\"gap\""), "{received}");
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_be_bound_is_told_once_and_after_the_reply() {
    let mut without = catalog();
    let (house, ..) = resuming(without.clone(), None).await;
    let (client, _) = come(&house, 1, &person("alice"), "open").await;
    go(&house, &client).await;
    without.relations.remove(&OPEN);
    house.poll(without, 0).await;
    let (mut client, _) = come(&house, 2, &person("alice"), "open").await;
    let received = client.received();
    assert!(received.starts_with("[reply]"), "{received}");
    assert_eq!(received.matches("\"state\"").count(), 1, "{received}");
}

/// DDL in the stretch that was lost is in no stream.
#[tokio::test(start_paused = true)]
async fn nothing_is_judged_by_a_catalog_from_before_what_was_lost() {
    let (watcher, mut requests) = ByHand::new();
    let (house, ..) = resuming(catalog(), Some(watcher)).await;
    let mut client = Client::new(1);
    house.handle.subscribe(client.subscribe(person("alice"), &["open"], Some("[reply]")));
    house.settled().await;
    house.reconnect_after(Some((Lsn(11), Lsn(20)))).await;
    house.stream(transaction(30, &[(OPEN, "1")])).await;
    assert!(client.rows().is_empty(), "the catalog may be another");
    requests.answer_load(altered(OPEN, |relation| relation.row_security = true), Lsn(25));
    house.settled().await;
    house.stream(transaction(40, &[(KEYLESS, "2")])).await;
    assert!(client.rows().is_empty(), "and it is");
}

/// The slot is not kept from what it may cost by positions that cannot be written down.
#[tokio::test(start_paused = true)]
async fn a_slot_over_its_budget_waits_for_nothing() {
    let (house, ledger, pressure) = resuming(catalog(), None).await;
    let (_client, _) = come(&house, 1, &person("alice"), "open").await;
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    assert_eq!((ledger.written(), house.progress.confirmable()), (Some(Lsn::ZERO), Lsn::ZERO));
    pressure.send_modify(|pressure| pressure.rung = Rung::Exceeded);
    house.stream(transaction(20, &[(OPEN, "2")])).await;
    assert_eq!(house.progress.confirmable(), Lsn(21));
}

/// It is kept by nobody, so whoever was not there has to be told.
#[tokio::test(start_paused = true)]
async fn a_change_that_was_too_large_is_a_gap_for_those_who_were_away() {
    let (house, ..) = resuming(catalog(), None).await;
    let (client, _) = come(&house, 1, &person("alice"), "open").await;
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    let since =
        Stamp { origin: Origin { system_identifier: "7".into(), timeline: 1 }, position: Position::end_of(Lsn(10)) };
    go(&house, &client).await;
    house.stream([begin(20), described(OPEN)]).await;
    house.skip(OPEN).await;
    house.stream([insert(OPEN, "3"), commit(20)]).await;
    let mut client = Client::new(2);
    let link = Arc::new(Link::new(vec![Ask { binding: 1, key: None, since: Since::At(since), by_pong: false }]));
    let mut subscribe = client.subscribe(person("alice"), &["open"], Some("[reply]"));
    subscribe.resume = Some(link);
    house.handle.subscribe(subscribe);
    house.settled().await;
    let received = client.received();
    assert!(received.contains("\"gap\"") && received.contains("too large"), "{received}");
    assert!(received.contains("\"id\":3"), "what was kept comes all the same");
}
