//! Sessions told as transcripts: what the client sends, what it gets. Recorded frames of the original, both versions.

use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::authz::{Claims, TokenError};
use crate::channels::lobby::Config;
use crate::channels::metrics::Metrics;
use crate::channels::subscribe::EventShapeKind;
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

/// A client on a session, with a clock of its own.
struct Client {
    session: Session,
    now: Now,
    /// What dispatch was told, in words.
    told: Mutex<Vec<String>>,
    subscribes: Vec<Subscribe>,
    closed: Option<CloseReason>,
}

impl Client {
    fn new(serializer: Serializer) -> Client {
        Client::with(serializer, Config::default())
    }

    fn with(serializer: Serializer, config: Config) -> Client {
        let lobby = Lobby::new(config, Arc::new(Tokens), Arc::new(Metrics::default()));
        Client::of(&lobby, serializer)
    }

    fn of(lobby: &Arc<Lobby>, serializer: Serializer) -> Client {
        let (outbox, reader) = Outbox::new(lobby.outbox_config.clone(), lobby.metrics.clone());
        // Nothing is pushed here; the session only hands it on.
        std::mem::forget(reader);
        let session = Session::new(lobby.clone(), serializer, outbox, token("anon", 3600).into());
        let now = Now { instant: Instant::now(), wall: UNIX_EPOCH + Duration::from_secs(START) };
        Client { session, now, told: Mutex::default(), subscribes: Vec::new(), closed: None }
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now = Now { instant: self.now.instant + time, wall: self.now.wall + time };
        self.give(Input::Tick)
    }

    fn send(&mut self, text: &str) -> Vec<String> {
        self.give(Input::Text(text))
    }

    /// The frames that come back, those that dispatch sends at once included.
    fn give(&mut self, input: Input<'_>) -> Vec<String> {
        let mut frames = Vec::new();
        for action in self.session.handle(input, self.now) {
            match action {
                Action::Send(frame) => frames.push(text(&frame)),
                Action::Subscribe(subscribe) => {
                    frames.extend(subscribe.on_active.iter().map(|frame| text(frame)));
                    frames.push(text(&system::subscribed(&subscribe.address, None)));
                    self.tell(format!("subscribe as {}", subscribe.identity.role));
                    self.subscribes.push(*subscribe);
                }
                Action::Unsubscribe(_) => self.tell("unsubscribe".into()),
                Action::Close(reason) => self.closed = Some(reason),
            }
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

/// The payload of a frame shorter than 64 KiB.
fn text(frame: &[u8]) -> String {
    let header = if frame[1] == 126 { 4 } else { 2 };
    String::from_utf8(frame[header..].to_vec()).unwrap()
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
fn a_second_join_of_a_topic_ends_the_first() {
    v1(&[
        r#"> {"topic":"realtime:dup","event":"phx_join","payload":{"config":{"broadcast":{"self":true}}},"ref":"1","join_ref":"1"}"#,
        r#"< {"ref":"1","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[]}},"topic":"realtime:dup"}"#,
        r#"> {"topic":"realtime:dup","event":"phx_join","payload":{"config":{"broadcast":{"self":true}}},"ref":"2","join_ref":"2"}"#,
        r#"< {"ref":"2","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[]}},"topic":"realtime:dup"}"#,
        r#"< {"ref":"1","event":"phx_close","payload":{},"topic":"realtime:dup"}"#,
    ]);
    v2(&[
        r#"> ["1","1","realtime:dup","phx_join",{"config":{}}]"#,
        r#"< ["1","1","realtime:dup","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
        r#"> ["2","2","realtime:dup","phx_join",{"config":{}}]"#,
        r#"< ["2","2","realtime:dup","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
        r#"< ["1","1","realtime:dup","phx_close",{}]"#,
    ]);
}

#[test]
fn a_second_join_with_bindings_closes_the_first_between_its_reply_and_subscribed() {
    let mut client = Client::new(Serializer::V2);
    let join = |join_ref: &str| {
        format!(
            r#"["{join_ref}","{join_ref}","realtime:d","phx_join",{{"config":{{"postgres_changes":[{{"table":"t"}}]}}}}]"#
        )
    };
    client.send(&join("1"));
    let first = client.subscribes[0].outbox.clone();
    let frames = client.send(&join("2"));
    assert!(frames[0].starts_with(r#"["2","2","realtime:d","phx_reply",{"status":"ok""#));
    assert_eq!(frames[1], r#"["1","1","realtime:d","phx_close",{}]"#);
    assert!(frames[2].contains("Subscribed to PostgreSQL"));
    assert_eq!(client.told(), ["subscribe as anon", "unsubscribe", "subscribe as anon"]);
    assert!(!first.is_open());
    assert_ne!(client.subscribes[0].channel, client.subscribes[1].channel);
}

#[test]
fn bindings_are_told_to_dispatch_with_the_reply() {
    let mut client = Client::new(Serializer::V2);
    let frames = client.send(
        r#"["1","1","realtime:p1","phx_join",{"access_token":"authenticated:1799999999","config":{"presence":{"enabled":true},"postgres_changes":[{"event":"INSERT","schema":"public","table":"multi_b"}]}}]"#,
    );
    let id = client.subscribes[0].bindings[0].0;
    assert_eq!(
        frames,
        [
            format!(
                r#"["1","1","realtime:p1","phx_reply",{{"status":"ok","response":{{"postgres_changes":[{{"id":{id},"event":"INSERT","schema":"public","table":"multi_b"}}]}}}}]"#
            ),
            r#"["1",null,"realtime:p1","presence_state",{}]"#.into(),
            r#"["1",null,"realtime:p1","system",{"message":"Subscribed to PostgreSQL","status":"ok","extension":"postgres_changes","channel":"p1"}]"#.into(),
        ]
    );
    let subscribe = &client.subscribes[0];
    assert_eq!(subscribe.identity.role, "authenticated");
    assert_eq!(subscribe.shape, EventShapeKind::Standard);
    assert!(subscribe.outbox.is_open());
    client.give(Input::Gone);
    assert_eq!(client.told(), ["subscribe as authenticated", "unsubscribe"]);
    assert!(!client.subscribes[0].outbox.is_open());
}

#[test]
fn a_join_without_a_config_is_a_legacy_subscription() {
    let mut client = Client::new(Serializer::V1);
    let frames = client.send(
        r#"{"topic":"realtime:public:plain","event":"phx_join","payload":{"user_token":"authenticated:1799999999"},"ref":"1","join_ref":"1"}"#,
    );
    let id = client.subscribes[0].bindings[0].0;
    assert_eq!(
        frames[0],
        format!(
            r#"{{"ref":"1","event":"phx_reply","payload":{{"status":"ok","response":{{"postgres_changes":[{{"id":{id},"schema":"public","table":"plain"}}]}}}},"topic":"realtime:public:plain"}}"#
        )
    );
    assert_eq!(client.subscribes[0].shape, EventShapeKind::Legacy);
    assert_eq!(client.subscribes[0].identity.role, "authenticated");
}

#[test]
fn a_version_1_channel_is_known_by_the_ref_of_its_join() {
    v1(&[
        r#"> {"topic":"realtime:a","event":"phx_join","payload":{"config":{}},"ref":"9"}"#,
        r#"< {"ref":"9","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[]}},"topic":"realtime:a"}"#,
        r#"> {"topic":"realtime:a","event":"phx_leave","payload":{},"ref":"10","join_ref":null}"#,
        r#"< {"ref":"10","event":"phx_reply","payload":{"status":"ok","response":{}},"topic":"realtime:a"}"#,
        r#"< {"ref":"9","event":"phx_close","payload":{},"topic":"realtime:a"}"#,
    ]);
}

#[test]
fn joins_are_refused_with_the_recorded_reasons() {
    let reason = |topic: &str, payload: &str| {
        let mut client = Client::new(Serializer::V2);
        let frames = client.send(&format!(r#"["1","1","{topic}","phx_join",{payload}]"#));
        let [frame] = &frames[..] else { panic!("{frames:?}") };
        let head = format!(r#"["1","1","{topic}","phx_reply",{{"status":"error","response":{{"reason":""#);
        frame.strip_prefix(&head).unwrap().strip_suffix("\"}}]").unwrap().to_owned()
    };
    let room = |payload: &str| reason("realtime:room1", payload);
    assert_eq!(reason("realtime:", "{}"), "TopicNameRequired: You must provide a topic name");
    assert_eq!(room(r#""str""#), r#"UnknownErrorOnChannel: expected params to be a :map, got: `\"str\"`"#);
    assert_eq!(room("null"), "UnknownErrorOnChannel: expected params to be a :map, got: `nil`");
    let expired = format!(r#"{{"config":{{}},"access_token":"a:{}"}}"#, START - 60);
    assert_eq!(room(&expired), "InvalidJWTToken: Token has expired 60 seconds ago");
    let with_token = |token: &str| room(&format!(r#"{{"config":{{}},"access_token":"{token}"}}"#));
    assert_eq!(with_token("norole"), "InvalidJWTToken: Fields `role` and `exp` are required in JWT");
    assert_eq!(with_token("abc"), "MalformedJWT: The token provided is not a valid JWT");
    assert_eq!(with_token("badsig"), "JwtSignatureError: Failed to validate JWT signature");
    assert_eq!(
        room(r#"{"config":{"private":true}}"#),
        "Unauthorized: You do not have permissions to read from this Channel topic: room1"
    );
    assert_eq!(
        room(r#"{"config":{"broadcast":{"replay":{"since":1}}}}"#),
        "UnableToReplayMessages: Replay is not allowed for public channels"
    );
}

#[test]
fn the_upgrade_token_serves_where_the_join_has_none_of_its_own() {
    for token in [r#""sb_publishable_abc""#, "123", "null"] {
        let mut client = Client::new(Serializer::V2);
        let frames =
            client.send(&format!(r#"["1","1","realtime:r","phx_join",{{"config":{{}},"access_token":{token}}}]"#));
        assert!(frames[0].contains(r#""status":"ok""#), "{token}");
    }
}

#[test]
fn a_refused_join_is_answered_after_the_back_off_and_nothing_else_waits() {
    let config = Config { join_error_backoff: Duration::from_secs(5), ..Config::default() };
    let mut client = Client::with(Serializer::V2, config);
    assert_eq!(client.send(r#"["1","1","realtime:","phx_join",{}]"#), Vec::<String>::new());
    assert_eq!(client.send(r#"[null,"2","phoenix","heartbeat",{}]"#).len(), 1);
    assert_eq!(client.session.next_deadline(), Some(client.now.instant + Duration::from_secs(5)));
    assert_eq!(client.wait(Duration::from_secs(4)), Vec::<String>::new());
    let frames = client.wait(Duration::from_secs(1));
    assert!(frames[0].contains("TopicNameRequired"));
    assert_eq!(client.session.next_deadline(), None);
}

#[test]
fn channels_above_the_limit_are_refused_and_a_leave_frees_the_place() {
    let limits = crate::channels::Limits { channels_per_connection_max: 2, ..Default::default() };
    let mut client = Client::with(Serializer::V2, Config { limits, ..Config::default() });
    let join = |name: &str| format!(r#"["{name}","{name}","realtime:{name}","phx_join",{{"config":{{}}}}]"#);
    assert!(client.send(&join("a"))[0].contains("\"ok\""));
    assert!(client.send(&join("b"))[0].contains("\"ok\""));
    assert!(client.send(&join("c"))[0].contains("ChannelRateLimitReached: Too many channels"));
    // A rejoin needs no new place.
    assert!(client.send(&join("b"))[0].contains("\"ok\""));
    client.send(r#"["a","9","realtime:a","phx_leave",{}]"#);
    assert!(client.send(&join("c"))[0].contains("\"ok\""));
}

#[test]
fn too_many_users_and_too_many_joins_are_told_apart() {
    let limits = crate::channels::Limits { joined_connections_max: 1, joins_per_second_max: 1, ..Default::default() };
    let lobby = Lobby::new(Config { limits, ..Config::default() }, Arc::new(Tokens), Arc::default());
    let join = r#"["1","1","realtime:a","phx_join",{"config":{}}]"#;
    let (mut first, mut second) = (Client::of(&lobby, Serializer::V2), Client::of(&lobby, Serializer::V2));
    assert!(first.send(join)[0].contains("\"ok\""));
    assert!(second.send(join)[0].contains("ConnectionRateLimitReached: Too many connected users"));
    assert_eq!(second.closed, None);
    first.give(Input::Gone);
    for _ in 0..4 {
        assert!(second.send(join)[0].contains("\"ok\""));
    }
    assert!(second.send(join)[0].contains("ClientJoinRateLimitReached: Too many joins per second"));
    assert_eq!(second.closed, Some(CloseReason::JoinRate));
}

#[test]
fn a_new_token_binds_anew_without_a_reply() {
    let mut client = Client::new(Serializer::V2);
    client.send(r#"["1","1","realtime:r","phx_join",{"config":{"postgres_changes":[{"table":"t"}]}}]"#);
    client.told();
    let renew = |token: &str| format!(r#"["1","2","realtime:r","access_token",{{"access_token":{token}}}]"#);
    for ignored in ["null", "5", r#""sb_secret_x""#, &format!("\"{}\"", token("anon", 3600))] {
        assert_eq!(client.send(&renew(ignored)), Vec::<String>::new(), "{ignored}");
    }
    assert_eq!(client.told(), Vec::<String>::new());
    let frames = client.send(&renew(&format!("\"{}\"", token("authenticated", 60))));
    assert_eq!(
        frames,
        [
            r#"["1",null,"realtime:r","system",{"message":"Subscribed to PostgreSQL","status":"ok","extension":"postgres_changes","channel":"r"}]"#
        ]
    );
    assert_eq!(client.told(), ["subscribe as authenticated"]);
    assert_eq!(client.subscribes[0].channel, client.subscribes[1].channel);
    assert_eq!(client.subscribes[0].bindings.len(), 1);
    assert_eq!(client.session.next_deadline(), Some(client.now.instant + Duration::from_secs(60)));
}

#[test]
fn a_refused_token_ends_its_channel_and_not_the_socket() {
    let expired = format!(
        r#"{{"topic":"realtime:room1","event":"access_token","payload":{{"access_token":"a:{}"}},"ref":"2","join_ref":"1"}}"#,
        START - 60
    );
    v1(&[
        r#"> {"topic":"realtime:room1","event":"phx_join","payload":{"config":{}},"ref":"1","join_ref":"1"}"#,
        r#"< {"ref":"1","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[]}},"topic":"realtime:room1"}"#,
        &format!("> {expired}"),
        r#"< {"ref":null,"event":"system","payload":{"message":"Token has expired 60 seconds ago","status":"error","extension":"system","channel":"room1"},"topic":"realtime:room1"}"#,
        r#"< {"ref":"1","event":"phx_close","payload":{},"topic":"realtime:room1"}"#,
        r#"> {"topic":"realtime:room1","event":"broadcast","payload":{},"ref":"3","join_ref":"1"}"#,
        r#"< {"ref":"3","event":"phx_reply","payload":{"status":"error","response":{"reason":"unmatched topic"}},"topic":"realtime:room1"}"#,
    ]);
    v2(&[
        r#"> ["1","1","realtime:room1","phx_join",{"config":{}}]"#,
        r#"< ["1","1","realtime:room1","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
        r#"> ["1","2","realtime:room1","access_token",{"access_token":"badsig"}]"#,
        r#"< ["1",null,"realtime:room1","system",{"message":":signature_error","status":"error","extension":"system","channel":"room1"}]"#,
        r#"< ["1","1","realtime:room1","phx_close",{}]"#,
    ]);
}

#[test]
fn a_token_that_expires_ends_its_channels_at_that_moment() {
    let mut client = Client::new(Serializer::V2);
    let config = r#""config":{"postgres_changes":[{"table":"t"}]}"#;
    client.send(&format!(
        r#"["1","1","realtime:exp1","phx_join",{{{config},"access_token":"{}"}}]"#,
        token("authenticated", 4)
    ));
    client.send(r#"["2","2","realtime:stays","phx_join",{"config":{}}]"#);
    assert_eq!(client.wait(Duration::from_secs(3)), Vec::<String>::new());
    assert_eq!(
        client.wait(Duration::from_secs(1)),
        [
            r#"["1",null,"realtime:exp1","system",{"message":"Token has expired 0 seconds ago","status":"error","extension":"system","channel":"exp1"}]"#,
            r#"["1","1","realtime:exp1","phx_close",{}]"#
        ]
    );
    assert_eq!(client.told(), ["subscribe as authenticated", "unsubscribe"]);
    assert!(client.send(r#"["2","3","realtime:stays","phx_leave",{}]"#)[0].contains("\"ok\""));
}

#[test]
fn a_token_that_still_holds_after_five_minutes_is_looked_at_again_later() {
    let mut client = Client::new(Serializer::V2);
    client.send(r#"["1","1","realtime:a","phx_join",{"config":{}}]"#);
    let in_five_minutes = client.now.instant + Duration::from_secs(300);
    assert_eq!(client.session.next_deadline(), Some(in_five_minutes));
    assert_eq!(client.wait(Duration::from_secs(300)), Vec::<String>::new());
    assert_eq!(client.session.next_deadline(), Some(in_five_minutes + Duration::from_secs(300)));
}

#[test]
fn a_broadcast_is_acknowledged_where_that_was_asked_for() {
    v2(&[
        r#"> ["1","1","realtime:b","phx_join",{"config":{"broadcast":{"ack":true}}}]"#,
        r#"< ["1","1","realtime:b","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
        r#"> [null,"2","realtime:b","broadcast",{"type":"broadcast","event":"x","payload":{}}]"#,
        r#"< ["1","2","realtime:b","phx_reply",{"status":"ok","response":{}}]"#,
        r#"> ["1","3","realtime:b","foo",{"a":1}]"#,
        r#"> ["1","4","realtime:b","presence",{"type":"presence","event":"track","payload":{}}]"#,
        r#"< ["1","4","realtime:b","phx_reply",{"status":"error","response":{"reason":"Presence is not available"}}]"#,
    ]);
    let mut client = Client::new(Serializer::V2);
    client.send(r#"["1","1","realtime:b","phx_join",{"config":{"broadcast":{"ack":true}}}]"#);
    let frames = client.give(Input::Binary(b"\x03\x00\x015\x01\x00\x01"));
    assert_eq!(frames, Vec::<String>::new());
    let mut frame = vec![3, 0, 1, 10, 1, 0, 1];
    frame.extend_from_slice(b"7realtime:be{}");
    assert_eq!(
        client.give(Input::Binary(&frame)),
        [r#"["1","7","realtime:b","phx_reply",{"status":"ok","response":{}}]"#]
    );
}

#[test]
fn an_oversize_broadcast_is_refused() {
    let limits = crate::channels::Limits { payload_bytes_max: 10, ..Default::default() };
    let mut client = Client::with(Serializer::V2, Config { limits, ..Config::default() });
    client.send(r#"["1","1","realtime:b","phx_join",{"config":{"broadcast":{"ack":true}}}]"#);
    assert_eq!(
        client.send(r#"["1","2","realtime:b","broadcast",{"payload":{"a":1}}]"#),
        [r#"["1","2","realtime:b","phx_reply",{"status":"error","response":"payload_size_exceeded"}]"#]
    );
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
