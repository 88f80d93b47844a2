//! Which web pages may talk to this server. Browsers say where a page is from; nobody else does, and tokens are needed all
//! the same.

use hyper::header::{HeaderMap, ORIGIN};

/// Without any, pages from everywhere may.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<Pattern>);

#[derive(Clone, Debug)]
struct Pattern {
    before: String,
    /// What follows the `*`, where there is one.
    after: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an origin: try https://app.example.com, https://*.example.com or *")]
pub struct NotAnOrigin(String);

impl Origins {
    pub fn parse<'a>(given: impl IntoIterator<Item = &'a str>) -> Result<Origins, NotAnOrigin> {
        let patterns = given.into_iter().map(|text| Pattern::parse(text.trim())).collect::<Result<Vec<_>, _>>()?;
        // One that is everything makes the others say nothing.
        let any = patterns.iter().any(|pattern| pattern.before.is_empty());
        Ok(Origins(if any { Vec::new() } else { patterns }))
    }

    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request may be served: one that does not come from a page may.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        self.is_any() || origins.all(|origin| origin.to_str().is_ok_and(|origin| self.has(origin)))
    }

    fn has(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        self.0.iter().any(|pattern| pattern.matches(&origin))
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, NotAnOrigin> {
        let wrong = || NotAnOrigin(text.to_owned());
        if text == "*" {
            return Ok(Pattern { before: String::new(), after: Some(String::new()) });
        }
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_suffix('/').unwrap_or(&lower);
        let (scheme, host) = lower.split_once("://").ok_or_else(wrong)?;
        let is_host = |host: &str| !host.is_empty() && !host.contains(['/', '*', '?', '#', '@', ' ']);
        match host.strip_prefix("*.") {
            _ if scheme.is_empty() || scheme.contains('*') => Err(wrong()),
            Some(domain) if is_host(domain) => {
                Ok(Pattern { before: format!("{scheme}://"), after: Some(format!(".{domain}")) })
            }
            None if is_host(host) => Ok(Pattern { before: lower.to_owned(), after: None }),
            _ => Err(wrong()),
        }
    }

    fn matches(&self, origin: &str) -> bool {
        match (&self.after, origin.strip_prefix(&self.before)) {
            (_, None) => false,
            (None, Some(rest)) => rest.is_empty(),
            (Some(after), Some(rest)) => rest
                .strip_suffix(after.as_str())
                .is_some_and(|part| !part.is_empty() && !part.contains(['/', '@', ':'])),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn pages_from_elsewhere_are_not_admitted() {
        let origins =
            Origins::parse(["https://App.example.com/", "https://*.example.org", "http://localhost:3000"]).unwrap();
        for good in ["https://app.example.com", "https://a.b.example.org", "http://localhost:3000"] {
            assert!(origins.has(good), "{good}");
        }
        let bad = [
            "https://app.example.com.evil.net",
            "http://app.example.com",
            "https://example.org",
            "https://.example.org",
        ];
        for bad in bad.into_iter().chain(["https://evil.net/.example.org", "http://localhost:3001", "null", ""]) {
            assert!(!origins.has(bad), "{bad}");
        }
        let from = |origin: &'static str| HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
        assert!(origins.admit(&HeaderMap::new()) && !origins.admit(&from("null")));
        assert!(Origins::default().admit(&from("null")) && Origins::parse(["https://a.b", "*"]).unwrap().is_any());
    }

    #[test]
    fn what_is_not_an_origin_is_an_error() {
        for bad in ["", "example.com", "https://", "https://a/b", "https://*", "https://a*.b", "*://a.b", "null"] {
            assert!(Origins::parse([bad]).is_err(), "{bad}");
        }
    }
}
