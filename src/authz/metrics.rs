//! What the oracle is asked, how long it takes, and what is denied because it failed.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum QuestionKind {
    Policy,
    Channel,
    Filter,
    Json,
    Cast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum LaneName {
    Fast,
    Slow,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    pub kind: QuestionKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LaneLabel {
    pub lane: LaneName,
}

/// The room's numbers.
#[derive(Debug)]
pub struct AuthzMetrics {
    pub questions: Family<KindLabel, Counter>,
    /// Statements that questions were put in; fewer than these where some were merged.
    pub statements: Counter,
    pub question_seconds: Histogram,
    /// Rows denied because their evaluation failed: an error in the policy, a value that could not be turned into JSON,
    /// or a column that the image lacks.
    pub rows_failed: Counter,
    /// Of these, rows whose image lacks a column that is read.
    pub rows_incomplete: Counter,
    pub timeouts: Counter,
    /// Questions that were not answered for any reason, timeouts included.
    pub questions_failed: Counter,
    /// Answers thrown away because their snapshot did not see the change's transaction yet.
    pub visibility_waits: Counter,
    /// Questions asked again because the table's columns were no longer those of the row images.
    pub misfits: Counter,
    /// Answers thrown away because the table's policies were not those that were asked by.
    pub outdated: Counter,
    /// Questions moved to the slow lane.
    pub slow_questions: Counter,
    pub sessions: Family<LaneLabel, Gauge>,
    pub sessions_lost: Counter,
}

impl Default for AuthzMetrics {
    fn default() -> Self {
        // From what a prepared question over a socket takes (30 us) to the default deadline.
        let seconds = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0];
        AuthzMetrics {
            questions: Family::default(),
            statements: Counter::default(),
            question_seconds: Histogram::new(seconds),
            rows_failed: Counter::default(),
            rows_incomplete: Counter::default(),
            timeouts: Counter::default(),
            questions_failed: Counter::default(),
            visibility_waits: Counter::default(),
            misfits: Counter::default(),
            outdated: Counter::default(),
            slow_questions: Counter::default(),
            sessions: Family::default(),
            sessions_lost: Counter::default(),
        }
    }
}

impl AuthzMetrics {
    pub fn register(registry: &mut Registry) -> Arc<AuthzMetrics> {
        let metrics = AuthzMetrics::default();
        let registry = registry.sub_registry_with_prefix("oracle");
        registry.register("questions", "Questions asked of the database", metrics.questions.clone());
        registry.register("statements", "Statements that rows were asked in", metrics.statements.clone());
        let seconds = metrics.question_seconds.clone();
        registry.register("question_seconds", "From asking to the answer, waiting included", seconds);
        let failed = metrics.rows_failed.clone();
        registry.register("rows_failed", "Rows denied because their evaluation failed", failed);
        let incomplete = metrics.rows_incomplete.clone();
        registry.register("rows_incomplete", "Rows denied because their image lacks a column", incomplete);
        registry.register("timeouts", "Questions not answered within the deadline", metrics.timeouts.clone());
        let failed = metrics.questions_failed.clone();
        registry.register("questions_failed", "Questions that got no answer, which denies", failed);
        let waits = metrics.visibility_waits.clone();
        registry.register("visibility_waits", "Answers that did not see the transaction yet", waits);
        let misfits = metrics.misfits.clone();
        registry.register("misfits", "Questions asked again for the columns that their table has by now", misfits);
        let outdated = metrics.outdated.clone();
        registry.register("outdated", "Questions asked again by policies that have changed meanwhile", outdated);
        let slow = metrics.slow_questions.clone();
        registry.register("slow_questions", "Questions moved to the slow lane", slow);
        registry.register("sessions", "Sessions that are up", metrics.sessions.clone());
        registry.register("sessions_lost", "Sessions that ended unasked", metrics.sessions_lost.clone());
        Arc::new(metrics)
    }

    pub(super) fn answered(&self, kind: QuestionKind, took: Duration) {
        self.questions.get_or_create(&KindLabel { kind }).inc();
        self.question_seconds.observe(took.as_secs_f64());
    }
}
