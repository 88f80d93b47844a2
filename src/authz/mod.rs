//! (to be built)

pub mod claims;
pub mod identity;

pub use claims::{Claims, TokenError};
pub use identity::Identity;
