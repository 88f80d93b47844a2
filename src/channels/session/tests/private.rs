//! Private channels, replay, and readiness of broadcasts from the database.

use super::*;
use crate::channels::replay::{ReplayError, ReplayRequest, Replayed, ReplayedPayload, Replayer};
use crate::channels::{Content, TopicKey};

fn private(authority: &Arc<Authority>, config: Config) -> Arc<Lobby> {
    let mut services = Services::new(Arc::new(Tokens));
    services.authority = Some(authority.clone());
    lobby(config, services)
}

fn client() -> (Arc<Authority>, Client) {
    let authority = Arc::new(Authority::default());
    let client = Client::of(&private(&authority, Config::default()), Serializer::V2);
    (authority, client)
}

fn join(topic: &str, more: &str) -> String {
    format!(r#"["1","1","realtime:{topic}","phx_join",{{"config":{{"private":true{more}}}}}]"#)
}

const SELF_AND_ACK: &str = r#","broadcast":{"self":true,"ack":true}"#;
const OK: &str = r#"["1","2","realtime:r","phx_reply",{"status":"ok","response":{}}]"#;
const SEND: &str = r#"["1","2","realtime:r","broadcast",{"p":1}]"#;
const TRACK: &str = r#"["1","2","realtime:r","presence",{"event":"track","payload":{}}]"#;
const RENEW: &str = r#"["1","3","realtime:r","access_token",{"access_token":"other:1799999999"}]"#;

fn closes(frames: &[String], text: &str) {
    assert_eq!(
        frames,
        [
            format!(
                r#"["1",null,"realtime:r","system",{{"message":"{text}","status":"error","extension":"system","channel":"r"}}]"#
            ),
            r#"["1","1","realtime:r","phx_close",{}]"#.to_owned()
        ]
    );
}

#[test]
fn a_join_is_let_in_by_what_may_be_read() {
    let (authority, mut client) = client();
    authority.say(TopicRight::Read, "r", NONE);
    let refused = r#"["1","1","realtime:r","phx_reply",{"status":"error","response":{"reason":"Unauthorized: You do not have permissions to read from this Channel topic: r"}}]"#;
    assert_eq!(client.send(&join("r", "")), [refused]);
    let question = &authority.asked()[0];
    assert_eq!((&*question.topic, question.right, question.presence), ("r", TopicRight::Read, false));
    assert_eq!((&*question.headers, &*question.identity.role), (r#"{"x-a":"b"}"#, "anon"));
    authority.say(TopicRight::Read, "r", BOTH);
    assert!(client.send(&join("r", ""))[0].contains(r#""status":"ok""#));
    assert!(!authority.asked()[0].presence);
    client.send(&join("r", r#","presence":{"enabled":true}"#));
    assert!(authority.asked()[0].presence);
    // Nobody can say: the database, not the person.
    assert!(client.send(&join("elsewhere", ""))[0].contains("UnableToConnectToProject: "));
}

#[test]
fn a_refused_join_waits_for_the_back_off() {
    let authority = Arc::new(Authority::default());
    authority.say(TopicRight::Read, "r", NONE);
    let config = Config { join_error_backoff: Duration::from_secs(5), ..Config::default() };
    let mut client = Client::of(&private(&authority, config), Serializer::V2);
    assert_eq!(client.send(&join("r", "")), Vec::<String>::new());
    assert!(client.wait(Duration::from_secs(5))[0].contains("Unauthorized"));
}

#[test]
fn presence_alone_lets_in_and_brings_no_broadcasts() {
    let (authority, mut client) = client();
    authority.say(TopicRight::Read, "r", TopicGrant { broadcast: false, presence: true });
    authority.say(TopicRight::Write, "r", BOTH);
    let frames = client.send(&join("r", &format!(r#"{SELF_AND_ACK},"presence":{{"enabled":true}}"#)));
    assert_eq!(frames[1], r#"["1",null,"realtime:r","presence_state",{}]"#);
    assert_eq!(client.send(SEND), [OK]);
}

#[test]
fn writing_is_asked_once_for_a_token() {
    let (authority, mut client) = client();
    authority.say(TopicRight::Read, "r", BOTH);
    authority.say(TopicRight::Write, "r", BOTH);
    client.send(&join("r", SELF_AND_ACK));
    authority.asked();
    for _ in 0..2 {
        assert_eq!(client.send(SEND), [r#"[null,null,"realtime:r","broadcast",{"p":1}]"#, OK]);
    }
    let asked = authority.asked();
    assert_eq!((asked.len(), asked[0].right, asked[0].presence), (1, TopicRight::Write, true));
    assert_eq!(client.send(RENEW), Vec::<String>::new());
    assert_eq!(client.send(SEND).len(), 2);
    let rights: Vec<_> =
        authority.asked().into_iter().map(|asked| (asked.right, asked.identity.role.clone())).collect();
    assert_eq!(rights, [(TopicRight::Read, "other".into()), (TopicRight::Write, "other".into())]);
}

#[test]
fn who_may_not_write_is_not_told_so_but_for_tracks() {
    let (authority, mut client) = client();
    authority.say(TopicRight::Read, "r", BOTH);
    client.send(&join("r", SELF_AND_ACK));
    let denied = r#"["1","2","realtime:r","phx_reply",{"status":"error","response":{}}]"#;
    // The database is away: the next one asks again.
    assert_eq!(client.send(SEND), Vec::<String>::new());
    assert_eq!(client.send(TRACK), [denied]);
    authority.say(TopicRight::Write, "r", NONE);
    assert_eq!(client.send(SEND), Vec::<String>::new());
    authority.asked();
    assert_eq!(client.send(SEND), Vec::<String>::new());
    assert_eq!(client.send(TRACK), [denied]);
    assert_eq!(authority.asked(), []);
}

#[test]
fn a_first_track_asks_about_presence_unless_a_broadcast_has_asked_before() {
    let (authority, mut client) = client();
    authority.say(TopicRight::Read, "r", BOTH);
    authority.say(TopicRight::Write, "r", BOTH);
    client.send(&join("r", ""));
    let frames = client.send(TRACK);
    assert!(frames[0] == OK && frames[1].contains("presence_diff"), "{frames:?}");
    client.send(&join("r", ""));
    client.send(SEND);
    assert_eq!(client.send(TRACK), [OK]);
}

#[test]
fn a_token_that_may_no_longer_read_closes() {
    let (authority, mut client) = client();
    authority.say(TopicRight::Read, "r", BOTH);
    client.send(&join("r", ""));
    authority.say(TopicRight::Read, "r", NONE);
    closes(&client.send(RENEW), "You do not have permissions to read from this Channel topic: r");
    authority.say(TopicRight::Read, "r", BOTH);
    client.send(&join("r", r#","presence":{"enabled":true}"#));
    authority.say(TopicRight::Read, "r", TopicGrant { broadcast: false, presence: true });
    closes(&client.send(RENEW), "You no longer have permission to read from this Channel topic: r");
    authority.say(TopicRight::Read, "r", BOTH);
    client.send(&join("r", ""));
    authority.grants.lock().unwrap().clear();
    closes(&client.send(RENEW), "Realtime was unable to connect to the project database");
}

#[test]
fn private_and_public_channels_of_one_name_do_not_meet() {
    let authority = Arc::new(Authority::default());
    authority.say(TopicRight::Read, "r", BOTH);
    authority.say(TopicRight::Write, "r", BOTH);
    let lobby = private(&authority, Config::default());
    let (mut inside, mut outside) = (Client::of(&lobby, Serializer::V2), Client::of(&lobby, Serializer::V2));
    inside.send(&join("r", ""));
    outside.send(r#"["1","1","realtime:r","phx_join",{"config":{}}]"#);
    inside.send(SEND);
    outside.send(SEND);
    assert_eq!((inside.received(), outside.received()), (Vec::new(), Vec::new()));
}

#[test]
fn a_socket_that_ends_while_it_waits_leaves_nothing_behind() {
    let authority = Arc::new(Authority::default());
    authority.say(TopicRight::Read, "r", BOTH);
    let rows = Arc::new(Rows::default());
    let lobby = with_rows(&authority, &rows);
    let mut client = Client::of(&lobby, Serializer::V2);
    client.send(&join("r", REPLAY));
    assert_eq!((lobby.hub.topics(), client.question.is_some()), (1, true));
    client.give(Input::Gone);
    assert_eq!(lobby.hub.topics(), 0);
}

/// The rows of the database, when the test gives them.
#[derive(Default)]
struct Rows {
    requests: Mutex<Vec<ReplayRequest>>,
    #[expect(clippy::type_complexity, reason = "the trait's own type, once")]
    answer: Mutex<Option<oneshot::Sender<Result<Vec<Replayed>, ReplayError>>>>,
}

impl Replayer for Rows {
    fn replay(&self, request: ReplayRequest) -> oneshot::Receiver<Result<Vec<Replayed>, ReplayError>> {
        let (answer, asked) = oneshot::channel();
        self.requests.lock().unwrap().push(request);
        *self.answer.lock().unwrap() = Some(answer);
        asked
    }
}

fn with_rows(authority: &Arc<Authority>, rows: &Arc<Rows>) -> Arc<Lobby> {
    let mut services = Services::new(Arc::new(Tokens));
    services.authority = Some(authority.clone());
    services.replayer = Some(rows.clone());
    lobby(Config::default(), services)
}

const REPLAY: &str = r#","broadcast":{"replay":{"since":1795174490213,"limit":99}}"#;

impl Client {
    /// The answer to what it waits for is there.
    fn answered(&mut self) -> Vec<String> {
        let mut question = self.question.take().unwrap();
        match question.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => self.give(Input::Answered(answer)),
            Poll::Pending => panic!("there is no answer yet"),
        }
    }
}

#[test]
fn what_is_replayed_comes_before_what_is_live_and_nothing_twice() {
    let authority = Arc::new(Authority::default());
    authority.say(TopicRight::Read, "r", BOTH);
    let rows = Arc::new(Rows::default());
    let lobby = with_rows(&authority, &rows);
    let mut client = Client::of(&lobby, Serializer::V2);
    assert_eq!(client.send(&join("r", REPLAY)), Vec::<String>::new());
    let request = ReplayRequest { topic: "r".into(), since: 1795174490213, limit: 25 };
    assert_eq!(*rows.requests.lock().unwrap(), [request]);
    let live = |id: &str| {
        let payload = crate::channels::EventPayload::Json(b"{}");
        let content = Content::Event { event: "ev", payload, id: Some(id) };
        let topic = TopicKey { private: true, subtopic: "r" };
        lobby.hub.broadcast(topic, &content, None, &mut crate::channels::outbox::Burst::default());
    };
    live("one");
    live("two");
    let row = |id: &str, payload| Replayed { id: id.into(), event: "ev".into(), payload };
    let replayed = vec![
        row("zero", ReplayedPayload::Binary(Bytes::from_static(b"\x01"))),
        row("one", ReplayedPayload::Json(r#"{"n": 1}"#.into())),
    ];
    assert!(rows.answer.lock().unwrap().take().unwrap().send(Ok(replayed)).is_ok());
    assert_eq!(
        client.answered(),
        [
            r#"["1","1","realtime:r","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
            "kind 4: realtime:rev{\"id\":\"zero\",\"replayed\":true}\u{1}",
            r#"["1",null,"realtime:r","broadcast",{"event":"ev","payload":{"n": 1},"type":"broadcast","meta":{"id":"one","replayed":true}}]"#,
            r#"kind 4: realtime:rev{"id":"two"}{}"#
        ]
    );
    live("zero");
    live("three");
    assert_eq!(client.received(), [r#"kind 4: realtime:rev{"id":"three"}{}"#]);
}

/// A socket that reads as fast as it can would be closed for being slow, and again when it comes back.
#[test]
fn of_more_than_a_socket_may_be_sent_the_newest_is_replayed() {
    let authority = Arc::new(Authority::default());
    authority.say(TopicRight::Read, "r", BOTH);
    let rows = Arc::new(Rows::default());
    let mut client = Client::of(&with_rows(&authority, &rows), Serializer::V2);
    client.send(&join("r", REPLAY));
    let spill_bytes_max = crate::channels::outbox::Config::default().spill_bytes_max;
    let payload: Box<str> = format!("\"{}\"", "x".repeat(spill_bytes_max / 5)).into();
    let row = |n: u32| Replayed {
        id: n.to_string().into(),
        event: "ev".into(),
        payload: ReplayedPayload::Json(payload.clone()),
    };
    assert!(rows.answer.lock().unwrap().take().unwrap().send(Ok((1..=25).map(row).collect())).is_ok());
    let frames = client.answered();
    assert!(frames[0].contains("phx_reply"));
    let ids: Vec<_> = frames[1..].iter().map(|frame| frame.rsplit_once(r#"{"id":""#).unwrap().1).collect();
    assert_eq!(ids, [r#"24","replayed":true}}]"#, r#"25","replayed":true}}]"#]);
}

#[test]
fn replays_are_refused_as_recorded() {
    let authority = Arc::new(Authority::default());
    authority.say(TopicRight::Read, "r", BOTH);
    let rows = Arc::new(Rows::default());
    let lobby = with_rows(&authority, &rows);
    let reason = |replay: &str, answer: Result<Vec<Replayed>, ReplayError>| {
        let mut client = Client::of(&lobby, Serializer::V2);
        let mut frames = client.send(&join("r", &format!(r#","broadcast":{{"replay":{replay}}}"#)));
        if let Some(asked) = rows.answer.lock().unwrap().take() {
            assert!(asked.send(answer).is_ok());
            frames = client.answered();
        }
        assert_eq!(lobby.hub.topics(), 0);
        frames[0].split("UnableToReplayMessages: ").nth(1).unwrap().trim_end_matches("\"}}]").to_owned()
    };
    for malformed in [r#"{"since":"x"}"#, "{}", "5", r#"{"since":1.5}"#] {
        assert_eq!(reason(malformed, Ok(Vec::new())), "Replay params are not valid", "{malformed}");
    }
    assert_eq!(reason(r#"{"since":1}"#, Err(ReplayError::BadParams)), "Replay params are not valid");
    assert_eq!(reason(r#"{"since":1}"#, Err(ReplayError::Failed)), "Realtime was unable to replay messages");
}

#[test]
fn readiness_is_told_at_once_or_when_it_comes_or_too_late() {
    let services = Services::new(Arc::new(Tokens));
    let replication = services.replication.clone();
    let lobby = lobby(Config::default(), services);
    let join = r#"["1","1","realtime:r","phx_join",{"config":{"broadcast":{"replication_ready":1}}}]"#;
    let ready = r#"["1",null,"realtime:r","system",{"message":"Replication connection established","status":"ok","extension":"system","channel":"r"}]"#;
    let mut client = Client::of(&lobby, Serializer::V2);
    assert_eq!(client.send(join).len(), 1);
    assert_eq!(client.session.next_deadline(), Some(client.now.instant + Duration::from_millis(500)));
    assert_eq!(client.wait(Duration::from_millis(500)), Vec::<String>::new());
    replication.store(true, Ordering::Relaxed);
    assert_eq!(client.wait(Duration::from_millis(500)), [ready]);
    assert_eq!(client.wait(Duration::from_millis(500)), Vec::<String>::new());
    assert_eq!(client.send(join)[2], ready);
    replication.store(false, Ordering::Relaxed);
    client.send(join);
    closes(&client.wait(Duration::from_secs(60)), "Replication connection was not established in time");
}
