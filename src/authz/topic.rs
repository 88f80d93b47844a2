//! Who may read from and write to a private channel: the policies of `realtime.messages` (PROTOCOL 5).
//!
//! The question is what Postgres would answer of a probe row under the role, the claims, `realtime.topic` and
//! `request.headers`: SELECT policies for reading, INSERT policies (WITH CHECK) for writing. A policy that raises an error
//! grants nothing.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Identity;

/// May this person read this topic, or write to it?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicQuestion {
    pub identity: Arc<Identity>,
    /// Without `realtime:`: what `realtime.topic()` returns.
    pub topic: Arc<str>,
    /// A JSON object's text: what `current_setting('request.headers')` returns.
    pub headers: Arc<str>,
    pub right: TopicRight,
    /// Whether presence is asked about too; broadcast always is.
    pub presence: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopicRight {
    Read,
    Write,
}

/// What is granted, by the `extension` of the probe row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicGrant {
    pub broadcast: bool,
    /// `false` where it was not asked about.
    pub presence: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// `realtime.messages` is not there, or there is no login to ask with.
    #[error("Realtime was unable to connect to the project database")]
    Unavailable,
    /// It took longer than the limit, or was cancelled.
    #[error("Query was cancelled, please try again")]
    Cancelled,
}

/// Who answers such questions: dispatch, or a test. Asking never waits; a receiver that is dropped takes nothing with it.
pub trait TopicAuthority: Send + Sync {
    fn ask(&self, question: TopicQuestion) -> oneshot::Receiver<Result<TopicGrant, TopicError>>;
}
