//! `walcast serve`: from flags and variables to a running relay, until a signal.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::authz::{OracleConfig, VerifierConfig};
use crate::channels::{lobby, outbox};
use crate::config::{LostSlot, OverBudget, ServeArgs, SlotMode, variable};
use crate::encode::Limits;
use crate::relay::{self, BoxError, Relay};
use crate::wal::{self, Conninfo};
use crate::{change, channels, dispatch, server, setup, shutdown};

/// How long a database that is starting up is waited for.
const DATABASE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Runs until SIGTERM or SIGINT, or until something fails for good.
pub async fn run(args: ServeArgs) -> Result<(), BoxError> {
    // From the first moment on: as process 1 of a container it would otherwise not be stopped while it starts.
    let signalled = CancellationToken::new();
    shutdown::on_signal(signalled.clone());
    let address = args.listen_address(variable)?;
    let mut listener = relay::bind(address).await?;
    loop {
        let relay = tokio::select! {
            () = signalled.cancelled() => return Ok(()),
            relay = start(&args, listener) => relay?,
        };
        tracing::info!("listening on {}", relay.address);
        let address = relay.address;
        let failure = tokio::select! {
            () = signalled.cancelled() => {
                relay.stop().await;
                return Ok(());
            }
            failure = relay.failed() => failure,
        };
        relay.stop().await;
        if !failure.begins_anew {
            return Err(failure.text.to_string().into());
        }
        // Clients come back to the same place.
        tracing::warn!("beginning anew: the database is in another history");
        listener = relay::bind(address).await?;
    }
}

async fn start(args: &ServeArgs, listener: TcpListener) -> Result<Relay, BoxError> {
    let conninfo = Conninfo::parse(&args.database.conninfo(variable)?)?;
    // What is wrong with flags and files is said before anything is waited for.
    let config = relay_config(args, conninfo.clone())?;
    wait_for_database(&conninfo).await?;
    if args.runs_setup(variable) {
        setup::automatic(&conninfo, &args.database.publication).await?;
    }
    Relay::start(config, listener).await
}

/// A database that is starting (as in a stack that starts as a whole) is waited for; what waiting does not mend is told.
async fn wait_for_database(conninfo: &Conninfo) -> Result<(), wal::Error> {
    let started = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(100);
    loop {
        let error = match conninfo.connect().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if !error.is_transient() || started.elapsed() > DATABASE_WAIT_MAX {
            return Err(error);
        }
        tracing::warn!(error = %error.chain(), "the database cannot be reached yet; trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Who has the slot, for `pg_stat_replication` and for the next process that wants it.
fn application_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|host| !host.is_empty()).unwrap_or("?");
    // Postgres cuts at 63 bytes, and the process is to be seen.
    let host: String = host.chars().filter(char::is_ascii_graphic).take(40).collect();
    format!("walcast {host}:{}", std::process::id())
}

/// The tasks that are connected to the database besides the oracle's sessions, some of them twice while they reconnect.
const DATABASE_CONNECTIONS: usize = 16;

/// As many connections as there may be WebSockets and handshakes, if there are descriptors for them.
fn sockets_max(args: &ServeArgs, is_tls: bool) -> usize {
    let wanted = args.connections_max.saturating_mul(2).saturating_add(args.handshakes_max);
    let descriptors = server::descriptors::raise_limit();
    // Private channels are judged by as many sessions again.
    let database_connections = args.oracle_connections.saturating_mul(2).saturating_add(DATABASE_CONNECTIONS);
    let room = server::descriptors::sockets_within(descriptors, database_connections, is_tls);
    if room < args.connections_max {
        let (open_files, wanted) = (descriptors.unwrap_or(u64::MAX), args.connections_max);
        tracing::warn!(
            open_files,
            "there is room for {room} connections, not for the {wanted} of --connections-max: the limit of open files \
             (ulimit -n, LimitNOFILE) is too low"
        );
    }
    wanted.min(room)
}

/// Zero is no limit.
fn limit(max: u32) -> Option<u32> {
    Some(max).filter(|max| *max > 0)
}

/// Each room's configuration.
pub fn relay_config(args: &ServeArgs, conninfo: Conninfo) -> Result<relay::Config, BoxError> {
    let claim_validators = match args.claim_validators(variable) {
        None => serde_json::Map::new(),
        Some(text) => match serde_json::from_str(&text) {
            Ok(serde_json::Value::Object(claims)) => claims,
            Ok(_) => return Err("--jwt-claim-validators is not a JSON object".into()),
            Err(error) => return Err(format!("--jwt-claim-validators is not JSON: {error}").into()),
        },
    };
    let oracle_conninfo = match &args.oracle_url {
        None => None,
        Some(text) => Some(Conninfo::parse(text)?),
    };
    let mut wal = wal::Config::new(conninfo.with_application_name(&application_name()), &args.database.publication);
    wal.slot.name = args.database.slot.clone();
    wal.slot.failover = args.slot_failover;
    wal.slot.mode = match args.slot_mode {
        SlotMode::Permanent => wal::SlotMode::Permanent,
        SlotMode::Temporary => wal::SlotMode::Temporary,
    };
    wal.slot.budget = args.slot_budget.budget();
    wal.slot.drops_over_budget = args.slot_over_budget == OverBudget::Drop;
    wal.slot.recreates_lost = args.slot_lost == LostSlot::Recreate;
    wal.slot.takes_over = args.slot_takeover;
    wal.frame_bytes_max = args.wal_frame_max as usize;
    wal.drain_timeout = args.drain_timeout;
    wal.in_progress = !args.read_at_commit;
    let dispatch = dispatch::Config {
        publications: vec![args.database.publication.clone()],
        transaction: change::assembler::Config {
            memory_bytes_max: args.transaction_buffer_max as usize,
            spill_bytes_max: args.transaction_spill_max,
            ..change::assembler::Config::default()
        },
        tracking: dispatch::tracking::Config {
            memory_bytes_max: args.tracked_memory_max as usize,
            delete_indexes: args.delete_index.clone(),
        },
        deletes: args.deletes,
        limits: Limits { record_bytes_max: args.record_max as usize, ..Limits::default() },
        pending_bytes_max: args.pending_max as usize,
        ..dispatch::Config::default()
    };
    let lobby = lobby::Config {
        limits: channels::Limits {
            channels_per_connection_max: args.channels_per_connection_max,
            joined_connections_max: args.connections_max,
            joins_per_second_max: args.joins_per_second_max,
            payload_bytes_max: args.payload_max as usize,
            events_per_second_max: limit(args.events_per_second_max),
            presence_events_per_second_max: limit(args.presence_events_per_second_max),
            presence_calls_max: limit(args.presence_calls_max),
            presence_window: args.presence_window,
            presence_grace: args.presence_grace,
            members_per_channel_max: limit(args.members_per_channel_max).map(|max| max as usize),
            messages_per_minute_max: limit(args.messages_per_minute_max),
            message_bytes_max: Some(args.message_max as usize).filter(|max| *max > 0),
            ..channels::Limits::default()
        },
        outbox: outbox::Config {
            bytes_max: args.outbox_max as usize,
            spill_bytes_max: args.outbox_spill_max as usize,
            grace: args.slow_client_grace,
        },
        join_error_backoff: args.join_error_backoff,
        private_only: args.private_only,
    };
    let [admin_tokens, metrics_tokens] = args.door_tokens(variable);
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(server::Tls::load(certificate, key)?),
        _ => None,
    };
    let server = server::Config {
        connect_error_backoff: args.connect_error_backoff,
        idle_timeout: args.idle_timeout,
        frame_bytes_max: args.frame_max as usize,
        connections_max: args.connections_max.saturating_mul(2),
        sockets_max: sockets_max(args, tls.is_some()),
        handshakes_max: args.handshakes_max,
        inbound_bytes_max: args.inbound_max as usize,
        drain_timeout: args.drain_timeout,
        drain_spread: args.drain_spread.min(args.drain_timeout / 2),
        metrics_token: args.metrics_token.clone(),
        metrics_tokens,
        admin_tokens,
        tenant: variable("SELF_HOST_TENANT_NAME").unwrap_or_else(|| server::Config::default().tenant),
        tls,
        origins: server::Origins::parse(
            args.allowed_origin.iter().map(String::as_str).filter(|text| !text.is_empty()),
        )?,
        trusted_proxies: args.trusted_proxy.clone(),
        connections_per_address_max: args.connections_per_address_max.map(|max| max as usize),
        ..server::Config::default()
    };
    Ok(relay::Config {
        conninfo,
        oracle_conninfo,
        oracle: OracleConfig {
            sessions: args.oracle_connections,
            timeout: args.authz_timeout,
            ..OracleConfig::default()
        },
        wal,
        verifier: VerifierConfig {
            secret: args.secret(variable),
            jwks: args.key_set(variable),
            claim_validators,
            api_keys: args.api_keys(variable)?,
        },
        dispatch,
        lobby,
        server,
        metrics_listen: args.metrics_listen,
        resume: crate::resume::Config {
            retention: args.resume_retention,
            memory_bytes_max: usize::try_from(args.resume_memory_max).unwrap_or(usize::MAX),
            write_interval: args.resume_write_interval.max(Duration::from_millis(10)),
        },
        messages_retention: args.messages_retention,
        drain_timeout: args.drain_timeout,
    })
}
