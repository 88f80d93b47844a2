//! A question on its way to an answer.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::error::OracleError;
use super::group::{GroupKey, Subject};
use super::question::{Answer, Asked, CastFailure, Question, Verdict};
use super::queue::Ticket;
use crate::authz::metrics::QuestionKind;
use crate::routing::CastRequest;
use crate::wal::pgoutput::RelationId;

/// What is slow or fast as one: a table's policies for a role (casts: a role's).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    pub(super) relation: Option<RelationId>,
    pub(super) role: String,
}

pub(super) enum Work {
    Ask { question: Question, reply: oneshot::Sender<Result<Answer, OracleError>> },
    Cast { role: String, request: CastRequest, reply: oneshot::Sender<Result<String, CastFailure>> },
}

pub(super) struct Job {
    pub(super) key: LaneKey,
    pub(super) work: Work,
    pub(super) asked_at: Instant,
    /// Not put together with others: with them it has failed, and only by itself can it be told who is to blame.
    pub(super) alone: bool,
    /// A statement over all rows has failed: each row is asked alone.
    pub(super) one_by_one: bool,
    /// The table's columns are not those of the row images: they are looked up before it is asked again.
    pub(super) misfits: bool,
    /// How often that has happened.
    pub(super) misfit_count: u32,
    /// The table's policies are not those that it asked by: since when that is known, and what those said.
    pub(super) outdated: Option<(Instant, Vec<Verdict>)>,
    /// Its statements were forgotten and prepared again.
    pub(super) prepared_anew: bool,
    /// How often it was asked without an answer, through no fault of the question.
    pub(super) losses: u32,
    /// How often it was asked again for a reason that is not its own: a deadlock, a cancel meant for another.
    pub(super) transients: u32,
    /// When it was last lost with its session: the sessions of that time may all have gone down together.
    pub(super) lost_at: Option<Instant>,
    /// How often its transaction was not visible yet.
    pub(super) pauses: u32,
    /// Kept until the answer is given.
    pub(super) _ticket: Ticket,
}

impl Job {
    pub(super) fn new(work: Work, ticket: Ticket) -> Job {
        let key = match &work {
            Work::Ask { question, .. } => {
                LaneKey { relation: Some(question.relation.id), role: question.asked.role().to_owned() }
            }
            Work::Cast { role, .. } => LaneKey { relation: None, role: role.clone() },
        };
        Job {
            key,
            work,
            asked_at: Instant::now(),
            alone: false,
            one_by_one: false,
            misfits: false,
            misfit_count: 0,
            outdated: None,
            prepared_anew: false,
            losses: 0,
            transients: 0,
            lost_at: None,
            pauses: 0,
            _ticket: ticket,
        }
    }

    /// Whom it may be asked together with; `number` is nobody's.
    pub(super) fn group(&self, number: u64) -> GroupKey {
        match &self.work {
            Work::Ask { question, .. } if !self.alone => GroupKey::Shared(Arc::new(Subject::of(question))),
            _ => GroupKey::Alone(number),
        }
    }

    /// What of a merged question's bounds it takes: rows and bytes.
    pub(super) fn share(&self) -> (usize, usize) {
        match &self.work {
            Work::Ask { question, .. } => {
                (question.rows.len(), question.rows.iter().map(|row| row.literal.len()).sum())
            }
            Work::Cast { .. } => (1, 0),
        }
    }

    pub(super) fn question(&self) -> Option<&Question> {
        match &self.work {
            Work::Ask { question, .. } => Some(question),
            Work::Cast { .. } => None,
        }
    }

    pub(super) fn kind(&self) -> QuestionKind {
        match &self.work {
            Work::Ask { question, .. } => match question.asked {
                Asked::Policy { .. } => QuestionKind::Policy,
                Asked::Channel { .. } => QuestionKind::Channel,
                Asked::Filter { .. } => QuestionKind::Filter,
                Asked::Json { .. } => QuestionKind::Json,
            },
            Work::Cast { .. } => QuestionKind::Cast,
        }
    }

    /// Whoever asked does not want to know any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match &self.work {
            Work::Ask { reply, .. } => reply.is_closed(),
            Work::Cast { reply, .. } => reply.is_closed(),
        }
    }

    pub(super) fn fail(self, error: OracleError) {
        match self.work {
            Work::Ask { reply, .. } => drop(reply.send(Err(error))),
            Work::Cast { reply, .. } => drop(reply.send(Err(error.into()))),
        }
    }
}

/// What the question's memory is worth, roughly.
pub(super) fn size_of(question: &Question) -> usize {
    let rows: usize = question.rows.iter().map(|row| row.literal.len() + 64).sum();
    let claims = match &question.asked {
        Asked::Policy { identity, .. } => identity.claims.len(),
        Asked::Channel { question, .. } => {
            question.identity.claims.len() + question.topic.len() + question.headers.len()
        }
        Asked::Filter { expression, .. } => expression.len(),
        Asked::Json { .. } => 0,
    };
    rows + claims + 512
}
