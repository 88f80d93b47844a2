//! Opaque API keys, `sb_publishable_...` and `sb_secret_...`: what they stand for is configured. Supabase's gateway
//! exchanges them for tokens; where there is no gateway it is done here.

use std::collections::HashMap;
use std::sync::Arc;

use super::Claims;

/// The last second of the year 9999. A key has no expiry of its own: it is good until the configuration changes.
const NEVER: i64 = 253_402_300_799;

/// What clients recognise such keys by, and what joins ignore in the place of a token (PROTOCOL 3.1).
const PREFIX: &str = "sb_";

/// The keys that are configured.
#[derive(Clone, Default)]
pub struct ApiKeys(HashMap<String, Meaning>);

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A role without further claims.
    Claims(Arc<Claims>),
    /// A token, verified whenever the key is used.
    Token(Arc<str>),
}

/// Keys are secrets: their names are not printed.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    #[error("an API key must be given as sb_...=ROLE or sb_...=JWT")]
    Form,
    #[error("an API key is mapped to two things")]
    Twice,
}

impl ApiKeys {
    /// Reads `sb_publishable_x=anon` and `sb_secret_y=eyJ...`. A token has dots, a role's name as it is here has none.
    pub fn parse<'a>(given: impl IntoIterator<Item = &'a str>) -> Result<ApiKeys, ApiKeyError> {
        let mut keys = ApiKeys::default();
        for pair in given {
            let (key, meaning) = pair.trim().split_once('=').ok_or(ApiKeyError::Form)?;
            keys.insert(key.trim(), meaning.trim())?;
        }
        Ok(keys)
    }

    pub fn insert(&mut self, key: &str, meaning: &str) -> Result<(), ApiKeyError> {
        let is_key = key.len() > PREFIX.len() && key.starts_with(PREFIX) && !key.contains(char::is_whitespace);
        if !is_key || meaning.is_empty() {
            return Err(ApiKeyError::Form);
        }
        let meaning = match meaning.contains('.') {
            true => Meaning::Token(meaning.into()),
            false => Meaning::Claims(Arc::new(role(meaning))),
        };
        match self.0.insert(key.to_owned(), meaning.clone()) {
            Some(before) if before != meaning => Err(ApiKeyError::Twice),
            _ => Ok(()),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Meaning> {
        self.0.get(key.trim())
    }

    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

/// Of the claims that tokens have, only the role: `auth.uid()` is null.
fn role(name: &str) -> Claims {
    let json = serde_json::json!({ "role": name }).to_string();
    Claims { role: name.to_owned(), exp: NEVER, sub: None, json: json.into() }
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} API keys", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_for_roles_or_tokens() {
        let keys = ApiKeys::parse(["sb_publishable_x=anon", " sb_secret_y = e.y.J "]).unwrap();
        let Some(Meaning::Claims(claims)) = keys.get("sb_publishable_x") else { panic!("no role") };
        assert_eq!(
            (&*claims.role, &*claims.json, claims.check_expiry(2_000_000_000).is_ok()),
            ("anon", r#"{"role":"anon"}"#, true)
        );
        assert_eq!(keys.get("sb_secret_y"), Some(&Meaning::Token("e.y.J".into())));
        assert_eq!(keys.get("sb_secret_z"), None);
    }

    #[test]
    fn what_is_not_a_key_or_means_two_things_is_an_error() {
        for bad in ["", "sb_x", "sb_x=", "sb_=anon", "x=anon", "=anon", "sb_x y=anon"] {
            assert!(matches!(ApiKeys::parse([bad]), Err(ApiKeyError::Form)), "{bad}");
        }
        assert!(matches!(ApiKeys::parse(["sb_x=anon", "sb_x=service_role"]), Err(ApiKeyError::Twice)));
        assert!(ApiKeys::parse(["sb_x=anon", "sb_x=anon"]).is_ok());
        assert!(!format!("{:?}", ApiKeys::parse(["sb_x=anon"]).unwrap()).contains("sb_x"));
    }
}
