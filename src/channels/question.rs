//! What a session waits for before it goes on: the answers of those who know policies, and rows.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot::Receiver;

use super::replay::{ReplayError, Replayed};
use crate::authz::{TopicError, TopicGrant};

/// The server polls it, reads nothing from the client meanwhile, and gives the session the answer.
pub enum Question {
    Topic(Receiver<Result<TopicGrant, TopicError>>),
    Replay(Receiver<Result<Vec<Replayed>, ReplayError>>),
}

#[derive(Debug)]
pub enum Answer {
    Topic(Result<TopicGrant, TopicError>),
    Replay(Result<Vec<Replayed>, ReplayError>),
}

impl Question {
    /// Who was asked and is no more has not said yes.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Answer> {
        match self {
            Question::Topic(answer) => Pin::new(answer)
                .poll(context)
                .map(|answer| Answer::Topic(answer.unwrap_or(Err(TopicError::Unavailable)))),
            Question::Replay(answer) => {
                Pin::new(answer).poll(context).map(|answer| Answer::Replay(answer.unwrap_or(Err(ReplayError::Failed))))
            }
        }
    }
}
