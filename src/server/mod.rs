//! The server: HTTP, and the WebSockets that begin as HTTP.
//!
//! Given a listener, and the channels' [`Lobby`] that sessions meet in; performs what sessions ask for. Subscriptions go
//! to a [`SubscriptionSink`], which is dispatch. Knows no tables and no policies.
//!
//! ```text
//!   listener ─► one task per TCP connection (hyper) ─► routes ─► an answer
//!                                                        └─► upgrade ─► one fresh, small task per socket: connection
//! ```
//!
//! [`Lobby`]: crate::channels::Lobby
//! [`SubscriptionSink`]: crate::channels::SubscriptionSink

mod addresses;
mod answer;
mod broadcast_api;
mod client_stream;
mod connection;
mod connections;
mod cors;
pub mod descriptors;
mod doors;
pub mod health;
mod inbound;
mod listener;
pub mod metrics;
pub mod metrics_endpoint;
pub mod origins;
mod pipe;
pub mod proxies;
mod query;
mod rate;
mod routes;

mod tenants;
pub mod tls;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio_util::task::TaskTracker;

pub use health::Readiness;
pub use metrics::Metrics;
pub use origins::Origins;
pub use proxies::Cidr;
pub use tls::Tls;

use crate::authz::SignedTokens;
use crate::channels::{Lobby, SubscriptionSink};
use addresses::Addresses;
use broadcast_api::Budget;
use connections::Connections;
use doors::Doors;
use inbound::Inbound;
use rate::Rate;

#[derive(Clone, Debug)]
pub struct Config {
    /// How long the answer to a refused upgrade is held back, to slow down clients that retry at once (Supabase: 2 s).
    pub connect_error_backoff: Duration,
    /// A socket from which nothing comes for this long is closed. Clients send a heartbeat every 25 seconds.
    pub idle_timeout: Duration,
    /// How long a socket that is being closed has to take the rest and to close its own side.
    pub close_timeout: Duration,
    /// How long a request may take to send its head.
    pub header_timeout: Duration,
    /// Of one frame from a client, and of all fragments of a message.
    pub frame_bytes_max: usize,
    /// Of messages that are still arriving, over all sockets, where they are large: a frame's header is a promise that
    /// costs nothing.
    pub inbound_bytes_max: usize,
    /// Open sockets, joined to something or not.
    pub connections_max: usize,
    /// Accepted connections, WebSockets or not: as many as there are descriptors for.
    pub sockets_max: usize,
    /// Of these, those that are no WebSocket, or not yet.
    pub handshakes_max: usize,
    /// Requests to the API, all clients together, on an average of a minute.
    pub requests_per_second_max: u32,
    /// Of one request's body; the original's own.
    pub body_bytes_max: usize,
    /// Of all bodies that are held at once. Requests above it wait, as long as their body may take.
    pub bodies_bytes_max: usize,
    /// How long a body, or a large message, may take to arrive; and how long an answer may lie unread.
    pub body_timeout: Duration,
    /// How long a stopping server waits for its sockets.
    pub drain_timeout: Duration,
    /// Of that, for whoever has been sent everything and only has to hang up, and for a request's head to come: whoever
    /// is there does either at once.
    pub drain_linger: Duration,
    /// At a stop, over how long a time sockets are told to go: they all come back.
    pub drain_spread: Duration,
    /// Who knows it may read `/metrics` on the public listener; without one, nobody may.
    pub metrics_token: Option<String>,
    /// Likewise, who has a token that is signed for it.
    pub metrics_tokens: Option<SignedTokens>,
    /// Who may use the admin API; without one, nobody may.
    pub admin_tokens: Option<SignedTokens>,
    /// What the admin API calls the one tenant.
    pub tenant: String,
    pub tls: Option<Tls>,
    /// Pages that may open sockets and read answers.
    pub origins: Origins,
    /// Whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<Cidr>,
    /// Sockets of one address, or of one network of IPv6.
    pub connections_per_address_max: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            connect_error_backoff: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            frame_bytes_max: 5_000_000,
            inbound_bytes_max: 256 << 20,
            connections_max: 200_000,
            sockets_max: 210_000,
            // A second's worth of handshakes, and a few seconds' of clients with slow networks.
            handshakes_max: 10_000,
            // As many as there may be joins.
            requests_per_second_max: 10_000,
            body_bytes_max: 8_000_000,
            bodies_bytes_max: 256 << 20,
            body_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            // Three round trips of a bad network. What the kernel still has for a client it sends after that, too.
            drain_linger: Duration::from_secs(1),
            drain_spread: Duration::from_secs(2),
            metrics_token: None,
            metrics_tokens: None,
            admin_tokens: None,
            tenant: "realtime-dev".to_owned(),
            tls: None,
            origins: Origins::default(),
            trusted_proxies: Vec::new(),
            connections_per_address_max: None,
        }
    }
}

/// What the server is given.
pub struct Services {
    pub lobby: Arc<Lobby>,
    pub sink: Arc<dyn SubscriptionSink>,
    pub readiness: Arc<Readiness>,
    pub metrics: Arc<Metrics>,
    /// Everybody's metrics, for `/metrics`.
    pub registry: Arc<Registry>,
}

/// A server; [`Server::serve`] runs it.
pub struct Server {
    config: Config,
    services: Services,
    connections: Arc<Connections>,
    addresses: Arc<Addresses>,
    doors: Arc<Doors>,
    inbound: Arc<Inbound>,
    rate: Rate,
    bodies: Budget,
    /// Of every task that serves a client.
    tasks: TaskTracker,
}

impl Server {
    pub fn new(config: Config, services: Services) -> Arc<Server> {
        let rate = Rate::new(config.requests_per_second_max);
        let bodies = Budget::new(config.bodies_bytes_max);
        let addresses = Addresses::new(config.connections_per_address_max);
        let doors = Doors::new(&config, Arc::clone(&services.metrics));
        let inbound = Inbound::new(config.inbound_bytes_max, Arc::clone(&services.metrics));
        let (connections, tasks) = (Arc::default(), TaskTracker::new());
        Arc::new(Server { config, services, connections, addresses, doors, inbound, rate, bodies, tasks })
    }
}
