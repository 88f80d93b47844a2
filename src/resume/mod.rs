//! Resume: what a client surely has, and what it is still owed.
//!
//! A binding may carry a key that its client made. Under that key is remembered up to where the client has handled what
//! it was sent ([`Ledger`]), in memory and, in batches, in the database ([`store`]). A client that keeps its own position
//! passes that instead. Dispatch replays what lies behind either from the changes that it keeps.

mod key;
pub mod ledger;
mod link;
pub mod metrics;
pub mod store;

use std::time::Duration;

pub use key::{Ask, Holder, KeyRefused, OWN_KEYS, ResumeKey, Since};
pub use ledger::{Claim, Ledger};
pub use link::Link;
pub use metrics::ResumeMetrics;

#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// For how long changes are kept for those who come back; zero: resume is off.
    pub retention: Duration,
    /// Kept changes may have so many bytes: the rows as they came, and what it takes to keep them.
    pub memory_bytes_max: usize,
    /// How often acknowledged positions are written down. What a kill loses is replayed from the older position.
    pub write_interval: Duration,
}

impl Default for Config {
    fn default() -> Config {
        // Five minutes outlast a lift, a tunnel and a redeployment; 64 MiB hold some 200,000 chat messages.
        Config {
            retention: Duration::from_secs(300),
            memory_bytes_max: 64 << 20,
            write_interval: Duration::from_secs(1),
        }
    }
}
