//! Joins: let in, refused, repeated.

use super::*;
use crate::channels::subscribe::EventShapeKind;

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
            r#"["1",null,"realtime:p1","system",{"message":"Subscribed to PostgreSQL","status":"ok","extension":"postgres_changes","channel":"p1"}]"#.into(),
            r#"["1",null,"realtime:p1","presence_state",{}]"#.into(),
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
    let lobby = lobby(Config { limits, ..Config::default() }, Services::new(Arc::new(Tokens)));
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
