//! Who says what a token is worth.

use std::sync::Arc;
use std::time::SystemTime;

use crate::authz::{Claims, TokenError, Verifier};

/// Authz' verifier, or a test's. Asked at the upgrade, at joins, at `access_token`, and again before a token expires;
/// never waits.
pub trait TokenVerifier: Send + Sync {
    fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Claims>, TokenError>;
}

impl TokenVerifier for Verifier {
    fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Claims>, TokenError> {
        Verifier::verify(self, token, now)
    }
}
