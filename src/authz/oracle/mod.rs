//! Asking Postgres itself, under the subscriber's role and claims, over row images.
//!
//! Given questions, gives answers or an error that denies. Its sessions belong to a login of its own that can do
//! nothing by itself (see [`login`]): what is evaluated is code that other people wrote.
//!
//! ```text
//! ask ─► queue ─┬─ fast lane ─► sessions, several questions in flight each ──┬─► answer
//!          ▲    └─ slow lane ─► sessions, one question each ─────────────────┤
//!          ├──── transaction not visible yet: after a pause ◄────────────────┤
//!          └──── too slow for the fast lane, session lost, row by row ◄──────┘
//! ```

pub mod connect;
pub mod error;
mod flight;
mod group;
mod job;
pub mod login;
mod meanings;
mod policies;
pub mod question;
mod queue;
mod reshape;
#[cfg(test)]
mod sample;
mod session;
mod statement;
mod trouble;
mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use connect::{Connect, ConnectError, Connected, PlainConnect};
pub use error::OracleError;
pub use login::{LoginError, check_login};
pub use policies::KnownBy;
pub use question::{Answer, Asked, CastFailure, JsonRow, Question, Verdict};

use self::job::{Job, Work, size_of};
use self::queue::{Lane, Queue};
use self::worker::Worker;
use super::metrics::AuthzMetrics;
use crate::catalog::Catalog;
use crate::routing::CastRequest;

#[derive(Clone, Debug)]
pub struct OracleConfig {
    /// Sessions for questions that are answered quickly. Policies are evaluated one per core at a time; more
    /// sessions than cores only wait for each other.
    pub sessions: usize,
    /// Sessions for tables whose policies are slow.
    pub slow_sessions: usize,
    /// Questions in flight per fast session: enough to hide a round trip, few enough to be asked again elsewhere.
    pub pipeline_depth: usize,
    /// `--authz-timeout`: a question that is not answered by then is denied.
    pub timeout: Duration,
    /// A question that takes longer goes to the slow lane: a thousand times what one usually takes.
    pub slow_after: Duration,
    /// What all unanswered questions may be worth.
    pub queue_bytes_max: usize,
    /// Sessions are opened when there is something to ask: where there may never be.
    pub opens_when_asked: bool,
}

impl Default for OracleConfig {
    fn default() -> Self {
        OracleConfig {
            sessions: 4,
            slow_sessions: 2,
            pipeline_depth: 16,
            timeout: Duration::from_secs(5),
            slow_after: Duration::from_millis(250),
            queue_bytes_max: 64 << 20,
            opens_when_asked: false,
        }
    }
}

/// A handle; cheap to clone.
#[derive(Clone)]
pub struct Oracle {
    queue: Option<Arc<Queue>>,
    #[cfg(test)]
    by_hand: Option<tokio::sync::mpsc::UnboundedSender<ByHand>>,
}

/// A question, and where its answer goes: for tests of whoever asks.
#[cfg(test)]
pub type ByHand = (Question, oneshot::Sender<Result<Answer, OracleError>>);

/// The oracle's sessions; runs until shutdown.
pub struct OracleTask {
    workers: Vec<Worker>,
    queue: Arc<Queue>,
}

impl Oracle {
    pub fn new(config: &OracleConfig, connect: Arc<dyn Connect>, metrics: Arc<AuthzMetrics>) -> (Oracle, OracleTask) {
        let queue = Arc::new(Queue::new(config.queue_bytes_max));
        let up = Arc::new(AtomicUsize::new(0));
        let worker = |lane| Worker {
            lane,
            config: config.clone(),
            queue: Arc::clone(&queue),
            connect: Arc::clone(&connect),
            metrics: Arc::clone(&metrics),
            up: Arc::clone(&up),
        };
        let fast = (0..config.sessions.max(1)).map(|_| Lane::Fast);
        let slow = (0..config.slow_sessions.max(1)).map(|_| Lane::Slow);
        let workers = fast.chain(slow).map(worker).collect();
        let oracle = Oracle {
            queue: Some(Arc::clone(&queue)),
            #[cfg(test)]
            by_hand: None,
        };
        (oracle, OracleTask { workers, queue })
    }

    /// The oracle of whoever has configured no login: it answers nothing, which denies.
    pub fn absent() -> Oracle {
        Oracle {
            queue: None,
            #[cfg(test)]
            by_hand: None,
        }
    }

    /// An oracle whose questions a test answers.
    #[cfg(test)]
    pub fn by_hand() -> (Oracle, tokio::sync::mpsc::UnboundedReceiver<ByHand>) {
        let (by_hand, questions) = tokio::sync::mpsc::unbounded_channel();
        (Oracle { queue: None, by_hand: Some(by_hand) }, questions)
    }

    /// Never blocks. The answer is an error where nothing could be decided, which denies. Dropping the receiver
    /// withdraws a question that has not been sent yet.
    pub fn ask(&self, question: Question) -> oneshot::Receiver<Result<Answer, OracleError>> {
        let (reply, answer) = oneshot::channel();
        #[cfg(test)]
        if let Some(by_hand) = &self.by_hand {
            drop(by_hand.send((question, reply)));
            return answer;
        }
        if question.rows.is_empty() {
            let nothing = match question.asked {
                Asked::Json { .. } => Answer::Json(Vec::new()),
                _ => Answer::Verdicts(Vec::new()),
            };
            drop(reply.send(Ok(nothing)));
            return answer;
        }
        match self.admit(size_of(&question)) {
            Ok((queue, ticket)) => queue.push(Job::new(Work::Ask { question, reply }, ticket)),
            Err(error) => drop(reply.send(Err(error))),
        }
        answer
    }

    /// Has Postgres read a filter's value; its canonical text, or what Postgres has against it.
    ///
    /// Any role that may use the type's schema gets the same answer.
    pub async fn cast(&self, role: &str, request: &CastRequest) -> Result<String, CastFailure> {
        let (queue, ticket) = self.admit(request.text.len() + 512)?;
        let (reply, answer) = oneshot::channel();
        let work = Work::Cast { role: role.to_owned(), request: request.clone(), reply };
        queue.push(Job::new(work, ticket));
        answer.await.unwrap_or_else(|_| Err(OracleError::Closed.into()))
    }

    /// Names may mean something else from now on, by this transaction; `None`: by one that everybody sees.
    pub fn catalog_changed(&self, xid: Option<u32>) {
        if let Some(queue) = &self.queue {
            queue.meanings.changed(xid);
        }
    }

    /// A catalog that policies may be newer in than where they were asked by.
    pub fn knows(&self, known_by: KnownBy, catalog: &Arc<Catalog>) {
        if let Some(queue) = &self.queue {
            queue.newest.set(known_by, Arc::clone(catalog));
        }
    }

    fn admit(&self, size: usize) -> Result<(&Queue, queue::Ticket), OracleError> {
        let queue = self.queue.as_deref().ok_or(OracleError::NoOracle)?;
        let ticket = queue.ticket(size).ok_or(OracleError::Overloaded)?;
        Ok((queue, ticket))
    }
}

impl OracleTask {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut sessions = JoinSet::new();
        for worker in self.workers {
            sessions.spawn(worker.run(shutdown.clone()));
        }
        while let Some(ended) = sessions.join_next().await {
            if let Err(err) = ended {
                tracing::error!(error = %err, "an oracle session's task has failed");
            }
        }
        self.queue.close(OracleError::Closed);
    }
}
