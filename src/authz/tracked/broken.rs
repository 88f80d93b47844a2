//! Why what is kept of a table is not its contents any more.

/// The table has to be loaded again. Says nothing of the rows themselves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("the stream changes a row that is not there")]
    RowNotFound,
    #[error("the stream adds a row that is there already")]
    Duplicate,
    #[error("the stream does not name rows by the key of the table's replica identity")]
    Identity,
    #[error("the stream does not carry column {0}")]
    Missing(String),
    #[error("column {0} was altered")]
    Altered(String),
    #[error("a value of column {column} cannot be kept: {why}")]
    Value { column: String, why: String },
    #[error("a frame of the stream cannot be read: {0}")]
    Frame(String),
    #[error("a transaction changed more of it than is held at once")]
    TooManyChanges,
    #[error("a change was too large to be read")]
    Unread,
    #[error("it was rewritten")]
    Rewritten,
    #[error("the stream begins anew")]
    StreamLost,
}

impl Broken {
    /// In one word, for a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Broken::RowNotFound => "row_not_found",
            Broken::Duplicate => "duplicate",
            Broken::Identity => "identity",
            Broken::Missing(_) | Broken::Altered(_) => "altered",
            Broken::Value { .. } => "value",
            Broken::Frame(_) | Broken::Unread => "unread",
            Broken::TooManyChanges => "too_many_changes",
            Broken::Rewritten => "rewritten",
            Broken::StreamLost => "stream_lost",
        }
    }
}
