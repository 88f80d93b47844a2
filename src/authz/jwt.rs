//! Verifying JSON Web Tokens (PROTOCOL 1.3).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::api_keys::{ApiKeys, Meaning};
use super::claims::{Claims, TokenError};
use super::jwks::{JwksTask, Keys, algorithm_named};
use super::jwks_source::{Source, SourceError};

/// How tokens are verified.
#[derive(Clone, Debug, Default)]
pub struct VerifierConfig {
    /// The HMAC secret; empty counts as none.
    pub secret: Option<String>,
    /// A key set: inline JSON, a file's path, or an http(s) URL.
    pub jwks: Option<String>,
    /// Claims that must be present and equal (`JWT_CLAIM_VALIDATORS`).
    pub claim_validators: Map<String, Value>,
    /// Keys that are no tokens, and what they stand for.
    pub api_keys: ApiKeys,
}

/// The configured keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("neither a JWT secret nor a JWKS is configured, so no token can be verified: pass --jwt-secret or --jwks")]
    NoKeys,
    #[error("the JWKS cannot be read")]
    Jwks(#[from] SourceError),
    #[error("the JWKS URL is not a URL: {0}")]
    Url(#[from] hyper::http::uri::InvalidUri),
}

/// Verified tokens that are remembered: a rejoin of ten thousand clients with ES256 tokens costs 0.65 s of CPU
/// otherwise. 16 MiB are as many tokens of 1.6 KB, the text being the key: no hash collision can lend one
/// person's claims to another.
const CACHE_BYTES_MAX: usize = 16 << 20;
/// A token longer than this is not a token; HTTP servers refuse such headers as well.
const TOKEN_BYTES_MAX: usize = 64 << 10;

struct Cache {
    /// The keys that the tokens were verified with; with other keys they are verified again.
    keys: Arc<Keys>,
    bytes: usize,
    tokens: HashMap<Box<str>, Arc<Claims>, foldhash::quality::RandomState>,
}

struct Inner {
    secret: Option<DecodingKey>,
    keys: Arc<ArcSwap<Keys>>,
    /// Tells the [`JwksTask`] that a token named an unknown key.
    wanted: Arc<Notify>,
    claim_validators: Map<String, Value>,
    api_keys: ApiKeys,
    cache: Mutex<Cache>,
}

/// Verifies tokens. Cheap to clone; synchronous, so that it may be called where frames are handled.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

impl Verifier {
    /// The verifier, and the task that must run beside it where the key set is a file or a URL.
    pub fn new(config: &VerifierConfig) -> Result<(Verifier, Option<JwksTask>), KeyError> {
        let secret = config.secret.as_deref().filter(|secret| !secret.is_empty());
        if secret.is_none() && config.jwks.is_none() {
            return Err(KeyError::NoKeys);
        }
        let (keys, source) = match config.jwks.as_deref().map(str::trim) {
            None | Some("") => (Keys::default(), None),
            Some(text) if text.starts_with('{') => (Keys::parse(text).map_err(SourceError::from)?, None),
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                (Keys::default(), Some((Source::Url(url.parse()?), false)))
            }
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(SourceError::from)?;
                let keys = Keys::parse(&text).map_err(SourceError::from)?;
                (keys, Some((Source::File(PathBuf::from(path)), true)))
            }
        };
        let keys = Arc::new(keys);
        let cache = Cache { keys: Arc::clone(&keys), bytes: 0, tokens: HashMap::default() };
        let inner = Inner {
            secret: secret.map(|secret| DecodingKey::from_secret(secret.as_bytes())),
            keys: Arc::new(ArcSwap::new(keys)),
            wanted: Arc::new(Notify::new()),
            claim_validators: config.claim_validators.clone(),
            api_keys: config.api_keys.clone(),
            cache: Mutex::new(cache),
        };
        let task = source.map(|(source, loaded)| JwksTask {
            source,
            keys: Arc::clone(&inner.keys),
            wanted: Arc::clone(&inner.wanted),
            loaded,
        });
        Ok((Verifier { inner: Arc::new(inner) }, task))
    }

    /// The claims of a token that is good at `now`, or of an API key.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Claims>, TokenError> {
        let token = match self.inner.api_keys.get(token) {
            Some(Meaning::Claims(claims)) => return Ok(Arc::clone(claims)),
            Some(Meaning::Token(token)) => token,
            None => token,
        };
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let keys = self.inner.keys.load_full();
        if let Some(claims) = self.remembered(token, &keys) {
            claims.check_expiry(now)?;
            return Ok(claims);
        }
        let claims = Arc::new(self.inner.verify(token, &keys, now)?);
        self.remember(token, &claims, keys, now);
        Ok(claims)
    }

    fn remembered(&self, token: &str, keys: &Arc<Keys>) -> Option<Arc<Claims>> {
        let cache = self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&cache.keys, keys) {
            return None;
        }
        cache.tokens.get(token).cloned()
    }

    fn remember(&self, token: &str, claims: &Arc<Claims>, keys: Arc<Keys>, now: i64) {
        let size = |token: &str, claims: &Claims| token.len() + claims.json.len() + 160;
        let mut cache = self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&cache.keys, &keys) {
            cache.tokens.clear();
            cache.bytes = 0;
            cache.keys = keys;
        }
        let bytes = size(token, claims);
        if cache.bytes + bytes > CACHE_BYTES_MAX {
            cache.tokens.retain(|_, claims| claims.exp > now);
            cache.bytes = cache.tokens.iter().map(|(token, claims)| size(token, claims)).sum();
        }
        // Still full of living tokens: start over rather than keep an order for a case that costs microseconds.
        if cache.bytes + bytes > CACHE_BYTES_MAX {
            cache.tokens.clear();
            cache.bytes = 0;
        }
        if cache.tokens.insert(token.into(), Arc::clone(claims)).is_none() {
            cache.bytes += bytes;
        }
    }
}

impl Inner {
    fn verify(&self, token: &str, keys: &Keys, now: i64) -> Result<Claims, TokenError> {
        let token = clean(token).ok_or(TokenError::Malformed)?;
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let (_, claims_json) = decode_part(payload)?;
        let (header_fields, _) = decode_part(header)?;
        let (key, algorithm) = self.key(&header_fields, keys)?;
        let message = &token[..header.len() + 1 + payload.len()];
        match jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm) {
            Ok(true) => self.accept(claims_json, now),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }

    /// The key that the header asks for, of the family that the algorithm needs.
    fn key<'a>(
        &'a self,
        header: &Map<String, Value>,
        keys: &'a Keys,
    ) -> Result<(&'a DecodingKey, Algorithm), TokenError> {
        let kid = header.get("kid").and_then(Value::as_str);
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(algorithm_named);
        // RFC 7515, 4.1.11: an extension that is marked critical and not understood makes the token invalid.
        let Some(algorithm) = algorithm.filter(|_| !header.contains_key("crit")) else {
            return Err(TokenError::Signer { kid: None });
        };
        if let Some(key) = kid.and_then(|kid| keys.find(kid, algorithm)) {
            return Ok((key, algorithm));
        }
        if algorithm.family() == AlgorithmFamily::Hmac {
            return self.secret.as_ref().map(|key| (key, algorithm)).ok_or(TokenError::Signer { kid: None });
        }
        self.wanted.notify_one();
        Err(TokenError::Signer { kid: kid.map(str::to_owned) })
    }

    /// Checks the claims of a token whose signature has verified.
    fn accept(&self, json: String, now: i64) -> Result<Claims, TokenError> {
        let fields: Map<String, Value> = serde_json::from_str(&json).map_err(|_| TokenError::Malformed)?;
        let invalid = |claim: &str, value: Option<&Value>| TokenError::ClaimInvalid {
            claim: claim.to_owned(),
            value: value.cloned().unwrap_or(Value::Null),
        };
        // Expiry is told before what is missing, as the original does.
        let exp = fields.get("exp").and_then(Value::as_f64).map(|exp| exp.round() as i64);
        if let Some(exp) = exp
            && exp <= now
        {
            return Err(TokenError::Expired { seconds_ago: now.saturating_sub(exp) });
        }
        if let Some(iat) = fields.get("iat")
            && !iat.is_number()
        {
            return Err(invalid("iat", Some(iat)));
        }
        let differing = self.claim_validators.iter().find(|(claim, expected)| fields.get(*claim) != Some(*expected));
        if let Some((claim, _)) = differing {
            return Err(invalid(claim, fields.get(claim)));
        }
        let text = |claim: &str| fields.get(claim).and_then(Value::as_str).map(str::to_owned);
        let (Some(role), Some(exp)) = (text("role"), exp) else {
            return Err(TokenError::ClaimsMissing);
        };
        Ok(Claims { role, exp, sub: text("sub"), json: json.into() })
    }
}

/// The token with URL escapes decoded and whitespace removed (PROTOCOL 1.3). `+` stays: base64url has none.
pub(super) fn clean(token: &str) -> Option<String> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let mut out = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let mut decoded = *byte;
        if let (b'%', [high, low, after @ ..]) = (*byte, tail)
            && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
        {
            decoded = (high << 4 | low) as u8;
            rest = after;
        }
        if !matches!(decoded, b' ' | b'\t'..=b'\r') {
            out.push(decoded);
        }
    }
    String::from_utf8(out).ok()
}

/// The JSON object in a base64url part, and its text.
pub(super) fn decode_part(part: &str) -> Result<(Map<String, Value>, String), TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    let text = String::from_utf8(bytes).map_err(|_| TokenError::Malformed)?;
    let object = serde_json::from_str(&text).map_err(|_| TokenError::Malformed)?;
    Ok((object, text))
}

/// A token signed with HS256, for development (`walcast token`) and tests.
pub fn mint(secret: &str, claims: &Map<String, Value>) -> Result<String, jsonwebtoken::errors::Error> {
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes()))
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
