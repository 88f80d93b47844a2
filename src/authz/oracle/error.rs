//! Why the oracle did not answer. Every one of these denies.

use std::sync::Arc;
use std::time::Duration;

use super::login::LoginError;

#[derive(Clone, Debug, thiserror::Error)]
pub enum OracleError {
    #[error("no oracle login is configured: policies cannot be evaluated")]
    NoOracle,
    #[error("the policy did not answer within {0:?}")]
    Timeout(Duration),
    /// The questions already waiting are worth `queue_bytes_max`.
    #[error("too many questions are waiting for the database")]
    Overloaded,
    #[error("the session was lost, and again when asked once more")]
    SessionLost,
    /// The role does not exist, or the login is not a member of it.
    #[error("cannot act as role {role:?}: {message}")]
    Role { role: String, sqlstate: String, message: String },
    #[error(transparent)]
    Login(Arc<LoginError>),
    /// The question as a whole is refused (a missing function, a type that is gone).
    #[error("Postgres refused the question ({sqlstate}): {message}")]
    Refused { sqlstate: String, message: String },
    #[error("the database cannot be reached as the oracle's login")]
    Unreachable,
    /// A column that is read was dropped since, or is another one now.
    #[error("the table no longer has a column that was asked for")]
    ColumnGone,
    /// The stream and what is read beside it are too far behind.
    #[error("the table's policies have changed, and could not be read anew in time")]
    PoliciesChanged,
    #[error("the oracle is shutting down")]
    Closed,
}

impl PartialEq for OracleError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}
