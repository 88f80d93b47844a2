//! The admin API as far as it means anything here (PROTOCOL 7.4): there is one tenant, whatever it is called, and flags
//! say what it is like.

use std::time::SystemTime;

use hyper::body::Incoming;
use hyper::header::{HeaderValue, LOCATION};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::{Server, health, query};

#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    All,
    One(String),
    Health,
}

impl Route {
    /// Of what follows `/api/`.
    pub fn of(api: &str) -> Option<Route> {
        let rest = api.strip_prefix("tenants")?;
        match rest.strip_prefix('/') {
            None => rest.is_empty().then_some(Route::All),
            Some("") => Some(Route::All),
            Some(rest) => match rest.split_once('/') {
                None => query::decode_percent(rest).map(|id| Route::One(id.into_owned())),
                Some((id, "health")) if !id.is_empty() => Some(Route::Health),
                Some(_) => None,
            },
        }
    }
}

/// `is_whole`: the path came with `/realtime/v1`, so there is no gateway. It would have let nobody through but health
/// checks, which tell nothing that is secret.
pub fn answer(server: &Server, route: Route, is_whole: bool, request: &Request<Incoming>) -> Answer {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match (route, request.method()) {
        (Route::Health, _) if reads => tenant_health(server, request),
        (Route::Health, _) => answer::not_found(),
        _ if is_whole => answer::json(StatusCode::FORBIDDEN, r#"{"message":"Access is forbidden."}"#),
        _ if !is_admin(server, request) => answer::bare(StatusCode::FORBIDDEN, ""),
        (Route::All, _) if reads => answer::json(StatusCode::OK, json!({"data": [tenant(server, None)]}).to_string()),
        (Route::One(id), _) if reads => {
            answer::json(StatusCode::OK, json!({"data": tenant(server, Some(&id))}).to_string())
        }
        (Route::All, &Method::POST) => unchanged(server, None),
        (Route::One(id), &Method::PUT | &Method::PATCH) => unchanged(server, Some(&id)),
        _ => answer::not_found(),
    }
}

fn is_admin(server: &Server, request: &Request<Incoming>) -> bool {
    let token = answer::bearer(request.headers());
    let (tokens, now) = (server.config.admin_tokens.as_ref(), SystemTime::now());
    tokens.is_some_and(|tokens| token.is_some_and(|token| tokens.admits(token, now)))
}

/// For whoever has a valid token; Supabase's compose file sends the anon key.
fn tenant_health(server: &Server, request: &Request<Incoming>) -> Answer {
    let token = answer::bearer(request.headers());
    let verifier = &server.services.lobby.services.verifier;
    let known = token.is_some_and(|token| verifier.verify(token, SystemTime::now()).is_ok());
    match known || is_admin(server, request) {
        true => health::tenant_health(&server.services.readiness, server.connections.len()),
        false => answer::bare(StatusCode::FORBIDDEN, ""),
    }
}

/// The tenant as it was before: it is there already, and what it is like is not told over HTTP. What a script would have
/// made is there, so it can go on.
fn unchanged(server: &Server, id: Option<&str>) -> Answer {
    tracing::info!("A tenant was to be created or changed over HTTP: walcast has one, configured by flags");
    let tenant = tenant(server, id);
    let location = format!("/api/tenants/{}", tenant["external_id"].as_str().unwrap_or_default());
    let mut answer = answer::json(StatusCode::OK, json!({"data": tenant}).to_string());
    if let Ok(location) = HeaderValue::try_from(location) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

/// Without a word of secrets, which the original keeps encrypted.
fn tenant(server: &Server, id: Option<&str>) -> Value {
    let (name, limits) = (&server.config.tenant, &server.services.lobby.gate.limits);
    json!({
        "external_id": id.unwrap_or(name),
        "name": id.unwrap_or(name),
        "max_concurrent_users": limits.joined_connections_max,
        "max_channels_per_client": limits.channels_per_connection_max,
        "max_joins_per_second": limits.joins_per_second_max,
        "max_payload_size_in_kb": limits.payload_bytes_max / 1000,
        "private_only": false,
        "suspend": false,
        "extensions": [{"type": "postgres_cdc_rls", "settings": {}}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_the_tenants_or_one_of_them() {
        assert_eq!(Route::of("tenants"), Some(Route::All));
        assert_eq!(Route::of("tenants/"), Some(Route::All));
        assert_eq!(Route::of("tenants/a%20b"), Some(Route::One("a b".into())));
        assert_eq!(Route::of("tenants/a/health"), Some(Route::Health));
        for other in ["tenants//health", "tenants/a/reload", "tenants/a/health/x", "tenantsx", "ping"] {
            assert_eq!(Route::of(other), None, "{other}");
        }
    }
}
