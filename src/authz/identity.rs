//! On whose behalf a question is asked.

use std::sync::Arc;

/// A role and the claims that policies read as `request.jwt.claims`. Equal identities are one question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub role: String,
    /// JSON text, as the GUC gets it.
    pub claims: Arc<str>,
}

impl Identity {
    /// The claim `sub`, empty where it is absent or no string.
    pub fn subject(&self) -> String {
        subject(&self.claims)
    }

    /// Whether policies would say the same of both: a token that is refreshed has other times, and another id.
    pub fn is_same_but_for_time(&self, other: &Identity) -> bool {
        if self.role != other.role || self.claims == other.claims {
            return self.role == other.role;
        }
        let lasting = |claims: &str| {
            let mut claims = serde_json::from_str::<serde_json::Map<_, _>>(claims).ok()?;
            ["exp", "iat", "nbf", "jti"].iter().for_each(|name| drop(claims.remove(*name)));
            Some(claims)
        };
        lasting(&self.claims).is_some_and(|claims| Some(claims) == lasting(&other.claims))
    }
}

/// The same of claims alone.
pub(super) fn subject(claims: &str) -> String {
    let claims: serde_json::Value = serde_json::from_str(claims).unwrap_or_default();
    claims.get("sub").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}
