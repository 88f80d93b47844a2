//! Cross-origin requests. Supabase leaves preflights to its gateway; here there is none (PROTOCOL 1.6).

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, StatusCode};

use super::answer::{self, Answer};
use super::origins::Origins;

/// What supabase-js sends, for preflights that do not say.
const HEADERS: HeaderValue = HeaderValue::from_static("apikey, authorization, content-type, x-client-info");

pub fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(ORIGIN)
}

/// For any path: what is not there answers by itself. Whether the origin may is said by [`allow`].
pub fn preflight(asked: &HeaderMap) -> Answer {
    let mut answer = answer::bare(StatusCode::NO_CONTENT, "");
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
    let allowed = asked.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(HEADERS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    answer
}

/// Lets a page read the answer, if it comes from an origin that may. Where any may, that needs no name: tokens are not
/// cookies, nothing is sent along unasked.
pub fn allow(origins: &Origins, origin: &HeaderMap, answer: &mut Answer) {
    let Some(asking) = origin.get(ORIGIN) else { return };
    let headers = answer.headers_mut();
    if origins.is_any() {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        return;
    }
    headers.append(VARY, HeaderValue::from_static("origin"));
    if origins.admit(origin) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, asking.clone());
    }
}
