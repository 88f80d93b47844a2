//! Messages that wait for an answer, or behind one that does, in the order of their private topic.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::message::Message;
use crate::authz::{TopicAuthority, TopicError, TopicGrant, TopicQuestion};
use crate::dispatch::pending::Ticket;

/// Questions that are open at once. Each must be answered within the oracle's deadline, and joins ask there too: what one
/// transaction sends to thousands of topics would be refused for having waited behind itself.
pub(super) const ASKED_MAX: usize = 64;

pub(super) type Answer = Result<Result<TopicGrant, TopicError>, oneshot::error::RecvError>;

/// What became of a question.
pub struct Answered {
    pub(super) topic: Arc<str>,
    pub(super) number: u64,
    pub(super) answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Asked(u64),
    Allowed,
    Refused,
}

/// A copy of the message. It holds its transaction's ticket, and counts against the bytes that may be pending.
pub(super) struct Pending {
    topic: Arc<str>,
    event: Box<str>,
    id: Box<str>,
    payload: Box<[u8]>,
    is_binary: bool,
    verdict: Verdict,
    bytes: usize,
    budget: Arc<AtomicUsize>,
    _ticket: Arc<Ticket>,
}

impl Pending {
    pub(super) fn message(&self) -> Message<'_> {
        Message {
            private: true,
            topic: &self.topic,
            event: &self.event,
            id: &self.id,
            payload: (&*self.payload).into(),
            is_binary: self.is_binary,
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(super) struct Waiting {
    topics: HashMap<Arc<str>, VecDeque<Pending>>,
    answers: FuturesUnordered<Pin<Box<dyn Future<Output = Answered> + Send>>>,
    /// To be asked when others have been answered, in the stream's order.
    unasked: VecDeque<(Arc<str>, u64, TopicQuestion)>,
    number: u64,
}

impl Waiting {
    pub(super) fn has(&self, topic: &str) -> bool {
        !self.topics.is_empty() && self.topics.contains_key(topic)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub(super) fn push_allowed(&mut self, message: &Message<'_>, ticket: &Arc<Ticket>, budget: &Arc<AtomicUsize>) {
        self.push(message, Verdict::Allowed, 0, ticket, budget);
    }

    /// Whether another question has to wait until one has been answered.
    pub(super) fn is_full(&self) -> bool {
        self.answers.len() >= ASKED_MAX || !self.unasked.is_empty()
    }

    pub(super) fn push_unasked(
        &mut self,
        message: &Message<'_>,
        question: TopicQuestion,
        ticket: &Arc<Ticket>,
        budget: &Arc<AtomicUsize>,
    ) {
        self.number += 1;
        let number = self.number;
        let bytes = size_of::<TopicQuestion>() + question.identity.claims.len() + question.topic.len();
        let topic = self.push(message, Verdict::Asked(number), bytes, ticket, budget);
        self.unasked.push_back((topic, number, question));
    }

    pub(super) fn ask_more(&mut self, authority: &dyn TopicAuthority) {
        while self.answers.len() < ASKED_MAX
            && let Some((topic, number, question)) = self.unasked.pop_front()
        {
            self.wait_for(topic, number, authority.ask(question));
        }
    }

    pub(super) fn push_asked(
        &mut self,
        message: &Message<'_>,
        answer: oneshot::Receiver<Result<TopicGrant, TopicError>>,
        ticket: &Arc<Ticket>,
        budget: &Arc<AtomicUsize>,
    ) {
        self.number += 1;
        let number = self.number;
        let topic = self.push(message, Verdict::Asked(number), 0, ticket, budget);
        self.wait_for(topic, number, answer);
    }

    fn wait_for(&mut self, topic: Arc<str>, number: u64, answer: oneshot::Receiver<Result<TopicGrant, TopicError>>) {
        self.answers.push(Box::pin(async move { Answered { topic, number, answer: answer.await } }));
    }

    fn push(
        &mut self,
        message: &Message<'_>,
        verdict: Verdict,
        question_bytes: usize,
        ticket: &Arc<Ticket>,
        budget: &Arc<AtomicUsize>,
    ) -> Arc<str> {
        let topic = match self.topics.get_key_value(message.topic) {
            Some((topic, _)) => Arc::clone(topic),
            None => message.topic.into(),
        };
        let names = message.topic.len() + message.event.len();
        let bytes = size_of::<Pending>() + names + message.payload.len() + question_bytes;
        budget.fetch_add(bytes, Ordering::Relaxed);
        self.topics.entry(Arc::clone(&topic)).or_default().push_back(Pending {
            topic: Arc::clone(&topic),
            event: message.event.into(),
            id: message.id.into(),
            payload: message.payload.as_ref().into(),
            is_binary: message.is_binary,
            verdict,
            bytes,
            budget: Arc::clone(budget),
            _ticket: Arc::clone(ticket),
        });
        topic
    }

    /// Safe to cancel.
    pub(super) async fn next(&mut self) -> Answered {
        match self.answers.next().await {
            Some(answered) => answered,
            None => std::future::pending().await,
        }
    }

    pub(super) fn allow(&mut self, topic: &str, number: u64) {
        self.decide(topic, number, Verdict::Allowed);
    }

    pub(super) fn refuse(&mut self, topic: &str, number: u64) {
        self.decide(topic, number, Verdict::Refused);
    }

    fn decide(&mut self, topic: &str, number: u64, verdict: Verdict) {
        let queue = self.topics.get_mut(topic);
        let asked = queue.into_iter().flatten().find(|pending| pending.verdict == Verdict::Asked(number));
        if let Some(pending) = asked {
            pending.verdict = verdict;
        }
    }

    /// The next allowed one before which nothing is undecided.
    pub(super) fn pop_decided(&mut self, topic: &str) -> Option<Pending> {
        let queue = self.topics.get_mut(topic)?;
        let is_undecided = |pending: &Pending| matches!(pending.verdict, Verdict::Asked(_));
        let mut allowed = None;
        while allowed.is_none() && queue.front().is_some_and(|head| !is_undecided(head)) {
            allowed = queue.pop_front().filter(|pending| pending.verdict == Verdict::Allowed);
        }
        if queue.is_empty() {
            self.topics.remove(topic);
        }
        allowed
    }
}
