//! Tokens that open a door rather than stand for a database role: those of the admin API and of `/metrics`, each signed
//! with a secret of its own (PROTOCOL 7.4).

use std::collections::HashSet;
use std::time::SystemTime;

use jsonwebtoken::{AlgorithmFamily, DecodingKey};
use serde_json::{Map, Value};

use super::jwks::algorithm_named;
use super::jwt::{clean, decode_part};

#[derive(Clone)]
pub struct SignedTokens {
    secret: DecodingKey,
    /// Refused although they verify.
    blocked: HashSet<String>,
}

/// The roles that no user of an application has.
const ADMINS: [&str; 2] = ["service_role", "supabase_admin"];

impl SignedTokens {
    /// `None` without a secret: an empty one would let everybody in.
    pub fn new(secret: &str, blocked: impl IntoIterator<Item = String>) -> Option<SignedTokens> {
        let secret = (!secret.is_empty()).then(|| DecodingKey::from_secret(secret.as_bytes()))?;
        Some(SignedTokens { secret, blocked: blocked.into_iter().collect() })
    }

    /// Whether a token opens the door. Where one secret signs everything, as in Supabase's stack, the keys that every web
    /// page carries verify here too, and those of users with roles of their own: they are refused, unlike with the original, which leaves this to its gateway.
    pub fn admits(&self, token: &str, now: SystemTime) -> bool {
        let is_for_admins = |claims: Map<String, Value>| match claims.get("role") {
            None | Some(Value::Null) => true,
            Some(role) => role.as_str().is_some_and(|role| ADMINS.contains(&role)),
        };
        !self.blocked.contains(token) && self.claims(token, now).is_some_and(is_for_admins)
    }

    fn claims(&self, token: &str, now: SystemTime) -> Option<Map<String, Value>> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64();
        let token = clean(token)?;
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let (header, _) = decode_part(header).ok()?;
        let (claims, _) = decode_part(payload).ok()?;
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(algorithm_named)?;
        if algorithm.family() != AlgorithmFamily::Hmac || header.contains_key("crit") {
            return None;
        }
        let verified = jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.secret, algorithm);
        // One without an expiry is for a scraper, and good until the secret changes.
        let is_current = claims.get("exp").is_none_or(|exp| exp.as_f64().is_some_and(|exp| exp > now));
        (verified.is_ok_and(|verified| verified) && is_current).then_some(claims)
    }
}

impl std::fmt::Debug for SignedTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignedTokens")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::mint;
    use super::*;

    const SECRET: &str = "a-secret-of-the-admins-with-at-least-32-characters";

    fn token(secret: &str, claims: Value) -> String {
        mint(secret, claims.as_object().unwrap()).unwrap()
    }

    #[test]
    fn the_secrets_own_tokens_open_the_door_and_no_others() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let door = SignedTokens::new(SECRET, [token(SECRET, json!({"jti": "lost"}))]).unwrap();
        for good in [json!({}), json!({"exp": 1_001}), json!({"role": "service_role", "exp": 2_000.5})] {
            assert!(door.admits(&token(SECRET, good.clone()), now), "{good}");
        }
        for bad in [
            json!({"exp": 1_000}),
            json!({"exp": "9999"}),
            json!({"role": "anon"}),
            json!({"role": "authenticated"}),
            json!({"role": "agent"}),
            json!({"role": ["service_role"]}),
            json!({"jti": "lost"}),
        ] {
            assert!(!door.admits(&token(SECRET, bad.clone()), now), "{bad}");
        }
        assert!(!door.admits(&token("another-secret-with-at-least-32-characters", json!({})), now));
        // {"alg":"none"} and nothing more.
        for bad in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJub25lIn0.e30", "....", "sb_secret_x"] {
            assert!(!door.admits(bad, now), "{bad}");
        }
        assert!(SignedTokens::new("", []).is_none());
    }
}
