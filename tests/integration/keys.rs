//! Opaque API keys, wherever a client may present one.

use std::sync::Arc;

use serde_json::json;
use walcast::authz::{ApiKeys, Verifier, VerifierConfig, mint};

use crate::support::socket::{Relay, Told};

const SECRET: &str = "a-secret-for-the-tests-with-at-least-32-characters";
const PUBLISHABLE: &str = "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH";

async fn relay() -> Relay {
    let config = VerifierConfig {
        secret: Some(SECRET.to_owned()),
        api_keys: ApiKeys::parse([format!("{PUBLISHABLE}=anon").as_str()]).unwrap(),
        ..VerifierConfig::default()
    };
    let (verifier, _) = Verifier::new(&config).unwrap();
    Relay::with_services(|_, _| {}, |services| services.verifier = Arc::new(verifier)).await
}

#[tokio::test]
async fn a_socket_opens_with_a_key_and_joins_as_its_role() {
    let relay = relay().await;
    let path = format!("/socket/websocket?apikey={PUBLISHABLE}&vsn=2.0.0");
    assert_eq!(relay.upgrade_status(&path, &[]).await, 101);
    assert_eq!(relay.upgrade_status("/socket/websocket", &[("x-api-key", PUBLISHABLE.to_owned())]).await, 101);
    assert_eq!(relay.upgrade_status("/socket/websocket?apikey=sb_publishable_other", &[]).await, 401);

    let mut socket = relay.connect_by(&path).await;
    // supabase-js sends the key along as if it were a token; another, unknown one is ignored all the same.
    for (number, token) in [PUBLISHABLE, "sb_secret_unknown"].into_iter().enumerate() {
        let join = format!(
            r#"["{number}","{number}","realtime:{number}","phx_join",{{"config":{{"postgres_changes":[{{"table":"t"}}]}},"access_token":"{token}"}}]"#
        );
        socket.send(&join).await;
        assert!(socket.text().await.contains(r#""status":"ok""#), "{token}");
        assert!(socket.text().await.contains("Subscribed to PostgreSQL"));
    }
    let told = relay.dispatch.told_at_least(2).await;
    assert!(told.iter().all(|told| matches!(told, Told::Subscribe { role, .. } if role == "anon")), "{told:?}");
}

#[tokio::test]
async fn requests_are_made_with_a_key_or_with_a_token_beside_it() {
    let relay = relay().await;
    let body = r#"{"messages":[{"topic":"e","event":"x","payload":{}}]}"#;
    let exp = 4_000_000_000_u64;
    let token = mint(SECRET, json!({"role": "authenticated", "exp": exp}).as_object().unwrap()).unwrap();
    let cases = [
        (format!("apikey: {PUBLISHABLE}\r\n"), 202),
        (format!("authorization: Bearer {PUBLISHABLE}\r\n"), 202),
        (format!("apikey: {PUBLISHABLE}\r\nauthorization: Bearer {token}\r\n"), 202),
        ("apikey: sb_publishable_other\r\n".to_owned(), 401),
        (format!("apikey: {PUBLISHABLE}x\r\n"), 401),
    ];
    for (headers, status) in cases {
        let head = format!(
            "{headers}content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        let answer = relay.http_with_body("POST", "/api/broadcast", &head, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{headers}");
    }
    let health = format!("authorization: Bearer {PUBLISHABLE}\r\nconnection: close\r\n");
    assert_eq!(relay.http("HEAD", "/api/tenants/realtime-dev/health", &health).await.status, 200);
}
