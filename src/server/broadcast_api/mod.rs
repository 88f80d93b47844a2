//! Broadcasts over HTTP: a batch of messages, or a single event (PROTOCOL 7.1 to 7.3).
//!
//! Checked in the original's order: the body's grammar, what may be answered, the content type, the rate of requests, the
//! token, the messages, the policies of private topics, the rate of events. Nothing of a request is sent before all of it
//! has been found good.

mod batch;
mod body;
mod caller;
mod json;
mod route;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};

pub use body::Budget;
pub use route::Route;

use self::batch::BatchError;
use self::body::ReadError;
use self::json::Json;
use self::route::ContentType;
use super::answer::{self, Answer};
use super::{Server, query};
use crate::authz::{Claims, TopicError};
use crate::channels::outbox::Burst;
use crate::channels::{Broadcasted, Content, EventPayload, TopicKey};

/// The bodies of those who are refused anyway are read as far as the original's order of errors is worth.
const STRANGERS_BODY_BYTES_MAX: usize = 64 << 10;

/// Lengths in frames of kind 4 are single bytes.
const NAME_BYTES_MAX: usize = 255;

const TOO_MANY_EVENTS: &str = "You have exceeded your rate limit";
const BATCH_TOO_LARGE: &str = "Too many messages to broadcast, please reduce the batch size";

pub async fn answer(server: &Server, route: Route, request: Request<Incoming>) -> Answer {
    let answer = respond(server, route, request).await;
    server.services.metrics.broadcast_requests(answer.status()).inc();
    answer
}

async fn respond(server: &Server, route: Route, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let (claims, content_type) = (caller::claims(server, &head.headers), ContentType::of(&head.headers));
    let is_read = match route {
        Route::Batch => content_type.is_parsed(),
        Route::Single { .. } => {
            content_type.is_parsed() || (content_type == ContentType::OctetStream && claims.is_some())
        }
        Route::Garbled => return answer::phrase(StatusCode::BAD_REQUEST),
    };
    let mut held = None;
    if is_read {
        let config = &server.config;
        let bytes_max = if claims.is_some() { config.body_bytes_max } else { STRANGERS_BODY_BYTES_MAX };
        held = match server.bodies.read(body, bytes_max, config.body_timeout).await {
            Ok(held) => Some(held),
            Err(ReadError::TooLarge) if claims.is_none() => None,
            Err(ReadError::TooLarge) => return answer::phrase(StatusCode::PAYLOAD_TOO_LARGE),
            Err(ReadError::TooSlow) => return answer::phrase(StatusCode::REQUEST_TIMEOUT),
            Err(ReadError::Broken) => return answer::phrase(StatusCode::BAD_REQUEST),
        };
    }
    let bytes = held.as_ref().map_or(&[][..], |held| &held.bytes);
    let json = match content_type.is_parsed() && !bytes.is_empty() {
        false => None,
        true => match Json::check(bytes) {
            Some(json) => Some(json),
            None => return answer::phrase(StatusCode::BAD_REQUEST),
        },
    };
    if !route::accepts_json(&head.headers) {
        return answer::html(StatusCode::NOT_ACCEPTABLE);
    }
    if matches!(route, Route::Single { .. }) && matches!(content_type, ContentType::JsonLike | ContentType::Other) {
        return unsupported();
    }
    let counted = server.rate.count(Instant::now());
    let answer = match (counted.refusal(), claims) {
        (Some(refusal), _) => refusal,
        (None, None) => message(StatusCode::UNAUTHORIZED, "Unauthorized"),
        (None, Some(claims)) => match route {
            Route::Batch | Route::Garbled => send_batch(server, &claims, &head.headers, json).await,
            Route::Single { topic, event } => {
                let is_private = query::parameter(head.uri.query(), "private").as_deref() == Some("true");
                let payload = match content_type {
                    ContentType::OctetStream => Payload::Binary(bytes),
                    _ => Payload::json(json),
                };
                let single = Single { topic, event, is_private, payload };
                send_single(server, &claims, &head.headers, single).await
            }
        },
    };
    counted.stamp(answer)
}

async fn send_batch(server: &Server, claims: &Arc<Claims>, headers: &HeaderMap, body: Option<Json<'_>>) -> Answer {
    let lobby = &server.services.lobby;
    let messages = match batch::parse(body, lobby.gate.limits.payload_bytes_max) {
        Ok(messages) => messages,
        Err(BatchError::Invalid(errors)) => return answer::json(StatusCode::UNPROCESSABLE_ENTITY, errors),
        Err(BatchError::TooMany) => return message(StatusCode::TOO_MANY_REQUESTS, BATCH_TOO_LARGE),
    };
    if let Some(max) = lobby.gate.limits.events_per_second_max {
        // All of a batch or nothing of it.
        let (now, max) = (lobby.hub.events_per_second(), f64::from(max));
        if now > max {
            return message(StatusCode::TOO_MANY_REQUESTS, TOO_MANY_EVENTS);
        }
        if now + messages.len() as f64 > max {
            return message(StatusCode::TOO_MANY_REQUESTS, BATCH_TOO_LARGE);
        }
    }
    let private: HashSet<&str> = messages.iter().filter(|m| m.private).map(|m| &*m.topic).collect();
    if private.len() > caller::PRIVATE_TOPICS_MAX {
        return message(StatusCode::TOO_MANY_REQUESTS, BATCH_TOO_LARGE);
    }
    let writable = match caller::writable(server, claims, headers, private).await {
        Ok(writable) => writable,
        Err(error) => return undecided(error),
    };
    let (mut burst, mut sent) = (Burst::default(), 0_usize);
    // What is denied is left out without a word.
    for message in messages.iter().filter(|m| !m.private || writable.contains(&*m.topic)) {
        let topic = TopicKey { private: message.private, subtopic: &message.topic };
        match lobby.hub.broadcast(topic, &Content::Object(&message.object), None, &mut burst) {
            Broadcasted::To(_) => sent += 1,
            Broadcasted::TooLarge => return too_large(),
            Broadcasted::TooMany if sent == 0 => return self::message(StatusCode::TOO_MANY_REQUESTS, TOO_MANY_EVENTS),
            Broadcasted::TooMany => return self::message(StatusCode::TOO_MANY_REQUESTS, BATCH_TOO_LARGE),
        }
    }
    answer::bare(StatusCode::ACCEPTED, "")
}

/// One event.
struct Single<'a> {
    topic: String,
    event: String,
    is_private: bool,
    payload: Payload<'a>,
}

enum Payload<'a> {
    Json(&'a str),
    /// Under `_json`: payloads are objects.
    Wrapped(String),
    Binary(&'a [u8]),
}

impl<'a> Payload<'a> {
    fn json(body: Option<Json<'a>>) -> Payload<'a> {
        match body {
            None => Payload::Json("{}"),
            Some(json) if json.is_object() => Payload::Json(json.text()),
            Some(json) => Payload::Wrapped(format!(r#"{{"_json":{}}}"#, json.text())),
        }
    }

    fn event(&self) -> EventPayload<'_> {
        match self {
            Payload::Json(text) => EventPayload::Json(text.as_bytes()),
            Payload::Wrapped(text) => EventPayload::Json(text.as_bytes()),
            Payload::Binary(bytes) => EventPayload::Binary(bytes),
        }
    }
}

async fn send_single(server: &Server, claims: &Arc<Claims>, headers: &HeaderMap, single: Single<'_>) -> Answer {
    let lobby = &server.services.lobby;
    let payload = single.payload.event();
    let (EventPayload::Json(bytes) | EventPayload::Binary(bytes)) = payload;
    if bytes.len() > lobby.gate.limits.payload_bytes_max {
        return too_large();
    }
    let topic_bytes_max = NAME_BYTES_MAX - crate::channels::topic::PREFIX.len();
    if single.topic.len() > topic_bytes_max {
        return too_long("topic", topic_bytes_max);
    }
    if single.event.len() > NAME_BYTES_MAX {
        return too_long("event", NAME_BYTES_MAX);
    }
    let private = HashSet::from_iter(single.is_private.then_some(&*single.topic));
    match caller::writable(server, claims, headers, private).await {
        Err(error) => return undecided(error),
        Ok(writable) if single.is_private && writable.is_empty() => {
            return message(StatusCode::FORBIDDEN, "Unauthorized");
        }
        Ok(_) => {}
    }
    let topic = TopicKey { private: single.is_private, subtopic: &single.topic };
    let content = Content::Event { event: &single.event, payload, id: None };
    match lobby.hub.broadcast(topic, &content, None, &mut Burst::default()) {
        Broadcasted::To(_) => answer::bare(StatusCode::ACCEPTED, ""),
        Broadcasted::TooLarge => too_large(),
        Broadcasted::TooMany => message(StatusCode::TOO_MANY_REQUESTS, TOO_MANY_EVENTS),
    }
}

fn message(status: StatusCode, message: &str) -> Answer {
    answer::json(status, format!(r#"{{"message":"{message}"}}"#))
}

fn unsupported() -> Answer {
    let error = r#"{"error":"Unsupported Media Type. Use application/json or application/octet-stream"}"#;
    answer::json(StatusCode::UNSUPPORTED_MEDIA_TYPE, error)
}

fn too_large() -> Answer {
    let errors = r#"{"errors":{"payload":["Payload size exceeds tenant limit"]}}"#;
    answer::json(StatusCode::UNPROCESSABLE_ENTITY, errors)
}

fn too_long(field: &str, bytes_max: usize) -> Answer {
    let errors = format!(r#"{{"errors":{{"{field}":["should be at most {bytes_max} byte(s)"]}}}}"#);
    answer::json(StatusCode::UNPROCESSABLE_ENTITY, errors)
}

/// What nobody has decided is not sent, and that is said: it is no denial.
fn undecided(error: TopicError) -> Answer {
    let text = match error {
        TopicError::Unavailable => "Tenant database unavailable",
        TopicError::Cancelled => "Query canceled",
    };
    message(StatusCode::UNPROCESSABLE_ENTITY, text)
}
