//! Who subscribes: roles and claims, as a token for the relay and as settings for Postgres.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::relay::JWT_SECRET;

pub const ALICE: &str = "11111111-1111-4111-8111-111111111111";
pub const BOB: &str = "22222222-2222-4222-8222-222222222222";
pub const AGENT: &str = "33333333-3333-4333-8333-333333333333";
pub const ADMIN: &str = "55555555-5555-4555-8555-555555555555";

/// Somebody with a token.
#[derive(Clone)]
pub struct Person {
    pub name: &'static str,
    /// The payload of the token.
    pub claims: Value,
}

impl Person {
    fn new(name: &'static str, mut claims: Value) -> Person {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        claims["iat"] = json!(now);
        claims["exp"] = json!(now + 3600);
        Person { name, claims }
    }

    pub fn token(&self) -> String {
        self.token_signed_with(JWT_SECRET)
    }

    pub fn token_signed_with(&self, secret: &str) -> String {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::default(), &self.claims, &key).expect("HS256 signs any claims")
    }
}

/// Somebody who is signed in.
pub fn user(name: &'static str, sub: &str) -> Person {
    Person::new(name, json!({ "role": "authenticated", "aud": "authenticated", "sub": sub }))
}

pub fn alice() -> Person {
    user("alice", ALICE)
}

pub fn bob() -> Person {
    user("bob", BOB)
}

pub fn admin() -> Person {
    Person::new("admin", json!({ "role": "authenticated", "sub": ADMIN, "app_metadata": { "role": "admin" } }))
}

/// Somebody who is not signed in.
pub fn anon() -> Person {
    Person::new("anon", json!({ "role": "anon" }))
}

/// The application's own back end.
pub fn service() -> Person {
    Person::new("service", json!({ "role": "service_role" }))
}
