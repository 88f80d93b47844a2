//! Threads that enter, open, track, broadcast and leave at once: nobody is left behind, and no diff is lost or doubled.

use std::collections::BTreeMap;
use std::thread;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::tests::Client;
use super::*;
use crate::channels::opening::Opening;
use crate::channels::phoenix::Address;

const THREADS: u64 = 4;
const ROUNDS: u64 = 400;

/// What a client makes of state and diffs, as realtime-js does: metas by key, known by their refs.
#[derive(Default)]
struct Seen(BTreeMap<String, Vec<String>>);

impl Seen {
    fn take(&mut self, frame: &str) {
        let frame: Value = serde_json::from_str(frame).unwrap();
        match frame[3].as_str().unwrap() {
            "presence_state" => each(&frame[4], |key, reference| self.join(key, reference)),
            "presence_diff" => {
                each(&frame[4]["joins"], |key, reference| self.join(key, reference));
                each(&frame[4]["leaves"], |key, reference| {
                    let refs = self.0.get_mut(key).expect("who leaves was there");
                    let place = refs.iter().position(|own| own == reference).expect("who leaves was there");
                    refs.remove(place);
                    if refs.is_empty() {
                        self.0.remove(key);
                    }
                });
            }
            _ => {}
        }
    }

    fn join(&mut self, key: &str, reference: &str) {
        let refs = self.0.entry(key.to_owned()).or_default();
        assert!(!refs.iter().any(|own| own == reference), "{key} joined twice");
        refs.push(reference.to_owned());
    }
}

fn each(state: &Value, mut take: impl FnMut(&str, &str)) {
    for (key, presence) in state.as_object().unwrap() {
        for meta in presence["metas"].as_array().unwrap() {
            take(key, meta["phx_ref"].as_str().unwrap());
        }
    }
}

fn open(client: &Client, topic: &str) {
    let mut opening = Opening::of(&client.membership, Vec::new());
    opening.state_for = Some(Address { topic: topic.into(), join_ref: None, serializer: Serializer::V2 });
    opening.open();
}

fn live(hub: &Arc<Hub>, thread: u64, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed + thread);
    let mut clients: Vec<(Client, Seen)> = Vec::new();
    for round in 0..ROUNDS {
        let topic = format!("realtime:t{}", random.random_range(0..3));
        match random.random_range(0..10) {
            0..4 => {
                let client = Client::enter_on(hub, &topic, thread * ROUNDS + round, Serializer::V2).unwrap();
                if random.random_bool(0.8) {
                    open(&client, &topic);
                }
                clients.push((client, Seen::default()));
            }
            4..7 if !clients.is_empty() => {
                let place = random.random_range(0..clients.len());
                let key = format!("k{}", random.random_range(0..5));
                let client = &mut clients[place].0;
                client.membership.untrack(Instant::now(), &mut Burst::default());
                client.track(&key, &format!("{{\"n\":{round}}}"));
            }
            7 => {
                let subtopic = topic.strip_prefix(PREFIX).unwrap();
                let key = TopicKey { private: false, subtopic };
                hub.broadcast(key, &Content::Object("{}"), None, &mut Burst::default());
            }
            _ if !clients.is_empty() => {
                let place = random.random_range(0..clients.len());
                let (client, _) = clients.swap_remove(place);
                client.outbox.end();
            }
            _ => {}
        }
        if let Some((client, seen)) = clients.last_mut() {
            client.received().iter().for_each(|frame| seen.take(frame));
        }
    }
}

#[test]
fn nobody_is_left_behind_and_everybody_sees_the_same() {
    let seed = rand::random();
    println!("seed {seed}");
    let hub = Arc::new(Hub::default());
    // One on each topic that sees it all from the beginning.
    let topics = [0, 1, 2].map(|number| format!("realtime:t{number}"));
    let mut witnesses = topics.clone().map(|topic| {
        let number = u64::MAX - topic.len() as u64 - u64::from(topic.as_bytes()[10]);
        let client = Client::enter_on(&hub, &topic, number, Serializer::V2).unwrap();
        open(&client, &topic);
        (client, Seen::default())
    });
    thread::scope(|scope| {
        for number in 0..THREADS {
            let hub = &hub;
            scope.spawn(move || live(hub, number, seed));
        }
    });
    for (client, seen) in &mut witnesses {
        client.received().iter().for_each(|frame| seen.take(frame));
        assert_eq!(seen.0, BTreeMap::new(), "somebody has not left");
    }
    assert_eq!((hub.topics(), hub.metrics.presences.get()), (3, 0));
    drop(witnesses);
    assert_eq!((hub.topics(), hub.metrics.topics.get()), (0, 0));
}
