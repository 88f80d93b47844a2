//! What was broadcast from the database before a join (PROTOCOL 3.7).

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

/// At most so many messages are replayed.
pub const LIMIT_MAX: u32 = 25;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayRequest {
    /// Without `realtime:`. Private; nothing public is replayed.
    pub topic: Arc<str>,
    /// Unix milliseconds.
    pub since: i64,
    /// 1 to [`LIMIT_MAX`].
    pub limit: u32,
}

/// A row of `realtime.messages`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    pub id: Box<str>,
    pub event: Box<str>,
    pub payload: ReplayedPayload,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayedPayload {
    /// The text of the `jsonb`.
    Json(Box<str>),
    Binary(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// `since` is no time that Postgres knows.
    #[error("Replay params are not valid")]
    BadParams,
    #[error("Realtime was unable to replay messages")]
    Failed,
}

/// Who reads them: a task with a database connection, or a test. Oldest first.
pub trait Replayer: Send + Sync {
    fn replay(&self, request: ReplayRequest) -> oneshot::Receiver<Result<Vec<Replayed>, ReplayError>>;
}
