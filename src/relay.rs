//! The composition root: builds the rooms, spawns their tasks, and drains them in order. The only file that wires tasks.
//!
//! Starting: database, catalog, oracle, dispatch, reader, then the socket for clients: whoever can connect can subscribe.
//! Draining: the reader stops; dispatch delivers what was read to those who are still there; the position is confirmed;
//! then clients are told and leave. The other way round the reader would confirm what nobody is there to see.
//!
//! No task may end, or panic, before it is told to: a relay that looks alive without its watcher would go on showing
//! rows under policies that are no more. Whatever ends early ends the relay.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authz::oracle::Connect;
use crate::authz::tracked::Loader;
use crate::authz::{
    AuthzMetrics, Oracle, OracleConfig, OracleTask, SessionFactsTask, TopicAuthority, Verifier, VerifierConfig,
};
use crate::catalog::watcher::Watcher;
use crate::catalog::{Altered, loader};
use crate::causes::with_causes;
use crate::channels::Hub;
use crate::channels::lobby::{self, Lobby};
use crate::dispatch::{self, Dispatch, DispatchMetrics, Inputs};
use crate::replayer;
use crate::resume::{self, Ledger, ResumeMetrics};
use crate::server;
use crate::setup::OWN_PUBLICATION;
use crate::upkeep::Upkeep;
use crate::wal::budget_watch::BudgetWatch;
use crate::wal::publication::Own;
use crate::wal::{self, Conninfo, ReaderState, WalMetrics};

/// Everything that a relay needs to know.
#[derive(Clone)]
pub struct Config {
    pub conninfo: Conninfo,
    /// Where `None`, the credential that `walcast setup` left in the database is used, if there is one.
    pub oracle_conninfo: Option<Conninfo>,
    pub oracle: OracleConfig,
    pub wal: wal::Config,
    pub verifier: VerifierConfig,
    pub dispatch: dispatch::Config,
    pub lobby: lobby::Config,
    pub server: server::Config,
    pub metrics_listen: Option<SocketAddr>,
    pub resume: resume::Config,
    /// How long `realtime.messages` keeps a day's messages.
    pub messages_retention: Duration,
    pub drain_timeout: Duration,
}

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A running relay.
pub struct Relay {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Who may use a private channel.
    pub authority: Arc<dyn TopicAuthority>,
    drain_timeout: Duration,
    /// Clients leave, and nobody new comes.
    leave: CancellationToken,
    /// The reader stops.
    stop: CancellationToken,
    /// Dispatch and the tasks around the database give up what they have.
    abandon: CancellationToken,
    clients: TaskTracker,
    /// The reader and dispatch.
    core: TaskTracker,
    stream: TaskTracker,
    failure: watch::Receiver<Option<Failure>>,
}

/// Why the relay cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub text: Arc<str>,
    /// The database is in another history: a relay that knows nothing of the last one can go on there.
    pub begins_anew: bool,
    /// A task ended without saying why: perhaps because another one had failed, which may still be on its way to say so.
    is_unexplained: bool,
}

/// How long what has failed takes to say so, when others have ended because of it.
const EXPLAINED_WITHIN: Duration = Duration::from_secs(1);

impl Failure {
    fn of(text: impl Into<Arc<str>>) -> Failure {
        Failure { text: text.into(), begins_anew: false, is_unexplained: false }
    }
}

impl Relay {
    /// Starts everything. Returns when clients can connect and the stream has begun.
    pub async fn start(config: Config, listener: TcpListener) -> Result<Relay, BoxError> {
        let address = listener.local_addr()?;
        let mut registry = Registry::with_prefix("walcast");
        let wal_metrics = WalMetrics::register(&mut registry);
        let authz_metrics = AuthzMetrics::register(&mut registry);
        let dispatch_metrics = DispatchMetrics::register(&mut registry);
        let resume_metrics = ResumeMetrics::register(&mut registry);
        let channel_metrics = crate::channels::Metrics::register(&mut registry);
        let server_metrics = server::Metrics::register(&mut registry);

        let (leave, stop, abandon) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (clients, core, stream) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
        let (failed, failure) = watch::channel(None);
        // If something is wrong before the end of this function, what was spawned must not stay.
        let unfinished = [&leave, &stop, &abandon].map(|token| token.clone().drop_guard());

        let (verifier, jwks) = Verifier::new(&config.verifier)?;
        if let Some(jwks) = jwks {
            supervise(&stream, &failed, "key set", &abandon, forever(jwks.run(abandon.clone())));
        }

        let (mut client, connection) = config.conninfo.connect().await?;
        stream.spawn(async { drop(connection.await) });
        for warning in wal::warning::look(&client).await? {
            tracing::warn!("{warning}");
        }
        let publications = vec![config.wal.publication.clone()];
        let loaded = loader::load(&mut client, &publications, None).await?;
        let mut wal_config = config.wal.clone();
        let own = own(&client).await?;
        // Named even where it is missing: it may be made while the relay runs.
        wal_config.own_publication = Some(OWN_PUBLICATION.to_owned());
        let (oracle, topic_oracle, oracle_tasks) = oracles(&config, &client, authz_metrics).await?;
        let oracle_connect = oracle_tasks.map(|(tasks, connect)| {
            for task in tasks {
                supervise(&stream, &failed, "oracle", &abandon, forever(task.run(abandon.clone())));
            }
            connect
        });
        let ledger = Arc::new(Ledger::new(resume_metrics.clone()));
        let restored = match config.resume.retention.is_zero() {
            true => resume::store::Restored::default(),
            false => {
                let slot = &config.wal.slot.name;
                resume::store::restore(&client, slot, config.resume.retention, &ledger).await?
            }
        };
        let altered = Altered::since(&client, &config.wal.slot.name, loaded.catalog.relations.keys().copied()).await?;
        drop(client);
        let store = resume::store::Store {
            conninfo: config.conninfo.with_application_name("walcast resume"),
            slot: config.wal.slot.name.clone(),
            config: config.resume,
            ledger: Arc::clone(&ledger),
            metrics: resume_metrics.clone(),
        };
        supervise(&stream, &failed, "positions", &abandon, forever(store.run(abandon.clone())));

        let (slot, slot_metrics) = (wal_config.slot.clone(), Arc::clone(&wal_metrics));
        let (reader, reader_handle, frames) = wal::reader(wal_config, wal_metrics);
        let (budget_watch, slot_pressure) = {
            let conninfo = config.conninfo.with_application_name("walcast slot");
            BudgetWatch::new(conninfo, slot, slot_metrics, reader_handle.clone())
        };
        supervise(&stream, &failed, "slot", &abandon, forever(budget_watch.run(abandon.clone())));
        let upkeep = Upkeep {
            conninfo: config.conninfo.with_application_name("walcast upkeep"),
            reader: reader_handle.clone(),
            own,
            messages_retention: config.messages_retention,
        };
        supervise(&stream, &failed, "upkeep", &abandon, forever(upkeep.run(abandon.clone())));
        let (updates, catalogs) = mpsc::channel(16);
        let (watcher, watcher_handle) = {
            let conninfo = config.conninfo.with_application_name("walcast catalog");
            let stopping = reader_handle.clone();
            Watcher::new(conninfo, publications, updates, move || stopping.notify_server_stopping())
        };
        supervise(&stream, &failed, "catalog", &stop, forever(watcher.run(abandon.clone())));

        let (loader, tables) = Loader::new(config.conninfo.with_application_name("walcast tables"));
        supervise(&stream, &failed, "tracked tables", &stop, forever(loader.run(abandon.clone())));

        let (mut dispatch, commands, handle) = Dispatch::new(
            config.dispatch.clone(),
            dispatch_metrics,
            oracle,
            Arc::clone(reader_handle.progress()),
            Some(watcher_handle),
            Arc::new(loaded.catalog),
            stream.clone(),
        );
        dispatch.track_with(tables);
        dispatch.doubt(altered);
        dispatch.resume_with(config.resume, Arc::clone(&ledger), resume_metrics, restored, slot_pressure);
        let hub = Arc::new(Hub::new(config.lobby.limits.clone(), Arc::clone(&channel_metrics)));
        if hub.gives_graces() {
            supervise(&clients, &failed, "presence grace", &leave, forever(hub.clone().keep_graces(leave.clone())));
        }
        let replication = Arc::default();
        dispatch.broadcast_with(Arc::clone(&hub) as _, Arc::clone(&replication));
        let (replays, task) = replayer::replayer(config.conninfo.with_application_name("walcast replay"));
        supervise(&stream, &failed, "replay", &abandon, forever(task.run(abandon.clone())));
        dispatch.judge_topics_with(topic_oracle, config.oracle.timeout);
        dispatch.authorize_broadcasts_with(Arc::new(handle.clone()));
        let (readings, readings_out) = mpsc::channel(1);
        if let Some(connect) = oracle_connect {
            let task = SessionFactsTask { connect, catalogs: dispatch.catalogs(), readings };
            supervise(&stream, &failed, "function bodies", &stop, forever(task.run(abandon.clone())));
        }
        let inputs = Inputs { frames, catalogs, readings: readings_out, commands };
        supervise(&core, &failed, "dispatch", &stop, dispatch.run(inputs, abandon.clone()));
        let mut state = reader_handle.state();
        supervise(&core, &failed, "replication", &stop, reader.run(stop.clone()));

        let readiness = Arc::new(server::Readiness::default());
        readiness.database.store(true, std::sync::atomic::Ordering::Relaxed);
        stream.spawn(keep_ready(Arc::clone(&readiness), reader_handle.state(), abandon.clone()));

        let relay_failure = failure.clone();
        first_stream(&mut state, relay_failure).await?;

        let registry = Arc::new(registry);
        let authority: Arc<dyn TopicAuthority> = Arc::new(handle.clone());
        let lobby = {
            let services = lobby::Services {
                verifier: Arc::new(verifier),
                authority: Some(Arc::clone(&authority)),
                replayer: Some(replays),
                ledger: Some(ledger),
                replication,
            };
            Lobby::new(config.lobby.clone(), hub, services, channel_metrics)
        };
        let services = server::Services {
            lobby,
            sink: Arc::new(handle),
            readiness,
            metrics: server_metrics,
            registry: Arc::clone(&registry),
        };
        if let Some(tls) = config.server.tls.clone() {
            supervise(&clients, &failed, "certificate", &leave, forever(tls.watch(leave.clone())));
        }
        let server = server::Server::new(config.server.clone(), services).serve(listener, leave.clone());
        supervise(&clients, &failed, "server", &leave, forever(server));
        if let Some(address) = config.metrics_listen {
            let listener = bind(address).await?;
            tracing::info!(address = %listener.local_addr()?, "metrics");
            let endpoint = server::metrics_endpoint::serve(registry, listener, leave.clone());
            supervise(&clients, &failed, "metrics", &leave, forever(endpoint));
        }
        unfinished.into_iter().for_each(|guard| drop(guard.disarm()));
        let drain_timeout = config.drain_timeout;
        Ok(Relay { address, authority, drain_timeout, leave, stop, abandon, clients, core, stream, failure })
    }

    /// Waits until something fails that trying again does not mend.
    pub async fn failed(&self) -> Failure {
        first_failure(self.failure.clone()).await
    }

    /// Drains: what was read is delivered, the position is confirmed, clients are told and leave.
    pub async fn stop(self) {
        self.stop.cancel();
        self.core.close();
        // The reader ends when dispatch has delivered what it was given, or after its own time for that.
        if tokio::time::timeout(self.drain_timeout, self.core.wait()).await.is_err() {
            tracing::warn!("what was read was not delivered in time: it comes again at the next start");
        }
        self.leave.cancel();
        self.clients.close();
        if tokio::time::timeout(self.drain_timeout, self.clients.wait()).await.is_err() {
            tracing::warn!("some clients did not leave in time");
        }
        self.abandon.cancel();
        self.stream.close();
        let ended = async { tokio::join!(self.core.wait(), self.stream.wait()) };
        let _ = tokio::time::timeout(self.drain_timeout, ended).await;
    }
}

/// The first failure, or the one that explains it.
async fn first_failure(mut failure: watch::Receiver<Option<Failure>>) -> Failure {
    let Ok(first) = failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) else {
        return Failure::of("every task ended");
    };
    let is_explained = |failure: &Option<Failure>| failure.as_ref().is_some_and(|failure| !failure.is_unexplained);
    match tokio::time::timeout(EXPLAINED_WITHIN, failure.wait_for(is_explained)).await {
        Ok(Ok(explained)) => explained.clone(),
        _ => first,
    }
    .unwrap_or_else(|| Failure::of("a task ended"))
}

/// Spawns a task whose end before `until`, by an error or a panic or just so, ends the relay.
fn supervise<E: std::error::Error + Send + Sync + 'static>(
    tracker: &TaskTracker,
    failed: &watch::Sender<Option<Failure>>,
    name: &'static str,
    until: &CancellationToken,
    task: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    let (failed, until) = (failed.clone(), until.clone());
    tracker.spawn(async move {
        let new = match AssertUnwindSafe(task).catch_unwind().await {
            Ok(Ok(())) if until.is_cancelled() => return,
            Ok(Ok(())) => {
                let text = format!("the task \"{name}\" ended before its time");
                Failure { is_unexplained: true, ..Failure::of(text) }
            }
            Ok(Err(error)) => {
                let begins_anew = (&error as &dyn Any).downcast_ref().is_some_and(wal::Error::is_of_another_history);
                Failure { begins_anew, ..Failure::of(with_causes(&error)) }
            }
            // The panic's own words are in the log already: the hook has written them.
            Err(_) => Failure::of(format!("the task \"{name}\" panicked")),
        };
        tracing::error!(task = name, error = %new.text, "walcast cannot go on");
        // What failed first is the cause of what fails after it, if it says anything.
        failed.send_if_modified(|failure| {
            let gives_way = failure.as_ref().is_none_or(|known| known.is_unexplained && !new.is_unexplained);
            if gives_way {
                *failure = Some(new);
            }
            gives_way
        });
    });
}

/// A task that has no errors of its own.
async fn forever(task: impl Future<Output = ()>) -> Result<(), Infallible> {
    task.await;
    Ok(())
}

/// Waits for the first stream: what is wrong with slot, publication or privileges is an error of the start.
async fn first_stream(
    state: &mut watch::Receiver<ReaderState>,
    failure: watch::Receiver<Option<Failure>>,
) -> Result<(), BoxError> {
    tokio::select! {
        failure = first_failure(failure) => Err(failure.text.to_string().into()),
        streaming = state.wait_for(|state| matches!(state, ReaderState::Streaming { .. })) => {
            streaming.map(|_| ()).map_err(|_| "replication ended".into())
        }
    }
}

/// `/ready` follows the stream.
async fn keep_ready(
    readiness: Arc<server::Readiness>,
    mut state: watch::Receiver<ReaderState>,
    abandon: CancellationToken,
) {
    loop {
        let streaming = matches!(*state.borrow_and_update(), ReaderState::Streaming { .. });
        readiness.replication.store(streaming, std::sync::atomic::Ordering::Relaxed);
        tokio::select! {
            () = abandon.cancelled() => return,
            changed = state.changed() => if changed.is_err() {
                readiness.replication.store(false, std::sync::atomic::Ordering::Relaxed);
                return;
            },
        }
    }
}

/// What `setup` has made; where somebody else has, the stream says so.
async fn own(client: &tokio_postgres::Client) -> Result<Own, tokio_postgres::Error> {
    let own = Own::look(client).await?;
    if !own.published {
        tracing::warn!(
            "walcast setup has not run on this database: changes of policies and grants are noticed by polling, once a second"
        );
    }
    Ok(own)
}

/// Sessions for private channels: a policy that sleeps must not have all of them.
const TOPIC_SESSIONS: usize = 2;

/// The oracle on its own login and the one for private channels, or none: then policies that they would have to evaluate
/// deny.
async fn oracles(
    config: &Config,
    client: &tokio_postgres::Client,
    metrics: Arc<AuthzMetrics>,
) -> Result<(Oracle, Oracle, Option<([OracleTask; 2], Arc<dyn Connect>)>), BoxError> {
    let conninfo = match &config.oracle_conninfo {
        Some(conninfo) => Some(conninfo.clone()),
        None => crate::setup::oracle_login(client)
            .await?
            .map(|(user, password)| config.conninfo.with_user(&user, Some(&password))),
    };
    let Some(conninfo) = conninfo else {
        tracing::warn!(
            "no login for the oracle: rows of tables with row-level security are shown to nobody but roles that bypass it; \
             run `walcast setup`, or pass --oracle-url"
        );
        return Ok((Oracle::absent(), Oracle::absent(), None));
    };
    let conninfo = conninfo.with_application_name("walcast oracle");
    let connect: Arc<dyn Connect> = Arc::new(conninfo);
    let (oracle, task) = Oracle::new(&config.oracle, Arc::clone(&connect), Arc::clone(&metrics));
    // Of their own, so that joins do not wait behind rows; few have policies that are asked there at all.
    let of_topics =
        OracleConfig { sessions: TOPIC_SESSIONS, slow_sessions: 1, opens_when_asked: true, ..config.oracle.clone() };
    let (topic_oracle, topic_task) = Oracle::new(&of_topics, Arc::clone(&connect), metrics);
    Ok((oracle, topic_oracle, Some(([task, topic_task], connect))))
}

/// A listener, or what to do about its absence.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BoxError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{address} is in use: stop what listens there, or choose another address with --listen").into()
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("{address} may not be listened on ({error}): ports below 1024 need a privilege; choose another with --listen").into()
        }
        _ => format!("{address} cannot be listened on: {error}; see --listen").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The failure that a supervised task leaves, if it does.
    async fn failure_of(
        until: bool,
        task: impl Future<Output = Result<(), std::fmt::Error>> + Send + 'static,
    ) -> Option<Arc<str>> {
        let (tracker, (failed, failure)) = (TaskTracker::new(), watch::channel(None));
        let token = CancellationToken::new();
        if until {
            token.cancel();
        }
        supervise(&tracker, &failed, "test", &token, task);
        tracker.close();
        tracker.wait().await;
        failure.borrow().clone().map(|failure| failure.text)
    }

    /// Dispatch ends when the reader does, and may be the first to say so.
    #[tokio::test(start_paused = true)]
    async fn what_failed_is_told_and_not_what_ended_because_of_it() {
        let (failed, failure) = watch::channel(None);
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let (frames, mut ends) = tokio::sync::mpsc::channel::<()>(1);
        let read = |error: Option<std::fmt::Error>| async move {
            drop(frames);
            tokio::time::sleep(Duration::from_millis(1)).await;
            error.map_or(Ok(()), Err)
        };
        supervise(&tracker, &failed, "dispatch", &token, async move {
            ends.recv().await;
            Ok::<(), Infallible>(())
        });
        supervise(&tracker, &failed, "replication", &token, read(Some(std::fmt::Error)));
        assert_eq!(first_failure(failure).await, Failure::of(std::fmt::Error.to_string()));
    }

    #[tokio::test]
    async fn a_task_that_ends_before_its_time_ends_the_relay() {
        assert_eq!(failure_of(true, async { Ok(()) }).await, None);
        assert_eq!(
            failure_of(false, async { Ok(()) }).await.as_deref(),
            Some("the task \"test\" ended before its time")
        );
        assert!(failure_of(true, async { Err(std::fmt::Error) }).await.is_some());
        assert_eq!(
            failure_of(true, async { panic!("on purpose") }).await.as_deref(),
            Some("the task \"test\" panicked")
        );
    }
}
