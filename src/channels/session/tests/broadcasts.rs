//! Broadcasts: to whom, acknowledged or not, refused, limited.

use super::*;

#[test]
fn a_broadcast_is_acknowledged_where_that_was_asked_for() {
    v2(&[
        r#"> ["1","1","realtime:b","phx_join",{"config":{"broadcast":{"ack":true}}}]"#,
        r#"< ["1","1","realtime:b","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
        r#"> [null,"2","realtime:b","broadcast",{"type":"broadcast","event":"x","payload":{}}]"#,
        r#"< ["1","2","realtime:b","phx_reply",{"status":"ok","response":{}}]"#,
        r#"> ["1","3","realtime:b","foo",{"a":1}]"#,
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

fn join(topic: &str, broadcast: &str) -> String {
    format!(r#"["1","1","realtime:{topic}","phx_join",{{"config":{{"broadcast":{broadcast}}}}}]"#)
}

fn send(topic: &str, payload: &str) -> String {
    format!(r#"["1","2","realtime:{topic}","broadcast",{payload}]"#)
}

fn kind_3(topic: &str, event: &str, encoding: u8, payload: &[u8]) -> Vec<u8> {
    let topic = format!("realtime:{topic}");
    let mut frame = vec![3, 1, 1, topic.len() as u8, event.len() as u8, 0, encoding];
    frame.extend_from_slice(format!("19{topic}{event}").as_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A lobby, a client of version 2 and one of version 1 on the same topic.
fn two() -> (Client, Client) {
    let lobby = lobby(Config::default(), Services::new(Arc::new(Tokens)));
    let (mut two, mut one) = (Client::of(&lobby, Serializer::V2), Client::of(&lobby, Serializer::V1));
    two.send(&join("b", r#"{"ack":true,"self":true}"#));
    one.send(r#"{"topic":"realtime:b","event":"phx_join","payload":{"config":{}},"ref":"3","join_ref":"3"}"#);
    (two, one)
}

#[test]
fn ones_own_copy_comes_before_the_acknowledgement() {
    let (mut two, mut one) = two();
    let ok = r#"["1","2","realtime:b","phx_reply",{"status":"ok","response":{}}]"#;
    for payload in ["{}", r#"{"event":"x"}"#, r#"{"type":"broadcast","event":"x","payload":"s","meta":{"id":"z"}}"#] {
        assert_eq!(
            two.send(&send("b", payload)),
            [format!(r#"[null,null,"realtime:b","broadcast",{payload}]"#), ok.to_owned()]
        );
        assert_eq!(
            one.received(),
            [format!(r#"{{"ref":null,"event":"broadcast","payload":{payload},"topic":"realtime:b"}}"#)]
        );
    }
    // Who did not ask for its own gets none, and no acknowledgement.
    let sent = one.send(r#"{"topic":"realtime:b","event":"broadcast","payload":{"x":1},"ref":"4","join_ref":"3"}"#);
    assert_eq!(sent, Vec::<String>::new());
    assert_eq!(two.received(), [r#"[null,null,"realtime:b","broadcast",{"x":1}]"#]);
}

#[test]
fn binary_frames_cross_versions_as_far_as_they_can() {
    let (mut two, mut one) = two();
    let ok = r#"["1","9","realtime:b","phx_reply",{"status":"ok","response":{}}]"#;
    assert_eq!(two.give(Input::Binary(&kind_3("b", "js", 1, br#"{"a":1}"#))), [r#"kind 4: realtime:bjs{"a":1}"#, ok]);
    assert_eq!(
        one.received(),
        [
            r#"{"ref":null,"event":"broadcast","payload":{"event":"js","payload":{"a":1},"type":"broadcast"},"topic":"realtime:b"}"#
        ]
    );
    for (encoding, payload) in [(0, &b"\x01\x02"[..]), (1, b"notjson")] {
        assert_eq!(two.give(Input::Binary(&kind_3("b", "bin", encoding, payload))).len(), 2);
        assert_eq!(one.received(), Vec::<String>::new());
    }
    // Kind 0, which no official client sends.
    assert_eq!(two.give(Input::Binary(b"\x00\x01\x01\x0a\x0918realtime:bbroadcast\x09")), Vec::<String>::new());
    assert_eq!(
        two.give(Input::Binary(&kind_3("zzz", "js", 1, b"{}"))),
        [r#"[null,"9","realtime:zzz","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#]
    );
}

#[test]
fn a_payload_that_is_no_object_goes_to_nobody() {
    let (mut two, mut one) = two();
    for payload in [r#""str""#, "[1]", "null", "5"] {
        let reply = &two.send(&send("b", payload))[0];
        assert!(reply.contains(r#""status":"error","response":{"reason":"Broadcast payload must be a map"}"#));
        assert_eq!(one.received(), Vec::<String>::new());
    }
}

#[test]
fn above_the_rate_the_message_arrives_and_its_receivers_are_closed() {
    let limits = crate::channels::Limits { events_per_second_max: Some(2), ..Default::default() };
    let mut client = Client::with(Serializer::V2, Config { limits, ..Config::default() });
    client.send(&join("rl", r#"{"ack":true,"self":true}"#));
    for _ in 0..50 {
        assert_eq!(client.send(&send("rl", "{}")).len(), 2);
    }
    client.wait(Duration::from_secs(6));
    assert_eq!(
        client.send(&send("rl", "{}")),
        [
            r#"[null,null,"realtime:rl","broadcast",{}]"#,
            r#"["1","2","realtime:rl","phx_reply",{"status":"ok","response":{}}]"#,
            r#"["1",null,"realtime:rl","system",{"message":"Too many messages per second","status":"error","extension":"system","channel":"rl"}]"#,
            r#"["1","1","realtime:rl","phx_close",{}]"#
        ]
    );
    assert!(client.send(&send("rl", "{}"))[0].contains("unmatched topic"));
}

#[test]
fn unknown_events_count_as_messages() {
    let limits = crate::channels::Limits { events_per_second_max: Some(2), ..Default::default() };
    let mut client = Client::with(Serializer::V2, Config { limits, ..Config::default() });
    client.send(&join("u", r#"{"self":true}"#));
    for _ in 0..50 {
        assert_eq!(client.send(r#"["1","2","realtime:u","foo",{}]"#), Vec::<String>::new());
    }
    client.wait(Duration::from_secs(6));
    assert!(client.send(&send("u", "{}"))[1].contains("Too many messages per second"));
}

#[test]
fn a_person_may_say_so_much_a_minute_and_so_much_at_once() {
    let limits =
        crate::channels::Limits { messages_per_minute_max: Some(2), message_bytes_max: Some(20), ..Default::default() };
    let lobby = lobby(Config { limits, ..Config::default() }, Services::new(Arc::new(Tokens)));
    let (mut here, mut there) = (Client::of(&lobby, Serializer::V2), Client::of(&lobby, Serializer::V2));
    here.send(&join("c", "{}"));
    there.send(&join("c", "{}"));
    let reason = |frames: Vec<String>| {
        assert!(frames[0].starts_with(r#"["1","2","realtime:c","phx_reply",{"status":"error","response":{"reason":""#));
        frames[0].split("reason\":\"").nth(1).unwrap().trim_end_matches("\"}}]").to_owned()
    };
    assert_eq!(
        reason(here.send(&send("c", r#"{"text":"more than that"}"#))),
        "MessageSizeLimitReached: A message may have 20 bytes"
    );
    // Two sockets, one token.
    assert_eq!(here.send(&send("c", "{}")), Vec::<String>::new());
    there.received();
    assert_eq!(there.send(&send("c", "{}")), Vec::<String>::new());
    assert_eq!(reason(there.send(&send("c", "{}"))), "MessageRateLimitReached: Too many messages per minute");
    there.wait(Duration::from_secs(61));
    assert_eq!(there.send(&send("c", "{}")), Vec::<String>::new());
}

#[test]
fn a_full_channel_refuses_a_join() {
    let limits = crate::channels::Limits { members_per_channel_max: Some(1), ..Default::default() };
    let lobby = lobby(Config { limits, ..Config::default() }, Services::new(Arc::new(Tokens)));
    let (mut first, mut second) = (Client::of(&lobby, Serializer::V2), Client::of(&lobby, Serializer::V2));
    assert!(first.send(&join("f", "{}"))[0].contains("\"ok\""));
    assert!(second.send(&join("f", "{}"))[0].contains("MemberLimitReached: Too many members in this channel"));
    // A rejoin takes its own place.
    assert!(first.send(&join("f", "{}"))[0].contains("\"ok\""));
    first.give(Input::Gone);
    assert!(second.send(&join("f", "{}"))[0].contains("\"ok\""));
}

#[test]
fn nothing_reaches_a_channel_that_was_left_or_joined_anew() {
    let (mut two, mut one) = two();
    let rejoined = two.send(&join("b", r#"{"self":true}"#));
    assert_eq!(rejoined[1], r#"["1","1","realtime:b","phx_close",{}]"#);
    assert_eq!(two.send(&send("b", "{}")).len(), 1, "once");
    assert_eq!(one.received().len(), 1);
    one.send(r#"{"topic":"realtime:b","event":"phx_leave","payload":{},"ref":"5"}"#);
    two.send(&send("b", "{}"));
    assert_eq!(one.received(), Vec::<String>::new());
}

#[test]
fn a_relay_for_private_channels_alone_refuses_public_ones() {
    let mut client = Client::with(Serializer::V2, Config { private_only: true, ..Config::default() });
    assert!(client.send(&join("p", "{}"))[0].contains("PrivateOnly: This project only allows private channels"));
}
