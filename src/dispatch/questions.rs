//! Questions on their way to the oracle, with bounds that keep one table's trouble to itself.
//!
//! The oracle refuses what it has no room for, and a refusal denies; so no more is asked than it takes. Each table has a
//! share of that, and what exceeds it waits in the table's own queue. A table whose questions ran into the time limit is
//! *troubled* for a while: it may have a few questions under way, more are denied at once. Otherwise a policy that
//! sleeps would first fill every bound and then hold up the stream for everybody.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::pending::Asked;
use crate::authz::{Answer, Oracle, OracleError, Question};
use crate::catalog::Relation;
use crate::wal::pgoutput::RelationId;

/// Under way at once, over all tables: half of what the oracle's own bound lets in.
const BYTES_MAX: usize = 32 << 20;
/// Under way at once for one table: a quarter of all, so that three tables in trouble leave room for the others.
const TABLE_BYTES_MAX: usize = BYTES_MAX / 4;
const TABLE_QUESTIONS_MAX: usize = 1024;
/// Waiting to be asked, over all tables; the stream is read no further past it.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// How long a table counts as troubled after a question ran into the time limit, and what it may have under way then.
const TROUBLED_FOR: Duration = Duration::from_secs(30);
const TROUBLED_QUESTIONS_MAX: usize = 8;

/// An answer, and whose it is.
pub struct Answered {
    pub asked: Arc<Asked>,
    pub relation: Arc<Relation>,
    pub answer: Result<Answer, OracleError>,
    bytes: usize,
}

type AnswerOf = std::pin::Pin<Box<dyn Future<Output = Answered> + Send>>;

#[derive(Default)]
struct Table {
    waiting: VecDeque<(Arc<Asked>, Question, usize)>,
    questions: usize,
    bytes: usize,
    troubled_until: Option<Instant>,
}

/// All questions that are asked or to be asked.
pub struct Questions {
    oracle: Oracle,
    under_way: FuturesUnordered<AnswerOf>,
    bytes: usize,
    waiting_bytes: usize,
    tables: HashMap<RelationId, Table, RandomState>,
    /// When trouble with a table was last worth a word in the log.
    logged: HashMap<RelationId, Instant, RandomState>,
}

/// Between two words about the same table. A troubled one denies thousands of questions a second.
const LOG_PAUSE: Duration = Duration::from_secs(10);
/// Tables that are remembered for that.
const LOGGED_MAX: usize = 1024;

impl Questions {
    pub fn new(oracle: Oracle) -> Questions {
        let under_way = FuturesUnordered::new();
        Questions {
            oracle,
            under_way,
            bytes: 0,
            waiting_bytes: 0,
            tables: HashMap::default(),
            logged: HashMap::default(),
        }
    }

    /// Whether more may be put in.
    pub fn has_room(&self) -> bool {
        self.waiting_bytes < WAITING_BYTES_MAX
    }

    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Asks as soon as there is room.
    pub fn put(&mut self, asked: Arc<Asked>, question: Question) {
        let relation = question.relation.id;
        // What a question costs beside its rows: the plan's text is shared.
        let bytes = 256 + question.rows.iter().map(|row| row.literal.len()).sum::<usize>();
        let table = self.tables.entry(relation).or_default();
        table.waiting.push_back((asked, question, bytes));
        self.waiting_bytes += bytes;
        self.ask(relation);
    }

    /// The next answer; pending for ever when nothing is under way.
    pub async fn next(&mut self) -> Answered {
        match self.under_way.next().await {
            Some(answered) => answered,
            None => std::future::pending().await,
        }
    }

    /// Gives back an answered question's share, and asks what waited for it.
    pub fn settle(&mut self, answered: &Answered) {
        let relation = answered.relation.id;
        self.bytes -= answered.bytes;
        if let Some(table) = self.tables.get_mut(&relation) {
            table.questions -= 1;
            table.bytes -= answered.bytes;
            if matches!(answered.answer, Err(OracleError::Timeout(_))) {
                table.troubled_until = Some(Instant::now() + TROUBLED_FOR);
            }
        }
        self.ask(relation);
        // Others may have waited for the common share; few tables ever do.
        if self.waiting_bytes > 0 {
            let waiting = self.tables.iter().filter(|(_, table)| !table.waiting.is_empty());
            for relation in waiting.map(|(relation, _)| *relation).collect::<Vec<_>>() {
                self.ask(relation);
            }
        }
    }

    /// Whether to log that a table's question has no answer.
    pub fn is_worth_a_word(&mut self, relation: RelationId) -> bool {
        let now = Instant::now();
        if self.logged.get(&relation).is_some_and(|at| now < *at + LOG_PAUSE) {
            return false;
        }
        if self.logged.len() >= LOGGED_MAX {
            self.logged.clear();
        }
        self.logged.insert(relation, now);
        true
    }

    fn ask(&mut self, relation: RelationId) {
        let Some(table) = self.tables.get_mut(&relation) else { return };
        let now = Instant::now();
        let troubled = table.troubled_until.is_some_and(|until| now < until);
        while let Some((_, _, bytes)) = table.waiting.front() {
            let bytes = *bytes;
            let alone = table.questions == 0;
            let fits = table.questions < TABLE_QUESTIONS_MAX
                && (alone || (table.bytes + bytes <= TABLE_BYTES_MAX && self.bytes + bytes <= BYTES_MAX));
            let denied = troubled && table.questions >= TROUBLED_QUESTIONS_MAX;
            if !fits && !denied {
                return;
            }
            let Some((asked, question, bytes)) = table.waiting.pop_front() else { return };
            self.waiting_bytes -= bytes;
            table.questions += 1;
            table.bytes += bytes;
            self.bytes += bytes;
            let relation = Arc::clone(&question.relation);
            if denied {
                let answer = Err(OracleError::Overloaded);
                self.under_way.push(Box::pin(std::future::ready(Answered { asked, relation, answer, bytes })));
                continue;
            }
            let answer = self.oracle.ask(question);
            self.under_way.push(Box::pin(async move {
                let answer = answer.await.unwrap_or(Err(OracleError::Closed));
                Answered { asked, relation, answer, bytes }
            }));
        }
        if table.questions == 0 && !troubled {
            self.tables.remove(&relation);
        }
    }
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
