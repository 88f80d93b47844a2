//! What a self-hosted stack and its proxies expect of the server beside sockets and broadcasts.

use futures_util::StreamExt;
use serde_json::{Value, json};
use walcast::authz::{SignedTokens, mint};
use walcast::server::Origins;

use crate::support::socket::{Relay, token};

const SECRET: &str = "a-secret-for-the-tests-with-at-least-32-characters";

fn signed(claims: Value) -> String {
    let token = mint(SECRET, claims.as_object().unwrap()).unwrap();
    format!("authorization: Bearer {token}\r\nconnection: close\r\n")
}

async fn relay() -> Relay {
    Relay::with(|_, server| {
        server.admin_tokens = SignedTokens::new(SECRET, []);
        server.metrics_tokens = SignedTokens::new(SECRET, []);
    })
    .await
}

#[tokio::test]
async fn the_admin_api_knows_one_tenant_and_keeps_it_as_it_is() {
    let relay = relay().await;
    let admin = signed(json!({"exp": 4_000_000_000_u64}));
    let all = relay.http("GET", "/api/tenants", &admin).await;
    let all: Value = serde_json::from_str(&all.body).unwrap();
    assert_eq!(all["data"][0]["external_id"], "realtime-dev");
    let one = relay.http("GET", "/api/tenants/mine", &admin).await;
    let tenant: Value = serde_json::from_str(&one.body).unwrap();
    assert_eq!((one.status, &tenant["data"]["external_id"]), (200, &json!("mine")));
    assert!(!one.body.contains("secret") && !one.body.contains("password"));
    assert_eq!(relay.http("HEAD", "/api/tenants/mine", &admin).await.status, 200);

    let body = r#"{"tenant":{"external_id":"mine","jwt_secret":"x"}}"#;
    let head = format!("{admin}content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    for (method, path, location) in [
        ("POST", "/api/tenants", "/api/tenants/realtime-dev"),
        ("PUT", "/api/tenants/mine", "/api/tenants/mine"),
        ("PATCH", "/api/tenants/mine", "/api/tenants/mine"),
    ] {
        let kept = relay.http_with_body(method, path, &head, body.as_bytes()).await;
        assert_eq!((kept.status, kept.header("location")), (200, Some(location)), "{method}");
    }
    for (method, path) in
        [("DELETE", "/api/tenants/mine"), ("POST", "/api/tenants/mine/reload"), ("PUT", "/api/tenants")]
    {
        assert_eq!(relay.http(method, path, &admin).await.status, 404, "{method} {path}");
    }
}

#[tokio::test]
async fn the_admin_api_is_closed_to_everybody_else() {
    let relay = relay().await;
    let strangers = [
        "connection: close\r\n".to_owned(),
        "authorization: Bearer abc\r\nconnection: close\r\n".to_owned(),
        signed(json!({"exp": 1})),
        // Every web page has this one, and in the stack it is signed with the same secret.
        signed(json!({"role": "anon", "exp": 4_000_000_000_u64})),
        format!("authorization: Bearer {}\r\nconnection: close\r\n", token("service_role", 60)),
    ];
    for headers in &strangers {
        for (method, path) in [("GET", "/api/tenants"), ("GET", "/api/tenants/x"), ("PUT", "/api/tenants/x")] {
            let refused = relay.http(method, path, headers).await;
            assert_eq!((refused.status, &*refused.body), (403, ""), "{method} {path} {headers}");
        }
    }
    // As the gateway answers, which is not there if the path comes whole.
    let admin = signed(json!({}));
    let refused = relay.http("GET", "/realtime/v1/api/tenants", &admin).await;
    assert_eq!((refused.status, &*refused.body), (403, r#"{"message":"Access is forbidden."}"#));
    let closed = Relay::start().await;
    assert_eq!(closed.http("GET", "/api/tenants", &admin).await.status, 403);
}

#[tokio::test]
async fn health_is_for_clients_and_admins() {
    let relay = relay().await;
    for path in ["/api/tenants/realtime-dev/health", "/realtime/v1/api/tenants/any/health"] {
        let client = format!("authorization: Bearer {}\r\nconnection: close\r\n", token("anon", 60));
        assert_eq!(relay.http("HEAD", path, &client).await.status, 200);
        assert_eq!(relay.http("GET", path, &signed(json!({}))).await.status, 200);
        assert_eq!(relay.http("GET", path, "connection: close\r\n").await.status, 403);
        assert_eq!(relay.http("POST", path, &client).await.status, 404);
    }
}

#[tokio::test]
async fn metrics_are_for_tokens_that_are_signed_for_them() {
    let relay = relay().await;
    let metrics = relay.http("GET", "/metrics", &signed(json!({}))).await;
    assert!(metrics.status == 200 && metrics.body.contains("walcast_connections"));
    for headers in [signed(json!({"role": "anon"})), signed(json!({"exp": 1})), "connection: close\r\n".to_owned()] {
        let refused = relay.http("GET", "/metrics", &headers).await;
        assert_eq!((refused.status, &*refused.body), (403, ""), "{headers}");
    }
}

#[tokio::test]
async fn pages_from_other_origins_open_no_socket_and_read_no_answer() {
    let relay = Relay::with(|_, server| server.origins = Origins::parse(["https://app.test"]).unwrap()).await;
    let path = format!("/socket/websocket?apikey={}&vsn=2.0.0", token("anon", 60));
    let from = |origin: &str| [("origin", origin.to_owned())];
    assert_eq!(relay.upgrade_status(&path, &from("https://app.test")).await, 101);
    assert_eq!(relay.upgrade_status(&path, &[]).await, 101);
    assert_eq!(relay.upgrade_status(&path, &from("https://evil.test")).await, 403);
    let refused = relay.http("GET", &path, "origin: null\r\nconnection: close\r\n").await;
    assert_eq!((refused.status, &*refused.body), (403, r#"{"error":"Origin not allowed"}"#));

    for (origin, allowed) in [("https://app.test", Some("https://app.test")), ("https://evil.test", None)] {
        let headers = format!("origin: {origin}\r\nconnection: close\r\n");
        let preflight = relay.http("OPTIONS", "/api/broadcast", &headers).await;
        assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, allowed));
        assert_eq!(preflight.header("vary"), Some("origin"));
        let ping = relay.http("GET", "/api/ping", &headers).await;
        assert_eq!((ping.status, ping.header("access-control-allow-origin")), (200, allowed));
    }
}

#[tokio::test]
async fn an_address_has_so_many_sockets_as_the_proxy_tells_them_apart() {
    let relay = Relay::with(|_, server| {
        server.connections_per_address_max = Some(1);
        server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    let path = format!("/socket/websocket?apikey={}&vsn=2.0.0", token("anon", 60));
    let mut first = relay.connect_by(&path).await;
    let crowded = relay.http("GET", &path, HANDSHAKE).await;
    assert_eq!((crowded.status, &*crowded.body), (429, r#"{"error":"Too many connections from this address"}"#));
    let behind = [("x-forwarded-for", "198.51.100.7".to_owned())];
    assert_eq!(relay.upgrade_status(&path, &behind).await, 101);
    // Its place is free before the server closes the socket.
    first.0.close(None).await.unwrap();
    while let Some(Ok(_)) = first.0.next().await {}
    assert_eq!(relay.upgrade_status(&path, &[]).await, 101);
}

const HANDSHAKE: &str = "connection: close, upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
