//! Reads what was broadcast from the database before, for channels that ask at their join: one query at a time, on a
//! connection of the stream's login that is made when it is needed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;

use crate::causes::with_causes;
use crate::channels::{ReplayError, ReplayRequest, Replayed, ReplayedPayload, Replayer};
use crate::wal::publication::Own;
use crate::wal::{self, Conninfo};

/// From the question to its answer (PROTOCOL 8).
const TIMEOUT: Duration = Duration::from_secs(5);
/// A thousand joins at once wait a second or so; more than can be answered in time are better refused.
const QUEUE_MAX: usize = 1024;
/// The years that a calendar of four digits has, in milliseconds of Unix: from the year -9999 to the end of 9999.
const SINCE_MIN: i64 = -377_705_116_800_000;
const SINCE_MAX: i64 = 253_402_300_799_999;
/// Before anything that Postgres can have inserted, and a time that it knows.
const LONG_AGO: i64 = -60_000_000_000_000;

/// `inserted_at` is UTC without saying so. "private" twice: one form is our index', the other Supabase's.
const MESSAGES: &str = "select id::text, event, payload::text, {binary_payload}
    from realtime.messages
    where topic = $1 and private and private is true and extension = 'broadcast' and event is not null
        and inserted_at >= timestamp '1970-01-01' + $2::float8 * interval '1 millisecond'
        and inserted_at < pg_catalog.timezone('utc', pg_catalog.now()) + interval '1 minute'
    order by inserted_at desc
    limit $3";

/// Only ever reads. Without the right to see every row it is to fail, rather than to find none.
const SESSION: &str = "set search_path = ''; set row_security = off; set default_transaction_read_only = on;
    set statement_timeout = '5s'; set lock_timeout = '5s'";

struct Job {
    request: ReplayRequest,
    asked: Instant,
    answer: oneshot::Sender<Result<Vec<Replayed>, ReplayError>>,
}

/// The asking end.
pub struct ReplayHandle(mpsc::Sender<Job>);

/// The task.
pub struct ReplayTask {
    conninfo: Conninfo,
    jobs: mpsc::Receiver<Job>,
}

pub fn replayer(conninfo: Conninfo) -> (Arc<ReplayHandle>, ReplayTask) {
    let (sender, jobs) = mpsc::channel(QUEUE_MAX);
    (Arc::new(ReplayHandle(sender)), ReplayTask { conninfo, jobs })
}

impl Replayer for ReplayHandle {
    fn replay(&self, request: ReplayRequest) -> oneshot::Receiver<Result<Vec<Replayed>, ReplayError>> {
        let (answer, receiver) = oneshot::channel();
        if !(SINCE_MIN..=SINCE_MAX).contains(&request.since) {
            let _ = answer.send(Err(ReplayError::BadParams));
        } else if let Err(refused) = self.0.try_send(Job { request, asked: Instant::now(), answer }) {
            let _ = refused.into_inner().answer.send(Err(ReplayError::Failed));
        }
        receiver
    }
}

struct Session {
    client: Client,
    statement: Statement,
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Connect(#[from] wal::Error),
    #[error("the database could not be asked")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("there is no realtime.messages, or it is a stranger's: run walcast setup")]
    NoMessages,
    #[error("it took longer than {TIMEOUT:?}")]
    TimedOut,
}

impl ReplayTask {
    pub async fn run(mut self, abandon: CancellationToken) {
        let mut session = None;
        loop {
            let job = tokio::select! {
                () = abandon.cancelled() => return,
                job = self.jobs.recv() => match job {
                    Some(job) => job,
                    None => return abandon.cancelled().await,
                },
            };
            // The channel may have left meanwhile.
            if job.answer.is_closed() {
                continue;
            }
            let read = tokio::time::timeout_at(job.asked + TIMEOUT, self.read(&mut session, &job.request));
            let read = tokio::select! {
                () = abandon.cancelled() => return,
                read = read => read.unwrap_or(Err(Trouble::TimedOut)),
            };
            let answer = read.map_err(|trouble| {
                // Whatever it was, the next one begins anew: a query that was given up may still run on this one.
                session = None;
                tracing::warn!(code = "UnableToReplayMessages", error = %with_causes(&trouble), "nothing is replayed");
                ReplayError::Failed
            });
            let _ = job.answer.send(answer);
        }
    }

    async fn read(&self, session: &mut Option<Session>, request: &ReplayRequest) -> Result<Vec<Replayed>, Trouble> {
        let session = match session {
            Some(session) if !session.client.is_closed() => session,
            _ => session.insert(self.connect().await?),
        };
        let since = request.since.max(LONG_AGO) as f64;
        let limit = i64::from(request.limit);
        let rows = session.client.query(&session.statement, &[&&*request.topic, &since, &limit]).await?;
        let mut messages = Vec::with_capacity(rows.len());
        for row in rows.iter().rev() {
            let binary: Option<&[u8]> = row.try_get(3)?;
            let payload = match (binary, row.try_get::<_, Option<&str>>(2)?) {
                (Some(bytes), _) => ReplayedPayload::Binary(bytes.to_vec().into()),
                (None, Some(text)) => ReplayedPayload::Json(text.into()),
                (None, None) => continue,
            };
            messages.push(Replayed { id: row.try_get(0)?, event: row.try_get(1)?, payload });
        }
        Ok(messages)
    }

    async fn connect(&self) -> Result<Session, Trouble> {
        let (client, connection) = self.conninfo.connect().await?;
        tokio::spawn(async { drop(connection.await) });
        // A stranger's may be a view, whose functions would run as this login.
        let own = Own::look(&client).await?;
        if own.messages.is_none() || own.realtime_strangers.is_some() {
            return Err(Trouble::NoMessages);
        }
        client.batch_execute(SESSION).await?;
        let prepare =
            async |binary_payload: &str| client.prepare(&MESSAGES.replace("{binary_payload}", binary_payload)).await;
        let statement = match prepare("binary_payload").await {
            // Supabase's of before it had binary payloads.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => prepare("null::bytea").await?,
            statement => statement?,
        };
        Ok(Session { client, statement })
    }
}
