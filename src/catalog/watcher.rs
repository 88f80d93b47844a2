//! Keeps the catalog current over an ordinary connection, for what the stream does not tell.
//!
//! Every second a fingerprint of the catalogs is compared; where it differs, the catalog is loaded and sent to
//! dispatch. Roles never fire event triggers, so this runs always. Also loads on request: for a `walcast.ddl_log` row
//! without a state.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;

use super::loader::{self, LoadError, Loaded};
use super::{Catalog, Snapshot};
use crate::wal::{Conninfo, Lsn};

/// The query that is compared.
pub const FINGERPRINT_SQL: &str = include_str!("../../sql/catalog/fingerprint.sql");

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A fingerprint of ten thousand tables takes a quarter of a second: the poll slows down rather than take more than a
/// twentieth of one of the server's cores.
const POLL_DUTY: u32 = 20;

/// A server that does not answer for so long has left; its socket may not know. Longer than a load waits for a
/// transaction to become visible.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// A reading of the catalog. It holds from `flush_lsn` on: what was committed before is judged by what held before.
/// Roles are in no stream and hold at once.
#[derive(Clone, Debug)]
pub struct CatalogUpdate {
    pub catalog: Catalog,
    /// What the reading could see.
    pub snapshot: Snapshot,
    pub flush_lsn: Lsn,
    /// Of the catalogs just before the reading; `None`: it was not looked for.
    pub fingerprint: Option<Arc<str>>,
}

impl CatalogUpdate {
    fn new(loaded: Loaded, fingerprint: Option<Arc<str>>) -> Self {
        let Loaded { catalog, snapshot, flush_lsn, .. } = loaded;
        CatalogUpdate { catalog, snapshot, flush_lsn, fingerprint }
    }
}

enum Request {
    Load { must_see: Option<u32>, answer: oneshot::Sender<CatalogUpdate> },
    Flushed(oneshot::Sender<Lsn>),
    Snapshot(oneshot::Sender<Snapshot>),
    Soon,
}

/// Asks the watcher. Never blocks.
#[derive(Clone)]
pub struct WatcherHandle(mpsc::UnboundedSender<Request>);

impl WatcherHandle {
    /// Loads the catalog, seeing that transaction. Answered as soon as there is a connection; the receiver fails only
    /// when the watcher has ended.
    pub fn refresh(&self, must_see: Option<u32>) -> oneshot::Receiver<CatalogUpdate> {
        let (answer, receiver) = oneshot::channel();
        // A watcher that has ended drops the request, and with it the sender.
        let _ = self.0.send(Request::Load { must_see, answer });
        receiver
    }

    /// Loads the catalog as if the fingerprint had changed; several requests are one.
    pub fn refresh_soon(&self) {
        let _ = self.0.send(Request::Soon);
    }

    /// What is visible to other sessions, some time after this call.
    pub fn snapshot(&self) -> oneshot::Receiver<Snapshot> {
        let (answer, receiver) = oneshot::channel();
        let _ = self.0.send(Request::Snapshot(answer));
        receiver
    }

    /// A position that everything committed by now lies before.
    pub async fn flush_lsn(&self) -> Option<Lsn> {
        let (answer, receiver) = oneshot::channel();
        let _ = self.0.send(Request::Flushed(answer));
        receiver.await.ok()
    }
}

/// A watcher whose requests a test answers.
#[cfg(test)]
pub struct ByHand(mpsc::UnboundedReceiver<Request>);

#[cfg(test)]
impl ByHand {
    pub fn new() -> (WatcherHandle, ByHand) {
        let (sender, requests) = mpsc::unbounded_channel();
        (WatcherHandle(sender), ByHand(requests))
    }

    /// Answers the snapshot that is asked for.
    pub fn answer_snapshot(&mut self, snapshot: &str) {
        match self.0.try_recv() {
            Ok(Request::Snapshot(answer)) => answer.send(snapshot.parse().unwrap()).unwrap(),
            _ => panic!("no snapshot is asked for"),
        }
    }

    /// Answers the load that is asked for.
    pub fn answer_load(&mut self, catalog: Catalog, flush_lsn: Lsn) {
        let Some(Request::Load { answer, .. }) =
            std::iter::from_fn(|| self.0.try_recv().ok()).find(|request| matches!(request, Request::Load { .. }))
        else {
            panic!("no load is asked for")
        };
        let snapshot = "1000000:1000000:".parse().unwrap();
        answer.send(CatalogUpdate { catalog, snapshot, flush_lsn, fingerprint: None }).unwrap();
    }
}

/// The task. Lives as long as the relay, across restarts of the server.
pub struct Watcher {
    conninfo: Conninfo,
    publications: Vec<String>,
    requests: mpsc::UnboundedReceiver<Request>,
    /// What came while there was no connection, or what one was lost over.
    unanswered: Option<Request>,
    updates: mpsc::Sender<CatalogUpdate>,
    on_server_stopping: Box<dyn Fn() + Send>,
    fingerprint: Option<Arc<str>>,
    /// Something has changed, or may have, that no update has been sent for.
    stale: bool,
}

/// Why a connection was given up.
enum Left {
    Abandoned,
    /// The server ended the session.
    Ended,
    Failed(LoadError),
}

impl<E: Into<LoadError>> From<E> for Left {
    fn from(error: E) -> Self {
        Left::Failed(error.into())
    }
}

impl Watcher {
    /// `on_server_stopping` is called when the session is ended from the other side: the server may be shutting down,
    /// and would wait for a slot that trails (ASSUMPTIONS 2).
    pub fn new(
        conninfo: Conninfo,
        publications: Vec<String>,
        updates: mpsc::Sender<CatalogUpdate>,
        on_server_stopping: impl Fn() + Send + 'static,
    ) -> (Watcher, WatcherHandle) {
        let (sender, requests) = mpsc::unbounded_channel();
        let watcher = Watcher {
            conninfo,
            publications,
            requests,
            unanswered: None,
            updates,
            on_server_stopping: Box::new(on_server_stopping),
            fingerprint: None,
            stale: true,
        };
        (watcher, WatcherHandle(sender))
    }

    pub async fn run(mut self, abandon: CancellationToken) {
        let mut pause = RECONNECT_MIN;
        loop {
            let connected = tokio::select! {
                () = abandon.cancelled() => return,
                connected = self.conninfo.connect() => connected,
            };
            match connected {
                Ok((client, connection)) => {
                    let ended = tokio::spawn(connection);
                    let started = Instant::now();
                    match self.watch(client, ended, &abandon).await {
                        Left::Abandoned => return,
                        Left::Ended => {
                            tracing::warn!("the catalog's session was ended by the server; connecting again")
                        }
                        Left::Failed(error) => {
                            tracing::warn!(error = %crate::causes::with_causes(&error), "the catalog could not be watched; connecting again");
                        }
                    }
                    if started.elapsed() > RECONNECT_MAX {
                        pause = RECONNECT_MIN;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %crate::causes::with_causes(&error), "no connection to watch the catalog; trying again");
                }
            }
            // Nobody knows what was changed meanwhile.
            self.stale = true;
            tokio::select! {
                () = abandon.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RECONNECT_MAX),
            }
        }
    }

    /// Watches over one connection until it is lost.
    async fn watch(
        &mut self,
        mut client: Client,
        mut ended: JoinHandle<Result<(), tokio_postgres::Error>>,
        abandon: &CancellationToken,
    ) -> Left {
        let left = tokio::select! {
            // Dropping the client half-way through a query is safe: the session ends with it.
            biased;
            () = abandon.cancelled() => Left::Abandoned,
            _ = &mut ended => {
                (self.on_server_stopping)();
                return Left::Ended;
            }
            left = self.poll(&mut client) => left,
        };
        // A query that failed because the session was ended may be seen before the session's end is.
        if matches!(&left, Left::Failed(LoadError::Postgres(error)) if ended_by_server(error)) {
            (self.on_server_stopping)();
        }
        ended.abort();
        left
    }

    async fn poll(&mut self, client: &mut Client) -> Left {
        match self.poll_until_it_fails(client).await {
            Ok(never) => match never {},
            Err(left) => left,
        }
    }

    async fn poll_until_it_fails(&mut self, client: &mut Client) -> Result<std::convert::Infallible, Left> {
        let settings = "set search_path = pg_catalog, pg_temp; set jit = off; set statement_timeout = '60s'; \
                        set idle_in_transaction_session_timeout = '5s'";
        answered(client.batch_execute(settings)).await?;
        let statement = answered(client.prepare(FINGERPRINT_SQL)).await?;
        if let Some(request) = self.unanswered.take() {
            self.answer(client, request).await?;
        }
        let mut next = Instant::now();
        loop {
            tokio::select! {
                // Dispatch waits for the answer to a request.
                biased;
                request = self.requests.recv() => match request {
                    Some(request) => self.answer(client, request).await?,
                    None => return Err(Left::Abandoned),
                },
                () = sleep_until(next) => {
                    let took = self.compare(client, &statement).await?;
                    next = Instant::now() + POLL_INTERVAL.max(took * POLL_DUTY);
                }
            }
        }
    }

    async fn answer(&mut self, client: &mut Client, request: Request) -> Result<(), Left> {
        match request {
            Request::Soon => self.stale = true,
            Request::Flushed(answer) => match answered(loader::flushed_past_everything_seen(client)).await {
                Ok(lsn) => drop(answer.send(lsn)),
                Err(left) => {
                    self.unanswered = Some(Request::Flushed(answer));
                    return Err(left);
                }
            },
            Request::Snapshot(answer) => match answered(loader::snapshot(client)).await {
                Ok(snapshot) => drop(answer.send(snapshot)),
                Err(left) => {
                    self.unanswered = Some(Request::Snapshot(answer));
                    return Err(left);
                }
            },
            Request::Load { must_see, answer } => match load(client, &self.publications, must_see).await {
                Ok(loaded) => {
                    // An expression that a lock was in the way of is followed up.
                    self.stale |= !loaded.catalog.complete;
                    drop(answer.send(CatalogUpdate::new(loaded, None)));
                }
                Err(left) => {
                    self.unanswered = Some(Request::Load { must_see, answer });
                    return Err(left);
                }
            },
        }
        Ok(())
    }

    /// Compares the fingerprint, and sends what there is if it differs. Says how long the comparison took.
    async fn compare(&mut self, client: &mut Client, statement: &Statement) -> Result<Duration, Left> {
        let started = Instant::now();
        let row = answered(client.query_one(statement, &[])).await?;
        let took = started.elapsed();
        let fingerprint: Arc<str> = row.try_get::<_, &str>(0)?.into();
        // Taken before the load: what changes in between is found by the next comparison.
        self.stale |= self.fingerprint.as_deref() != Some(&fingerprint);
        self.fingerprint = Some(Arc::clone(&fingerprint));
        if !self.stale {
            return Ok(took);
        }
        // Dispatch is busy: nothing is queued twice, the next comparison tries again.
        let Ok(permit) = self.updates.clone().try_reserve_owned() else { return Ok(took) };
        let loaded = load(client, &self.publications, None).await?;
        self.stale = !loaded.catalog.complete;
        permit.send(CatalogUpdate::new(loaded, Some(fingerprint)));
        Ok(took)
    }
}

async fn load(client: &mut Client, publications: &[String], must_see: Option<u32>) -> Result<Loaded, Left> {
    answered(loader::load(client, publications, must_see)).await
}

/// What does not come within [`ANSWER_LIMIT`] does not come.
async fn answered<T, E: Into<LoadError>>(question: impl Future<Output = Result<T, E>>) -> Result<T, Left> {
    match timeout(ANSWER_LIMIT, question).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Left::Failed(LoadError::NoAnswer(ANSWER_LIMIT))),
    }
}

/// 57P01 (shutdown), 57P02 (crash), or the end of the socket.
fn ended_by_server(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => matches!(code.code(), "57P01" | "57P02"),
        None => error.is_closed(),
    }
}
