//! Which path means what. Behind Supabase's gateway paths lose their `/realtime/v1`; without it clients send them
//! whole, so both are served (PROTOCOL 1.6).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::{Method, Request, StatusCode};

use super::answer::{self, Answer, Unread};
use super::{Server, broadcast_api, cors, health, metrics_endpoint, tenants, upgrade};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub async fn answer(server: Arc<Server>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    // Sockets' paths first: their answers carry no request id.
    if let "/socket/websocket" | "/realtime/v1/websocket" = request.uri().path() {
        return Ok(upgrade::answer(server, request).await);
    }
    let origin = HeaderMap::from_iter(request.headers().get(ORIGIN).map(|origin| (ORIGIN, origin.clone())));
    let request_id = request.headers().get(REQUEST_ID).filter(|id| (20..=200).contains(&id.len())).cloned();
    let mut answer = match broadcast_route(&request) {
        Some(broadcast) => broadcast_api::answer(&server, broadcast, request).await,
        None if cors::is_preflight(&request) => cors::preflight(request.headers()),
        None => route(&server, &request),
    };
    cors::allow(&server.config.origins, &origin, &mut answer);
    if answer.extensions().get::<Unread>().is_none() {
        answer.headers_mut().insert(REQUEST_ID, request_id.unwrap_or_else(new_request_id));
    }
    Ok(answer)
}

fn broadcast_route(request: &Request<Incoming>) -> Option<broadcast_api::Route> {
    if *request.method() != Method::POST {
        return None;
    }
    broadcast_api::Route::of(api(request.uri().path())?)
}

/// What follows `/api/`, behind the gateway or without one.
fn api(path: &str) -> Option<&str> {
    path.strip_prefix("/realtime/v1").unwrap_or(path).strip_prefix("/api/")
}

fn route(server: &Server, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    if let Some(tenants) = api(path).and_then(tenants::Route::of) {
        return tenants::answer(server, tenants, path.starts_with("/realtime/v1"), request);
    }
    // Health checks like to send HEAD; hyper leaves the body out.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::not_found();
    }
    let services = &server.services;
    match path {
        "/healthcheck" => answer::text(StatusCode::OK, "ok"),
        "/ready" => health::ready(&services.readiness),
        "/metrics" => metrics_endpoint::guarded(&services.registry, &server.config, request.headers()),
        path if api(path) == Some("ping") => {
            server.rate.answer(Instant::now(), || answer::json(StatusCode::OK, r#"{"message":"Success"}"#))
        }
        _ => answer::not_found(),
    }
}

fn new_request_id() -> HeaderValue {
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::try_from(id).expect("hexadecimal digits are a header's value")
}
