//! Answers over HTTP, with the headers that all of them have.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

pub type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// An answer without content type; the empty ones, and the upgrade's complaints, have none.
pub fn bare(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=0, private, must-revalidate"));
    answer
}

pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(bare(status, body), JSON)
}

pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(bare(status, body), TEXT)
}

pub fn not_found() -> Answer {
    html(StatusCode::NOT_FOUND)
}

/// The status in words, as the original's router has it.
pub fn html(status: StatusCode) -> Answer {
    let words = match status {
        // Its name before RFC 9110, which the original keeps.
        StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
        status => status.canonical_reason().unwrap_or_default(),
    };
    with_type(bare(status, words), HTML)
}

/// Likewise, for requests that were refused while they were read: they get no id.
pub fn phrase(status: StatusCode) -> Answer {
    let mut answer = html(status);
    answer.extensions_mut().insert(Unread);
    answer
}

/// Marks the answer to a request that could not be read.
#[derive(Clone, Copy)]
pub struct Unread;

fn with_type(mut answer: Answer, content_type: HeaderValue) -> Answer {
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// The token of `Authorization: Bearer TOKEN`; the scheme's case does not matter.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
