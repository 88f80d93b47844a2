//! (placeholder of the authz room's own)

use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub role: String,
    pub claims: Arc<str>,
}
