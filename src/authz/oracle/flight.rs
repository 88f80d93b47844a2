//! A question that has been sent, and what becomes of it.

use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use tokio_postgres::Row;

use super::error::OracleError;
use super::job::{Job, Work};
use super::question::{Answer, Asked, Question, Verdict};
use super::session::{Guise, Session};
use super::statement::{Part, parts};
use super::trouble::{Trouble, cast_refused, refused, role_refused};
use crate::authz::metrics::AuthzMetrics;
use crate::catalog::Snapshot;

/// One transaction's rows, a list per statement.
type Reply = Result<Vec<Vec<Row>>, Trouble>;

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
    pub(super) fn of(job: &Job) -> Script {
        match &job.work {
            Work::Cast { role, request, .. } => Script {
                guise: Guise::Output { role: role.clone() },
                schema: None,
                asks: Asks::Cast { sql: request.statement(), text: request.text.clone() },
            },
            Work::Ask { question, .. } => {
                let all = parts(question);
                let transactions = if job.one_by_one {
                    all.iter().flat_map(Part::one_by_one).map(|part| vec![part]).collect()
                } else if all.is_empty() {
                    Vec::new()
                } else {
                    vec![all]
                };
                let schema = Some(question.relation.schema.clone());
                Script { guise: guise(question), schema, asks: Asks::Rows(transactions) }
            }
        }
    }

    fn statements(&self) -> Vec<&str> {
        match &self.asks {
            Asks::Cast { sql, .. } => vec![sql],
            Asks::Rows(transactions) => transactions.iter().flatten().map(|part| part.sql.as_str()).collect(),
        }
    }

    pub(super) fn is_prepared(&self, session: &Session) -> bool {
        self.statements().iter().all(|sql| session.prepared(self.guise.role(), sql).is_some())
    }

    pub(super) async fn prepare(&self, session: &mut Session) -> Result<(), Trouble> {
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

    /// The transactions' replies; `None` if a statement is not prepared.
    pub(super) fn send(&self, job: &Job, session: &Session) -> Option<BoxFuture<'static, Vec<Reply>>> {
        let role = self.guise.role();
        let transactions = match (&self.asks, &job.work) {
            (Asks::Cast { sql, text }, _) => vec![vec![(session.prepared(role, sql)?, vec![text.clone()])]],
            (Asks::Rows(transactions), Work::Ask { question, .. }) => {
                let bound = |part: &Part| Some((session.prepared(role, &part.sql)?, part.bind(question)));
                transactions.iter().map(|parts| parts.iter().map(bound).collect()).collect::<Option<_>>()?
            }
            (Asks::Rows(_), Work::Cast { .. }) => return None,
        };
        let replies: Vec<_> = transactions.into_iter().map(|asked| session.ask(self.guise.clone(), asked)).collect();
        Some(Box::pin(join_all(replies)))
    }
}

fn guise(question: &Question) -> Guise {
    match &question.asked {
        Asked::Policy { identity, .. } => {
            Guise::Identity { role: identity.role.clone(), claims: Arc::clone(&identity.claims) }
        }
        Asked::Filter { role, .. } | Asked::Json { role, .. } => Guise::Output { role: role.clone() },
    }
}

/// What to do with a question after its replies.
pub(super) enum Next {
    /// It has been answered.
    Done,
    /// Its transaction is not visible yet.
    Later(Job),
    /// To be asked again, as it now says.
    Again(Job),
    /// The session is gone.
    Lost { job: Job, ordered: bool },
}

/// Asked again this often after a deadlock, or a cancel that was meant for another.
const TRANSIENT_MAX: u32 = 2;

/// Answers the question, if the replies allow it.
pub(super) fn conclude(mut job: Job, script: &Script, mut replies: Vec<Reply>, metrics: &AuthzMetrics) -> Next {
    let gone = replies.iter().find_map(|reply| match reply {
        Err(Trouble::Lost { ordered }) => Some(*ordered),
        _ => None,
    });
    if let Some(ordered) = gone {
        return Next::Lost { job, ordered };
    }
    for reply in &mut replies {
        if let Err(Trouble::Transient(db)) = reply {
            if job.transients < TRANSIENT_MAX {
                job.transients += 1;
                return Next::Again(job);
            }
            // A policy may raise such codes itself.
            *reply = Err(Trouble::Statement(db.clone()));
        }
    }
    match job.work {
        Work::Cast { .. } => {
            metrics.answered(job.kind(), job.asked_at.elapsed());
            conclude_cast(job, replies)
        }
        Work::Ask { .. } => conclude_rows(job, script, replies, metrics),
    }
}

fn conclude_cast(job: Job, replies: Vec<Reply>) -> Next {
    let Work::Cast { role, reply, .. } = job.work else { return Next::Done };
    let answer = match replies.into_iter().next() {
        Some(Ok(rows)) => {
            let text = rows.first().and_then(|rows| rows.first()).and_then(|row| row.try_get(0).ok());
            text.ok_or_else(|| nonsense().into())
        }
        Some(Err(Trouble::Statement(db))) => Err(cast_refused(&db)),
        Some(Err(Trouble::Role(db))) => Err(role_refused(&role, &db).into()),
        _ => Err(nonsense().into()),
    };
    drop(reply.send(answer));
    Next::Done
}

fn conclude_rows(mut job: Job, script: &Script, replies: Vec<Reply>, metrics: &AuthzMetrics) -> Next {
    let (Work::Ask { question, .. }, Asks::Rows(transactions)) = (&job.work, &script.asks) else {
        return Next::Done;
    };
    let mut answer = Draft::new(question);
    let mut refusal = None;
    for (parts, reply) in transactions.iter().zip(replies) {
        match reply {
            Ok(lists) if lists.len() == parts.len() => {
                for (part, rows) in parts.iter().zip(&lists) {
                    match answer.fill(question, part, rows) {
                        Some(true) => {}
                        Some(false) => {
                            metrics.visibility_waits.inc();
                            return Next::Later(job);
                        }
                        None => refusal = Some(nonsense()),
                    }
                }
            }
            Err(Trouble::Statement(_)) if !job.one_by_one && question.rows.len() > 1 && !is_json(question) => {
                job.one_by_one = true;
                return Next::Again(job);
            }
            // The row's verdict stays Failed. Row values must not get into the log: neither does the message.
            Err(Trouble::Statement(db)) if !is_json(question) => {
                tracing::debug!(table = %question.relation.name, sqlstate = db.code().code(), "a row could not be judged");
            }
            Err(Trouble::Statement(db)) => refusal = Some(refused(&db)),
            Err(Trouble::Role(db)) => refusal = Some(role_refused(&job.key.role, &db)),
            Ok(_) | Err(Trouble::Lost { .. } | Trouble::Transient(_)) => refusal = Some(nonsense()),
        }
    }
    let incomplete = question.rows.len() - transactions.iter().flatten().map(|part| part.rows.len()).sum::<usize>();
    metrics.rows_incomplete.inc_by(incomplete as u64);
    if is_json(question) && incomplete > 0 {
        refusal = Some(OracleError::Incomplete);
    }
    finish(job, refusal.map_or_else(|| Ok(answer.done()), Err), metrics);
    Next::Done
}

fn finish(job: Job, answer: Result<Answer, OracleError>, metrics: &AuthzMetrics) {
    match &answer {
        Ok(Answer::Verdicts(verdicts)) => {
            let failed = verdicts.iter().filter(|verdict| **verdict == Verdict::Failed).count();
            metrics.rows_failed.inc_by(failed as u64);
        }
        Ok(Answer::Json(_)) => {}
        Err(_) => drop(metrics.questions_failed.inc()),
    }
    metrics.answered(job.kind(), job.asked_at.elapsed());
    if let Work::Ask { reply, .. } = job.work {
        drop(reply.send(answer));
    }
}

fn is_json(question: &Question) -> bool {
    matches!(question.asked, Asked::Json { .. })
}

fn nonsense() -> OracleError {
    OracleError::Refused { sqlstate: "XX000".to_owned(), message: "an answer of another shape".to_owned() }
}

/// An answer while its rows come in.
enum Draft {
    Verdicts(Vec<Verdict>),
    Json(Vec<Vec<Option<Box<str>>>>),
}

impl Draft {
    fn new(question: &Question) -> Draft {
        match is_json(question) {
            true => Draft::Json(vec![Vec::new(); question.rows.len()]),
            false => Draft::Verdicts(vec![Verdict::Failed; question.rows.len()]),
        }
    }

    /// `Some(false)`: the snapshot does not see the transaction. `None`: not what was asked for.
    fn fill(&mut self, question: &Question, part: &Part, rows: &[Row]) -> Option<bool> {
        if rows.len() != part.rows.len() {
            return None;
        }
        for (place, row) in part.rows.iter().zip(rows) {
            if let Some(xid) = question.xid
                && !row.try_get::<_, &str>(0).ok()?.parse::<Snapshot>().ok()?.sees(xid)
            {
                return Some(false);
            }
            match self {
                Draft::Verdicts(verdicts) => {
                    let allowed = row.try_get::<_, Option<bool>>(1).ok()? == Some(true);
                    verdicts[*place] = if allowed { Verdict::Allowed } else { Verdict::Denied };
                }
                Draft::Json(json) => {
                    let column = |n: usize| row.try_get::<_, Option<&str>>(n).map(|text| text.map(Box::from));
                    json[*place] = (1..row.len()).map(column).collect::<Result<_, _>>().ok()?;
                }
            }
        }
        Some(true)
    }

    fn done(self) -> Answer {
        match self {
            Draft::Verdicts(verdicts) => Answer::Verdicts(verdicts),
            Draft::Json(json) => Answer::Json(json),
        }
    }
}
