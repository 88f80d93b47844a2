//! (placeholder of the authz room's own)

use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Claims {
    pub role: String,
    /// Unix seconds.
    pub exp: i64,
    pub json: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    Expired { seconds_ago: i64 },
    ClaimsMissing,
    Malformed,
    Signature,
}

impl TokenError {
    pub fn upgrade_text(&self) -> String {
        match self {
            TokenError::Expired { .. } => "Token has expired".into(),
            other => other.system_text(),
        }
    }

    pub fn join_reason(&self) -> String {
        let code = match self {
            TokenError::Expired { .. } | TokenError::ClaimsMissing => "InvalidJWTToken",
            TokenError::Malformed => "MalformedJWT",
            TokenError::Signature => "JwtSignatureError",
        };
        let text = match self {
            TokenError::Signature => "Failed to validate JWT signature".into(),
            other => other.system_text(),
        };
        format!("{code}: {text}")
    }

    pub fn system_text(&self) -> String {
        match self {
            TokenError::Expired { seconds_ago } => format!("Token has expired {seconds_ago} seconds ago"),
            TokenError::ClaimsMissing => "Fields `role` and `exp` are required in JWT".into(),
            TokenError::Malformed => "The token provided is not a valid JWT".into(),
            TokenError::Signature => ":signature_error".into(),
        }
    }
}
