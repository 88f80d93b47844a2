//! What a verified token says, and why a token is refused.

use std::sync::Arc;

use serde_json::Value;

use super::Identity;

/// The claims of a verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// A database role.
    pub role: String,
    /// Unix seconds; a fraction is rounded.
    pub exp: i64,
    /// `sub`, where it is a string.
    pub sub: Option<String>,
    /// The payload exactly as it was signed, which is what policies read as `request.jwt.claims`.
    pub json: Arc<str>,
}

impl Claims {
    pub fn identity(&self) -> Identity {
        Identity { role: self.role.clone(), claims: Arc::clone(&self.json) }
    }

    /// Whether the token is still good. PROTOCOL 1.3: `exp` strictly greater than now.
    pub fn check_expiry(&self, now_seconds: i64) -> Result<(), TokenError> {
        if self.exp > now_seconds {
            return Ok(());
        }
        Err(TokenError::Expired { seconds_ago: now_seconds.saturating_sub(self.exp) })
    }
}

/// Why a token is refused. Each reason is told in three dresses: the upgrade's JSON body (PROTOCOL 1.4), the join
/// reply's reason (3.1) and the `system` message after an `access_token` push or an expiry (3.3, 5).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired {seconds_ago} seconds ago")]
    Expired { seconds_ago: i64 },
    /// `role` or `exp` is absent, or is not a string or a number.
    #[error("the token lacks `role` or `exp`")]
    ClaimsMissing,
    /// Not three base64url parts with JSON objects in the first two.
    #[error("not a JWT")]
    Malformed,
    #[error("the signature does not verify")]
    Signature,
    /// No key for the token's algorithm and key id. `alg: none` ends here too.
    #[error("no key for this token")]
    Signer { kid: Option<String> },
    /// `iat` is not a number, or one of the configured claim validators does not hold.
    #[error("claim {claim:?} is not acceptable")]
    ClaimInvalid { claim: String, value: Value },
}

impl TokenError {
    /// The status of the refused upgrade.
    pub fn upgrade_status(&self) -> u16 {
        if let TokenError::ClaimInvalid { .. } = self { 500 } else { 401 }
    }

    /// The `error` of the refused upgrade's JSON body.
    pub fn upgrade_text(&self) -> String {
        match self {
            TokenError::Expired { .. } => "Token has expired".to_owned(),
            TokenError::ClaimInvalid { .. } => "Error connecting to Realtime".to_owned(),
            other => other.text(),
        }
    }

    /// The `reason` of the join's error reply: `CODE: text`.
    pub fn join_reason(&self) -> String {
        let code = match self {
            TokenError::Expired { .. } | TokenError::ClaimsMissing => "InvalidJWTToken",
            TokenError::Malformed => "MalformedJWT",
            TokenError::Signature => "JwtSignatureError",
            TokenError::Signer { .. } => "JwtSignerError",
            TokenError::ClaimInvalid { .. } => return "Unknown Error on Channel".to_owned(),
        };
        format!("{code}: {}", self.text())
    }

    /// The `message` of the `system` frame that precedes `phx_close`.
    pub fn system_text(&self) -> String {
        match self {
            TokenError::Signature => ":signature_error".to_owned(),
            // The original prints its own error term, a keyword list in Elixir's notation.
            TokenError::ClaimInvalid { claim, value } => {
                format!("[message: \"Invalid token\", claim: {claim:?}, claim_val: {value}]")
            }
            other => other.text(),
        }
    }

    fn text(&self) -> String {
        match self {
            TokenError::Expired { seconds_ago } => format!("Token has expired {seconds_ago} seconds ago"),
            TokenError::ClaimsMissing => "Fields `role` and `exp` are required in JWT".to_owned(),
            TokenError::Malformed => "The token provided is not a valid JWT".to_owned(),
            TokenError::Signature => "Failed to validate JWT signature".to_owned(),
            TokenError::Signer { kid: None } => {
                "Failed to generate JWT signer, check your JWT secret or JWKS configuration".to_owned()
            }
            TokenError::Signer { kid: Some(kid) } => format!(
                "Failed to generate JWT signer for key ID (kid) \"{kid}\", check your JWT secret or JWKS configuration"
            ),
            TokenError::ClaimInvalid { claim, .. } => format!("Invalid token claim {claim}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_the_texts_that_clients_know() {
        let expired = TokenError::Expired { seconds_ago: 60 };
        assert_eq!(expired.upgrade_text(), "Token has expired");
        assert_eq!(expired.join_reason(), "InvalidJWTToken: Token has expired 60 seconds ago");
        assert_eq!(expired.system_text(), "Token has expired 60 seconds ago");

        let missing = TokenError::ClaimsMissing;
        assert_eq!(missing.upgrade_text(), "Fields `role` and `exp` are required in JWT");
        assert_eq!(missing.join_reason(), "InvalidJWTToken: Fields `role` and `exp` are required in JWT");

        let malformed = TokenError::Malformed;
        assert_eq!(malformed.upgrade_text(), "The token provided is not a valid JWT");
        assert_eq!(malformed.join_reason(), "MalformedJWT: The token provided is not a valid JWT");

        let signature = TokenError::Signature;
        assert_eq!(signature.upgrade_text(), "Failed to validate JWT signature");
        assert_eq!(signature.join_reason(), "JwtSignatureError: Failed to validate JWT signature");
        assert_eq!(signature.system_text(), ":signature_error");

        let signer = TokenError::Signer { kid: Some("k1".into()) };
        assert_eq!(
            signer.join_reason(),
            "JwtSignerError: Failed to generate JWT signer for key ID (kid) \"k1\", check your JWT secret or JWKS configuration"
        );
    }

    #[test]
    fn a_token_expires_in_the_second_that_exp_names() {
        let claims = Claims { role: "anon".into(), exp: 100, sub: None, json: "{}".into() };
        assert_eq!(claims.check_expiry(99), Ok(()));
        assert_eq!(claims.check_expiry(100), Err(TokenError::Expired { seconds_ago: 0 }));
        assert_eq!(claims.check_expiry(104), Err(TokenError::Expired { seconds_ago: 4 }));
    }
}
