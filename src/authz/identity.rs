//! On whose behalf a question is asked.

use std::sync::Arc;

/// A role and the claims that policies read as `request.jwt.claims`. Equal identities are one question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub role: String,
    /// JSON text, as the GUC gets it.
    pub claims: Arc<str>,
}
