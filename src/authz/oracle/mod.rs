//! Asking Postgres itself, under the subscriber's role and claims, over row images.

pub mod error;
pub mod login;
pub mod question;

use tokio::sync::oneshot;

pub use error::OracleError;
pub use login::{LoginError, check_login};
pub use question::{Answer, Asked, CastFailure, CastQuestion, Question, Verdict};

/// A handle; cheap to clone.
#[derive(Clone)]
pub struct Oracle {}

impl Oracle {
    /// The oracle of whoever has configured none: it answers nothing, which denies.
    pub fn absent() -> Oracle {
        Oracle {}
    }

    /// Never blocks. The answer is an error where nothing could be decided, which denies.
    pub fn ask(&self, _question: Question) -> oneshot::Receiver<Result<Answer, OracleError>> {
        let (reply, answer) = oneshot::channel();
        let _ = reply.send(Err(OracleError::NoOracle));
        answer
    }

    /// Has Postgres check a filter's value; its canonical text.
    pub async fn cast(&self, _question: CastQuestion) -> Result<String, CastFailure> {
        Err(OracleError::NoOracle.into())
    }
}
