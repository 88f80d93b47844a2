//! Questions that have been sent together, and what becomes of each.
//!
//! Promise: an answer is made of rows that were asked for its own question, at the place that the statement's list of
//! rows says, in a snapshot that sees its own transaction. What befell several together is nobody's verdict: each is then
//! asked alone, and within a question each row.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{BoxFuture, join_all};
use tokio_postgres::Row;

use super::error::OracleError;
use super::job::{Job, Work};
use super::policies::both;
use super::question::{Answer, Asked, Question, Verdict};
use super::session::{Guise, Reply, Session, Unprepared};
use super::statement::{Part, parts};
use super::trouble::{Trouble, cast_refused, role_refused};
use crate::authz::metrics::AuthzMetrics;
use crate::catalog::Snapshot;

/// What a session is to be asked: statements by transaction.
pub(super) struct Script {
    guise: Guise,
    /// The table's schema, where there is one.
    schema: Option<String>,
    asks: Asks,
}

enum Asks {
    Cast {
        sql: String,
        text: String,
    },
    /// Usually one transaction; where a statement has failed, one per row.
    Rows(Vec<Vec<Part>>),
}

impl Script {
    /// `jobs` ask alike. Of nothing there is no script.
    pub(super) fn of(jobs: &[Job]) -> Option<Script> {
        match &jobs.first()?.work {
            Work::Cast { role, request, .. } => Some(Script {
                guise: Guise::Output { role: role.clone() },
                schema: None,
                asks: Asks::Cast { sql: request.statement(), text: request.text.clone() },
            }),
            Work::Ask { question, .. } => {
                let all = parts(&questions(jobs)?);
                let transactions = if jobs.iter().any(|job| job.one_by_one) {
                    all.iter().flat_map(Part::one_by_one).map(|part| vec![part]).collect()
                } else if all.is_empty() {
                    Vec::new()
                } else {
                    vec![all]
                };
                let schema = Some(question.relation.schema.clone());
                Some(Script { guise: guise(question), schema, asks: Asks::Rows(transactions) })
            }
        }
    }

    fn statements(&self) -> Vec<&str> {
        match &self.asks {
            Asks::Cast { sql, .. } => vec![sql],
            Asks::Rows(transactions) => transactions.iter().flatten().map(|part| &*part.sql).collect(),
        }
    }

    pub(super) fn is_prepared(&self, session: &Session) -> bool {
        self.statements().iter().all(|sql| session.prepared(self.guise.role(), sql).is_some())
    }

    pub(super) async fn prepare(&self, session: &mut Session) -> Result<(), Unprepared> {
        // Twice at most: a session that is full forgets all statements, ours among them.
        while !self.is_prepared(session) {
            for sql in self.statements() {
                if session.prepared(self.guise.role(), sql).is_none() {
                    session.prepare(&self.guise, sql, self.schema.as_deref()).await?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn forget(&self, session: &mut Session) {
        for sql in self.statements() {
            session.forget(self.guise.role(), sql);
        }
    }

    /// How many statements ask rows.
    pub(super) fn row_statements(&self) -> usize {
        match &self.asks {
            Asks::Cast { .. } => 0,
            Asks::Rows(transactions) => transactions.iter().map(Vec::len).sum(),
        }
    }

    /// The transactions' replies; `None` if a statement is not prepared. `anew`: no plan is used that was there before.
    pub(super) fn send(&self, jobs: &[Job], session: &Session, anew: bool) -> Option<BoxFuture<'static, Vec<Reply>>> {
        let role = self.guise.role();
        let transactions = match &self.asks {
            Asks::Cast { sql, text } => vec![vec![(session.prepared(role, sql)?, vec![text.clone()])]],
            Asks::Rows(transactions) => {
                let questions = questions(jobs)?;
                let bound = |part: &Part| Some((session.prepared(role, &part.sql)?, part.bind(&questions)?));
                transactions.iter().map(|parts| parts.iter().map(bound).collect()).collect::<Option<_>>()?
            }
        };
        let ask = |(n, asked)| session.ask(self.guise.clone(), asked, anew && n == 0);
        let replies: Vec<_> = (0..).zip(transactions).map(ask).collect();
        Some(Box::pin(join_all(replies)))
    }
}

/// All the questions; `None` if one is none.
fn questions(jobs: &[Job]) -> Option<Vec<&Question>> {
    jobs.iter().map(Job::question).collect()
}

fn guise(question: &Question) -> Guise {
    match &question.asked {
        Asked::Policy { identity, .. } => {
            Guise::Identity { role: identity.role.clone(), claims: Arc::clone(&identity.claims) }
        }
        Asked::Channel { question, .. } => Guise::Channel(Arc::clone(question)),
        Asked::Filter { role, .. } | Asked::Json { role, .. } => Guise::Output { role: role.clone() },
    }
}

/// What to do with a question after its replies, if it has not been answered.
pub(super) enum Next {
    /// Its transaction is not visible yet.
    Later(Job),
    /// The table's policies have changed.
    Outdated(Job),
    /// To be asked again, as it now says.
    Again(Job),
    /// The session is gone.
    Lost { job: Job, ordered: bool },
}

/// Asked again this often after a deadlock, or a cancel that was meant for another.
const TRANSIENT_MAX: u32 = 2;
/// The columns are looked up this often for one question: a table that has others each time is not worth waiting for.
const MISFITS_MAX: u32 = 3;

/// Answers the questions of a flight as far as the replies allow it.
pub(super) fn conclude(
    mut jobs: Vec<Job>,
    script: &Script,
    mut replies: Vec<Reply>,
    metrics: &AuthzMetrics,
) -> Vec<Next> {
    let merged = jobs.len() > 1;
    let gone = replies.iter().find_map(|reply| match &reply.rows {
        Err(Trouble::Lost { ordered }) => Some(*ordered),
        _ => None,
    });
    if let Some(ordered) = gone {
        jobs.iter_mut().for_each(|job| job.alone |= merged);
        return jobs.into_iter().map(|job| Next::Lost { job, ordered }).collect();
    }
    // A role that cannot be taken on is the same for all. Anything else may be due to one of them.
    if merged && replies.iter().any(|reply| matches!(reply.rows, Err(Trouble::Transient(_) | Trouble::Statement(_)))) {
        return jobs.into_iter().map(|job| Next::Again(Job { alone: true, ..job })).collect();
    }
    // Postgres forgets plans when it has missed what others changed, and makes them anew as the role, which need not be
    // allowed to use the names that the login may. Once more, as prepared by the login: see `Session::prepare`.
    let of_the_schema = |reply: &Reply| reply.rows.as_ref().is_err_and(Trouble::is_of_the_schema);
    if replies.iter().any(of_the_schema) && jobs.iter().all(|job| !job.prepared_anew) {
        return jobs.into_iter().map(|job| Next::Again(Job { prepared_anew: true, ..job })).collect();
    }
    for reply in &mut replies {
        if let Err(Trouble::Transient(db)) = &reply.rows {
            if jobs.iter().all(|job| job.transients < TRANSIENT_MAX) {
                return jobs
                    .into_iter()
                    .map(|job| Next::Again(Job { transients: job.transients + 1, ..job }))
                    .collect();
            }
            // A policy may raise such codes itself.
            reply.rows = Err(Trouble::Statement(db.clone()));
        }
    }
    match &script.asks {
        Asks::Cast { .. } => {
            for job in jobs {
                metrics.answered(job.kind(), job.asked_at.elapsed());
                conclude_cast(job, std::mem::take(&mut replies));
            }
            Vec::new()
        }
        Asks::Rows(transactions) => conclude_rows(jobs, transactions, replies, metrics),
    }
}

fn conclude_cast(job: Job, replies: Vec<Reply>) {
    let Work::Cast { role, reply, .. } = job.work else { return };
    let answer = match replies.into_iter().next().map(|reply| reply.rows) {
        Some(Ok(rows)) => {
            let text = rows.first().and_then(|rows| rows.first()).and_then(|row| row.try_get(0).ok());
            text.ok_or_else(|| nonsense().into())
        }
        Some(Err(Trouble::Statement(db))) => Err(cast_refused(&db)),
        Some(Err(Trouble::Role(db))) => Err(role_refused(&role, &db).into()),
        _ => Err(nonsense().into()),
    };
    drop(reply.send(answer));
}

fn conclude_rows(jobs: Vec<Job>, transactions: &[Vec<Part>], replies: Vec<Reply>, metrics: &AuthzMetrics) -> Vec<Next> {
    let merged = jobs.len() > 1;
    let Some(questions) = questions(&jobs) else { return Vec::new() };
    let rows: usize = questions.iter().map(|question| question.rows.len()).sum();
    let mut drafts: Vec<Draft> = questions.iter().map(|question| Draft::new(question)).collect();
    // Of the whole flight.
    let mut refusal = None;
    let mut one_by_one = false;
    for (parts, reply) in transactions.iter().zip(replies) {
        match reply.rows {
            Ok(lists) if lists.len() == parts.len() => {
                for (part, rows) in parts.iter().zip(&lists) {
                    if fill(&mut drafts, &questions, part, rows).is_none() {
                        refusal = Some(nonsense());
                    }
                }
            }
            Err(Trouble::Statement(db)) => {
                one_by_one |= rows > 1 && jobs.iter().all(|job| !job.one_by_one);
                // An error of before its own transaction is no answer either.
                for place in parts.iter().flat_map(|part| &part.rows) {
                    let xid = questions.get(place.question).and_then(|question| question.xid);
                    let is_seen = xid.is_none_or(|xid| reply.snapshot.as_ref().is_none_or(|seen| seen.sees(xid)));
                    if let Some(draft) = drafts.get_mut(place.question) {
                        draft.invisible |= !is_seen;
                    }
                }
                // A row alone: it stays failed. Row values must not get into the log: neither does the message.
                tracing::debug!(sqlstate = db.code().code(), "rows could not be judged");
            }
            Err(Trouble::Role(db)) => {
                refusal = jobs.first().map(|job| role_refused(&job.key.role, &db));
            }
            Ok(_) | Err(Trouble::Lost { .. } | Trouble::Transient(_)) => refusal = Some(nonsense()),
        }
    }
    let mut asked = vec![0; jobs.len()];
    for place in transactions.iter().flatten().flat_map(|part| &part.rows) {
        asked[place.question] += 1;
    }
    let next = |((mut job, draft), asked): ((Job, Draft), usize)| {
        if let Some(refusal) = &refusal {
            if merged && !matches!(refusal, OracleError::Role { .. }) {
                return Some(Next::Again(Job { alone: true, ..job }));
            }
            finish(job, Err(refusal.clone()), metrics);
            return None;
        }
        if one_by_one {
            return Some(Next::Again(Job { one_by_one: true, alone: true, ..job }));
        }
        if draft.misfits {
            metrics.misfits.inc();
            job.misfit_count += 1;
            if job.misfit_count > MISFITS_MAX {
                finish(job, Err(OracleError::ColumnGone), metrics);
                return None;
            }
            return Some(Next::Again(Job { misfits: true, alone: true, ..job }));
        }
        if draft.outdated && !draft.invisible {
            if let Answer::Verdicts(verdicts) = draft.answer {
                job.outdated.get_or_insert((Instant::now(), verdicts));
            }
            return Some(Next::Outdated(job));
        }
        if draft.invisible {
            metrics.visibility_waits.inc();
            return Some(Next::Later(job));
        }
        let rows = job.question().map_or(0, |question| question.rows.len());
        metrics.rows_incomplete.inc_by((rows - asked) as u64);
        finish(job, Ok(draft.answer), metrics);
        None
    };
    jobs.into_iter().zip(drafts).zip(asked).filter_map(next).collect()
}

pub(super) fn finish(job: Job, mut answer: Result<Answer, OracleError>, metrics: &AuthzMetrics) {
    if let (Some((_, first)), Some(question), Ok(Answer::Verdicts(verdicts))) =
        (&job.outdated, job.question(), &mut answer)
    {
        both(first, verdicts, &question.rows);
    }
    match &answer {
        Ok(Answer::Verdicts(verdicts)) => {
            let failed = verdicts.iter().filter(|verdict| **verdict == Verdict::Failed).count();
            metrics.rows_failed.inc_by(failed as u64);
        }
        Ok(Answer::Json(rows)) => {
            let failed = rows.iter().filter(|row| row.is_none()).count();
            metrics.rows_failed.inc_by(failed as u64);
        }
        Err(_) => drop(metrics.questions_failed.inc()),
    }
    metrics.answered(job.kind(), job.asked_at.elapsed());
    if let Work::Ask { reply, .. } = job.work {
        drop(reply.send(answer));
    }
}

fn nonsense() -> OracleError {
    OracleError::Refused { sqlstate: "XX000".to_owned(), message: "an answer of another shape".to_owned() }
}

/// An answer while its rows come in; what is never filled in has failed.
struct Draft {
    answer: Answer,
    /// A snapshot that it was asked in does not see its transaction.
    invisible: bool,
    /// The table's columns are others than those that its rows were written for.
    misfits: bool,
    /// So are its policies.
    outdated: bool,
}

impl Draft {
    fn new(question: &Question) -> Draft {
        let rows = question.rows.len();
        let answer = match question.asked {
            Asked::Json { .. } => Answer::Json(vec![None; rows]),
            Asked::Policy { .. } | Asked::Channel { .. } | Asked::Filter { .. } => {
                Answer::Verdicts(vec![Verdict::Failed; rows])
            }
        };
        Draft { answer, invisible: false, misfits: false, outdated: false }
    }

    fn fill(&mut self, place: usize, row: &Row) -> Option<()> {
        match &mut self.answer {
            Answer::Verdicts(verdicts) => {
                let allowed = row.try_get::<_, Option<bool>>(1).ok()? == Some(true);
                *verdicts.get_mut(place)? = if allowed { Verdict::Allowed } else { Verdict::Denied };
            }
            Answer::Json(json) => {
                let column = |n: usize| row.try_get::<_, Option<&str>>(n).map(|text| text.map(Box::from));
                *json.get_mut(place)? = Some((1..row.len()).map(column).collect::<Result<_, _>>().ok()?);
            }
        }
        Some(())
    }
}

/// Puts the rows of a statement into the answers that they are for. `None`: not what was asked for.
fn fill(drafts: &mut [Draft], questions: &[&Question], part: &Part, rows: &[Row]) -> Option<()> {
    if rows.is_empty() {
        // The statement has no rows where the columns differ.
        for place in &part.rows {
            drafts.get_mut(place.question)?.misfits = true;
        }
        return Some(());
    }
    if rows.len() != part.rows.len() {
        return None;
    }
    // One statement, one snapshot.
    let snapshot: Snapshot = rows.first()?.try_get::<_, &str>(0).ok()?.parse().ok()?;
    for (place, row) in part.rows.iter().zip(rows) {
        let draft = drafts.get_mut(place.question)?;
        let question = questions.get(place.question)?;
        draft.outdated |= part.looks_at_policies(question) && !row.try_get::<_, bool>(2).ok()?;
        if question.xid.is_some_and(|xid| !snapshot.sees(xid)) {
            draft.invisible = true;
        }
        draft.fill(place.row, row)?;
    }
    Some(())
}
