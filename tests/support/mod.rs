//! What the tests are told with: clusters, databases, clients.

pub mod database;
pub mod replica;
pub mod socket;
