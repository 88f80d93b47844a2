//! A task that keeps one session open and puts questions to it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::OracleConfig;
use super::connect::Connect;
use super::error::OracleError;
use super::flight::{Next, Script, conclude, finish};
use super::job::{Job, Work};
use super::meanings::Change;
use super::queue::{Batch, Hold, Lane, Queue};
use super::reshape::reshape;
use super::session::{OpenError, Reply, Session, Unprepared};
use super::trouble::{Trouble, cast_refused, refused, role_refused};
use crate::authz::metrics::{AuthzMetrics, LaneLabel, LaneName};
use crate::causes::with_causes;

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// For the cancel request of a question that took too long; after it the session is dropped regardless.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// A question may be asked again this often after sessions were ended on purpose (a restart, or a policy that
/// terminates its siblings): asking is harmless.
const ORDERED_LOSSES_MAX: u32 = 3;
/// Otherwise twice (a server that comes back may take the first new session with it): a question that crashes its server
/// must not do so for ever.
const LOSSES_MAX: u32 = 2;

pub(super) struct Worker {
    pub(super) lane: Lane,
    pub(super) config: OracleConfig,
    pub(super) queue: Arc<Queue>,
    pub(super) connect: Arc<dyn Connect>,
    pub(super) metrics: Arc<AuthzMetrics>,
    /// Sessions that are up, of all workers.
    pub(super) up: Arc<AtomicUsize>,
}

struct Flight {
    jobs: Vec<Job>,
    /// Others that ask alike wait while this is kept.
    _hold: Option<Hold>,
    script: Script,
    replies: BoxFuture<'static, Vec<Reply>>,
    /// The change of the catalog for which it has made the session forget its plans.
    renewed: Option<Change>,
    /// When it became its session's turn.
    since: Instant,
}

/// Why a session is given up.
enum End {
    Shutdown,
    Lost,
    /// The question at the head took too long. If it was given all the time there is, it is here: whether it is to blame
    /// shows when the next session is opened.
    Overdue(Option<Box<Job>>),
}

impl Worker {
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let mut backoff = BACKOFF_MIN;
        let mut suspect: Option<Job> = None;
        loop {
            if self.config.opens_when_asked && suspect.is_none() {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = self.queue.wait(self.lane, true) => {}
                }
            }
            let opened = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                opened = tokio::time::timeout(self.config.timeout, Session::open(&*self.connect, self.config.timeout)) => opened,
            };
            match opened {
                Ok(Ok(session)) => {
                    backoff = BACKOFF_MIN;
                    // Postgres is there: it was the question that took too long.
                    if let Some(job) = suspect.take() {
                        self.queue.mark_slow(&job.key, true);
                        self.timed_out(job);
                    }
                    match self.use_session(session, &shutdown).await {
                        End::Shutdown => return,
                        End::Lost | End::Overdue(None) => {}
                        End::Overdue(job) => suspect = job.map(|job| *job),
                    }
                }
                unopened => {
                    // An outage is nobody's policy: what it interrupted is asked again when it is over. The slot waits.
                    if let Some(job) = suspect.take() {
                        self.queue.push_again(job);
                    }
                    let mends_itself = match unopened {
                        Ok(Err(err)) => self.could_not_open(err),
                        _ => {
                            tracing::warn!("the oracle's session did not open in time");
                            true
                        }
                    };
                    if !mends_itself && self.up.load(Ordering::Relaxed) == 0 {
                        self.queue.expire(self.config.timeout);
                    }
                }
            }
            let pause = backoff.mul_f64(rand::rng().random_range(0.5..1.0));
            backoff = (backoff * 2).min(BACKOFF_MAX);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether waiting may mend it, as it mends a network or a server that is away.
    fn could_not_open(&self, err: OpenError) -> bool {
        let mends_itself = err.mends_itself();
        match err {
            OpenError::Login(err @ (super::LoginError::Powerful { .. } | super::LoginError::SearchPath { .. })) => {
                tracing::error!(error = %err, "the oracle's login is refused: its policies are not evaluated");
                self.queue.close(OracleError::Login(Arc::new(err)));
            }
            err => tracing::warn!(error = %with_causes(&err), "could not open an oracle session"),
        }
        mends_itself
    }

    async fn use_session(&self, mut session: Session, shutdown: &CancellationToken) -> End {
        let label = LaneLabel {
            lane: match self.lane {
                Lane::Fast => LaneName::Fast,
                Lane::Slow => LaneName::Slow,
            },
        };
        self.queue.open();
        self.up.fetch_add(1, Ordering::Relaxed);
        self.metrics.sessions.get_or_create(&label).inc();
        let mut flights = VecDeque::new();
        let end = self.serve(&mut session, &mut flights, shutdown).await;
        self.metrics.sessions.get_or_create(&label).dec();
        self.up.fetch_sub(1, Ordering::Relaxed);
        // What was behind the head has done nothing wrong: it is asked elsewhere, in its order.
        for flight in flights.into_iter().rev() {
            self.push_again(flight.jobs);
        }
        match end {
            End::Shutdown => {}
            End::Lost => drop(self.metrics.sessions_lost.inc()),
            End::Overdue(_) => {
                let cancel = self.connect.cancel(session.cancel_token());
                let _ = tokio::time::timeout(CANCEL_TIMEOUT, cancel).await;
            }
        }
        end
    }

    /// The longest that a question may keep this session.
    fn patience(&self) -> Duration {
        match self.lane {
            Lane::Fast => self.config.slow_after.min(self.config.timeout),
            Lane::Slow => self.config.timeout,
        }
    }

    fn depth(&self) -> usize {
        match self.lane {
            Lane::Fast => self.config.pipeline_depth.max(1),
            Lane::Slow => 1,
        }
    }

    async fn serve(&self, session: &mut Session, flights: &mut VecDeque<Flight>, shutdown: &CancellationToken) -> End {
        loop {
            while flights.len() < self.depth() {
                let Some(batch) = self.queue.take(self.lane, !flights.is_empty()) else { break };
                if let Some(end) = self.launch(batch, session, flights).await {
                    return end;
                }
            }
            if session.is_closed() && flights.is_empty() {
                return End::Lost;
            }
            let room = flights.len() < self.depth();
            let Some(head) = flights.front_mut() else {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return End::Shutdown,
                    () = session.closed() => return End::Lost,
                    () = self.queue.wait(self.lane, true) => continue,
                }
            };
            let deadline = head.since + self.patience();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return End::Shutdown,
                replies = &mut head.replies => {
                    if let Some(end) = self.land(replies, session, flights) {
                        return end;
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    return flights.pop_front().map_or(End::Overdue(None), |flight| self.overdue(flight.jobs));
                }
                () = self.queue.wait(self.lane, false), if room => {}
            }
        }
    }

    /// Puts questions that ask alike to the session, behind those in flight.
    async fn launch(&self, batch: Batch, session: &mut Session, flights: &mut VecDeque<Flight>) -> Option<End> {
        let (mut jobs, hold) = batch.into_parts();
        if self.lane == Lane::Slow {
            let is_late =
                |job: &mut Job| self.queue.is_silent(&job.key) && job.asked_at.elapsed() > self.config.timeout;
            jobs.extract_if(.., is_late).for_each(|job| self.timed_out(job));
        }
        if jobs.iter().any(|job| job.misfits) {
            // A round trip of its own: those in flight first.
            if let Some(end) = self.land_all(session, flights).await {
                self.push_again(jobs);
                return Some(end);
            }
            match self.fit(jobs, session).await {
                Ok(fitting) => jobs = fitting,
                Err(end) => return Some(end),
            }
        }
        let script = Script::of(&jobs)?;
        if !script.is_prepared(session) {
            // Preparing takes round trips inside a transaction.
            if let Some(end) = self.land_all(session, flights).await {
                self.push_again(jobs);
                return Some(end);
            }
            match tokio::time::timeout(self.patience(), script.prepare(session)).await {
                Ok(Ok(())) => {}
                Ok(Err(unprepared)) => return self.not_prepared(jobs, unprepared, session),
                Err(_) => return Some(self.overdue(jobs)),
            }
        }
        let renewed = self.queue.meanings.since(session.meanings);
        let Some(mut replies) = script.send(&jobs, session, renewed.is_some()) else {
            // More statements in one question than a session keeps: never so, but it must not be asked for ever.
            jobs.into_iter().for_each(|job| job.fail(OracleError::Overloaded));
            return None;
        };
        self.metrics.statements.inc_by(script.row_statements() as u64);
        // Polled once, it is sent; its turn among the replies comes when it is the head.
        let sent = poll_fn(|cx| Poll::Ready(replies.as_mut().poll(cx))).await;
        if let Poll::Ready(done) = sent {
            replies = Box::pin(std::future::ready(done));
        }
        flights.push_back(Flight { jobs, _hold: hold, script, replies, renewed, since: Instant::now() });
        None
    }

    /// Waits for everything in flight.
    async fn land_all(&self, session: &mut Session, flights: &mut VecDeque<Flight>) -> Option<End> {
        while let Some(head) = flights.front_mut() {
            let replies = tokio::time::timeout_at(head.since + self.patience(), &mut head.replies).await;
            let end = match replies {
                Ok(replies) => self.land(replies, session, flights),
                Err(_) => Some(self.overdue(flights.pop_front()?.jobs)),
            };
            if end.is_some() {
                return end;
            }
        }
        None
    }

    /// Rewrites questions for the columns that their table has by now, as far as there is anything to ask of it.
    async fn fit(&self, jobs: Vec<Job>, session: &Session) -> Result<Vec<Job>, End> {
        let mut fitting = Vec::with_capacity(jobs.len());
        let mut jobs = VecDeque::from(jobs);
        while let Some(mut job) = jobs.pop_front() {
            let Work::Ask { question, .. } = &mut job.work else { continue };
            let looked = tokio::time::timeout(self.patience(), session.columns(question.relation.id.0)).await;
            let (snapshot, columns) = match looked {
                Ok(Ok(looked)) => looked,
                Ok(Err(trouble)) => {
                    self.push_again(jobs.into());
                    let ordered = matches!(trouble, Trouble::Lost { ordered: true });
                    self.lost(job, ordered, session);
                    return Err(End::Lost);
                }
                Err(_) => {
                    self.push_again(jobs.into());
                    return Err(self.overdue(vec![job]));
                }
            };
            if question.xid.is_some_and(|xid| !snapshot.sees(xid)) {
                // The columns may be those before its own transaction.
                self.metrics.visibility_waits.inc();
                self.queue.push_later(job);
                continue;
            }
            match columns.and_then(|columns| reshape(question, &columns)) {
                Some(reshaped) => {
                    *question = reshaped;
                    job.misfits = false;
                    fitting.push(job);
                }
                None => {
                    self.metrics.questions_failed.inc();
                    job.fail(OracleError::ColumnGone);
                }
            }
        }
        Ok(fitting)
    }

    /// The head's replies are there.
    fn land(&self, replies: Vec<Reply>, session: &mut Session, flights: &mut VecDeque<Flight>) -> Option<End> {
        let Flight { jobs, script, since, renewed, _hold, .. } = flights.pop_front()?;
        if let Some(next) = flights.front_mut() {
            next.since = Instant::now();
        }
        let key = jobs.first()?.key.clone();
        if let (Some(change), Some(Reply { snapshot: Some(snapshot), .. })) = (renewed, replies.first())
            && change.is_seen_by(snapshot)
        {
            session.meanings = change.number;
        }
        if replies.iter().any(|reply| reply.rows.as_ref().is_err_and(Trouble::is_of_the_schema)) {
            script.forget(session);
        }
        match self.lane {
            Lane::Slow if since.elapsed() < self.config.slow_after / 2 => self.queue.mark_quick(&key),
            Lane::Slow => self.queue.mark_slow(&key, false),
            Lane::Fast => {
                let rows = jobs.iter().map(|job| job.share().0).sum();
                self.queue.pace(&key, rows, since.elapsed(), self.config.slow_after);
            }
        }
        let mut end = None;
        // The last one first: what is asked again goes to the head of its lane.
        for next in conclude(jobs, &script, replies, &self.metrics).into_iter().rev() {
            match next {
                Next::Later(job) => self.queue.push_later(job),
                Next::Again(job) => self.queue.push_again(job),
                Next::Outdated(job) => self.renew(job),
                Next::Lost { job, ordered } => {
                    self.lost(job, ordered, session);
                    end = Some(End::Lost);
                }
            }
        }
        end
    }

    /// The table's policies have changed since the question was put together.
    fn renew(&self, mut job: Job) {
        self.metrics.outdated.inc();
        let is_late = job.outdated.as_ref().is_some_and(|(since, _)| since.elapsed() > self.config.timeout);
        if is_late {
            return finish(job, Err(OracleError::PoliciesChanged), &self.metrics);
        }
        if let Work::Ask { question, .. } = &mut job.work
            && let Some(renewed) = self.queue.newest.renew(question)
        {
            *question = renewed;
        }
        self.queue.push_later(job);
    }

    /// In their order, before all others.
    fn push_again(&self, jobs: Vec<Job>) {
        jobs.into_iter().rev().for_each(|job| self.queue.push_again(job));
    }

    /// The session has ended with this question at its head. Sessions that go down together are one loss, or a question
    /// that is handed from one to the next would seem to have crashed them all.
    fn lost(&self, mut job: Job, ordered: bool, session: &Session) {
        if job.lost_at.is_none_or(|lost_at| lost_at < session.opened_at) {
            job.losses += 1;
            job.lost_at = Some(std::time::Instant::now());
        }
        let limit = if ordered { ORDERED_LOSSES_MAX } else { LOSSES_MAX };
        if job.losses > limit {
            self.metrics.questions_failed.inc();
            job.fail(OracleError::SessionLost);
        } else {
            self.queue.push_again(job);
        }
    }

    /// The head has kept its session for too long.
    fn overdue(&self, mut jobs: Vec<Job>) -> End {
        let Some(first) = jobs.first() else { return End::Overdue(None) };
        match self.lane {
            Lane::Fast if jobs.len() > 1 => {
                // Each may be quick: alone they show it.
                let rows = jobs.iter().map(|job| job.share().0).sum();
                self.queue.pace(&first.key, rows, self.config.slow_after, self.config.slow_after);
                jobs.iter_mut().for_each(|job| job.alone = true);
                self.push_again(jobs);
                End::Overdue(None)
            }
            Lane::Fast => {
                let key = &first.key;
                tracing::info!(relation = ?key.relation, role = %key.role, "a slow policy goes to the slow lane");
                self.metrics.slow_questions.inc();
                self.queue.mark_slow(key, false);
                self.push_again(jobs);
                End::Overdue(None)
            }
            // There every question is alone.
            Lane::Slow => End::Overdue(jobs.pop().map(Box::new)),
        }
    }

    fn timed_out(&self, job: Job) {
        self.metrics.timeouts.inc();
        self.metrics.questions_failed.inc();
        job.fail(OracleError::Timeout(self.config.timeout));
    }

    /// The questions could not even be prepared.
    fn not_prepared(&self, mut jobs: Vec<Job>, unprepared: Unprepared, session: &Session) -> Option<End> {
        let merged = jobs.len() > 1;
        let Unprepared { trouble, snapshot } = unprepared;
        if let Trouble::Lost { ordered } = trouble {
            for mut job in jobs.into_iter().rev() {
                job.alone |= merged;
                self.lost(job, ordered, session);
            }
            return Some(End::Lost);
        }
        // One of them may need a statement that the others do not.
        let apart = merged && !matches!(trouble, Trouble::Role(_));
        let once_more = matches!(trouble, Trouble::Transient(_)) && jobs.iter().all(|job| job.transients == 0);
        if apart || once_more {
            for job in &mut jobs {
                job.alone |= apart;
                job.transients += u32::from(!apart);
            }
            self.push_again(jobs);
            return None;
        }
        for job in jobs {
            let xid = job.question().and_then(|question| question.xid);
            if let (Some(xid), Trouble::Statement(_), Some(snapshot)) = (xid, &trouble, &snapshot)
                && !snapshot.sees(xid)
            {
                // What it names may be of its own transaction.
                self.metrics.visibility_waits.inc();
                self.queue.push_later(job);
                continue;
            }
            let error = match &trouble {
                Trouble::Role(db) => role_refused(&job.key.role, db),
                Trouble::Transient(db) | Trouble::Statement(db) => {
                    if let Work::Cast { reply, .. } = job.work {
                        drop(reply.send(Err(cast_refused(db))));
                        continue;
                    }
                    refused(db)
                }
                Trouble::Lost { .. } => OracleError::SessionLost,
            };
            self.metrics.questions_failed.inc();
            job.fail(error);
        }
        None
    }
}
