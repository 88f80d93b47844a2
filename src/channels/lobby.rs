//! What all sessions share: limits, the verifier of tokens, counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::chat::Quotas;
use super::diary::Diary;
use super::hub::Hub;
use super::limits::{Gate, Limits};
use super::metrics::Metrics;
use super::outbox;
use super::replay::Replayer;
use super::subscribe::ChannelId;
use super::token::TokenVerifier;
use crate::authz::TopicAuthority;
use crate::resume::Ledger;

#[derive(Clone, Debug, Default)]
pub struct Config {
    pub limits: Limits,
    pub outbox: outbox::Config,
    /// How long the reply to a refused join is held back, to slow down clients that retry at once. The reply alone:
    /// whatever else the socket has to do goes on.
    pub join_error_backoff: Duration,
    /// Public channels are refused.
    pub private_only: bool,
}

/// Whom sessions ask.
#[derive(Clone)]
pub struct Services {
    pub verifier: Arc<dyn TokenVerifier>,
    /// Who may be on a private channel; `None`: nobody can say, so nobody may.
    pub authority: Option<Arc<dyn TopicAuthority>>,
    /// What was broadcast from the database before; `None`: nobody knows.
    pub replayer: Option<Arc<dyn Replayer>>,
    /// Up to where those who resume have got; `None`: nobody can.
    pub ledger: Option<Arc<Ledger>>,
    /// The stream that carries broadcasts from the database runs.
    pub replication: Arc<AtomicBool>,
}

impl Services {
    /// For public channels alone.
    pub fn new(verifier: Arc<dyn TokenVerifier>) -> Services {
        Services { verifier, authority: None, replayer: None, ledger: None, replication: Arc::default() }
    }
}

/// What all sessions share.
pub struct Lobby {
    pub diary: Diary,
    pub gate: Arc<Gate>,
    pub hub: Arc<Hub>,
    pub services: Services,
    pub metrics: Arc<Metrics>,
    pub outbox_config: Arc<outbox::Config>,
    pub join_error_backoff: Duration,
    pub private_only: bool,
    /// Messages that each person has left in this minute.
    pub(super) quotas: Quotas,
    channel_ids: AtomicU64,
}

impl Lobby {
    pub fn new(config: Config, hub: Arc<Hub>, services: Services, metrics: Arc<Metrics>) -> Arc<Lobby> {
        Arc::new(Lobby {
            diary: Diary::default(),
            quotas: Quotas::new(config.limits.messages_per_minute_max),
            gate: Gate::new(config.limits),
            hub,
            services,
            metrics,
            outbox_config: Arc::new(config.outbox),
            join_error_backoff: config.join_error_backoff,
            private_only: config.private_only,
            channel_ids: AtomicU64::new(1),
        })
    }

    pub fn next_channel_id(&self) -> ChannelId {
        ChannelId(self.channel_ids.fetch_add(1, Ordering::Relaxed))
    }
}
