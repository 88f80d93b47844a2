//! JSON Web Key Sets: the keys, and the task that keeps them current.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::jwks_source::{Source, SourceError};

/// Keys rotate with days of overlap; ten minutes finds a new one long before the old one goes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
/// Anybody can send a token with an invented `kid`: it buys at most one fetch in this time.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_secs(10);

struct Key {
    /// The only algorithm that the key may be used with, where the set says so.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// A parsed key set.
#[derive(Default)]
pub struct Keys {
    by_kid: HashMap<String, Vec<Key>>,
}

/// The text is not a key set.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("the JWKS is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the JWKS has no \"keys\" array")]
    NoKeys,
}

impl Keys {
    /// Reads `{"keys": [..]}`. A key of a kind that cannot be used here is left out: another service's key must not
    /// take ours away.
    pub fn parse(text: &str) -> Result<Keys, JwksError> {
        let set: Value = serde_json::from_str(text)?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or(JwksError::NoKeys)?;
        let mut keys = Keys::default();
        for jwk in listed {
            match read_key(jwk) {
                Some((kid, key)) => keys.by_kid.entry(kid).or_default().push(key),
                None => tracing::warn!(kid = ?jwk.get("kid"), kty = ?jwk.get("kty"), "a key of the JWKS is not usable"),
            }
        }
        Ok(keys)
    }

    /// The key for a token. A key is never used outside its own family: that an RSA key's public bytes are no HMAC
    /// secret is decided here (RFC 8725, 2.1).
    pub fn find(&self, kid: &str, algorithm: Algorithm) -> Option<&DecodingKey> {
        let fits =
            |key: &&Key| key.key.family() == algorithm.family() && key.algorithm.is_none_or(|only| only == algorithm);
        self.by_kid.get(kid)?.iter().find(fits).map(|key| &key.key)
    }

    pub fn len(&self) -> usize {
        self.by_kid.values().map(Vec::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.by_kid.is_empty()
    }
}

fn read_key(value: &Value) -> Option<(String, Key)> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|usage| usage != "sig") {
        return None;
    }
    let algorithm = match text("alg") {
        None => None,
        Some(name) => Some(algorithm_named(name)?),
    };
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    if let AlgorithmParameters::OctetKeyPair(pair) = &jwk.algorithm
        && pair.curve != EllipticCurve::Ed25519
    {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    if key.family() == AlgorithmFamily::Hmac && key.try_get_as_bytes().is_ok_and(<[u8]>::is_empty) {
        return None;
    }
    Some((text("kid")?.to_owned(), Key { algorithm, key }))
}

/// The algorithm of a header's or a key's `alg`. `Ed25519` is RFC 9864's name for what EdDSA means here.
pub(super) fn algorithm_named(name: &str) -> Option<Algorithm> {
    if name == "Ed25519" { Some(Algorithm::EdDSA) } else { name.parse().ok() }
}

/// Fetches a key set again: now and then, and when a token names a key that is not in it.
pub struct JwksTask {
    pub(super) source: Source,
    pub(super) keys: Arc<ArcSwap<Keys>>,
    pub(super) wanted: Arc<Notify>,
    /// Keys are there already (a file was read at start).
    pub(super) loaded: bool,
}

impl JwksTask {
    pub async fn run(mut self, shutdown: CancellationToken) {
        if self.loaded && !self.pause(&shutdown).await {
            return;
        }
        loop {
            let refreshed = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                result = self.refresh() => result,
            };
            if let Err(err) = refreshed {
                tracing::warn!(source = %self.source, error = %err, "could not fetch the JWKS; the keys stay as they are");
            }
            if !self.pause(&shutdown).await {
                return;
            }
        }
    }

    /// Fetches once. A set that cannot be read leaves the old keys in place.
    pub async fn refresh(&mut self) -> Result<(), SourceError> {
        let keys = Keys::parse(&self.source.fetch().await?)?;
        tracing::debug!(source = %self.source, keys = keys.len(), "JWKS fetched");
        self.keys.store(Arc::new(keys));
        self.loaded = true;
        Ok(())
    }

    /// Waits for the next reason to fetch; `false` at shutdown.
    async fn pause(&self, shutdown: &CancellationToken) -> bool {
        let fetched = Instant::now();
        let next = if self.loaded { REFRESH_INTERVAL } else { REFRESH_INTERVAL_MIN };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return false,
            () = self.wanted.notified() => {}
            () = tokio::time::sleep(next) => {}
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => false,
            () = tokio::time::sleep_until(fetched + REFRESH_INTERVAL_MIN) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = r#"{"kty":"RSA","kid":"r","n":"AQAB","e":"AQAB"}"#;

    #[test]
    fn a_key_is_found_only_for_its_own_family() {
        let keys = Keys::parse(&format!(r#"{{"keys":[{RSA},{{"kty":"oct","kid":"h","k":"c2VjcmV0"}}]}}"#)).unwrap();
        assert!(keys.find("r", Algorithm::RS256).is_some());
        assert!(keys.find("r", Algorithm::PS512).is_some());
        assert!(keys.find("r", Algorithm::HS256).is_none());
        assert!(keys.find("r", Algorithm::ES256).is_none());
        assert!(keys.find("h", Algorithm::HS256).is_some());
        assert!(keys.find("h", Algorithm::RS256).is_none());
        assert!(keys.find("x", Algorithm::HS256).is_none());
    }

    #[test]
    fn a_key_with_an_algorithm_is_used_with_no_other() {
        let keys = Keys::parse(r#"{"keys":[{"kty":"oct","kid":"h","alg":"HS512","k":"c2VjcmV0"}]}"#).unwrap();
        assert!(keys.find("h", Algorithm::HS512).is_some());
        assert!(keys.find("h", Algorithm::HS256).is_none());
    }

    #[test]
    fn unusable_keys_do_not_take_the_others_away() {
        let odd = r#"{"kty":"EC","crv":"P-521","kid":"e","x":"AA","y":"AA"},{"kty":"RSA","use":"enc","kid":"r","n":"AQAB","e":"AQAB"},{"kty":"oct","kid":"empty","k":""},7,{}"#;
        let keys = Keys::parse(&format!(r#"{{"keys":[{odd},{RSA}]}}"#)).unwrap();
        assert_eq!(keys.by_kid.keys().map(String::as_str).filter(|kid| *kid != "e").collect::<Vec<_>>(), ["r"]);
        assert!(keys.find("empty", Algorithm::HS256).is_none());
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#] {
            assert!(Keys::parse(text).is_err(), "{text}");
        }
    }
}
