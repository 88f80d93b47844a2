//! Dispatch as a whole.

use std::time::Duration;

use super::house::House;
use super::*;
use crate::authz::{Asked, OracleError, Question, TopicAuthority, TopicError, TopicQuestion, TopicRight, Verdict};
use crate::catalog::{Messages, Role};
use crate::channels::subscribe::SubscriptionSink;
use crate::dispatch::sample::*;
use crate::wal::pgoutput::{self, Message};

async fn joined(catalog: Catalog, tables: &[&str]) -> (House, Client) {
    let (house, mut client) = (House::new(catalog), Client::new(1));
    house.join(&mut client, "member", tables).await;
    (house, client)
}

#[tokio::test(start_paused = true)]
async fn rows_arrive_in_order_and_the_commits_end_is_confirmed() {
    let (house, mut client) = joined(catalog(), &["open"]).await;
    house.stream(transaction(10, &[(OPEN, "1"), (OPEN, "2")])).await;
    house.stream(transaction(20, &[(OPEN, "3")])).await;
    assert_eq!(client.rows(), ["1", "2", "3"]);
    assert_eq!(house.progress.dispatched(), Lsn(21));
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_not_confirmed_before_its_rows_are_decided() {
    let (mut house, mut client) = joined(catalog(), &["secured"]).await;
    house.stream(transaction(10, &[(SECURED, "1")])).await;
    house.stream(transaction(20, &[(OPEN, "2")])).await;
    let keepalive = StreamFrame::KeepAlive { wal_end: Lsn(30) };
    house.frames.send(Batch::of(vec![keepalive.clone()])).await.unwrap();
    house.settled().await;
    assert_eq!((house.progress.dispatched(), client.rows().len()), (Lsn(0), 0));
    let question = house.question();
    house.answer(question, Verdict::Allowed).await;
    assert_eq!(client.rows(), ["1"]);
    assert_eq!(house.progress.dispatched(), Lsn(21), "what was outstanding at the keepalive is not in it");
    house.frames.send(Batch::of(vec![keepalive])).await.unwrap();
    house.settled().await;
    assert_eq!(house.progress.dispatched(), Lsn(30));
}

#[tokio::test(start_paused = true)]
async fn error_rows_take_their_turn() {
    let (mut house, mut client) = joined(catalog(), &["secured", "keyless"]).await;
    house.stream(transaction(10, &[(SECURED, "1"), (KEYLESS, "2"), (SECURED, "3")])).await;
    assert!(client.rows().is_empty(), "the first one waits");
    let question = house.question();
    house.answer(question, Verdict::Allowed).await;
    assert_eq!(client.rows(), ["1", "!", "3"]);
}

#[tokio::test(start_paused = true)]
async fn error_rows_reach_the_roles_that_they_are_for() {
    let (house, mut member) = joined(catalog(), &["open"]).await;
    let mut stranger = Client::new(2);
    house.join(&mut stranger, "stranger", &["open", "open"]).await;
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    assert_eq!((member.rows(), stranger.rows()), (vec!["1".to_owned()], vec!["!".to_owned()]));
}

/// Changes for the same channels are worked on together; what each gets, and its order, must not show it.
#[tokio::test(start_paused = true)]
async fn what_many_get_alike_comes_in_order_beside_what_they_do_not() {
    let (mut house, first) = joined(catalog(), &["open"]).await;
    let mut clients = vec![first];
    // Others alike; one that hears of another table too, one under two bindings, one that waits for a policy.
    for (channel, tables) in [(2, &["open"][..]), (3, &["open"]), (4, &["open", "keyless"]), (5, &["open", "open"])] {
        let mut client = Client::new(channel);
        house.join(&mut client, "member", tables).await;
        clients.push(client);
    }
    let mut waiting = Client::new(6);
    house.join(&mut waiting, "member", &["secured", "open"]).await;
    house.stream(transaction(10, &[(OPEN, "1"), (OPEN, "2"), (OPEN, "3")])).await;
    house.stream(transaction(20, &[(OPEN, "4"), (KEYLESS, "5"), (OPEN, "6")])).await;
    let rows: Vec<_> = clients.iter_mut().map(|client| client.rows().join(" ")).collect();
    assert_eq!(rows, ["1 2 3 4 6", "1 2 3 4 6", "1 2 3 4 6", "1 2 3 4 ! 6", "1 2 3 4 6"]);
    assert_eq!(waiting.rows(), ["1", "2", "3", "4", "6"]);
    house.stream(transaction(30, &[(SECURED, "7")])).await;
    house.stream(transaction(40, &[(OPEN, "8"), (OPEN, "9")])).await;
    assert!(waiting.rows().is_empty(), "what it is asked about comes first");
    let question = house.question();
    house.answer(question, Verdict::Allowed).await;
    assert_eq!(waiting.rows(), ["7", "8", "9"]);
    assert_eq!(clients[2].rows(), ["8", "9"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pushed_to_a_channel_that_was_left() {
    let (house, mut client) = joined(catalog(), &["open", "keyless"]).await;
    client.outbox.end();
    house.stream(transaction(10, &[(OPEN, "1"), (KEYLESS, "2")])).await;
    assert_eq!(client.received(), "");
}

#[tokio::test(start_paused = true)]
async fn a_slow_policy_holds_up_its_own_channels_only() {
    let (mut house, mut client) = joined(catalog(), &["secured", "open"]).await;
    let mut other = Client::new(2);
    house.join(&mut other, "member", &["open"]).await;
    house.stream(transaction(10, &[(SECURED, "1"), (OPEN, "2")])).await;
    assert_eq!((client.rows().len(), other.rows()), (0, vec!["2".to_owned()]));
    let (_, reply) = house.question();
    reply.send(Err(OracleError::Timeout(Duration::from_secs(5)))).unwrap();
    house.settled().await;
    let received = client.received();
    assert!(received.find("could not be evaluated").unwrap() < received.find("\"id\":2").unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_transaction_comes_again_after_a_reconnect_and_is_delivered_once() {
    let (mut house, mut client) = joined(catalog(), &["open", "secured"]).await;
    // One that was decided, one that is not, and half of a third.
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    house.stream(transaction(20, &[(SECURED, "2")])).await;
    house.stream(transaction(30, &[(OPEN, "3"), (OPEN, "4")]).into_iter().take(5)).await;
    house.reconnect().await;
    let mut again = transaction(10, &[(OPEN, "1")]);
    again.extend(transaction(20, &[(SECURED, "2")]));
    // A server describes a table once per connection: here in a transaction that is read past.
    again.extend([begin(30), insert(OPEN, "3"), insert(OPEN, "4"), commit(30)]);
    house.stream(again).await;
    let question = house.question();
    house.answer(question, Verdict::Allowed).await;
    assert_eq!(client.rows(), ["1", "2", "3", "4"]);
    assert_eq!(house.progress.dispatched(), Lsn(31));
    assert!(house.questions.try_recv().is_err(), "it was asked once");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_sees_the_transactions_that_begin_after_it_whole() {
    let (house, mut first) = joined(catalog(), &["open"]).await;
    house.stream([begin(10), described(OPEN), insert(OPEN, "1")]).await;
    let mut second = Client::new(2);
    house.join(&mut second, "member", &["open"]).await;
    house.stream([insert(OPEN, "2"), commit(10)]).await;
    house.stream(transaction(20, &[(OPEN, "3"), (OPEN, "4")])).await;
    assert_eq!(first.rows(), ["1", "2", "3", "4"]);
    assert_eq!(second.rows(), ["3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_was_tightened_before_a_commit_judges_it() {
    let (house, mut client) = joined(catalog(), &["open"]).await;
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    // Read while the stream was at 11; the next commit comes after it.
    house.poll(altered(OPEN, |relation| relation.row_security = true), 50).await;
    house.stream(transaction(60, &[(OPEN, "2")])).await;
    assert_eq!(client.rows(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_tightened_later_judges_what_comes_after_it() {
    let (house, mut client) = joined(catalog(), &["open"]).await;
    house.poll(altered(OPEN, |relation| relation.row_security = true), 50).await;
    house.stream(transaction(40, &[(OPEN, "1")])).await;
    house.stream(transaction(60, &[(OPEN, "2")])).await;
    assert_eq!(client.rows(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn roles_hold_at_once_and_are_not_brought_back_by_an_older_state() {
    let (house, mut client) = joined(catalog(), &["secured"]).await;
    let with_bypass = |bypass_rls: bool| {
        let mut catalog = catalog();
        let mut roles = (*catalog.roles).clone();
        let role = Role { bypass_rls, ..(**roles.get("member").unwrap()).clone() };
        roles.by_name.insert("member".into(), Arc::new(role));
        catalog.roles = Arc::new(roles);
        catalog
    };
    house.poll(with_bypass(true), 50).await;
    house.stream(transaction(10, &[(SECURED, "1")])).await;
    assert_eq!(client.rows(), ["1"]);
    house.poll(with_bypass(false), 100).await;
    // Now the first state is due, with the roles of its time.
    house.stream(transaction(60, &[(SECURED, "2")])).await;
    assert!(client.rows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_session_says_holds_from_its_place_until_the_catalog_changes() {
    let (house, _client) = joined(catalog(), &["open"]).await;
    let version = || house.in_force.borrow().version;
    let first = version();
    house.read(first, 50, "UTC").await;
    house.stream(transaction(40, &[(OPEN, "1")])).await;
    assert_eq!(house.session(), "", "the stream may yet tell of a change");
    house.stream(transaction(60, &[(OPEN, "2")])).await;
    assert_eq!(house.session(), "UTC");
    assert_eq!(version(), first, "nobody has to read it again");
    house.read(first, 55, "CET").await;
    assert_eq!(house.session(), "CET", "settings have changed");

    // A change takes them away, and readings that were made before it.
    house.poll(altered(OPEN, |relation| relation.row_security = true), 62).await;
    house.stream(transaction(70, &[(OPEN, "3")])).await;
    assert_eq!((house.session().as_str(), version() > first), ("", true));
    house.read(first, 65, "UTC").await;
    assert_eq!(house.session(), "");
    house.read(version(), 65, "UTC").await;
    assert_eq!(house.session(), "UTC");
    // Roles change what names mean, too.
    let mut other = Catalog::clone(&house.handle.catalog.load());
    other.roles = Arc::default();
    house.poll(other, 1000).await;
    assert_eq!(house.session(), "");
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_finds_what_the_session_has_read_takes_nothing_away() {
    let (house, _client) = joined(catalog(), &["open"]).await;
    let in_force = || Catalog::clone(&house.handle.catalog.load());
    let version = || house.in_force.borrow().version;
    let first = version();
    // The reading that is under way may have begun before.
    house.poll_with(in_force(), 0, "other").await;
    assert_eq!(version(), first);
    house.read(first, 0, "UTC").await;
    let second = version();
    assert_eq!((house.session().as_str(), second > first), ("", true), "it has");
    house.poll_with(in_force(), 0, "read").await;
    house.read(second, 0, "UTC").await;
    house.poll_with(in_force(), 0, "read").await;
    assert_eq!((house.session().as_str(), version()), ("UTC", second));
    // A reading that waits for the stream may go on waiting for it.
    house.read(second, 50, "CET").await;
    house.poll_with(in_force(), 40, "read").await;
    house.stream(transaction(60, &[(OPEN, "1")])).await;
    assert_eq!((house.session().as_str(), version()), ("CET", second));

    // What has changed since the session looked.
    house.poll_with(in_force(), 60, "other").await;
    assert_eq!(house.session(), "");
    house.read(version(), 60, "UTC").await;
    assert_eq!(house.session(), "UTC");
    // What has changed between the poll's look and its reading.
    house.poll_with(altered(OPEN, |relation| relation.row_security = true), 60, "read").await;
    assert_eq!(house.session(), "");
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_cannot_be_asked_is_told_once() {
    let without_text = altered(SECURED, |relation| relation.policies[0].using_text = None);
    let (house, mut client) = joined(without_text, &["secured"]).await;
    house.stream(transaction(10, &[(SECURED, "1"), (SECURED, "2")])).await;
    assert_eq!(client.received().matches("could not be evaluated").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_the_publication_leaves_out_is_not_shown() {
    let (house, mut client) = joined(altered(OPEN, |relation| relation.publish.delete = false), &["open"]).await;
    house.stream([begin(10), described(OPEN), insert(OPEN, "1"), delete(OPEN, "1"), commit(10)]).await;
    assert_eq!(client.rows(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_refreshed_token_that_overtakes_its_join_waits_for_the_reply() {
    let (mut house, mut client) = (House::new(catalog()), Client::new(1));
    let numbers = &house.handle;
    // The join waits for Postgres; the token does not.
    numbers.subscribe_as(client.subscribe(identity("member", "new"), &["secured"], None), 2);
    house.settled().await;
    assert_eq!(client.received(), "");
    house.handle.subscribe_as(client.subscribe(identity("member", "old"), &["secured"], Some("[reply]")), 1);
    house.settled().await;
    assert!(client.received().starts_with("[reply]"));
    house.stream(transaction(10, &[(SECURED, "1")])).await;
    let (Question { asked, .. }, _) = house.question();
    assert!(matches!(asked, Asked::Policy { identity, .. } if identity.claims.contains("new")));
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_stays_refused_is_told_once_and_works_when_it_can() {
    let mut without = catalog();
    without.relations.remove(&KEYLESS);
    let (house, mut client) = (House::new(without.clone()), Client::new(1));
    house.handle.subscribe(client.subscribe(identity("member", "me"), &["keyless"], Some("[reply]")));
    house.settled().await;
    assert!(client.received().contains("Unable to subscribe"));
    without.types.clear();
    house.poll(without, 0).await;
    assert_eq!(client.received(), "", "it knows");
    house.poll(catalog(), 0).await;
    assert!(client.received().contains("Subscribed to PostgreSQL"));
}

#[tokio::test(start_paused = true)]
async fn a_change_too_large_to_be_read_is_told_to_whom_it_may_concern() {
    let (house, mut client) = joined(catalog(), &["open"]).await;
    let mut other = Client::new(2);
    house.join(&mut other, "member", &["keyless"]).await;
    house.stream([begin(10), described(OPEN)]).await;
    let skipped = |tag, relation| StreamFrame::SkippedFrame {
        wal_start: Lsn(5),
        tag: Some(tag),
        relation,
        subxid: None,
        bytes: 9,
    };
    let frames = vec![skipped(b'M', None), skipped(b'I', Some(OPEN))];
    house.frames.send(Batch::of(frames)).await.unwrap();
    house.stream([commit(10)]).await;
    assert_eq!(client.received().matches("too large").count(), 1);
    assert_eq!(other.received(), "");
}

#[tokio::test(start_paused = true)]
async fn a_row_above_the_limit_is_cut_and_counted_once() {
    let mut metrics = Arc::default();
    let house = House::with(catalog(), None, |dispatch| {
        dispatch.config.limits.record_bytes_max = 1000;
        metrics = Arc::clone(&dispatch.metrics);
    });
    let mut clients = [Client::new(1), Client::new(2)];
    for client in &mut clients {
        house.join(client, "member", &["open"]).await;
    }
    house.stream(transaction(10, &[(OPEN, "1"), (OPEN, &"2".repeat(1000))])).await;
    for client in &mut clients {
        assert_eq!(client.received().matches("Error 413").count(), 1);
    }
    assert_eq!(metrics.changes_cut.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn commands_without_end_do_not_hold_up_the_stream() {
    let (house, mut client) = joined(catalog(), &["open"]).await;
    let flood = Client::new(2);
    let handle = house.handle.clone();
    for _ in 0..100_000 {
        handle.unsubscribe(flood.channel);
    }
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    assert_eq!(client.rows(), ["1"], "with most of them still to be taken");
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_stream_has_ended_and_all_is_decided() {
    let (mut house, mut client) = joined(catalog(), &["secured"]).await;
    house.stream(transaction(10, &[(SECURED, "1")])).await;
    let question = house.question();
    let (frames, _) = mpsc::channel(1);
    drop(std::mem::replace(&mut house.frames, frames));
    house.settled().await;
    assert!(!house.running.is_finished());
    house.answer(question, Verdict::Allowed).await;
    assert_eq!(client.rows(), ["1"]);
    assert!(house.running.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_malformed_row_ends_dispatch_and_is_not_confirmed() {
    let (house, _client) = joined(catalog(), &["open"]).await;
    let mut row = insert(OPEN, "1").to_vec();
    row.pop();
    house.stream([begin(10), described(OPEN), row.into(), commit(10)]).await;
    assert_eq!(house.progress.dispatched(), Lsn(0));
    let error = house.running.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Stream { position: Lsn(10), .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_is_in_progress_and_finds_no_room_is_asked_for_at_its_commit() {
    let limits = crate::change::assembler::Config { memory_bytes_max: 1000, spill_bytes_max: 0, ..Default::default() };
    let house =
        House::with(catalog(), None, |dispatch| dispatch.assembler = Assembler::new(limits, Default::default()));
    let mut client = Client::new(1);
    house.join(&mut client, "member", &["open"]).await;
    let of_block = |message: &Message| pgoutput::encode_in_block(7, message);
    let row = pgoutput::decode(insert(OPEN, "1")).unwrap();
    // The second time of a stream that had begun before the reader knew.
    for takes_whole in [false, true] {
        house.reconnect().await;
        house.stream([pgoutput::encode(&Message::StreamStart { xid: 7, is_first: true })]).await;
        assert_eq!(house.progress.takes_whole(), takes_whole);
        house.stream((0..100).map(|_| of_block(&row))).await;
        assert!(house.progress.takes_whole());
        house.stream([pgoutput::encode(&Message::StreamStop)]).await;
        house.stream(transaction(10, &[(OPEN, "1")])).await;
        assert!(client.rows().is_empty() && house.progress.dispatched() == Lsn(0), "all of it comes again");
    }
    house.reconnect().await;
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    house.stream(transaction(20, &[(OPEN, "2")])).await;
    assert_eq!(client.rows(), ["1", "2"]);
}

/// Everybody may read every topic.
fn with_open_topics() -> House {
    let mut catalog = catalog();
    let open = Arc::clone(catalog.relation(OPEN).unwrap());
    catalog.messages = Some(Messages { read: Arc::clone(&open), write: open });
    House::new(catalog)
}

async fn may_read(house: &House, topic: &str) -> Result<bool, TopicError> {
    let (identity, right) = (identity("member", "me"), TopicRight::Read);
    let question = TopicQuestion { identity, topic: topic.into(), headers: "{}".into(), right, presence: false };
    house.handle.ask(question).await.unwrap().map(|grant| grant.broadcast)
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_postgres_cannot_say_is_nobodys() {
    let house = with_open_topics();
    assert_eq!(may_read(&house, "a b").await, Ok(true));
    assert_eq!(may_read(&house, "a\0b").await, Ok(false));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_let_in_by_what_a_stream_said_that_is_long_gone() {
    let house = with_open_topics();
    let ask = async || may_read(&house, "t").await;
    house.reconnect().await;
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(ask().await, Ok(true));
    house.frames.send(Batch::of(vec![StreamFrame::Disconnected])).await.unwrap();
    house.settled().await;
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(ask().await, Ok(true), "a reconnect is no reason to refuse anybody");
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(ask().await, Err(TopicError::Unavailable));
    house.reconnect().await;
    assert_eq!(ask().await, Ok(true));
}
