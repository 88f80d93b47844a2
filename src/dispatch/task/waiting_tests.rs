//! Replies of joins that wait until what their channels do not get is visible (see [`crate::dispatch::unseen`]).

use super::house::House;
use super::*;
use crate::catalog::watcher::ByHand;
use crate::channels::subscribe::SubscriptionSink;
use crate::dispatch::sample::*;
use crate::dispatch::unseen::WAIT_MAX;

/// A house in which transaction 10 has been read, and a client whose join waits for it.
async fn waiting() -> (House, ByHand, Client) {
    let (watcher, snapshots) = ByHand::new();
    let house = House::watched(catalog(), Some(watcher));
    house.stream(transaction(10, &[(OPEN, "1")])).await;
    let mut client = Client::new(1);
    house.ask_to_join(&client).await;
    assert_eq!(client.received(), "", "10 is not visible yet");
    (house, snapshots, client)
}

impl House {
    async fn ask_to_join(&self, client: &Client) {
        self.handle.subscribe(client.subscribe(identity("member", "me"), &["open"], Some("[reply]")));
        self.settled().await;
    }

    async fn leave(&self, client: &Client) {
        // As its session does it.
        client.outbox.end();
        self.handle.unsubscribe(client.channel);
        self.settled().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_waits_survives_a_refreshed_token() {
    let (house, mut snapshots, mut client) = waiting().await;
    house.handle.subscribe(client.subscribe(identity("member", "refreshed"), &["open"], None));
    house.settled().await;
    assert_eq!(client.received(), "", "the token changes nothing about what is visible");
    house.stream(transaction(20, &[(OPEN, "2")])).await;
    assert_eq!(client.received(), "", "events come behind the reply");
    snapshots.answer_snapshot("11:11:");
    house.settled().await;
    let received = client.received();
    assert!(received.starts_with("[reply]"), "{received}");
    assert_eq!(received.matches("Subscribed to PostgreSQL").count(), 1, "{received}");
    assert!(received.find("Subscribed").unwrap() < received.find("\"id\":2").unwrap(), "{received}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_waits_for_its_own_transactions_whoever_had_its_place_before() {
    let (house, mut snapshots, first) = waiting().await;
    house.leave(&first).await;
    // Another channel takes the place, and does not get 20 either.
    house.stream([begin(20), described(OPEN), insert(OPEN, "2")]).await;
    let mut second = Client::new(2);
    house.ask_to_join(&second).await;
    snapshots.answer_snapshot("20:21:20");
    house.settled().await;
    assert_eq!(second.received(), "", "10 is visible, 20 is not");
    tokio::time::advance(Duration::from_millis(1)).await;
    house.settled().await;
    snapshots.answer_snapshot("21:21:");
    house.settled().await;
    assert!(second.received().starts_with("[reply]"));
}

#[tokio::test(start_paused = true)]
async fn a_reply_waits_its_own_time_whoever_had_its_place_before() {
    let (house, _snapshots, first) = waiting().await;
    house.leave(&first).await;
    tokio::time::advance(WAIT_MAX / 2).await;
    let mut second = Client::new(2);
    house.ask_to_join(&second).await;
    tokio::time::advance(WAIT_MAX / 2).await;
    house.settled().await;
    assert_eq!(second.received(), "", "it is the first one's that is overdue");
    tokio::time::advance(WAIT_MAX / 2).await;
    house.settled().await;
    let received = second.received();
    assert!(received.starts_with("[reply]") && received.contains("read what you show once more"), "{received}");
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_was_left_while_its_reply_waited_gets_neither_reply_nor_events() {
    let (house, mut snapshots, mut client) = waiting().await;
    // Dispatch has not heard of the leave when the answer comes.
    client.outbox.end();
    house.stream(transaction(20, &[(OPEN, "2")])).await;
    snapshots.answer_snapshot("21:21:");
    house.settled().await;
    assert_eq!(client.received(), "");
    house.leave(&client).await;
    assert_eq!(client.received(), "");
}
