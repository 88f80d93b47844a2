//! What `walcast.send` says.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::message::{Dropped, Message};
use super::waiting::Answered;
use super::{Broadcasts, Delivering};
use crate::authz::{Identity, TopicError, TopicQuestion, TopicRight};
use crate::channels::outbox::Burst;

/// Why a message that says that it is `walcast.send`'s is not broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it is not signed by walcast.send")]
    Forged,
    #[error("it is signed for another transaction")]
    Replayed,
    #[error("it is signed, but not of a form that this walcast knows: another version's setup was run")]
    Unreadable,
    #[error("its sender may not write to the topic")]
    Unauthorized,
    #[error("whether its sender may write to the topic could not be decided")]
    Undecided,
}

impl Refused {
    pub fn label(self) -> &'static str {
        match self {
            Refused::Forged => "forged",
            Refused::Replayed => "replayed",
            Refused::Unreadable => "unreadable",
            Refused::Unauthorized => "unauthorized",
            Refused::Undecided => "undecided",
        }
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    xid: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    private: bool,
    /// Whose rights it was sent with.
    #[serde(borrow)]
    role: Cow<'a, str>,
    /// `request.jwt.claims`, if there were any.
    #[serde(borrow)]
    claims: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

impl Broadcasts {
    /// A logical message of a transaction. Gives how many channels it was queued for.
    pub fn logical(&mut self, content: &[u8], xid: u32, delivering: &mut Delivering<'_>) -> usize {
        let opened = self.key.as_ref().and_then(|key| key.open(content)).ok_or(Refused::Forged);
        let body = opened.and_then(|body| serde_json::from_slice::<Body<'_>>(body).map_err(|_| Refused::Unreadable));
        // The stream names a transaction by the lower half of its id.
        let body = body.and_then(|body| match body.xid.parse::<u64>() {
            Ok(signed) if signed & u64::from(u32::MAX) == u64::from(xid) => Ok(body),
            Ok(_) => Err(Refused::Replayed),
            Err(_) => Err(Refused::Unreadable),
        });
        match body {
            Ok(body) => self.send(&body, delivering),
            Err(why) => self.refused(why),
        }
    }

    fn send(&mut self, body: &Body<'_>, delivering: &mut Delivering<'_>) -> usize {
        let message = Message {
            private: body.private,
            topic: &body.topic,
            event: &body.event,
            id: &body.id,
            payload: Cow::Borrowed(body.payload.get().as_bytes()),
            is_binary: false,
        };
        if !message.is_sayable() {
            return self.dropped(Dropped::TooLong);
        }
        // Anybody may write to a public topic, as over a socket.
        if !message.private {
            return self.deliver(&message, delivering);
        }
        let Some(authority) = &self.authority else { return self.refused(Refused::Undecided) };
        let claims = body.claims.as_deref().unwrap_or("{}");
        let question = TopicQuestion {
            identity: Arc::new(Identity { role: body.role.clone().into_owned(), claims: claims.into() }),
            topic: message.topic.into(),
            headers: "{}".into(),
            right: TopicRight::Write,
            presence: false,
        };
        if self.waiting.is_full() {
            self.waiting.push_unasked(&message, question, delivering.ticket, delivering.budget);
            return 0;
        }
        let mut answer = authority.ask(question);
        // Policies that are compiled are answered at once.
        if let Ok(answer) = answer.try_recv() {
            return match verdict(Ok(answer)) {
                Ok(()) => self.deliver(&message, delivering),
                Err(why) => self.refused(why),
            };
        }
        self.waiting.push_asked(&message, answer, delivering.ticket, delivering.budget);
        0
    }

    fn refused(&mut self, why: Refused) -> usize {
        self.metrics.refused(why);
        if let Some(others) = self.words.may_say(why.label()) {
            tracing::warn!(%why, others, "a logical message that says it is walcast.send's is not broadcast");
        }
        0
    }

    /// The next answer; never, without a question.
    pub async fn next(&mut self) -> Answered {
        self.waiting.next().await
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What waited for it, and behind it.
    pub fn answered(&mut self, answered: Answered, burst: &mut Burst) {
        let Answered { topic, number, answer } = answered;
        if let Err(why) = verdict(answer) {
            self.waiting.refuse(&topic, number);
            self.refused(why);
        } else {
            self.waiting.allow(&topic, number);
        }
        while let Some(pending) = self.waiting.pop_decided(&topic) {
            self.broadcast(&pending.message(), burst);
        }
        if let Some(authority) = &self.authority {
            self.waiting.ask_more(&**authority);
        }
    }
}

/// Nothing fails open.
fn verdict(answer: super::waiting::Answer) -> Result<(), Refused> {
    match answer {
        Ok(Ok(grant)) if grant.broadcast => Ok(()),
        Ok(Ok(_)) => Err(Refused::Unauthorized),
        Ok(Err(TopicError::Unavailable | TopicError::Cancelled)) | Err(_) => Err(Refused::Undecided),
    }
}
