//! Which of the two endpoints a path means, and what a body says that it is.

use std::borrow::Cow;

use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap};

use crate::server::query;

#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// `/api/broadcast`
    Batch,
    /// `/api/broadcast/:topic/events/:event`
    Single { topic: String, event: String },
    /// Likewise, with a name that is not UTF-8 once it is decoded.
    Garbled,
}

impl Route {
    /// Of what follows `/api/`. As with Phoenix, empty parts of a path count for nothing.
    pub fn of(api: &str) -> Option<Route> {
        let mut parts = api.split('/').filter(|part| !part.is_empty());
        let parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
        match parts {
            [Some("broadcast"), None, ..] => Some(Route::Batch),
            [Some("broadcast"), Some(topic), Some("events"), Some(event), None] => {
                Some(match (name(topic), name(event)) {
                    (Some(topic), Some(event)) => Route::Single { topic, event },
                    _ => Route::Garbled,
                })
            }
            _ => None,
        }
    }
}

/// A part of a path, where `+` is a plus.
fn name(part: &str) -> Option<String> {
    query::decode_percent(part).filter(|name| !name.contains('\0')).map(Cow::into_owned)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    Json,
    /// JSON by another name: `application/vnd.api+json`.
    JsonLike,
    OctetStream,
    Absent,
    Other,
}

impl ContentType {
    pub fn of(headers: &HeaderMap) -> ContentType {
        let Some(value) = headers.get(CONTENT_TYPE) else { return ContentType::Absent };
        let value = value.to_str().unwrap_or_default();
        let media = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match &*media {
            "application/json" => ContentType::Json,
            "application/octet-stream" => ContentType::OctetStream,
            media if media.starts_with("application/") && media.ends_with("+json") => ContentType::JsonLike,
            _ => ContentType::Other,
        }
    }

    pub fn is_parsed(self) -> bool {
        matches!(self, ContentType::Json | ContentType::JsonLike)
    }
}

/// Whether JSON may be answered.
pub fn accepts_json(headers: &HeaderMap) -> bool {
    let mut given = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if given.peek().is_none() {
        return true;
    }
    given.flat_map(|value| value.split(',')).any(|range| {
        let range = range.split(';').next().unwrap_or_default().trim();
        ["*/*", "application/*", "application/json"].iter().any(|accepted| range.eq_ignore_ascii_case(accepted))
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn names_in_a_path_are_decoded_and_may_hold_anything() {
        let single = |topic: &str, event: &str| Route::Single { topic: topic.into(), event: event.into() };
        assert_eq!(Route::of("broadcast"), Some(Route::Batch));
        assert_eq!(Route::of("broadcast/"), Some(Route::Batch));
        assert_eq!(Route::of("broadcast/room%3As/events/my%20ev+1"), Some(single("room:s", "my ev+1")));
        assert_eq!(Route::of("broadcast/a%2Fb/events/%C3%BC"), Some(single("a/b", "ü")));
        assert_eq!(Route::of("broadcast/events/events/events"), Some(single("events", "events")));
        assert_eq!(Route::of("broadcast/a%FF/events/b"), Some(Route::Garbled));
        assert_eq!(Route::of("broadcast/a%00/events/b"), Some(Route::Garbled));
        assert_eq!(Route::of("broadcast/a%zz/events/b"), Some(Route::Garbled));
        for other in ["broadcast/a", "broadcast/a/events", "broadcast//events/b", "broadcast/a/events/b/c", "x", ""] {
            assert_eq!(Route::of(other), None, "{other}");
        }
    }

    #[test]
    fn content_types_may_have_parameters() {
        let of = |value: &'static str| {
            ContentType::of(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert_eq!(of("Application/JSON; charset=utf-8"), ContentType::Json);
        assert_eq!(of("application/octet-stream"), ContentType::OctetStream);
        assert_eq!(of("application/vnd.api+json"), ContentType::JsonLike);
        assert_eq!(of("text/plain"), ContentType::Other);
        assert_eq!(of(""), ContentType::Other);
        assert_eq!(ContentType::of(&HeaderMap::new()), ContentType::Absent);
    }

    #[test]
    fn who_takes_no_json_is_told() {
        let of = |value: &'static str| accepts_json(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]));
        assert!(accepts_json(&HeaderMap::new()));
        assert!(of("*/*") && of("text/html, application/json;q=0.9") && of("application/*"));
        assert!(!of("text/html") && !of("text/*"));
    }
}
