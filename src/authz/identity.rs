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
}

/// The same of claims alone.
pub(super) fn subject(claims: &str) -> String {
    let claims: serde_json::Value = serde_json::from_str(claims).unwrap_or_default();
    claims.get("sub").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}
