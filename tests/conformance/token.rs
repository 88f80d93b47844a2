//! The recorded tokens have expired long ago: signed again, with their times as far from now as they were from then.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::Value;

/// What the recorded server verified tokens with.
pub const SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";

/// In seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_secs()).expect("a clock of this age")
}

/// `text` with every token in it signed again, and the beginning of a replay moved likewise. What is not a token, or was
/// never one, stays as recorded.
pub fn renewed(text: &str, recorded_at: i64, now: i64) -> String {
    with_tokens(&with_since(text, (now - recorded_at) * 1_000), recorded_at, now)
}

/// `"since":1795174490213`, in milliseconds.
fn with_since(text: &str, milliseconds: i64) -> String {
    const KEY: &str = "\"since\":";
    let Some((before, rest)) = text.split_once(KEY) else { return text.to_string() };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let since = rest[..end].parse::<i64>().map_or_else(|_| String::new(), |since| (since + milliseconds).to_string());
    format!("{before}{KEY}{since}{}", &rest[end..])
}

fn with_tokens(text: &str, recorded_at: i64, now: i64) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("eyJ") {
        let (before, from_token) = rest.split_at(start);
        let end = from_token.find(|c: char| !is_token_character(c)).unwrap_or(from_token.len());
        let (token, after) = from_token.split_at(end);
        out.push_str(before);
        out.push_str(&renew(token, now - recorded_at).unwrap_or_else(|| token.to_string()));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// A token of this role that is good for an hour.
pub fn of_role(role: &str, now: i64) -> String {
    let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encode(serde_json::json!({ "alg": "HS256", "typ": "JWT" }));
    let message = format!("{header}.{}", encode(serde_json::json!({ "role": role, "iat": now, "exp": now + 3_600 })));
    format!("{message}.{}", sign(&message, SECRET))
}

fn is_token_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn renew(token: &str, seconds: i64) -> Option<String> {
    let (message, signature) = token.rsplit_once('.')?;
    let (header, payload) = message.split_once('.')?;
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    for name in ["exp", "iat", "nbf"] {
        if let Some(time) = claims.get(name).and_then(Value::as_i64) {
            claims[name] = (time + seconds).into();
        }
    }
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    // One that was badly signed stays badly signed.
    let secret = if sign(message_of(token)?, SECRET) == signature { SECRET } else { "not the secret of the server" };
    Some(format!("{message}.{}", sign(&message, secret)))
}

fn message_of(token: &str) -> Option<&str> {
    token.rsplit_once('.').map(|(message, _)| message)
}

fn sign(message: &str, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("HMAC takes any key and message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(token: &str) -> Value {
        let payload = token.split('.').nth(1).expect("three parts");
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    }

    fn token(claims: &Value, secret: &str) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&serde_json::json!({"alg": "HS256", "typ": "JWT"})), encode(claims));
        format!("{message}.{}", sign(&message, secret))
    }

    #[test]
    fn a_token_keeps_its_distance_from_now_and_its_signature_stays_good_or_bad() {
        let recorded = serde_json::json!({"role": "anon", "exp": 1100, "iat": 1000});
        for (secret, good) in [(SECRET, true), ("another", false)] {
            let text = renewed(&format!("[\"{}\"]", token(&recorded, secret)), 1000, 5000);
            let renewed = text.trim_start_matches("[\"").trim_end_matches("\"]");
            assert_eq!(claims(renewed), serde_json::json!({"role": "anon", "exp": 5100, "iat": 5000}));
            let (message, signature) = renewed.rsplit_once('.').unwrap();
            assert_eq!(sign(message, SECRET) == signature, good);
        }
    }

    #[test]
    fn a_replay_begins_as_long_ago_as_it_did() {
        assert_eq!(renewed(r#"{"since":1000,"limit":1}"#, 1, 3), r#"{"since":3000,"limit":1}"#);
        assert_eq!(renewed(r#"{"since":"x"}"#, 1, 3), r#"{"since":"x"}"#);
    }

    #[test]
    fn what_is_no_token_stays_as_recorded() {
        assert_eq!(renewed("?apikey=abc&x=eyJ.&vsn=1.0.0", 0, 10), "?apikey=abc&x=eyJ.&vsn=1.0.0");
    }
}
