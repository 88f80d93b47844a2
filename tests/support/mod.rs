//! What the tests are told with: clusters, databases, clients.

pub mod database;
pub mod policies;
pub mod relay;
pub mod replica;
pub mod socket;
