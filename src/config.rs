//! The configuration of `walcast serve`: each room's own, gathered from flags and variables.
//!
//! Every flag has a `WALCAST_...` variable. The variables of Supabase's own container are understood too, so that
//! swapping the image in a self-hosted stack is enough (PROTOCOL 1.6).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::authz::{ApiKeyError, ApiKeys, SignedTokens};
use crate::dispatch::{Deletes, TableName};
use crate::server::Cidr;
use crate::wal::Budget;

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Whether the slot outlives the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SlotMode {
    /// Changes made while walcast is down are read when it is back.
    #[default]
    Permanent,
    /// As Supabase has it: a restart loses changes, a crash leaves nothing behind.
    Temporary,
}

/// What the slot may cost the database.
#[derive(Args, Clone)]
pub struct SlotBudgetArgs {
    /// The slot's budget: WAL that it may hold back on the server's disk. Half of it is warned of, at three quarters promises of resume are given up, at all of it --slot-over-budget decides.
    #[arg(long, env = "WALCAST_SLOT_LAG_MAX", default_value = "4GiB", value_parser = bytes, value_name = "BYTES")]
    pub slot_lag_max: u64,
    /// The slot's other budget, in the same steps: transactions whose dead rows of system catalogs it may keep from vacuum.
    #[arg(long, env = "WALCAST_SLOT_XMIN_AGE_MAX", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub slot_xmin_age_max: u64,
}

impl SlotBudgetArgs {
    pub fn budget(&self) -> Budget {
        Budget { retained_bytes_max: self.slot_lag_max, catalog_xmin_age_max: self.slot_xmin_age_max }
    }
}

/// What is done with a slot that holds back more than its budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OverBudget {
    /// Nothing is given up that can still be read. The bound that holds without walcast, too, is max_slot_wal_keep_size.
    #[default]
    Wait,
    /// The slot is dropped and made anew; what was not read yet is lost, and clients are told.
    Drop,
}

/// What is done about a slot that Postgres has invalidated. Its changes are gone either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LostSlot {
    /// It is dropped and made anew; clients are told of the gap.
    #[default]
    Recreate,
    /// walcast ends with an error, until somebody has looked and run `walcast slot drop`.
    Stop,
}

/// Where the database is.
#[derive(Args, Clone)]
pub struct DatabaseArgs {
    /// The stream's login: libpq URL or key=value conninfo; unix sockets too. Without it DB_HOST, DB_PORT, DB_USER, DB_PASSWORD, DB_NAME and DB_SSL.
    #[arg(long, env = "WALCAST_DATABASE_URL", hide_env_values = true, value_name = "CONNINFO")]
    pub database_url: Option<String>,
    /// The publication whose tables are relayed.
    #[arg(long, env = "WALCAST_PUBLICATION", default_value = "supabase_realtime", value_name = "NAME")]
    pub publication: String,
    /// The logical replication slot.
    #[arg(long, env = "WALCAST_SLOT", default_value = "walcast", value_name = "NAME")]
    pub slot: String,
}

/// What of the environment of Supabase's container means nothing here, for `serve --help`. It may stay as it is.
pub const SUPABASE_VARIABLES: &str = "\
Variables of Supabase's realtime container that are read:
  PORT, DB_HOST, DB_PORT, DB_USER, DB_PASSWORD, DB_NAME, DB_SSL, DB_SSL_CA_CERT, API_JWT_SECRET, API_JWT_JWKS,
  API_TOKEN_BLOCKLIST, METRICS_JWT_SECRET, METRICS_TOKEN_BLOCKLIST, JWT_CLAIM_VALIDATORS, SELF_HOST_TENANT_NAME,
  REALTIME_IP_VERSION
Set by the stack or its users, and ignored, since there is nothing here that they would change:
  DB_AFTER_CONNECT_QUERY, DB_ENC_KEY, DB_IP_VERSION, DB_POOL_SIZE, DB_QUEUE_*, DB_REPLICA_*, SECRET_KEY_BASE, ERL_AFLAGS,
  DNS_NODES, CLUSTER_STRATEGIES, GEN_RPC_*, RLIMIT_NOFILE, APP_NAME, REGION, SEED_SELF_HOST, RUN_JANITOR, JANITOR_*,
  DISABLE_HEALTHCHECK_LOGGING, DASHBOARD_*, LOGS_ENGINE, LOGFLARE_*, OTEL_*, METRICS_PUSHER_*, NUM_ACCEPTORS, *_POOL_SIZE
Ignored, since flags say it: LOG_LEVEL (--log), MAX_CONNECTIONS and TENANT_MAX_* (the limits above), SLOT_NAME_SUFFIX (--slot),
  CONNECT_ERROR_BACKOFF_MS (--connect-error-backoff), CHANNEL_ERROR_BACKOFF_MS (--join-error-backoff)";

/// The database could not be told from flags and variables.
#[derive(Debug, thiserror::Error)]
#[error(
    "no database given: pass --database-url postgres://user:password@host/database, or set DATABASE_URL, or DB_HOST, DB_USER, DB_PASSWORD and DB_NAME"
)]
pub struct NoDatabase;

impl DatabaseArgs {
    /// The conninfo, from the flag, `DATABASE_URL` or the `DB_*` variables of Supabase's container.
    pub fn conninfo(&self, variable: impl Fn(&str) -> Option<String>) -> Result<String, NoDatabase> {
        if let Some(url) = self.database_url.clone().or_else(|| variable("DATABASE_URL")) {
            return Ok(url);
        }
        let host = variable("DB_HOST").ok_or(NoDatabase)?;
        let mut conninfo = format!("host={}", quote(&host));
        for (name, key) in
            [("DB_PORT", "port"), ("DB_USER", "user"), ("DB_PASSWORD", "password"), ("DB_NAME", "dbname")]
        {
            if let Some(value) = variable(name) {
                conninfo.push_str(&format!(" {key}={}", quote(&value)));
            }
        }
        if variable("DB_SSL").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            match variable("DB_SSL_CA_CERT") {
                None => conninfo.push_str(" sslmode=require"),
                Some(path) => conninfo.push_str(&format!(" sslmode=verify-full sslrootcert={}", quote(&path))),
            }
        }
        Ok(conninfo)
    }
}

/// A value as libpq's key=value form wants it (manual 34.1.1.1).
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[derive(Args, Clone)]
pub struct ServeArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Run `setup` first, as the user of --database-url. The default where DB_HOST is given, as in Supabase's stack.
    #[arg(long, env = "WALCAST_AUTO_SETUP", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub auto_setup: Option<bool>,
    /// The oracle's login, where the one that `setup` left in the database is not to be used.
    #[arg(long, env = "WALCAST_ORACLE_URL", hide_env_values = true, value_name = "CONNINFO")]
    pub oracle_url: Option<String>,
    /// Sessions that the oracle may have (policies are evaluated there).
    #[arg(long, env = "WALCAST_ORACLE_CONNECTIONS", default_value_t = 4, value_name = "N")]
    pub oracle_connections: usize,
    /// The slot outlives the process, or not.
    #[arg(long, env = "WALCAST_SLOT_MODE", value_enum, default_value_t, value_name = "MODE")]
    pub slot_mode: SlotMode,
    /// Make the slot a failover slot (Postgres 17 and newer).
    #[arg(long, env = "WALCAST_SLOT_FAILOVER")]
    pub slot_failover: bool,
    #[command(flatten)]
    pub slot_budget: SlotBudgetArgs,
    /// How long changes are kept for clients that resume (bindings with `resume` or `since`); 0 turns it off. The slot holds back the WAL
    /// and the catalog's dead rows of that time, while anybody uses it.
    #[arg(long, env = "WALCAST_RESUME_RETENTION", default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub resume_retention: Duration,
    /// Changes kept for clients that resume, in memory; the oldest go first, and whoever needed them is told.
    #[arg(long, env = "WALCAST_RESUME_MEMORY_MAX", default_value = "64MiB", value_parser = bytes, value_name = "BYTES")]
    pub resume_memory_max: u64,
    /// How often what clients have is written to the database. After a kill, what was not written is sent again.
    #[arg(long, env = "WALCAST_RESUME_WRITE_INTERVAL", default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub resume_write_interval: Duration,
    /// What happens to a slot above its budget: read on, which frees WAL as it goes, or begin anew and tell clients of the gap.
    #[arg(long, env = "WALCAST_SLOT_OVER_BUDGET", value_enum, default_value_t, value_name = "WHAT")]
    pub slot_over_budget: OverBudget,
    /// What happens where Postgres has removed WAL that the slot needed: begin anew and tell of the gap, or end with an error.
    #[arg(long, env = "WALCAST_SLOT_LOST", value_enum, default_value_t, value_name = "WHAT")]
    pub slot_lost: LostSlot,
    /// Where another walcast of the same login holds the slot, end its replication session instead of waiting for it.
    #[arg(long, env = "WALCAST_SLOT_TAKEOVER")]
    pub slot_takeover: bool,
    /// How long messages stay in realtime.messages for replay: partitions of whole days that are older are dropped.
    #[arg(long, env = "WALCAST_MESSAGES_RETENTION", default_value = "72h", value_parser = duration, value_name = "TIME")]
    pub messages_retention: Duration,

    /// Address and port for clients.
    #[arg(long, env = "WALCAST_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address and port for /metrics; without it they are at /metrics of --listen, behind --metrics-token.
    #[arg(long, env = "WALCAST_METRICS_LISTEN", value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// Bearer token for /metrics. Beside it, tokens signed with METRICS_JWT_SECRET are taken.
    #[arg(long, env = "WALCAST_METRICS_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub metrics_token: Option<String>,
    /// Serve clients over TLS: the certificate and its chain, PEM. Read again when the file changes, and at SIGHUP.
    #[arg(long, env = "WALCAST_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[arg(long, env = "WALCAST_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// A proxy, 10.0.0.0/8 or one address, whose X-Forwarded-For and X-Forwarded-Proto count. Several times, or with commas.
    #[arg(long, env = "WALCAST_TRUSTED_PROXY", value_delimiter = ',', value_name = "CIDR")]
    pub trusted_proxy: Vec<Cidr>,
    /// Pages that may connect: `https://app.example.com`, `https://*.example.com`. Several times, or with commas; without it, all.
    #[arg(long, env = "WALCAST_ALLOWED_ORIGIN", value_delimiter = ',', value_name = "ORIGIN")]
    pub allowed_origin: Vec<String>,

    /// Secret of HS256/384/512 tokens. Also API_JWT_SECRET and JWT_SECRET.
    #[arg(long, env = "WALCAST_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub jwt_secret: Option<String>,
    /// JSON Web Key Set: the JSON itself, a file, or an http(s) URL (cached, rotated). Also API_JWT_JWKS and JWT_JWKS.
    #[arg(long, env = "WALCAST_JWKS", value_name = "JSON|FILE|URL")]
    pub jwks: Option<String>,
    /// Claims that every token must have: a JSON object, e.g. {"iss":"me"}. Also JWT_CLAIM_VALIDATORS.
    #[arg(long, env = "WALCAST_JWT_CLAIM_VALIDATORS", value_name = "JSON")]
    pub jwt_claim_validators: Option<String>,
    /// An opaque key and what it stands for: sb_publishable_x=anon, a role, or sb_secret_y=JWT. Several times, or with commas. Also SUPABASE_PUBLISHABLE_KEY (anon) and SUPABASE_SECRET_KEY (service_role).
    #[arg(long, env = "WALCAST_API_KEYS", hide_env_values = true, value_delimiter = ',', value_name = "KEY=ROLE|JWT")]
    pub api_key: Vec<String>,

    /// Deletes under row-level security whose old row is not in the stream.
    #[arg(long, env = "WALCAST_DELETES", value_enum, default_value_t, value_name = "MODE")]
    pub deletes: Deletes,
    /// A published table, schema.table, whose rows' columns that policies and filters read are kept in memory, so that its deletes are judged without REPLICA IDENTITY FULL. May be given several times, or with commas.
    #[arg(long, env = "WALCAST_DELETE_INDEX", value_delimiter = ',', value_name = "TABLE")]
    pub delete_index: Vec<TableName>,
    /// Bytes of memory for tables that policies read, and those of --delete-index; what does not fit is left to Postgres.
    #[arg(long, env = "WALCAST_TRACKED_MEMORY_MAX", default_value = "512MiB", value_parser = bytes, value_name = "BYTES")]
    pub tracked_memory_max: u64,
    /// A question to Postgres that is undecided after this time is denied and told.
    #[arg(long, env = "WALCAST_AUTHZ_TIMEOUT", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub authz_timeout: Duration,
    /// Bytes of one transaction held in memory; larger ones go to an unlinked file.
    #[arg(long, env = "WALCAST_TRANSACTION_BUFFER_MAX", default_value = "64MiB", value_parser = bytes, value_name = "BYTES")]
    pub transaction_buffer_max: u64,
    /// Bytes of one transaction held in that file.
    #[arg(long, env = "WALCAST_TRANSACTION_SPILL_MAX", default_value = "64GiB", value_parser = bytes, value_name = "BYTES")]
    pub transaction_spill_max: u64,
    /// Read large transactions at their commit, not while they are in progress; others wait for them then.
    #[arg(long, env = "WALCAST_READ_AT_COMMIT")]
    pub read_at_commit: bool,
    /// Bytes of row images that may wait for answers of Postgres before the stream is read no further.
    #[arg(long, env = "WALCAST_PENDING_MAX", default_value = "64MiB", value_parser = bytes, value_name = "BYTES")]
    pub pending_max: u64,
    /// A row above this size is delivered with its small values only (Error 413).
    #[arg(long, env = "WALCAST_RECORD_MAX", default_value = "1MiB", value_parser = bytes, value_name = "BYTES")]
    pub record_max: u64,
    /// A single frame of the stream above this size is skipped and reported.
    #[arg(long, env = "WALCAST_WAL_FRAME_MAX", default_value = "256MiB", value_parser = bytes, value_name = "BYTES")]
    pub wal_frame_max: u64,

    /// Bytes queued for one client before it counts as slow.
    #[arg(long, env = "WALCAST_OUTBOX_MAX", default_value = "1MiB", value_parser = bytes, value_name = "BYTES")]
    pub outbox_max: u64,
    /// How long a slow client may stay over that before it is closed.
    #[arg(long, env = "WALCAST_SLOW_CLIENT_GRACE", default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub slow_client_grace: Duration,
    /// Bytes queued for one client at which it is closed at once.
    #[arg(long, env = "WALCAST_OUTBOX_SPILL_MAX", default_value = "16MiB", value_parser = bytes, value_name = "BYTES")]
    pub outbox_spill_max: u64,
    /// Sockets at once.
    #[arg(long, env = "WALCAST_CONNECTIONS_MAX", default_value_t = 100_000, value_name = "N")]
    pub connections_max: usize,
    /// Connections that are no WebSocket, or not yet: handshakes, and requests to the API. Those above it are closed unanswered.
    #[arg(long, env = "WALCAST_HANDSHAKES_MAX", default_value_t = 10_000, value_name = "N")]
    pub handshakes_max: usize,
    /// Sockets of one address (of one /64 of IPv6); without it, no limit. Behind a proxy, name it with --trusted-proxy.
    #[arg(long, env = "WALCAST_CONNECTIONS_PER_ADDRESS_MAX", value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub connections_per_address_max: Option<u32>,
    /// Channels of one socket.
    #[arg(long, env = "WALCAST_CHANNELS_PER_CONNECTION_MAX", default_value_t = 100, value_name = "N")]
    pub channels_per_connection_max: usize,
    /// Joins per second, over all sockets.
    #[arg(long, env = "WALCAST_JOINS_PER_SECOND_MAX", default_value_t = 10_000, value_name = "N")]
    pub joins_per_second_max: u32,
    /// Broadcasts per second, all channels together: each send and each delivery counts. Above it channels are closed, as Supabase does. 0: no limit.
    #[arg(long, env = "WALCAST_EVENTS_PER_SECOND_MAX", default_value_t = 0, value_name = "N")]
    pub events_per_second_max: u32,
    /// Presence events per second, all channels together: tracks, states and each delivery of a diff. 0: no limit.
    #[arg(long, env = "WALCAST_PRESENCE_EVENTS_PER_SECOND_MAX", default_value_t = 0, value_name = "N")]
    pub presence_events_per_second_max: u32,
    /// Tracks and untracks of one channel within --presence-window (Supabase: 5). 0: no limit.
    #[arg(long, env = "WALCAST_PRESENCE_CALLS_MAX", default_value_t = 300, value_name = "N")]
    pub presence_calls_max: u32,
    /// The window of --presence-calls-max.
    #[arg(long, env = "WALCAST_PRESENCE_WINDOW", default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub presence_window: Duration,
    /// How long a presence stays when its socket is lost, so that a client that comes back does not leave and join again.
    #[arg(long, env = "WALCAST_PRESENCE_GRACE", default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub presence_grace: Duration,
    /// Refuse public channels.
    #[arg(long, env = "WALCAST_PRIVATE_ONLY")]
    pub private_only: bool,
    /// A broadcast's or presence's payload above this size is refused.
    #[arg(long, env = "WALCAST_PAYLOAD_MAX", default_value = "3000500", value_parser = bytes, value_name = "BYTES")]
    pub payload_max: u64,
    /// Channels on one topic. 0: no limit.
    #[arg(long, env = "WALCAST_MEMBERS_PER_CHANNEL_MAX", default_value_t = 0, value_name = "N")]
    pub members_per_channel_max: u32,
    /// Broadcasts of one person (the token's sub) per minute. 0: no limit.
    #[arg(long, env = "WALCAST_MESSAGES_PER_MINUTE_MAX", default_value_t = 0, value_name = "N")]
    pub messages_per_minute_max: u32,
    /// A client's broadcast above this size is refused with a reason. 0: --payload-max alone.
    #[arg(long, env = "WALCAST_MESSAGE_MAX", default_value = "0", value_parser = bytes, value_name = "BYTES")]
    pub message_max: u64,
    /// A client's frame above this size closes its socket (1009).
    #[arg(long, env = "WALCAST_FRAME_MAX", default_value = "5000000", value_parser = bytes, value_name = "BYTES")]
    pub frame_max: u64,
    /// Bytes held of clients' large messages (above 16 KiB) that are still arriving, of all sockets together. Above it those that want more are closed (1013).
    #[arg(long, env = "WALCAST_INBOUND_MAX", default_value = "256MiB", value_parser = bytes, value_name = "BYTES")]
    pub inbound_max: u64,
    /// A socket without inbound bytes is closed after this time.
    #[arg(long, env = "WALCAST_IDLE_TIMEOUT", default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub idle_timeout: Duration,
    /// Delay before the HTTP error of a refused upgrade (Supabase: 2s).
    #[arg(long, env = "WALCAST_CONNECT_ERROR_BACKOFF", default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub connect_error_backoff: Duration,
    /// Delay before the error reply of a refused join (Supabase: 5s). Only the reply waits.
    #[arg(long, env = "WALCAST_JOIN_ERROR_BACKOFF", default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub join_error_backoff: Duration,
    /// At SIGTERM, over how long a time clients are told to leave, a millisecond for each at most: they all come back.
    #[arg(long, env = "WALCAST_DRAIN_SPREAD", default_value = "2s", value_parser = duration, value_name = "TIME")]
    pub drain_spread: Duration,
    /// How long clients are given to leave at SIGTERM.
    #[arg(long, env = "WALCAST_DRAIN_TIMEOUT", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub drain_timeout: Duration,
}

impl ServeArgs {
    /// `--listen`, or the `PORT` of Supabase's container, or 4000.
    pub fn listen_address(&self, variable: impl Fn(&str) -> Option<String>) -> Result<SocketAddr, String> {
        if let Some(listen) = self.listen {
            return Ok(listen);
        }
        let port = match variable("PORT") {
            None => 4000,
            Some(port) => port.parse().map_err(|_| format!("PORT is not a port number: {port:?}"))?,
        };
        match variable("REALTIME_IP_VERSION").as_deref() {
            Some("ipv6") => Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
            _ => Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        }
    }

    pub fn runs_setup(&self, variable: impl Fn(&str) -> Option<String>) -> bool {
        self.auto_setup.unwrap_or_else(|| self.database.database_url.is_none() && variable("DB_HOST").is_some())
    }

    /// The JWT secret, from the flag or Supabase's names.
    pub fn secret(&self, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
        self.jwt_secret.clone().or_else(|| variable("API_JWT_SECRET")).or_else(|| variable("JWT_SECRET"))
    }

    pub fn key_set(&self, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
        self.jwks.clone().or_else(|| variable("API_JWT_JWKS")).or_else(|| variable("JWT_JWKS"))
    }

    /// Opaque keys, from the flag and from the names that Supabase's gateway has for them.
    pub fn api_keys(&self, variable: impl Fn(&str) -> Option<String>) -> Result<ApiKeys, ApiKeyError> {
        let mut keys = ApiKeys::parse(self.api_key.iter().map(String::as_str).filter(|pair| !pair.trim().is_empty()))?;
        for (name, role) in [("SUPABASE_PUBLISHABLE_KEY", "anon"), ("SUPABASE_SECRET_KEY", "service_role")] {
            // What the flag says of a key is more than what its name says.
            if let Some(key) = variable(name).filter(|key| !keys.contains(key)) {
                keys.insert(&key, role)?;
            }
        }
        Ok(keys)
    }

    /// Who may use the admin API, and who may read metrics: tokens signed with Supabase's two secrets for that.
    pub fn door_tokens(&self, variable: impl Fn(&str) -> Option<String>) -> [Option<SignedTokens>; 2] {
        [("API_JWT_SECRET", "API_TOKEN_BLOCKLIST"), ("METRICS_JWT_SECRET", "METRICS_TOKEN_BLOCKLIST")].map(
            |(secret, blocked)| {
                let blocked = variable(blocked).unwrap_or_default();
                let blocked = blocked.split(',').map(|token| token.trim().to_owned());
                SignedTokens::new(&variable(secret)?, blocked)
            },
        )
    }

    pub fn claim_validators(&self, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
        self.jwt_claim_validators.clone().or_else(|| variable("JWT_CLAIM_VALIDATORS"))
    }
}

/// An environment variable that is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `250ms`, `5s`, `2m`, `1h`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let value: f64 = number.parse().map_err(|_| format!("not a time: {text:?} (try 250ms, 5s or 2m)"))?;
    let seconds = match unit {
        "ms" => value / 1000.0,
        "" | "s" => value,
        "m" | "min" => value * 60.0,
        "h" => value * 3600.0,
        "d" => value * 86400.0,
        _ => return Err(format!("not a unit of time: {unit:?} (ms, s, m, h, d)")),
    };
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| format!("not a time: {text:?}"))?;
    if time > DURATION_MAX { Err(format!("too long: {text:?} (at most 365000d)")) } else { Ok(time) }
}

/// A thousand years. Clocks and timestamps can be that far in the future or the past; some centuries of centuries later they
/// overflow.
const DURATION_MAX: Duration = Duration::from_secs(365_000 * 86_400);

/// `64MiB`, `1kB`, `5000000`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let value: u64 = number.parse().map_err(|_| format!("not a size: {text:?} (try 64MiB or 5000000)"))?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(format!("not a unit of size: {unit:?} (B, kB, MB, GB, KiB, MiB, GiB)")),
    };
    value.checked_mul(factor).ok_or_else(|| format!("too large: {text:?}"))
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn sizes_and_times_take_the_usual_units() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("5000000"), Ok(5_000_000));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(bytes("many").is_err() && bytes("1 parsec").is_err() && bytes("99999999999GiB").is_err());
        assert!(duration("-1s").is_err() && duration("soon").is_err());
        assert_eq!(duration("365000d").map(|longest| Instant::now().checked_add(longest).is_some()), Ok(true));
        for endless in ["365001d", "18446744073709551615s", "10000000000000000000h"] {
            assert!(
                duration(endless).is_err_and(|error| error.starts_with("too long") || error.starts_with("not a time"))
            );
        }
    }

    #[test]
    fn the_variables_of_supabases_container_name_the_database() {
        let args = DatabaseArgs { database_url: None, publication: String::new(), slot: String::new() };
        let variables = |name: &str| match name {
            "DB_HOST" => Some("db".to_owned()),
            "DB_PASSWORD" => Some("it's".to_owned()),
            _ => None,
        };
        assert_eq!(args.conninfo(variables).unwrap(), r"host='db' password='it\'s'");
        assert!(args.conninfo(|_| None).is_err());
        let secure = |name: &str| match name {
            "DB_HOST" => Some("db".to_owned()),
            "DB_SSL" => Some("true".to_owned()),
            "DB_SSL_CA_CERT" => Some("/etc/ca.pem".to_owned()),
            _ => None,
        };
        assert_eq!(args.conninfo(secure).unwrap(), "host='db' sslmode=verify-full sslrootcert='/etc/ca.pem'");
    }
}
