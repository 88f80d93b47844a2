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
