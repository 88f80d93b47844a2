//! Broadcasts over HTTP: every answer of PROTOCOL 7.1 to 7.3, with the authority stood in for. Who receives what is
//! tested where clients are.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use walcast::authz::{TopicAuthority, TopicError, TopicGrant, TopicQuestion, TopicRight};

use crate::support::socket::{Answer, Relay, token};

const JSON: &str = "content-type: application/json\r\n";
const GOOD: &str = r#"{"messages":[{"topic":"e","event":"x","payload":{}}]}"#;

/// Grants writing to topics that begin with `allowed`; keeps what it is asked.
#[derive(Default)]
pub struct Authority {
    asked: Mutex<Vec<TopicQuestion>>,
}

impl TopicAuthority for Authority {
    fn ask(&self, question: TopicQuestion) -> oneshot::Receiver<Result<TopicGrant, TopicError>> {
        let (answer, answered) = oneshot::channel();
        let granted = match &*question.topic {
            "broken" => Err(TopicError::Unavailable),
            "slow" => Err(TopicError::Cancelled),
            topic => Ok(TopicGrant { broadcast: topic.starts_with("allowed"), presence: false }),
        };
        // One that is dropped has not answered.
        if &*question.topic != "gone" {
            answer.send(granted).unwrap();
        }
        self.asked.lock().unwrap().push(question);
        answered
    }
}

pub async fn with_authority() -> (Relay, Arc<Authority>) {
    let authority = Arc::new(Authority::default());
    let given = authority.clone();
    let relay = Relay::with_services(|_, _| {}, |services| services.authority = Some(given)).await;
    (relay, authority)
}

fn batch(topics: &[(&str, bool)]) -> String {
    let message = |(topic, private): &(&str, bool)| {
        format!(r#"{{"topic":"{topic}","event":"e","payload":{{}},"private":{private}}}"#)
    };
    format!(r#"{{"messages":[{}]}}"#, topics.iter().map(message).collect::<Vec<_>>().join(","))
}

fn has_rate_headers(answer: &Answer) -> bool {
    ["x-rate-rolling", "x-rate-limit", "x-rate-limit-remaining"]
        .iter()
        .all(|name| answer.header(name).is_some_and(|value| value.parse::<u32>().is_ok()))
}

#[tokio::test]
async fn a_batch_is_accepted_on_both_paths_with_nothing_to_say() {
    let relay = Relay::start().await;
    for path in ["/api/broadcast", "/realtime/v1/api/broadcast?apikey=x&vsn=2.0.0", "/api/broadcast/"] {
        let accepted = relay.post(path, JSON, GOOD).await;
        assert_eq!((accepted.status, &*accepted.body), (202, ""), "{path}");
        assert!(has_rate_headers(&accepted) && accepted.header("x-request-id").is_some());
        assert_eq!(accepted.header("content-type"), None);
        assert_eq!(accepted.header("content-length"), Some("0"));
        assert_eq!(accepted.header("access-control-allow-origin"), None);
    }
    let from_a_page = relay.post("/api/broadcast", &format!("{JSON}origin: https://x.test\r\n"), GOOD).await;
    assert_eq!((from_a_page.status, from_a_page.header("access-control-allow-origin")), (202, Some("*")));
    for method in ["GET", "PUT", "DELETE"] {
        let other = relay.http(method, "/api/broadcast", "connection: close\r\n").await;
        assert_eq!((other.status, &*other.body), (404, "Not Found"), "{method}");
    }
}

#[tokio::test]
async fn the_token_is_the_bearer_or_the_apikey() {
    let relay = Relay::start().await;
    let post = async |headers: &str| {
        let head = format!("{JSON}{headers}connection: close\r\ncontent-length: {}\r\n", GOOD.len());
        relay.http_with_body("POST", "/api/broadcast", &head, GOOD.as_bytes()).await
    };
    let good = token("anon", 60);
    for headers in [
        format!("authorization: Bearer {good}\r\n"),
        format!("authorization: bEARER {good}\r\n"),
        format!("apikey: {good}\r\n"),
        // What the gateway makes of a request with nothing but a key.
        format!("authorization: {good}\r\napikey: {good}\r\n"),
    ] {
        assert_eq!(post(&headers).await.status, 202, "{headers}");
    }
    let expired = token("anon", -60);
    for headers in [
        String::new(),
        "authorization: Bearer abc\r\napikey: abc\r\n".to_owned(),
        format!("authorization: Bearer {expired}\r\n"),
        "apikey: norole\r\n".to_owned(),
        "apikey: badsig\r\n".to_owned(),
        // The bearer counts where there is one.
        format!("authorization: Bearer badsig\r\napikey: {good}\r\n"),
    ] {
        let refused = post(&headers).await;
        assert_eq!((refused.status, &*refused.body), (401, r#"{"message":"Unauthorized"}"#), "{headers}");
        assert!(has_rate_headers(&refused));
        assert_eq!(refused.header("content-type"), Some("application/json; charset=utf-8"));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_batch_is_told_as_recorded() {
    let relay = Relay::start().await;
    let cases = [
        ("", r#"{"errors":{"messages":["can't be blank"]}}"#),
        (r#"{"messages":5}"#, r#"{"errors":{"messages":["is invalid"]}}"#),
        (
            r#"{"messages":[{"topic":"e","event":"x","payload":{}},{"topic":1}]}"#,
            r#"{"errors":{"messages":[{},{"event":["can't be blank"],"payload":["can't be blank"],"topic":["is invalid"]}]}}"#,
        ),
    ];
    for (body, errors) in cases {
        let refused = relay.post("/api/broadcast", JSON, body).await;
        assert_eq!((refused.status, &*refused.body), (422, errors), "{body}");
        assert!(has_rate_headers(&refused));
    }
    // A body that is not called JSON is none.
    for headers in ["content-type: text/plain\r\n", ""] {
        let refused = relay.post("/api/broadcast", headers, GOOD).await;
        assert_eq!((refused.status, &*refused.body), (422, cases[0].1), "{headers}");
    }
    let large =
        format!(r#"{{"messages":[{{"topic":"e","event":"x","payload":{{"d":"{}"}}}}]}}"#, "x".repeat(3_200_000));
    let refused = relay.post("/api/broadcast", JSON, large).await;
    let errors = r#"{"errors":{"messages":[{"payload":["Payload size exceeds tenant limit"]}]}}"#;
    assert_eq!((refused.status, &*refused.body), (422, errors));
}

#[tokio::test]
async fn a_body_that_is_not_json_comes_before_everything_else() {
    let relay = Relay::start().await;
    let nested = "[".repeat(2_000_000);
    for path in ["/api/broadcast", "/api/broadcast/room%3As/events/x"] {
        for body in ["xx", " ", "{\"messages\":[1e999]}", "\u{feff}{}", &nested] {
            let refused = relay.post(path, JSON, body).await;
            assert_eq!((refused.status, &*refused.body), (400, "Bad Request"), "{path} {}", body.len());
            assert_eq!(refused.header("content-type"), Some("text/html; charset=utf-8"));
            assert!(!has_rate_headers(&refused) && refused.header("x-request-id").is_none());
        }
    }
    // Before the token too.
    let head = format!("{JSON}connection: close\r\ncontent-length: 2\r\n");
    assert_eq!(relay.http_with_body("POST", "/api/broadcast", &head, b"xx").await.status, 400);
    assert_eq!(relay.http_with_body("POST", "/api/broadcast", &head, b"{}").await.status, 401);
    let unacceptable = relay.post("/api/broadcast", &format!("{JSON}accept: text/html\r\n"), GOOD).await;
    assert_eq!((unacceptable.status, has_rate_headers(&unacceptable)), (406, false));
}

#[tokio::test]
async fn bodies_end_at_the_limit() {
    let relay = Relay::with(|_, server| server.body_bytes_max = 100_000).await;
    let path = "/api/broadcast/t/events/e";
    let binary = "content-type: application/octet-stream\r\n";
    assert_eq!(relay.post(path, binary, vec![0; 100_000]).await.status, 202);
    let refused = relay.post(path, binary, vec![0; 2_000_000]).await;
    assert_eq!((refused.status, &*refused.body), (413, "Request Entity Too Large"));
    // In pieces, so that only reading shows how much it is.
    let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let chunked = format!("{}{}0\r\n\r\n", piece, piece);
    let head = format!(
        "{binary}authorization: Bearer {}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n",
        token("anon", 60)
    );
    assert_eq!(relay.http_with_body("POST", path, &head, chunked.as_bytes()).await.status, 413);
    let small = format!("{piece}0\r\n\r\n");
    assert_eq!(relay.http_with_body("POST", path, &head, small.as_bytes()).await.status, 202);
    // Nobody's body is not even read so far.
    let head = format!("{JSON}connection: close\r\ncontent-length: 90000\r\n");
    let body = " ".repeat(90_000);
    assert_eq!(relay.http_with_body("POST", path, &head, body.as_bytes()).await.status, 401);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let relay = Relay::with(|_, server| server.body_timeout = std::time::Duration::from_millis(50)).await;
    let head = format!("{JSON}apikey: {}\r\nconnection: close\r\ncontent-length: 10\r\n", token("anon", 60));
    let late = relay.http_with_body("POST", "/api/broadcast", &head, b"{").await;
    assert_eq!((late.status, &*late.body), (408, "Request Timeout"));
}

#[tokio::test]
async fn a_single_event_takes_json_and_bytes_and_nothing_else() {
    let relay = Relay::start().await;
    let path = "/api/broadcast/room%3As/events/my%20ev";
    for (headers, body) in [
        (JSON, r#"{"a":1}"#),
        ("content-type: Application/JSON; charset=utf-8\r\n", "[1]"),
        (JSON, ""),
        ("content-type: application/octet-stream\r\n", "\0\u{1}"),
        ("", "not looked at"),
    ] {
        let accepted = relay.post(path, headers, body).await;
        assert_eq!((accepted.status, &*accepted.body), (202, ""), "{headers} {body}");
        assert!(has_rate_headers(&accepted));
    }
    for other in ["text/plain", "application/x-www-form-urlencoded", "application/vnd.api+json"] {
        let refused = relay.post(path, &format!("content-type: {other}\r\n"), "{}").await;
        let error = r#"{"error":"Unsupported Media Type. Use application/json or application/octet-stream"}"#;
        assert_eq!((refused.status, &*refused.body), (415, error), "{other}");
        // Before the requests are counted.
        assert!(!has_rate_headers(&refused) && refused.header("x-request-id").is_some());
    }
    assert_eq!(relay.post("/api/broadcast/a%ff/events/e", JSON, "{}").await.status, 400);
    for path in ["/api/broadcast/t", "/api/broadcast/t/events", "/api/broadcast/t/events/e/more"] {
        assert_eq!(relay.post(path, JSON, "{}").await.status, 404, "{path}");
    }
    let large = relay.post(path, "content-type: application/octet-stream\r\n", vec![0; 3_000_501]).await;
    let errors = r#"{"errors":{"payload":["Payload size exceeds tenant limit"]}}"#;
    assert_eq!((large.status, &*large.body), (422, errors));
}

#[tokio::test]
async fn names_that_do_not_fit_a_frame_are_refused() {
    let relay = Relay::start().await;
    let post = async |topic: usize, event: usize| {
        let path = format!("/api/broadcast/{}/events/{}", "t".repeat(topic), "e".repeat(event));
        let answer = relay.post(&path, JSON, "{}").await;
        (answer.status, answer.body)
    };
    assert_eq!(post(246, 255).await.0, 202);
    let errors = r#"{"errors":{"topic":["should be at most 246 byte(s)"]}}"#;
    assert_eq!(post(247, 1).await, (422, errors.to_owned()));
    let errors = r#"{"errors":{"event":["should be at most 255 byte(s)"]}}"#;
    assert_eq!(post(1, 256).await, (422, errors.to_owned()));
}

#[tokio::test]
async fn private_topics_of_a_batch_are_asked_about_once_each() {
    let (relay, authority) = with_authority().await;
    let topics = [("allowed", true), ("other", true), ("allowed", true), ("public", false), ("other", true)];
    let accepted = relay.post("/api/broadcast", &format!("{JSON}X-Mine: Yes\r\n"), batch(&topics)).await;
    // What is denied is left out, and nobody hears of it.
    assert_eq!((accepted.status, &*accepted.body), (202, ""));
    let asked = authority.asked.lock().unwrap();
    let mut names: Vec<_> = asked.iter().map(|question| &*question.topic).collect();
    names.sort_unstable();
    assert_eq!(names, ["allowed", "other"]);
    for question in asked.iter() {
        assert_eq!((question.right, question.presence), (TopicRight::Write, false));
        assert_eq!((&*question.identity.role, &*question.identity.claims), ("anon", "{}"));
        let headers: serde_json::Value = serde_json::from_str(&question.headers).unwrap();
        assert_eq!((&headers["x-mine"], &headers["host"]), (&"Yes".into(), &"realtime-dev.localhost".into()));
        assert!(headers["authorization"].as_str().is_some_and(|value| value.starts_with("Bearer anon:")));
    }
}

#[tokio::test]
async fn a_single_event_that_is_denied_is_forbidden() {
    let (relay, authority) = with_authority().await;
    let post = async |topic: &str, query: &str| {
        let answer = relay.post(&format!("/api/broadcast/{topic}/events/e{query}"), JSON, "{}").await;
        (answer.status, answer.body)
    };
    assert_eq!(post("allowed", "?private=true").await.0, 202);
    assert_eq!(post("other", "?private=true").await, (403, r#"{"message":"Unauthorized"}"#.to_owned()));
    assert_eq!(authority.asked.lock().unwrap().len(), 2);
    // Only `true` is private.
    for query in ["", "?private=false", "?private=1", "?private=TRUE"] {
        assert_eq!(post("other", query).await.0, 202, "{query}");
    }
    assert_eq!(authority.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_nobody_can_decide_is_neither_sent_nor_passed_over() {
    let (relay, _) = with_authority().await;
    let undecided = [
        ("broken", r#"{"message":"Tenant database unavailable"}"#),
        ("slow", r#"{"message":"Query canceled"}"#),
        ("gone", r#"{"message":"Tenant database unavailable"}"#),
    ];
    for (topic, message) in undecided {
        let single = relay.post(&format!("/api/broadcast/{topic}/events/e?private=true"), JSON, "{}").await;
        assert_eq!((single.status, &*single.body), (422, message), "{topic}");
        let several = relay.post("/api/broadcast", JSON, batch(&[("allowed", true), (topic, true)])).await;
        assert_eq!((several.status, &*several.body), (422, message), "{topic}");
    }
    let alone = Relay::start().await;
    let single = alone.post("/api/broadcast/t/events/e?private=true", JSON, "{}").await;
    assert_eq!((single.status, &*single.body), (422, undecided[0].1));
}

#[tokio::test]
async fn one_request_asks_for_no_more_than_it_may() {
    let (relay, authority) = with_authority().await;
    let names: Vec<_> = (0..1_001).map(|n| format!("t{n}")).collect();
    let topics: Vec<_> = names.iter().map(|name| (name.as_str(), true)).collect();
    let refused = relay.post("/api/broadcast", JSON, batch(&topics)).await;
    let message = r#"{"message":"Too many messages to broadcast, please reduce the batch size"}"#;
    assert_eq!((refused.status, &*refused.body), (429, message));
    assert!(authority.asked.lock().unwrap().is_empty());
    let refused = relay.post("/api/broadcast", JSON, batch(&vec![("t", false); 10_001])).await;
    assert_eq!((refused.status, &*refused.body), (429, message));
}

#[tokio::test]
async fn requests_above_the_rate_are_refused_before_their_token_is_looked_at() {
    let relay = Relay::with(|_, server| server.requests_per_second_max = 2).await;
    for _ in 0..2 {
        assert_eq!(relay.post("/api/broadcast", JSON, GOOD).await.status, 202);
    }
    let refused = relay.http("POST", "/api/broadcast", &format!("{JSON}connection: close\r\n")).await;
    assert_eq!((refused.status, &*refused.body), (429, r#"{"message":"Too many requests"}"#));
    assert_eq!(refused.header("x-rate-limit"), Some("2"));
}

#[tokio::test]
async fn answers_are_counted_by_status() {
    let relay = Relay::with(|_, server| server.metrics_token = Some("letmein".into())).await;
    relay.post("/api/broadcast", JSON, GOOD).await;
    relay.post("/api/broadcast", JSON, "xx").await;
    let metrics = relay.http("GET", "/metrics", "authorization: Bearer letmein\r\nconnection: close\r\n").await;
    for status in [202, 400] {
        let line = format!("walcast_broadcast_requests_total{{status=\"{status}\"}} 1");
        assert!(metrics.body.contains(&line), "{line}");
    }
}
