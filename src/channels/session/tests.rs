//! Sessions told as transcripts: what the client sends, what it gets. Recorded frames of the original, both versions.

mod broadcasts;
mod joins;
mod presence;
mod private;
mod tokens;

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::*;
use crate::authz::{Claims, TokenError, TopicAuthority, TopicError, TopicGrant, TopicQuestion, TopicRight};
use crate::channels::hub::Hub;
use crate::channels::lobby::{Config, Services};
use crate::channels::metrics::Metrics;
use crate::channels::outbox::OutboxReader;
use crate::channels::token::TokenVerifier;

/// When the tests begin, in Unix seconds.
const START: u64 = 1_795_175_000;

/// Tokens are `role:exp`; `expired`, `norole` and `badsig` are what they say, anything else is malformed.
struct Tokens;

impl TokenVerifier for Tokens {
    fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Claims>, TokenError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        match token {
            "norole" => return Err(TokenError::ClaimsMissing),
            "badsig" => return Err(TokenError::Signature),
            _ => {}
        }
        let (role, exp) = token.split_once(':').ok_or(TokenError::Malformed)?;
        let exp: i64 = exp.parse().map_err(|_| TokenError::Malformed)?;
        if exp <= now {
            return Err(TokenError::Expired { seconds_ago: now - exp });
        }
        Ok(Arc::new(Claims {
            role: role.into(),
            exp,
            sub: None,
            json: format!(r#"{{"role":"{role}","exp":{exp}}}"#).into(),
        }))
    }
}

/// Answers about topics are what the test says, by right and topic; without one there is none yet.
#[derive(Default)]
struct Authority {
    grants: Mutex<HashMap<(TopicRight, String), Result<TopicGrant, TopicError>>>,
    asked: Mutex<Vec<TopicQuestion>>,
}

const BOTH: TopicGrant = TopicGrant { broadcast: true, presence: true };
const NONE: TopicGrant = TopicGrant { broadcast: false, presence: false };

impl Authority {
    fn say(&self, right: TopicRight, topic: &str, grant: TopicGrant) {
        self.grants.lock().unwrap().insert((right, topic.into()), Ok(grant));
    }

    fn asked(&self) -> Vec<TopicQuestion> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl TopicAuthority for Authority {
    fn ask(&self, question: TopicQuestion) -> oneshot::Receiver<Result<TopicGrant, TopicError>> {
        let (answer, asked) = oneshot::channel();
        let key = (question.right, question.topic.to_string());
        let mut grant = self.grants.lock().unwrap().get(&key).copied().unwrap_or(Err(TopicError::Unavailable));
        if let (Ok(grant), false) = (&mut grant, question.presence) {
            grant.presence = false;
        }
        self.asked.lock().unwrap().push(question);
        let _ = answer.send(grant);
        asked
    }
}

/// A client on a session, with a clock of its own.
struct Client {
    session: Session,
    reader: OutboxReader,
    now: Now,
    /// What dispatch was told, in words.
    told: Mutex<Vec<String>>,
    subscribes: Vec<Subscribe>,
    /// What the session waits for, where the test is to answer.
    question: Option<Question>,
    /// Questions are answered at once, as far as there is an answer.
    answers: bool,
    closed: Option<CloseReason>,
}

fn lobby(config: Config, services: Services) -> Arc<Lobby> {
    let metrics = Arc::new(Metrics::default());
    let hub = Arc::new(Hub::new(config.limits.clone(), metrics.clone()));
    Lobby::new(config, hub, services, metrics)
}

impl Client {
    fn new(serializer: Serializer) -> Client {
        Client::with(serializer, Config::default())
    }

    fn with(serializer: Serializer, config: Config) -> Client {
        Client::of(&lobby(config, Services::new(Arc::new(Tokens))), serializer)
    }

    fn of(lobby: &Arc<Lobby>, serializer: Serializer) -> Client {
        let (outbox, reader) = Outbox::new(lobby.outbox_config.clone(), lobby.metrics.clone());
        let token = token("anon", 3600).into();
        let session = Session::new(lobby.clone(), serializer, outbox, token, r#"{"x-a":"b"}"#.into());
        let now = Now { instant: Instant::now(), wall: UNIX_EPOCH + Duration::from_secs(START) };
        let (told, subscribes) = (Mutex::default(), Vec::new());
        Client { session, reader, now, told, subscribes, question: None, answers: true, closed: None }
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now = Now { instant: self.now.instant + time, wall: self.now.wall + time };
        self.give(Input::Tick)
    }

    fn send(&mut self, text: &str) -> Vec<String> {
        self.give(Input::Text(text))
    }

    /// The frames that come back, those of dispatch and of the hub included.
    fn give(&mut self, input: Input<'_>) -> Vec<String> {
        let now = self.now;
        let mut input = Some(input);
        while let Some(given) = input.take() {
            for action in self.session.handle(given, now) {
                match action {
                    Action::Send(frame) => drop(self.reader.outbox().push(frame)),
                    Action::Open(opening) => opening.open(),
                    Action::Wait(question) => self.question = Some(question),
                    Action::Subscribe(mut subscribe) => {
                        let subscribed = system::subscribed(&subscribe.address, None);
                        match subscribe.on_active.take() {
                            Some(opening) => opening.open_with(&subscribe.outbox, subscribed),
                            None => drop(subscribe.outbox.push(subscribed)),
                        }
                        self.tell(format!("subscribe as {}", subscribe.identity.role));
                        self.subscribes.push(*subscribe);
                    }
                    Action::Unsubscribe(_) => self.tell("unsubscribe".into()),
                    Action::Close(reason) => self.closed = Some(reason),
                }
            }
            if self.answers
                && let Some(mut question) = self.question.take()
            {
                match question.poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(answer) => input = Some(Input::Answered(answer)),
                    Poll::Pending => self.question = Some(question),
                }
            }
        }
        self.received()
    }

    /// What has been pushed by whomever, and the session looked after if somebody asked for it.
    fn received(&mut self) -> Vec<String> {
        let mut frames = Vec::new();
        while self.reader.poll_take(&mut Context::from_waker(Waker::noop())).is_ready() || !self.reader.is_empty() {
            let mut slices = [IoSlice::new(&[]); 1];
            self.reader.slices(&mut slices);
            let frame = slices[0].to_vec();
            self.reader.advance(frame.len());
            frames.push(text(&frame));
        }
        if self.reader.take_nudge() {
            frames.extend(self.give(Input::Tick));
        }
        frames
    }

    fn tell(&self, what: String) {
        self.told.lock().unwrap().push(what);
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

/// The payload of a frame shorter than 64 KiB; of a binary one what can be read, with its kind in front.
fn text(frame: &[u8]) -> String {
    let header = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let payload = &frame[header..];
    match frame[0] {
        0x82 => format!("kind {}: {}", payload[0], String::from_utf8_lossy(&payload[5..])),
        _ => String::from_utf8(payload.to_vec()).unwrap(),
    }
}

fn token(role: &str, lives: u64) -> String {
    format!("{role}:{}", START + lives)
}

fn v2(lines: &[&str]) {
    transcript(Serializer::V2, lines);
}

fn v1(lines: &[&str]) {
    transcript(Serializer::V1, lines);
}

/// `>` is sent, `<` is what must come, in order and complete.
fn transcript(serializer: Serializer, lines: &[&str]) {
    let mut client = Client::new(serializer);
    let mut got: Vec<String> = Vec::new();
    for line in lines {
        match line.split_at(2) {
            ("> ", sent) => {
                assert_eq!(got, Vec::<String>::new(), "before {line}");
                got = client.send(sent);
            }
            ("< ", expected) => {
                assert!(!got.is_empty(), "nothing came where {expected} should");
                assert_eq!(got.remove(0), expected);
            }
            _ => panic!("{line}"),
        }
    }
    assert_eq!(got, Vec::<String>::new());
}

#[test]
fn heartbeats_are_answered_with_their_own_ref() {
    v1(&[
        r#"> {"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1","join_ref":null}"#,
        r#"< {"ref":"1","event":"phx_reply","payload":{"status":"ok","response":{}},"topic":"phoenix"}"#,
        r#"> {"topic":"phoenix","event":"heartbeat","payload":{},"ref":7}"#,
        r#"< {"ref":7,"event":"phx_reply","payload":{"status":"ok","response":{}},"topic":"phoenix"}"#,
        r#"> {"topic":"phoenix","event":"heartbeat","payload":{}}"#,
    ]);
    v2(&[
        r#"> [null,"1","phoenix","heartbeat",{}]"#,
        r#"< [null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]"#,
        r#"> [null,null,"phoenix","heartbeat",{}]"#,
        r#"< [null,null,"phoenix","phx_reply",{"status":"ok","response":{}}]"#,
        r#"> [null,"1","phoenix"]"#,
    ]);
}

#[test]
fn a_topic_that_is_none_of_ours_is_unmatched() {
    v1(&[
        r#"> {"topic":"other:room","event":"phx_join","payload":{},"ref":"1","join_ref":"1"}"#,
        r#"< {"ref":"1","event":"phx_reply","payload":{"status":"error","response":{"reason":"unmatched topic"}},"topic":"other:room"}"#,
    ]);
    v2(&[
        r#"> ["1","1","other:room","phx_join",{}]"#,
        r#"< [null,"1","other:room","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        r#"> [null,"3","phoenix","bar",{}]"#,
        r#"< [null,"3","phoenix","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        r#"> [null,"1","realtime:never","broadcast",{"type":"broadcast","event":"x","payload":{}}]"#,
        r#"< [null,"1","realtime:never","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
    ]);
}

#[test]
fn a_join_is_answered_and_a_leave_closes() {
    v1(&[
        r#"> {"topic":"realtime:room1","event":"phx_join","payload":{"config":{}},"ref":"1","join_ref":"1"}"#,
        r#"< {"ref":"1","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[]}},"topic":"realtime:room1"}"#,
        r#"> {"topic":"realtime:room1","event":"phx_leave","payload":{},"ref":"2","join_ref":"1"}"#,
        r#"< {"ref":"2","event":"phx_reply","payload":{"status":"ok","response":{}},"topic":"realtime:room1"}"#,
        r#"< {"ref":"1","event":"phx_close","payload":{},"topic":"realtime:room1"}"#,
        r#"> {"topic":"realtime:room1","event":"broadcast","payload":{"type":"broadcast","event":"x","payload":{}},"ref":"3","join_ref":"1"}"#,
        r#"< {"ref":"3","event":"phx_reply","payload":{"status":"error","response":{"reason":"unmatched topic"}},"topic":"realtime:room1"}"#,
        r#"> {"topic":"realtime:room1","event":"phx_leave","payload":{},"ref":"4","join_ref":"1"}"#,
        r#"< {"ref":"4","event":"phx_reply","payload":{"status":"ok","response":{}},"topic":"realtime:room1"}"#,
    ]);
    v2(&[
        r#"> ["1","1","realtime:room1","phx_join",{"config":{}}]"#,
        r#"< ["1","1","realtime:room1","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
        r#"> ["1","2","realtime:room1","phx_leave",{}]"#,
        r#"< ["1","2","realtime:room1","phx_reply",{"status":"ok","response":{}}]"#,
        r#"< ["1","1","realtime:room1","phx_close",{}]"#,
        r#"> ["1","4","realtime:room1","phx_leave",{}]"#,
        r#"< ["1","4","realtime:room1","phx_reply",{"status":"ok","response":{}}]"#,
        r#"> [null,"1","realtime:never","phx_leave",{}]"#,
        r#"< [null,"1","realtime:never","phx_reply",{"status":"ok","response":{}}]"#,
    ]);
}

#[test]
fn a_leave_about_an_older_join_is_ignored_and_one_without_a_join_ref_is_taken() {
    v2(&[
        r#"> ["2","2","realtime:room1","phx_join",{"config":{}}]"#,
        r#"< ["2","2","realtime:room1","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
        r#"> ["1","3","realtime:room1","phx_leave",{}]"#,
        r#"> [null,"4","realtime:room1","phx_leave",{}]"#,
        r#"< ["2","4","realtime:room1","phx_reply",{"status":"ok","response":{}}]"#,
        r#"< ["2","2","realtime:room1","phx_close",{}]"#,
    ]);
}

#[test]
fn every_channel_is_told_of_a_shutdown_and_of_its_slowness() {
    let mut client = Client::new(Serializer::V2);
    client.send(r#"["1","1","realtime:a","phx_join",{"config":{}}]"#);
    client.send(r#"["2","2","realtime:b","phx_join",{"config":{}}]"#);
    assert_eq!(
        client.give(Input::Goodbye(CloseReason::Shutdown)),
        ["a", "b"].map(|name| format!(
            r#"[null,null,"realtime:{name}","system",{{"message":"Server requested disconnect","status":"ok","extension":"system"}}]"#
        ))
    );
    let frames = client.give(Input::Goodbye(CloseReason::SlowConsumer));
    assert!(frames[0].contains(r#""status":"error""#) && frames[0].contains("\"hint\""));
    assert_eq!(client.give(Input::Goodbye(CloseReason::Idle)), Vec::<String>::new());
}
