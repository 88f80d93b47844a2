//! Which path means what. Behind Supabase's gateway paths lose their `/realtime/v1`; without it clients send them
//! whole, so both are served (PROTOCOL 1.6).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, ORIGIN};
use hyper::{Method, Request, StatusCode};

use super::answer::{self, Answer, Unread};
use super::{Server, broadcast_api, cors, health, metrics_endpoint, upgrade};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub async fn answer(server: Arc<Server>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    // Sockets' paths first: their answers carry no request id.
    if let "/socket/websocket" | "/realtime/v1/websocket" = request.uri().path() {
        return Ok(upgrade::answer(server, request).await);
    }
    let from_elsewhere = request.headers().contains_key(ORIGIN);
    let request_id = request.headers().get(REQUEST_ID).filter(|id| (20..=200).contains(&id.len())).cloned();
    let mut answer = match broadcast_route(&request) {
        Some(broadcast) => broadcast_api::answer(&server, broadcast, request).await,
        None if cors::is_preflight(&request) => cors::preflight(request.headers()),
        None => route(&server, &request),
    };
    if from_elsewhere {
        cors::allow_any_origin(&mut answer);
    }
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
    // Health checks like to send HEAD; hyper leaves the body out.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::not_found();
    }
    let services = &server.services;
    match request.uri().path() {
        "/healthcheck" => answer::text(StatusCode::OK, "ok"),
        "/ready" => health::ready(&services.readiness),
        "/metrics" => {
            metrics_endpoint::guarded(&services.registry, server.config.metrics_token.as_deref(), request.headers())
        }
        path => match api(path) {
            Some("ping") => {
                server.rate.answer(Instant::now(), || answer::json(StatusCode::OK, r#"{"message":"Success"}"#))
            }
            Some(api) if is_tenant_health(api) => tenant_health(server, request),
            _ => answer::not_found(),
        },
    }
}

/// `tenants/:id/health`. There is one tenant, whatever it is called.
fn is_tenant_health(api: &str) -> bool {
    let tenant = api.strip_prefix("tenants/").and_then(|rest| rest.strip_suffix("/health"));
    tenant.is_some_and(|id| !id.is_empty() && !id.contains('/'))
}

/// For whoever has a valid token; Supabase's compose file sends the anon key.
fn tenant_health(server: &Server, request: &Request<Incoming>) -> Answer {
    let token = answer::bearer(request.headers());
    let known =
        token.is_some_and(|token| server.services.lobby.services.verifier.verify(token, SystemTime::now()).is_ok());
    match known {
        true => health::tenant_health(&server.services.readiness, server.connections.len()),
        false => answer::bare(StatusCode::FORBIDDEN, ""),
    }
}

fn new_request_id() -> HeaderValue {
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::try_from(id).expect("hexadecimal digits are a header's value")
}
