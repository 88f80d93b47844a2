//! Presence: tracked, changed, refused, limited.

use super::*;

fn join(topic: &str, key: &str, enabled: bool) -> String {
    format!(
        r#"["1","1","realtime:{topic}","phx_join",{{"config":{{"presence":{{"key":{key},"enabled":{enabled}}}}}}}]"#
    )
}

fn say(topic: &str, message: &str) -> String {
    format!(r#"["1","2","realtime:{topic}","presence",{message}]"#)
}

fn track(topic: &str, payload: &str) -> String {
    say(topic, &format!(r#"{{"type":"presence","event":"track","payload":{payload}}}"#))
}

/// Refs are the server's to choose: the first is `#1`, the second `#2`.
fn named(frames: Vec<String>) -> Vec<String> {
    let mut refs: Vec<String> = Vec::new();
    let name = |frame: &String| {
        let mut parts = frame.split("\"phx_ref\":\"");
        let mut text = parts.next().unwrap().to_owned();
        for part in parts {
            let place = refs.iter().position(|known| *known == part[..16]).unwrap_or_else(|| {
                refs.push(part[..16].to_owned());
                refs.len() - 1
            });
            text += &format!("\"phx_ref\":\"#{}{}", place + 1, &part[16..]);
        }
        refs.iter().zip(1..).fold(text, |text, (known, number)| text.replace(known, &format!("#{number}")))
    };
    frames.iter().map(name).collect()
}

const OK: &str = r#"["1","2","realtime:p","phx_reply",{"status":"ok","response":{}}]"#;

fn pair() -> (Client, Client) {
    let lobby = lobby(Config::default(), Services::new(Arc::new(Tokens)));
    (Client::of(&lobby, Serializer::V2), Client::of(&lobby, Serializer::V2))
}

#[test]
fn others_are_told_and_whoever_joins_is_given_the_state() {
    let (mut a, mut b) = pair();
    assert_eq!(a.send(&join("p", "\"a\"", true))[1], r#"["1",null,"realtime:p","presence_state",{}]"#);
    assert_eq!(
        named(a.send(&track("p", r#"{"user":1}"#))),
        [
            OK,
            r##"[null,null,"realtime:p","presence_diff",{"joins":{"a":{"metas":[{"phx_ref":"#1","user":1}]}},"leaves":{}}]"##
        ]
    );
    assert_eq!(
        named(b.send(&join("p", "\"b\"", true)))[1],
        r##"["1",null,"realtime:p","presence_state",{"a":{"metas":[{"phx_ref":"#1","user":1}]}}]"##
    );
    // The same again is no news.
    assert_eq!(a.send(&track("p", r#"{"user":1}"#)), [OK]);
    a.send(&track("p", r#"{"user":11}"#));
    a.send(&say("p", r#"{"event":"UNTRACK","payload":{}}"#));
    assert_eq!(
        named(b.received()),
        [
            r##"[null,null,"realtime:p","presence_diff",{"joins":{"a":{"metas":[{"phx_ref":"#1","phx_ref_prev":"#2","user":11}]}},"leaves":{"a":{"metas":[{"phx_ref":"#2","user":1}]}}}]"##,
            r##"[null,null,"realtime:p","presence_diff",{"joins":{},"leaves":{"a":{"metas":[{"phx_ref":"#1","phx_ref_prev":"#2","user":11}]}}}]"##
        ]
    );
}

/// One such presence, and nobody with a strict reader could join any more.
#[test]
fn what_not_every_client_can_read_is_not_tracked() {
    let (mut a, mut b) = pair();
    a.send(&join("p", "\"a\"", false));
    b.send(&join("p", "\"b\"", false));
    let nested = format!(r#"{{"n":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    for payload in [r#"{"n":1e999}"#, r#"{"n":"\ud800"}"#, r#"{"\udc00":1}"#, &nested] {
        assert_eq!(a.send(&track("p", payload)), Vec::<String>::new(), "{payload}");
    }
    assert_eq!(b.received(), Vec::<String>::new());
    assert_eq!(a.send(&track("p", r#"{"n":"\ud83d\ude00"}"#)).len(), 2);
}

#[test]
fn leaving_and_losing_the_socket_untrack() {
    let (mut a, mut b) = pair();
    a.send(&join("p", "\"a\"", false));
    for end in 0..3 {
        b.send(&join("p", "\"b\"", false));
        b.send(&track("p", "{}"));
        assert_eq!(a.received().len(), 1);
        match end {
            0 => drop(b.send(r#"["1","9","realtime:p","phx_leave",{}]"#)),
            1 => drop(b.send(&join("p", "\"b\"", false))),
            _ => drop(b.give(Input::Gone)),
        }
        assert!(a.received()[0].contains(r#""joins":{},"leaves":{"b""#), "{end}");
    }
}

#[test]
fn keys_are_given_or_made() {
    for (given, key) in [("5", "\"5\""), ("\"\"", ""), ("null", ""), ("{}", ""), ("\"a\\\"b\"", r#""a\"b""#)] {
        let mut client = Client::new(Serializer::V2);
        client.send(&join("p", given, true));
        let diff = &client.send(&track("p", "{}"))[1];
        let shown = diff.split("\"joins\":{").nth(1).unwrap().split(":{\"metas\"").next().unwrap();
        match key {
            "" => assert_eq!(shown.len(), 38, "a quoted UUID: {shown}"),
            key => assert_eq!(shown, key),
        }
    }
}

#[test]
fn what_is_no_presence_is_answered_as_recorded() {
    let mut client = Client::new(Serializer::V2);
    client.send(&join("p", "\"a\"", true));
    let error = r#"["1","2","realtime:p","phx_reply",{"status":"error","response":{}}]"#;
    let not_a_map = r#"["1","2","realtime:p","phx_reply",{"status":"error","response":{"reason":"Presence track payload must be a map"}}]"#;
    for (message, answer) in [
        (r#"{"type":"presence","event":"foo"}"#, error),
        ("{}", OK),
        (r#"{"type":"presence","event":"untrack"}"#, OK),
        (r#"{"event":"track","payload":"str"}"#, not_a_map),
        (r#"{"event":"track","payload":null}"#, not_a_map),
        (r#"{"event":5}"#, error),
        ("\"track\"", error),
    ] {
        assert_eq!(client.send(&say("p", message)), [answer], "{message}");
    }
    let frames = client.send(&say("p", r#"{"type":"presence","event":"Track"}"#));
    assert!(frames[1].contains("\"joins\":{\"a\""), "no payload is an empty one");
}

#[test]
fn a_client_that_calls_too_often_is_closed_and_leaves() {
    let limits = crate::channels::Limits { presence_calls_max: Some(5), ..Default::default() };
    let lobby = lobby(Config { limits, ..Config::default() }, Services::new(Arc::new(Tokens)));
    let (mut a, mut b) = (Client::of(&lobby, Serializer::V2), Client::of(&lobby, Serializer::V2));
    a.send(&join("p", "\"a\"", false));
    b.send(&join("p", "\"b\"", false));
    for n in 0..5 {
        assert_eq!(a.send(&track("p", &format!("{{\"n\":{n}}}")))[0], OK);
    }
    b.received();
    assert_eq!(
        a.send(&track("p", "{}")),
        [
            r#"["1",null,"realtime:p","system",{"message":"Client presence rate limit exceeded","status":"error","extension":"system","channel":"p"}]"#,
            r#"["1","1","realtime:p","phx_close",{}]"#
        ]
    );
    assert!(b.received()[0].contains(r#""leaves":{"a""#));
}

#[test]
fn too_many_presence_events_close_the_tracker_and_give_no_state() {
    let limits = crate::channels::Limits { presence_events_per_second_max: Some(2), ..Default::default() };
    let mut client = Client::with(Serializer::V2, Config { limits, ..Config::default() });
    client.send(&join("p", "\"a\"", true));
    for n in 0..30 {
        client.send(&track("p", &format!("{{\"n\":{n}}}")));
    }
    client.wait(Duration::from_secs(6));
    let closed = [
        r#"["1",null,"realtime:p","system",{"message":"Too many presence messages per second","status":"error","extension":"system","channel":"p"}]"#,
        r#"["1","1","realtime:p","phx_close",{}]"#,
    ];
    assert_eq!(client.send(&track("p", "{}")), closed);
}

#[test]
fn a_track_above_the_size_limit_closes() {
    let limits = crate::channels::Limits { payload_bytes_max: 10, ..Default::default() };
    let mut client = Client::with(Serializer::V2, Config { limits, ..Config::default() });
    client.send(&join("p", "\"a\"", false));
    assert!(client.send(&track("p", r#"{"a":"too long"}"#))[0].contains("Track message size exceeded"));
}

#[test]
fn who_comes_back_within_the_grace_has_not_been_away() {
    let limits = crate::channels::Limits { presence_grace: Duration::from_secs(10), ..Default::default() };
    let lobby = lobby(Config { limits, ..Config::default() }, Services::new(Arc::new(Tokens)));
    let mut watcher = Client::of(&lobby, Serializer::V2);
    watcher.send(&join("p", "\"w\"", false));
    for _ in 0..3 {
        let mut client = Client::of(&lobby, Serializer::V2);
        client.send(&join("p", "\"a\"", false));
        client.send(&track("p", r#"{"n":1}"#));
        client.give(Input::Gone);
    }
    assert_eq!(watcher.received().len(), 1);
    lobby.hub.end_graces(Instant::now() + Duration::from_secs(11));
    assert!(watcher.received()[0].contains(r#""leaves":{"a""#));
    // Who leaves has left.
    let mut client = Client::of(&lobby, Serializer::V2);
    client.send(&join("p", "\"a\"", false));
    client.send(&track("p", "{}"));
    client.send(r#"["1","9","realtime:p","phx_leave",{}]"#);
    assert_eq!(watcher.received().len(), 2);
}
