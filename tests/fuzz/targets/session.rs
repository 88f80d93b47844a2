//! What a client says to a whole session, with a hub, limits, rights, replays and a neighbour on the same topics.
//!
//! Whatever is said: every frame that leaves is whole and well-formed, in both versions; a session waits for at most one
//! answer; no channel is opened above the limit; answers are in proportion to what was said; and when the sockets are gone,
//! nothing is left of them: no channel, member, presence or queued byte.

use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;
use tokio::sync::oneshot;
use walcast::authz::{Claims, TokenError, TopicAuthority, TopicError, TopicGrant, TopicQuestion};
use walcast::channels::lobby::{Config, Services};
use walcast::channels::{
    Action, CloseReason, Hub, Input, Limits, Lobby, Metrics, Now, Outbox, OutboxReader, Question, ReplayError,
    ReplayRequest, Replayed, ReplayedPayload, Replayer, Serializer, Session, TokenVerifier, system,
};

use super::phoenix::first_frame;
use super::{RECORD, parts};

const START: u64 = 1_900_000_000;
const CHANNELS_MAX: usize = 4;

/// A token that begins with `good` is; its rest is the subject.
struct Tokens;

impl TokenVerifier for Tokens {
    fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Claims>, TokenError> {
        let sub = token.strip_prefix("good").ok_or(TokenError::Malformed)?;
        let exp = START as i64 + 100;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        if exp <= now {
            return Err(TokenError::Expired { seconds_ago: now - exp });
        }
        let json = serde_json::json!({ "role": "authenticated", "exp": exp, "sub": sub }).to_string();
        Ok(Arc::new(Claims { role: "authenticated".into(), exp, sub: Some(sub.to_owned()), json: json.into() }))
    }
}

/// Answers by the topic's name, sometimes with none.
struct Authority;

impl TopicAuthority for Authority {
    fn ask(&self, question: TopicQuestion) -> oneshot::Receiver<Result<TopicGrant, TopicError>> {
        let (answer, asked) = oneshot::channel();
        let length = question.topic.len();
        let grant = TopicGrant {
            broadcast: !length.is_multiple_of(3),
            presence: length.is_multiple_of(2) && question.presence,
        };
        let _ = answer.send(if length == 7 { Err(TopicError::Unavailable) } else { Ok(grant) });
        asked
    }
}

struct Replays;

impl Replayer for Replays {
    fn replay(&self, request: ReplayRequest) -> oneshot::Receiver<Result<Vec<Replayed>, ReplayError>> {
        assert!((1..=25).contains(&request.limit));
        let (answer, asked) = oneshot::channel();
        let one = |id: &str, payload| Replayed { id: id.into(), event: "e".into(), payload };
        let messages = vec![
            one("1", ReplayedPayload::Json(r#"{"a": 1}"#.into())),
            one("2", ReplayedPayload::Binary(vec![0, 255].into())),
        ];
        let _ = answer.send(if request.since < 0 { Err(ReplayError::BadParams) } else { Ok(messages) });
        asked
    }
}

/// The first record says which kind of socket it is, by its letters; each of the others is a frame (`T` text, `B` binary),
/// time that passes (`K`, and how many seconds), or the end (`S`, `G`).
pub fn fuzz_session(data: &[u8]) {
    let mut records = parts(data, RECORD);
    let options = records.next().unwrap_or_default();
    let has = |option: u8| options.contains(&option);
    let lobby = lobby(has(b'l'), has(b'p'));
    let serializer = if has(b'1') { Serializer::V1 } else { Serializer::V2 };
    let mut neighbour = Client::new(&lobby, if has(b'o') { Serializer::V1 } else { Serializer::V2 });
    for topic in ["room", "mate"] {
        neighbour.give(Input::Text(&neighbour.join(topic)));
    }
    let mut client = Client::new(&lobby, serializer);
    for record in records {
        let before = (client.bytes + neighbour.bytes, record.len());
        match record.split_first() {
            Some((b'T', text)) => client.give(Input::Text(&String::from_utf8_lossy(text))),
            Some((b'B', bytes)) => client.give(Input::Binary(bytes)),
            Some((b'K', seconds)) => {
                client.pass(seconds.first().copied().unwrap_or(1));
                client.give(Input::Tick);
            }
            Some((b'S', _)) => client.give(Input::Goodbye(CloseReason::SlowConsumer)),
            Some((b'G', _)) => client.give(Input::Gone),
            _ => continue,
        }
        neighbour.read();
        let said = client.bytes + neighbour.bytes - before.0;
        // Each of the channels may be told something; a presence's state holds what was said before.
        assert!(said <= 40 * (data.len() + 200), "{} bytes are answered by {said}", before.1);
        if client.has_ended {
            break;
        }
    }
    assert!(lobby.metrics.channels.get() <= CHANNELS_MAX as i64 + 2);
    for mut one in [client, neighbour] {
        one.give(Input::Gone);
    }
    let left = [&lobby.metrics.channels, &lobby.metrics.topics, &lobby.metrics.presences, &lobby.metrics.outbox_bytes];
    assert_eq!(left.map(|gauge| gauge.get()), [0; 4], "channels, topics, presences or bytes are left");
}

fn lobby(is_limited: bool, private_only: bool) -> Arc<Lobby> {
    let mut limits =
        Limits { channels_per_connection_max: CHANNELS_MAX, bindings_per_channel_max: 8, ..Limits::default() };
    if is_limited {
        limits.members_per_channel_max = Some(2);
        limits.messages_per_minute_max = Some(3);
        limits.message_bytes_max = Some(100);
        limits.presence_calls_max = Some(2);
        limits.events_per_second_max = Some(2);
        limits.payload_bytes_max = 200;
    }
    let metrics = Arc::new(Metrics::default());
    let hub = Arc::new(Hub::new(limits.clone(), Arc::clone(&metrics)));
    let services = Services {
        authority: Some(Arc::new(Authority)),
        replayer: Some(Arc::new(Replays)),
        ..Services::new(Arc::new(Tokens))
    };
    let config = Config { limits, private_only, ..Config::default() };
    Lobby::new(config, hub, services, metrics)
}

/// What a connection does, without a socket.
struct Client {
    session: Session,
    serializer: Serializer,
    reader: OutboxReader,
    now: Now,
    question: Option<Question>,
    has_ended: bool,
    bytes: usize,
}

impl Client {
    fn new(lobby: &Arc<Lobby>, serializer: Serializer) -> Client {
        static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let (outbox, reader) = Outbox::new(lobby.outbox_config.clone(), lobby.metrics.clone());
        let session = Session::new(lobby.clone(), serializer, outbox, "good".into(), r#"{"x-a":"b"}"#.into());
        let now = Now { instant: *BEGIN, wall: UNIX_EPOCH + Duration::from_secs(START) };
        Client { session, serializer, reader, now, question: None, has_ended: false, bytes: 0 }
    }

    fn join(&self, topic: &str) -> String {
        let config = r#"{"config":{"broadcast":{"self":true},"presence":{"enabled":true,"key":"n"}}}"#;
        match self.serializer {
            Serializer::V1 => {
                format!(
                    r#"{{"topic":"realtime:{topic}","event":"phx_join","payload":{config},"ref":"1","join_ref":"1"}}"#
                )
            }
            Serializer::V2 => format!(r#"["1","1","realtime:{topic}","phx_join",{config}]"#),
        }
    }

    fn pass(&mut self, seconds: u8) {
        let time = Duration::from_secs(u64::from(seconds));
        self.now = Now { instant: self.now.instant + time, wall: self.now.wall + time };
    }

    fn give(&mut self, input: Input<'_>) {
        let mut input = Some(input);
        while let Some(given) = input.take() {
            for action in self.session.handle(given, self.now) {
                self.perform(action);
            }
            let Some(mut question) = self.question.take() else { continue };
            match question.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => input = Some(Input::Answered(answer)),
                Poll::Pending => self.question = Some(question),
            }
        }
        if self.read() {
            self.give(Input::Tick);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Send(frame) => drop(self.reader.outbox().push(frame)),
            Action::Open(opening) => opening.open(),
            Action::Wait(question) => assert!(self.question.replace(question).is_none(), "two questions at once"),
            Action::Subscribe(mut subscribe) => {
                let subscribed = system::subscribed(&subscribe.address, None);
                match subscribe.on_active.take() {
                    Some(opening) => opening.open_with(&subscribe.outbox, subscribed),
                    None => drop(subscribe.outbox.push(subscribed)),
                }
            }
            Action::Unsubscribe(_) => {}
            Action::Close(_) => self.has_ended = true,
        }
    }

    /// Takes what is queued; whether the session is to be looked after.
    fn read(&mut self) -> bool {
        let mut written = Vec::new();
        loop {
            let _ = self.reader.poll_take(&mut Context::from_waker(Waker::noop()));
            let Some(bytes) = self.next_bytes() else { break };
            self.reader.advance(bytes.len());
            written.extend(bytes);
        }
        self.bytes += written.len();
        let mut rest = &written[..];
        while !rest.is_empty() {
            let (opcode, length, after) = first_frame(rest);
            let (payload, after) = after.split_at_checked(length).expect("a frame is whole");
            self.check(opcode, payload);
            rest = after;
        }
        self.reader.take_nudge()
    }

    fn next_bytes(&self) -> Option<Vec<u8>> {
        let mut slices = [std::io::IoSlice::new(&[]); 1];
        (self.reader.slices(&mut slices) > 0).then(|| slices[0].to_vec())
    }

    fn check(&self, opcode: u8, payload: &[u8]) {
        if opcode == 2 {
            assert_eq!((self.serializer, payload[0]), (Serializer::V2, 4), "a binary frame that no client reads");
            return;
        }
        assert_eq!(opcode, 1);
        let text = std::str::from_utf8(payload).expect("text is UTF-8");
        let is_good = match self.serializer {
            Serializer::V1 => {
                let object: Option<std::collections::HashMap<String, &RawValue>> = serde_json::from_str(text).ok();
                object.is_some_and(|object| {
                    ["ref", "event", "payload", "topic"].iter().all(|key| object.contains_key(*key))
                })
            }
            Serializer::V2 => serde_json::from_str::<(&RawValue, &RawValue, String, String, &RawValue)>(text).is_ok(),
        };
        assert!(is_good, "no client reads this: {text}");
    }
}
