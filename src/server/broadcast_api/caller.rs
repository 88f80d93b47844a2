//! Who calls, and on which private topics they may broadcast.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::header::{COOKIE, HeaderMap};

use crate::authz::{Claims, TopicError, TopicQuestion, TopicRight};
use crate::server::{Server, answer};

/// Questions of one request that are open at once: a batch may name thousands of topics, and others ask too.
const QUESTIONS_AT_ONCE: usize = 16;

/// Of one request. Each may cost a question to Postgres.
pub const PRIVATE_TOPICS_MAX: usize = 1_000;

/// The claims of `Authorization: Bearer`, or of the header `apikey` where there is no such thing. Supabase's gateway, for
/// one, puts a bare key into `Authorization`.
pub fn claims(server: &Server, headers: &HeaderMap) -> Option<Arc<Claims>> {
    let given = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let token = answer::bearer(headers).map(Into::into).or_else(|| given("apikey"))?;
    match server.services.lobby.services.verifier.verify(&token, SystemTime::now()) {
        Ok(claims) => Some(claims),
        Err(error) => {
            tracing::debug!(%error, "A request's token was refused");
            None
        }
    }
}

/// Of these private topics, those that may be written to. Each is asked about once.
pub async fn writable<'a>(
    server: &Server,
    claims: &Claims,
    headers: &HeaderMap,
    topics: HashSet<&'a str>,
) -> Result<HashSet<&'a str>, TopicError> {
    let mut writable = HashSet::new();
    if topics.is_empty() {
        return Ok(writable);
    }
    let authority = server.services.lobby.services.authority.as_ref().ok_or(TopicError::Unavailable)?;
    let (identity, headers) = (Arc::new(claims.identity()), Arc::from(headers_json(headers)));
    let topics: Vec<&str> = topics.into_iter().collect();
    for some in topics.chunks(QUESTIONS_AT_ONCE) {
        let mut asked = Vec::with_capacity(some.len());
        for topic in some {
            let question = TopicQuestion {
                identity: Arc::clone(&identity),
                topic: Arc::from(*topic),
                headers: Arc::clone(&headers),
                right: TopicRight::Write,
                presence: false,
            };
            asked.push((*topic, authority.ask(question)));
        }
        for (topic, answer) in asked {
            // An authority that is gone has not said yes.
            if answer.await.unwrap_or(Err(TopicError::Unavailable))?.broadcast {
                writable.insert(topic);
            }
        }
    }
    Ok(writable)
}

/// What policies read as `request.headers`: all of them, names in lower case (PROTOCOL 5). One that is given several
/// times is one list (RFC 9110, 5.3), cookies with a semicolon (RFC 9113, 8.2.3).
fn headers_json(headers: &HeaderMap) -> String {
    let joined = headers.keys().map(|name| {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        let separator = if name == COOKIE { "; " } else { ", " };
        (name.as_str().to_owned(), serde_json::Value::from(values.join(separator)))
    });
    serde_json::Value::Object(joined.collect()).to_string()
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn policies_read_all_headers_as_one_object() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("X-Forwarded-For", "10.0.0.1"), ("x-forwarded-for", "10.0.0.2"), ("accept", "a\"b")] {
            headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_static(value));
        }
        assert_eq!(headers_json(&headers), r#"{"x-forwarded-for":"10.0.0.1, 10.0.0.2","accept":"a\"b"}"#);
        assert_eq!(headers_json(&HeaderMap::new()), "{}");
    }
}
