//! What breaks under a running relay, one thing per test, each in a cluster of its own. Subscribers who stay connected
//! miss nothing and get nothing twice; nobody sees what he may not.

mod failover;
mod network;
mod postgres;
mod relay;
mod slot_budget;
mod standby;
mod takeover;
mod walsender;
