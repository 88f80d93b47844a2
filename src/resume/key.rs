//! What a binding asks for.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};

use crate::authz::Identity;
use crate::wal::Stamp;

/// Whom a key belongs to. Whoever differs in any of it has another record, though the key be the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    role: String,
    subject: Option<Subject>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Subject {
    name: String,
    /// `iss`, as JSON. RFC 7519, 4.1.2: a subject need be unique within its issuer only.
    issuer: Option<String>,
}

impl Holder {
    pub fn of(identity: &Identity) -> Holder {
        let claims: Map<String, Value> = serde_json::from_str(&identity.claims).unwrap_or_default();
        let issuer = claims.get("iss").filter(|issuer| !issuer.is_null()).map(Value::to_string);
        // An empty one names nobody, and anybody may have it.
        let name = claims.get("sub").and_then(Value::as_str).filter(|name| !name.is_empty());
        let subject = name.map(|name| Subject { name: name.to_owned(), issuer });
        Holder { role: identity.role.clone(), subject }
    }
}

/// Whose position is remembered: a client's key, as long as holder and binding are those that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResumeKey(pub [u8; 32]);

/// Longer ones are no keys but mistakes.
const KEY_BYTES_MAX: usize = 128;

/// Where the token names nobody, the key alone says who it is: 22 characters of base64 have 128 bits.
const ANONYMOUS_BYTES_MIN: usize = 22;

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    #[error("`resume` must be a string of 1 to {KEY_BYTES_MAX} bytes")]
    NotAKey,
    #[error(
        "`resume` must have at least {ANONYMOUS_BYTES_MIN} characters where the token has no `sub`: whoever guesses it resumes in your place"
    )]
    Guessable,
}

impl ResumeKey {
    /// `binding`: the binding's own parameters, in canonical form.
    pub fn new(key: &str, holder: &Holder, binding: &str) -> Result<ResumeKey, KeyRefused> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(KeyRefused::NotAKey);
        }
        if holder.subject.is_none() && key.chars().count() < ANONYMOUS_BYTES_MIN {
            return Err(KeyRefused::Guessable);
        }
        let subject = holder.subject.as_ref();
        let name = subject.map(|subject| subject.name.as_str());
        // The issuer comes last, and only where there is one, so that keys of tokens without it stay what they were.
        let issuer = subject.and_then(|subject| subject.issuer.as_deref());
        let mut text = Vec::new();
        for part in [Some(key), Some(&holder.role), name, Some(binding)].into_iter().chain(issuer.map(Some)) {
            // Lengths in front, so that no two lists of parts are the same bytes.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            text.extend_from_slice(&length.to_le_bytes());
            text.extend_from_slice(part.unwrap_or_default().as_bytes());
        }
        let hash = digest(&SHA256, &text);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.as_ref());
        Ok(ResumeKey(bytes))
    }
}

/// The position that a client passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    Absent,
    At(Stamp),
    /// Not a position, so nobody knows what is missing.
    Malformed,
}

/// What one binding asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The id that the client knows the binding by.
    pub binding: u32,
    pub key: Option<Result<ResumeKey, KeyRefused>>,
    pub since: Since,
    /// The answer to a ping of the relay's counts as handled, too.
    pub by_pong: bool,
}

/// The keys of a binding that are about resuming, and not about what is sent.
pub const OWN_KEYS: [&str; 4] = ["resume", "resume_ack", "since", "positions"];

impl Ask {
    /// `None`: nothing is asked for. An empty or null `since`, or `positions` alone, is a client's that has no position yet:
    /// it is told where it begins. `text`: writes a binding's parameters in canonical form.
    pub fn parse(
        binding: u32,
        params: &Map<String, Value>,
        holder: &Holder,
        text: impl FnOnce(Map<String, Value>) -> String,
    ) -> Option<Ask> {
        let key = params.get("resume").filter(|key| !key.is_null());
        let since = match params.get("since") {
            None | Some(Value::Null) => Since::Absent,
            Some(Value::String(text)) if text.is_empty() => Since::Absent,
            Some(Value::String(text)) => text.parse().map_or(Since::Malformed, Since::At),
            Some(_) => Since::Malformed,
        };
        let begins = params.contains_key("since") || params.get("positions") == Some(&Value::Bool(true));
        if key.is_none() && !begins {
            return None;
        }
        let key = key.map(|key| {
            let key = key.as_str().ok_or(KeyRefused::NotAKey)?;
            let rest = params.iter().filter(|(name, _)| !OWN_KEYS.contains(&name.as_str()));
            let rest = rest.map(|(name, value)| (name.clone(), value.clone())).collect();
            ResumeKey::new(key, holder, &text(rest))
        });
        let by_pong = params.get("resume_ack").and_then(Value::as_str) == Some("pong");
        Some(Ask { binding, key, since, by_pong })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holder(claims: Value) -> Holder {
        let role = claims["role"].as_str().unwrap_or("authenticated").to_owned();
        Holder::of(&Identity { role, claims: claims.to_string().into() })
    }

    fn ask(params: Value, subject: Option<&str>) -> Option<Ask> {
        let text = |params| Value::Object(params).to_string();
        Ask::parse(7, params.as_object().unwrap(), &holder(json!({ "sub": subject })), text)
    }

    #[test]
    fn a_binding_asks_by_its_keys() {
        assert_eq!(ask(json!({"table": "t"}), Some("a")), None);
        assert_eq!(ask(json!({"table": "t", "positions": false, "resume": null}), Some("a")), None);
        for beginning in [json!({"since": null}), json!({"since": ""}), json!({"positions": true})] {
            assert_eq!(ask(beginning, None), Some(Ask { binding: 7, key: None, since: Since::Absent, by_pong: false }));
        }
        let asked = ask(json!({"since": "1:1:0/10:2"}), None).unwrap();
        assert_eq!((asked.binding, asked.key, asked.since), (7, None, Since::At("1:1:0/10:2".parse().unwrap())));
        for wrong in [json!("yesterday"), json!(5), json!({})] {
            assert_eq!(ask(json!({"since": wrong}), None).unwrap().since, Since::Malformed);
        }
    }

    #[test]
    fn a_key_is_bound_to_role_subject_and_binding() {
        let key = |params: Value, subject| ask(params, subject).unwrap().key.unwrap();
        let own = key(json!({"resume": "k", "table": "t"}), Some("a"));
        assert!(own.is_ok());
        for more in [json!({"since": "", "positions": true}), json!({"resume_ack": "pong"})] {
            let mut params = json!({"resume": "k", "table": "t"});
            params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(key(params, Some("a")), own);
        }
        assert_ne!(key(json!({"resume": "k", "table": "t"}), Some("b")), own);
        assert_ne!(key(json!({"resume": "k", "table": "u"}), Some("a")), own);
        assert_ne!(key(json!({"resume": "l", "table": "t"}), Some("a")), own);
        let of_role = |role| ResumeKey::new("k", &holder(json!({"role": role, "sub": "a"})), "{}").unwrap();
        assert_ne!(of_role("anon"), of_role("authenticated"));
    }

    #[test]
    fn equal_subjects_of_two_issuers_are_two_holders() {
        let key = |claims| ResumeKey::new("k", &holder(claims), "{}").unwrap();
        let none = key(json!({"sub": "a"}));
        let one = key(json!({"sub": "a", "iss": "one"}));
        assert_ne!(one, key(json!({"sub": "a", "iss": "two"})));
        assert_ne!(one, none);
        assert_ne!(key(json!({"sub": "a", "iss": 1})), key(json!({"sub": "a", "iss": "1"})));
        assert_eq!(none, key(json!({"sub": "a", "iss": null})));
        assert_eq!(one, key(json!({"sub": "a", "iss": "one", "exp": 5})));
        // Keys are written down: those of tokens without an issuer are found again by every version.
        assert_eq!(none.0[..4], [0x88, 0xd8, 0x68, 0xe9]);
        // The key alone says who somebody is who has no name.
        let anonymous = |claims| ResumeKey::new(&"x".repeat(22), &holder(claims), "{}").unwrap();
        assert_eq!(anonymous(json!({"iss": "one"})), anonymous(json!({})));
    }

    #[test]
    fn what_is_no_key_or_could_be_guessed_is_refused() {
        let key = |key: Value, subject| ask(json!({"resume": key}), subject).unwrap().key.unwrap();
        for wrong in [json!(""), json!(5), json!("x".repeat(129))] {
            assert_eq!(key(wrong, Some("a")), Err(KeyRefused::NotAKey));
        }
        assert_eq!(key(json!("x".repeat(21)), None), Err(KeyRefused::Guessable));
        assert!(key(json!("x".repeat(22)), None).is_ok());
        assert!(key(json!("x"), Some("a")).is_ok());
        assert_eq!(key(json!("x"), Some("")), Err(KeyRefused::Guessable), "an empty subject is nobody's name");
    }
}
