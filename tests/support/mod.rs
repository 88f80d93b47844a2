//! What the tests are told with: clusters, databases, relays, people, clients, a network that breaks.

pub mod client;
pub mod database;
pub mod follower;
pub mod ledger;
pub mod people;
pub mod policies;
pub mod proxy;
pub mod relay;
pub mod replica;
pub mod scene;
pub mod socket;
pub mod standby;
pub mod station;
pub mod zoo;
