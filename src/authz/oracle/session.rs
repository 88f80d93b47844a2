//! One session of the oracle's login, and the transactions it asks in.
//!
//! Every question is a READ ONLY transaction of its own, sent without waiting: BEGIN; the role and the claims, local;
//! the question; ROLLBACK, always: what a policy sets for the session does not survive it. An answer counts only if
//! each of these succeeded: a BEGIN that failed would have the question asked by the login itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{self, BoxFuture};
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Client, Row, Statement};

use super::super::TopicQuestion;
use super::connect::{Connect, ConnectError};
use super::login::{LoginError, check_login};
use super::statement::{SET_CHANNEL, SET_IDENTITY, SET_OUTPUT, SNAPSHOT, columns_of, quote_literal};
use super::trouble::Trouble;
use crate::catalog::Snapshot;
use crate::wal;

/// Prepared questions kept per session: as many plans as a database has, and then some. Beyond it all go.
const STATEMENTS_MAX: usize = 256;
const BEGIN: &str = "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY";

pub(super) struct Session {
    client: Arc<Client>,
    connection: JoinHandle<()>,
    pub(super) opened_at: Instant,
    /// The change of the catalog that its plans are sure to know of.
    pub(super) meanings: u64,
    settings: Settings,
    /// By role and SQL: functions are inlined when a statement is planned, under the privileges of that moment.
    statements: HashMap<(String, String), Statement>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("could not connect: {0}")]
    Connect(ConnectError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
}

impl OpenError {
    /// The server is away, or starting, or full: unlike a refusal, that passes.
    pub(super) fn mends_itself(&self) -> bool {
        match self {
            OpenError::Connect(error) => match error.downcast_ref::<wal::Error>() {
                Some(error) => error.is_transient(),
                None => error.downcast_ref().is_some_and(is_outage),
            },
            OpenError::Login(LoginError::Query(error)) | OpenError::Database(error) => is_outage(error),
            OpenError::Login(_) => false,
        }
    }
}

/// No answer at all, or one of class 53 (insufficient resources) or 57 (operator intervention).
fn is_outage(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| ["53", "57"].iter().any(|class| code.code().starts_with(class)))
}

/// The statements that set a transaction's settings.
#[derive(Clone)]
struct Settings {
    identity: Statement,
    channel: Statement,
    output: Statement,
}

/// A question that could not be prepared.
pub(super) struct Unprepared {
    pub(super) trouble: Trouble,
    /// Of just before that; `None`: it did not get so far, or was not asked.
    pub(super) snapshot: Option<Snapshot>,
}

/// On whose behalf a transaction runs.
#[derive(Clone, Debug)]
pub(super) enum Guise {
    /// The role with its claims, under the login's own settings.
    Identity { role: String, claims: Arc<str> },
    /// The role with its claims and what else is known of a private channel. Once set, these settings are never absent
    /// from the session again, only empty: a session that is asked so is asked nothing else.
    Channel(Arc<TopicQuestion>),
    /// The role, with the settings that text is written and read in.
    Output { role: String },
}

impl Guise {
    pub(super) fn role(&self) -> &str {
        match self {
            Guise::Identity { role, .. } | Guise::Output { role } => role,
            Guise::Channel(question) => &question.identity.role,
        }
    }
}

/// One transaction's rows, a list per statement.
pub(super) struct Reply {
    pub(super) rows: Result<Vec<Vec<Row>>, Trouble>,
    /// Of just before the question, as far as it got.
    pub(super) snapshot: Option<Snapshot>,
}

/// A statement that is ready to be asked, and its text parameters.
pub(super) type Bound = (Statement, Vec<String>);

impl Session {
    pub(super) async fn open(connect: &dyn Connect, timeout: Duration) -> Result<Session, OpenError> {
        let connected = connect.connect().await.map_err(OpenError::Connect)?;
        let driving = connected.connection;
        let connection = tokio::spawn(async move {
            // The error is the client's too, with the question that it broke.
            let _ = driving.await;
        });
        match Session::set_up(connected.client, timeout).await {
            Ok((client, settings)) => {
                let opened_at = Instant::now();
                let statements = HashMap::new();
                Ok(Session { client, connection, opened_at, meanings: 0, settings, statements })
            }
            Err(err) => {
                connection.abort();
                Err(err)
            }
        }
    }

    async fn set_up(client: Client, timeout: Duration) -> Result<(Arc<Client>, Settings), OpenError> {
        check_login(&client).await?;
        // The server's own deadline is a second line, for when a cancel request is lost. JIT compiles for seconds
        // what is asked of one row. Money is written by the stream as in the C locale. Everything else, search_path
        // and TimeZone above all, is as the login has it: so it is for a real SELECT.
        client
            .batch_execute(&format!(
                "SET statement_timeout = {}; SET jit = off; SET lc_monetary = 'C'; SET row_security = on",
                (timeout + Duration::from_secs(1)).as_millis()
            ))
            .await?;
        let settings = Settings {
            identity: client.prepare_typed(SET_IDENTITY, &[Type::TEXT; 2]).await?,
            channel: client.prepare_typed(SET_CHANNEL, &[Type::TEXT; 5]).await?,
            output: client.prepare_typed(SET_OUTPUT, &[Type::TEXT]).await?,
        };
        Ok((Arc::new(client), settings))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(super) fn cancel_token(&self) -> CancelToken {
        self.client.cancel_token()
    }

    /// Resolves when the connection has ended.
    pub(super) async fn closed(&mut self) {
        // A finished task may be awaited once only; afterwards the caller drops the session.
        let _ = (&mut self.connection).await;
    }

    pub(super) fn prepared(&self, role: &str, sql: &str) -> Option<Statement> {
        self.statements.get(&(role.to_owned(), sql.to_owned())).cloned()
    }

    pub(super) fn forget(&mut self, role: &str, sql: &str) {
        self.statements.remove(&(role.to_owned(), sql.to_owned()));
    }

    /// Prepares a question as its role. Nothing else may be in flight: it takes several round trips.
    ///
    /// A stored policy names functions by their OIDs and needs no USAGE on their schemas; its text does. Where the
    /// role has none, the text is read as the login, which may have been granted it, and run as the role all the same.
    pub(super) async fn prepare(&mut self, guise: &Guise, sql: &str, schema: Option<&str>) -> Result<(), Unprepared> {
        let types = [Type::TEXT, Type::TEXT];
        let types = if sql.contains("$2") { &types[..] } else { &types[..1] };
        let mut result = self.prepare_as(Some(guise), sql, types).await;
        if let (Err(Unprepared { trouble: Trouble::Statement(db), .. }), Some(schema)) = (&result, schema)
            && *db.code() == tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE
        {
            let checked = with_schema_check(sql, schema);
            if let Ok(statement) = self.prepare_as(None, &checked, types).await {
                result = Ok(statement);
            }
        }
        let statement = result?;
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert((guise.role().to_owned(), sql.to_owned()), statement);
        Ok(())
    }

    /// The table's present columns, and the snapshot that has them; no columns: there is no such table.
    pub(super) async fn columns(&self, table: u32) -> Result<(Snapshot, Option<String>), Trouble> {
        let sql = format!("SELECT {SNAPSHOT}, ({})", columns_of(table));
        let row = self.client.query_one(&sql, &[]).await.map_err(|err| Trouble::of_frame(&err))?;
        let snapshot = row.try_get::<_, &str>(0).map(str::parse);
        match (snapshot, row.try_get(1)) {
            (Ok(Ok(snapshot)), Ok(columns)) => Ok((snapshot, columns)),
            _ => Err(Trouble::Lost { ordered: false }),
        }
    }

    async fn prepare_as(&self, guise: Option<&Guise>, sql: &str, types: &[Type]) -> Result<Statement, Unprepared> {
        let client = &self.client;
        let set = async {
            match guise {
                Some(guise) => self.settings.set(&self.client, guise).await,
                None => Ok(Vec::new()),
            }
        };
        let (begin, set, statement, end) = future::join4(
            client.batch_execute(BEGIN),
            set,
            client.prepare_typed(sql, types),
            client.batch_execute("ROLLBACK"),
        )
        .await;
        let snapshot = snapshot_of(&set);
        let prepared = || {
            begin.map_err(|err| Trouble::of_frame(&err))?;
            set.map_err(|err| Trouble::of_settings(&err))?;
            let statement = statement.map_err(|err| Trouble::of_statement(&err))?;
            end.map_err(|err| Trouble::of_frame(&err))?;
            Ok(statement)
        };
        prepared().map_err(|trouble| Unprepared { trouble, snapshot })
    }

    /// Sends a transaction at once, and gives the future of its rows: one list per statement. Several may be in
    /// flight; Postgres answers them in order. `anew`: with plans that are made anew.
    pub(super) fn ask(&self, guise: Guise, asked: Vec<Bound>, anew: bool) -> BoxFuture<'static, Reply> {
        let client = Arc::clone(&self.client);
        let settings = self.settings.clone();
        Box::pin(async move {
            // Each request is sent when its future is first polled, which `join` does in order and without a pause:
            // nothing of another question gets in between.
            let (forget, begin, set, rows, end) = future::join5(
                future::OptionFuture::from(anew.then(|| client.batch_execute("DISCARD PLANS"))),
                client.batch_execute(BEGIN),
                settings.set(&client, &guise),
                future::join_all(asked.iter().map(|bound| query(&client, bound))),
                client.batch_execute("ROLLBACK"),
            )
            .await;
            let snapshot = snapshot_of(&set);
            let answered = || {
                forget.transpose().map_err(|err| Trouble::of_frame(&err))?;
                begin.map_err(|err| Trouble::of_frame(&err))?;
                set.map_err(|err| Trouble::of_settings(&err))?;
                // The first failure aborts the transaction, and the others say only that.
                let rows = rows.into_iter().collect::<Result<_, _>>().map_err(|err| Trouble::of_statement(&err))?;
                end.map_err(|err| Trouble::of_frame(&err))?;
                Ok(rows)
            };
            Reply { rows: answered(), snapshot }
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Without this the connection would stay until Postgres has answered everything that was sent.
        self.connection.abort();
    }
}

impl Settings {
    async fn set(&self, client: &Client, guise: &Guise) -> Result<Vec<Row>, tokio_postgres::Error> {
        match guise {
            Guise::Identity { role, claims } => client.query(&self.identity, &[&&**claims, role]).await,
            Guise::Channel(question) => {
                let TopicQuestion { identity, topic, headers, .. } = &**question;
                let subject = identity.subject();
                let values: [&(dyn ToSql + Sync); 5] =
                    [&&*identity.claims, &subject, &identity.role, &&**topic, &&**headers];
                client.query(&self.channel, &values).await
            }
            Guise::Output { role } => client.query(&self.output, &[role]).await,
        }
    }
}

fn snapshot_of(set: &Result<Vec<Row>, tokio_postgres::Error>) -> Option<Snapshot> {
    set.as_ref().ok()?.first()?.try_get::<_, &str>(0).ok()?.parse().ok()
}

async fn query(client: &Client, (statement, parameters): &Bound) -> Result<Vec<Row>, tokio_postgres::Error> {
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|text| text as _).collect();
    client.query(statement, &parameters).await
}

/// The same question, for a reader who may use more schemas than the role: without USAGE on the table's schema a real
/// SELECT fails, and so must this.
fn with_schema_check(sql: &str, schema: &str) -> String {
    format!("SELECT q.* FROM ({sql}) AS q WHERE pg_catalog.has_schema_privilege({}, 'USAGE')", quote_literal(schema))
}
