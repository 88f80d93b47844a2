//! Topics, members and what reaches them, without sessions.

use std::io::IoSlice;
use std::task::{Context, Waker};
use std::time::Duration;

use super::*;
use crate::channels::opening::Opening;
use crate::channels::outbox::{self, Outbox, OutboxReader};
use crate::channels::phoenix::Address;
use crate::channels::{EventPayload, Limits};

const TOPIC: TopicKey<'_> = TopicKey { private: false, subtopic: "room" };
const SOMEBODY: Subject = Subject(7);

/// A member with a socket of its own.
pub struct Client {
    pub membership: Membership,
    pub outbox: ChannelOutbox,
    reader: OutboxReader,
}

impl Client {
    pub fn enter(hub: &Arc<Hub>, channel: u64, serializer: Serializer) -> Client {
        Client::enter_on(hub, "realtime:room", channel, serializer).unwrap()
    }

    pub fn enter_on(hub: &Arc<Hub>, topic: &str, channel: u64, serializer: Serializer) -> Result<Client, Full> {
        let config = outbox::Config { bytes_max: 64 << 20, spill_bytes_max: 64 << 20, ..outbox::Config::default() };
        let (outbox, reader) = Outbox::new(Arc::new(config), Arc::default());
        let outbox = ChannelOutbox::new(&outbox);
        let channel = ChannelId(channel);
        let entrant = Entrant { channel, outbox: outbox.clone(), serializer, hears: true, watches: true };
        Ok(Client { membership: hub.enter(false, &topic.into(), entrant)?, outbox, reader })
    }

    fn opened(hub: &Arc<Hub>, channel: u64, serializer: Serializer) -> Client {
        let client = Client::enter(hub, channel, serializer);
        Opening::of(&client.membership, Vec::new()).open();
        client
    }

    pub fn track(&mut self, key: &str, payload: &str) {
        self.membership.track(&key.into(), SOMEBODY, payload, Instant::now(), &mut Burst::default());
    }

    /// The payloads of all frames that came, refs of presence left out.
    pub fn received(&mut self) -> Vec<String> {
        let mut frames = Vec::new();
        while self.reader.poll_take(&mut Context::from_waker(Waker::noop())).is_ready() || !self.reader.is_empty() {
            let mut slices = [IoSlice::new(&[]); 1];
            self.reader.slices(&mut slices);
            let frame = slices[0].to_vec();
            self.reader.advance(frame.len());
            let header = match frame[1] {
                126 => 4,
                127 => 10,
                _ => 2,
            };
            frames.push(String::from_utf8_lossy(&frame[header..]).into_owned());
        }
        frames
    }
}

fn broadcast(hub: &Hub, text: &str) -> Broadcasted {
    hub.broadcast(TOPIC, &Content::Object(text), None, &mut Burst::default())
}

fn hub(limits: Limits) -> Arc<Hub> {
    Arc::new(Hub::new(limits, Arc::default()))
}

#[test]
fn members_of_one_serializer_share_one_frame() {
    let hub = hub(Limits::default());
    let mut clients = [1, 2, 3]
        .map(|channel| Client::opened(&hub, channel, if channel == 3 { Serializer::V1 } else { Serializer::V2 }));
    assert_eq!(broadcast(&hub, r#"{"a":1}"#), Broadcasted::To(3));
    let frames = clients.each_mut().map(|client| {
        assert!(client.reader.poll_take(&mut Context::from_waker(Waker::noop())).is_ready());
        let frame = client.reader.single().unwrap();
        (frame.as_ptr(), frame.len())
    });
    assert_eq!(frames[0], frames[1]);
    assert_ne!(frames[0].0, frames[2].0);
    assert_eq!(
        clients[2].received(),
        [r#"{"ref":null,"event":"broadcast","payload":{"a":1},"topic":"realtime:room"}"#]
    );
}

#[test]
fn public_and_private_topics_of_one_name_are_two() {
    let hub = hub(Limits::default());
    let mut client = Client::opened(&hub, 1, Serializer::V2);
    let private = TopicKey { private: true, subtopic: "room" };
    assert_eq!(hub.broadcast(private, &Content::Object("{}"), None, &mut Burst::default()), Broadcasted::To(0));
    assert_eq!(client.received(), Vec::<String>::new());
}

#[test]
fn a_topic_goes_with_its_last_member() {
    let hub = hub(Limits::default());
    let clients: Vec<Client> = (0..100).map(|channel| Client::opened(&hub, channel, Serializer::V2)).collect();
    let other = Client::enter_on(&hub, "realtime:other", 1000, Serializer::V2);
    assert_eq!((hub.topics(), broadcast(&hub, "{}")), (2, Broadcasted::To(100)));
    drop(clients);
    assert_eq!((hub.topics(), broadcast(&hub, "{}")), (1, Broadcasted::To(0)));
    drop(other);
    assert_eq!(hub.topics(), 0);
    assert_eq!(hub.metrics.topics.get(), 0);
}

#[test]
fn members_are_found_whatever_the_order_in_which_they_leave() {
    let hub = hub(Limits::default());
    let mut clients: Vec<Client> = (0..200).map(|channel| Client::opened(&hub, channel, Serializer::V2)).collect();
    let mut next = 7;
    while clients.len() > 1 {
        next = next * 31 % clients.len();
        drop(clients.swap_remove(next));
        next += 5;
        assert_eq!(broadcast(&hub, "{}"), Broadcasted::To(clients.len()));
    }
}

#[test]
fn what_comes_before_the_reply_follows_it() {
    let hub = hub(Limits::default());
    let mut joining = Client::enter(&hub, 1, Serializer::V2);
    broadcast(&hub, r#"{"n":1}"#);
    assert_eq!(joining.received(), Vec::<String>::new());
    let frame = |text: &str| crate::channels::frame::text(text.as_bytes());
    let mut opening = Opening::of(&joining.membership, vec![frame("reply"), frame("replayed")]);
    opening.ready = Some(frame("ready"));
    opening.state_for =
        Some(Address { topic: "realtime:room".into(), join_ref: Some("\"1\"".into()), serializer: Serializer::V2 });
    opening.clone().open_with(&joining.outbox, frame("system"));
    assert_eq!(
        joining.received(),
        [
            "reply",
            "replayed",
            "system",
            "ready",
            r#"["1",null,"realtime:room","presence_state",{}]"#,
            r#"[null,null,"realtime:room","broadcast",{"n":1}]"#
        ]
    );
    // Once is enough, and nothing is held any more.
    opening.open();
    broadcast(&hub, r#"{"n":2}"#);
    assert_eq!(joining.received(), [r#"[null,null,"realtime:room","broadcast",{"n":2}]"#]);
}

#[test]
fn a_live_copy_of_what_was_replayed_is_not_delivered() {
    let hub = hub(Limits::default());
    let mut client = Client::enter(&hub, 1, Serializer::V1);
    let row = |id: &str| {
        let payload = EventPayload::Json(b"{}");
        let content = Content::Event { event: "e", payload, id: Some(id) };
        hub.broadcast(TOPIC, &content, None, &mut Burst::default())
    };
    row("in both, before");
    row("live, before");
    let mut opening = Opening::of(&client.membership, Vec::new());
    opening.replayed = Some(vec!["in both, before".into(), "in both, after".into()]);
    opening.open();
    assert_eq!(row("in both, after"), Broadcasted::To(0));
    row("live, after");
    let received = client.received();
    assert_eq!(received.len(), 2);
    assert!(received[0].contains("live, before") && received[1].contains("live, after"));
}

#[test]
fn more_than_is_held_closes_who_asked_for_a_replay_and_nobody_else() {
    let hub = hub(Limits::default());
    let mut clients = [1, 2].map(|channel| Client::enter(&hub, channel, Serializer::V2));
    let big = format!("{{\"d\":\"{}\"}}", "x".repeat(700_000));
    broadcast(&hub, &big);
    broadcast(&hub, &big);
    for (client, replayed) in clients.iter().zip([Some(Vec::new()), None]) {
        let mut opening = Opening::of(&client.membership, Vec::new());
        opening.replayed = replayed;
        opening.open();
    }
    assert_eq!(clients[0].outbox.expulsion(), Some(outbox::Expulsion::ReplayOverrun));
    assert_eq!(clients[1].outbox.expulsion(), None);
    broadcast(&hub, "{}");
    assert_eq!(clients[1].received().len(), 1);
}

#[test]
fn a_full_topic_takes_nobody_until_somebody_leaves() {
    let hub = hub(Limits { members_per_channel_max: Some(1), ..Limits::default() });
    let first = Client::enter(&hub, 1, Serializer::V2);
    assert!(Client::enter_on(&hub, "realtime:room", 2, Serializer::V2).is_err());
    drop(first);
    assert!(Client::enter_on(&hub, "realtime:room", 2, Serializer::V2).is_ok());
}

#[test]
fn oversize_and_over_the_rate_are_told_to_other_senders() {
    let hub = hub(Limits { payload_bytes_max: 10, ..Limits::default() });
    assert_eq!(broadcast(&hub, r#"{"too":"large"}"#), Broadcasted::TooLarge);
    let hub = self::hub(Limits { events_per_second_max: Some(2), ..Limits::default() });
    let client = Client::opened(&hub, 1, Serializer::V2);
    let start = Instant::now();
    for _ in 0..100 {
        client.membership.broadcast(&Content::Object("{}"), true, start);
    }
    assert_eq!(client.outbox.expulsion(), None);
    let later = start + Duration::from_secs(6);
    // Delivered still, and the end of who gets it.
    assert_eq!(client.membership.broadcast(&Content::Object("{}"), true, later), Broadcasted::TooMany);
    assert_eq!(client.outbox.expulsion(), Some(outbox::Expulsion::TooManyMessages));
    assert_eq!(broadcast(&hub, "{}"), Broadcasted::TooMany);
}

#[test]
fn presence_reaches_everybody_and_goes_with_its_channel() {
    let hub = hub(Limits::default());
    let (mut a, mut b) = (Client::opened(&hub, 1, Serializer::V2), Client::opened(&hub, 2, Serializer::V1));
    a.track("a", r#"{"n":1}"#);
    a.track("a", r#"{"n":1}"#);
    assert_eq!(a.received().len(), 1);
    let joined = b.received();
    assert!(
        joined[0].contains(r#""event":"presence_diff","payload":{"joins":{"a":{"metas":[{"phx_ref":""#),
        "{joined:?}"
    );
    drop(a);
    let left = b.received();
    assert!(left[0].contains(r#""joins":{},"leaves":{"a""#), "{left:?}");
    assert_eq!(hub.metrics.presences.get(), 0);
}

#[test]
fn a_lost_socket_leaves_when_its_grace_is_over() {
    let hub = hub(Limits { presence_grace: Duration::from_secs(10), ..Limits::default() });
    let mut watcher = Client::opened(&hub, 1, Serializer::V2);
    let lose = |channel| {
        let mut lost = Client::opened(&hub, channel, Serializer::V2);
        lost.track("a", r#"{"n":1}"#);
        lost.membership.may_return(SOMEBODY);
    };
    lose(2);
    assert!(watcher.received()[0].contains(r#""joins":{"a""#));
    // Back in time: nothing has happened.
    lose(3);
    assert_eq!(watcher.received(), Vec::<String>::new());
    hub.end_graces(Instant::now());
    assert_eq!(watcher.received(), Vec::<String>::new());
    hub.end_graces(Instant::now() + Duration::from_secs(11));
    assert!(watcher.received()[0].contains(r#""leaves":{"a""#));
    // A topic with nobody but who may come back goes with the grace.
    lose(4);
    drop(watcher);
    assert_eq!(hub.topics(), 1);
    hub.end_graces(Instant::now() + Duration::from_secs(11));
    assert_eq!((hub.topics(), hub.metrics.presences.get()), (0, 0));
}

#[test]
fn people_are_told_apart_by_sub_or_else_by_their_tokens() {
    let hub = Hub::default();
    assert_eq!(hub.subject(Some("me"), "a", "one"), hub.subject(Some("me"), "b", "two"));
    for nobody in [None, Some("")] {
        assert_eq!(hub.subject(nobody, "a", "one"), hub.subject(nobody, "a", "one"));
        assert_ne!(hub.subject(nobody, "a", "one"), hub.subject(nobody, "a", "two"));
    }
}
