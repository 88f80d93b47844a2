//! Reads [`SessionFacts`] for each state of the catalog, on a session of the oracle's login.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::function_bodies::{self, Bodies};
use super::oracle::{Connect, ConnectError, LoginError, check_login};
use crate::catalog::{Catalog, LoadError, SessionFacts, SessionReading, loader};
use crate::causes::with_causes;

/// How often the session's settings are looked at: postgresql.conf is in no stream and in no fingerprint.
const SETTINGS_INTERVAL: Duration = Duration::from_secs(5);
/// How long is waited when something was in the way, or the database away.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often the same trouble is logged.
const WORDS_APART: Duration = Duration::from_secs(60);

/// Long enough for any body; a lock in the way is met again later. A twin holds locks on the tables that it names: should
/// this process be stopped just then, nobody's migration is to wait for it.
const SET_UP: &str = "SET statement_timeout = '10s'; SET lock_timeout = '200ms'; SET jit = off; \
                      SET idle_in_transaction_session_timeout = '5s'";

const SETTINGS: &str = "select pg_catalog.current_setting('TimeZone'), pg_catalog.current_setting('DateStyle'), \
                        pg_catalog.current_setting('IntervalStyle'), pg_catalog.current_setting('server_encoding'), \
                        pg_catalog.current_setting('search_path')";

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum SessionFactsError {
    #[error("could not connect: {0}")]
    Connect(ConnectError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// The task. Lives as long as the relay.
pub struct SessionFactsTask {
    pub connect: Arc<dyn Connect>,
    /// The catalogs that dispatch applies.
    pub catalogs: watch::Receiver<Arc<Catalog>>,
    pub readings: mpsc::Sender<SessionReading>,
}

/// A session, and what was read over it.
struct Session {
    client: Client,
    connection: JoinHandle<()>,
    settings: Settings,
}

#[derive(Clone, PartialEq, Eq)]
struct Settings([String; 5]);

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl SessionFactsTask {
    pub async fn run(mut self, abandon: CancellationToken) {
        tokio::select! {
            () = abandon.cancelled() => {}
            () = self.follow() => {}
        }
    }

    /// Until dispatch is gone.
    async fn follow(&mut self) {
        let mut pause = RETRY_MIN;
        let mut last_word: Option<tokio::time::Instant> = None;
        loop {
            let catalog = Arc::clone(&self.catalogs.borrow_and_update());
            match self.read_for(&catalog).await {
                Ok((session, again)) => {
                    pause = if again { (pause * 2).min(RETRY_MAX) } else { RETRY_MIN };
                    let pause = again.then_some(pause);
                    tokio::select! {
                        changed = self.catalogs.changed() => if changed.is_err() { return },
                        () = settings_change(&session, pause) => {}
                    }
                }
                Err(Stopped::DispatchGone) => return,
                Err(Stopped::Failed(error)) => {
                    if last_word.is_none_or(|word| word.elapsed() > WORDS_APART) {
                        last_word = Some(tokio::time::Instant::now());
                        tracing::warn!(error = %with_causes(&error), "bodies of functions that policies call cannot be read; Postgres is asked about such policies");
                    }
                    tokio::select! {
                        changed = self.catalogs.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
                    }
                }
            }
        }
    }

    /// True: something was in the way, and it is to be read again.
    async fn read_for(&self, catalog: &Catalog) -> Result<(Session, bool), Stopped> {
        let mut session = Session::open(&*self.connect).await?;
        let (reading, again) = session.read(catalog).await?;
        self.readings.send(reading).await.map_err(|_| Stopped::DispatchGone)?;
        Ok((session, again))
    }
}

enum Stopped {
    DispatchGone,
    Failed(SessionFactsError),
}

impl<E: Into<SessionFactsError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Stopped::Failed(error.into())
    }
}

/// Reads the facts once, over a session of its own: settings of roles and databases hold from a session's start. The
/// boolean says that something was in the way.
pub async fn read_session_facts(
    connect: &dyn Connect,
    catalog: &Catalog,
) -> Result<(SessionReading, bool), SessionFactsError> {
    Session::open(connect).await?.read(catalog).await
}

impl Session {
    async fn open(connect: &dyn Connect) -> Result<Session, SessionFactsError> {
        let connected = connect.connect().await.map_err(SessionFactsError::Connect)?;
        let driving = connected.connection;
        let connection = tokio::spawn(async move {
            // The error is the client's too.
            let _ = driving.await;
        });
        let mut session = Session { client: connected.client, connection, settings: Settings(Default::default()) };
        check_login(&session.client).await?;
        session.client.batch_execute(SET_UP).await?;
        session.settings = Settings::read(&session.client).await?;
        Ok(session)
    }

    async fn read(&mut self, catalog: &Catalog) -> Result<(SessionReading, bool), SessionFactsError> {
        // First: what changes while the bodies are read makes it another.
        let fingerprint = loader::fingerprint(&mut self.client).await?;
        let Bodies { trees, roles, elsewhere, try_again } = function_bodies::read(&mut self.client, catalog).await?;
        let lsn = loader::flushed_past_everything_seen(&self.client).await?;
        let Settings([time_zone, date_style, interval_style, encoding, _]) = self.settings.clone();
        let facts = SessionFacts {
            bodies: trees,
            roles,
            elsewhere,
            time_zone,
            date_style,
            interval_style,
            is_utf8: encoding == "UTF8",
        };
        Ok((SessionReading { version: catalog.version, lsn, fingerprint, facts: Arc::new(facts) }, try_again))
    }
}

impl Settings {
    async fn read(client: &Client) -> Result<Settings, tokio_postgres::Error> {
        let row = client.query_one(SETTINGS, &[]).await?;
        Ok(Settings(std::array::from_fn(|column| row.get(column))))
    }
}

/// Resolves when the session's settings are others, when it is lost, or after the pause.
async fn settings_change(session: &Session, pause: Option<Duration>) {
    let changed = async {
        loop {
            tokio::time::sleep(SETTINGS_INTERVAL).await;
            match Settings::read(&session.client).await {
                Ok(settings) if settings == session.settings => {}
                _ => return,
            }
        }
    };
    match pause {
        Some(pause) => drop(tokio::time::timeout(pause, changed).await),
        None => changed.await,
    }
}
