//! What all sessions share: limits, the verifier of tokens, counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::limits::{Gate, Limits};
use super::metrics::Metrics;
use super::outbox;
use super::subscribe::ChannelId;
use super::token::TokenVerifier;

#[derive(Clone, Debug, Default)]
pub struct Config {
    pub limits: Limits,
    pub outbox: outbox::Config,
    /// How long the reply to a refused join is held back, to slow down clients that retry at once. The reply alone:
    /// whatever else the socket has to do goes on.
    pub join_error_backoff: Duration,
}

/// What all sessions share.
pub struct Lobby {
    pub gate: Arc<Gate>,
    pub verifier: Arc<dyn TokenVerifier>,
    pub metrics: Arc<Metrics>,
    pub outbox_config: Arc<outbox::Config>,
    pub join_error_backoff: Duration,
    channel_ids: AtomicU64,
}

impl Lobby {
    pub fn new(config: Config, verifier: Arc<dyn TokenVerifier>, metrics: Arc<Metrics>) -> Arc<Lobby> {
        Arc::new(Lobby {
            gate: Gate::new(config.limits),
            verifier,
            metrics,
            outbox_config: Arc::new(config.outbox),
            join_error_backoff: config.join_error_backoff,
            channel_ids: AtomicU64::new(1),
        })
    }

    pub fn next_channel_id(&self) -> ChannelId {
        ChannelId(self.channel_ids.fetch_add(1, Ordering::Relaxed))
    }
}
