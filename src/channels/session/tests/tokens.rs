//! Tokens that are renewed, refused, or expire.

use super::*;

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
