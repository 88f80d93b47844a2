//! Commands: channels come, change and go.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Dispatch, Phase};
use crate::authz::{TopicError, TopicGrant, TopicQuestion};
use crate::channels::opening::Opening;
use crate::channels::subscribe::{ChannelId, Subscribe};
use crate::channels::system;
use crate::dispatch::handle::Command;
use crate::dispatch::hint;
use crate::dispatch::subscriber::{Held, Subscriber};
use crate::dispatch::subscribers::{Bind, Inserted};
use crate::dispatch::topics::Decided;
use crate::dispatch::unseen::Release;
use crate::routing::Casts;

/// How long private channels are still judged by what is known here when there is no stream: a reconnect takes less.
/// Longer, and whoever was let in could be one whom a policy that was changed, or a row that was deleted, keeps out.
const SILENT_MAX: Duration = Duration::from_secs(10);

impl Dispatch {
    pub(super) fn send_to(&mut self, place: usize, frame: impl FnOnce(&Subscriber) -> Bytes) {
        if let Some(subscriber) = self.subscribers.get(place) {
            subscriber.outbox.push(frame(subscriber));
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Subscribe { subscribe, casts, number } => self.subscribe(*subscribe, casts, number),
            Command::Unsubscribe(channel) => self.unsubscribe(channel),
            Command::Topic { question, reply } => return self.topic(*question, reply),
        }
        self.count_subscribers();
    }

    pub(super) fn count_subscribers(&self) {
        self.metrics.subscribers.set(self.subscribers.channels() as i64);
        self.metrics.subscriptions.set(self.subscribers.subscriptions() as i64);
    }

    /// Answers as of the stream's position, or has Postgres answer.
    fn topic(&mut self, question: TopicQuestion, reply: oneshot::Sender<Result<TopicGrant, TopicError>>) {
        if reply.is_closed() {
            return;
        }
        // Where changes were lost, a policy may be another, too.
        let has_lost = matches!(self.phase, Phase::Waiting(None, _));
        if has_lost || self.silent_since.is_some_and(|since| since.elapsed() > SILENT_MAX) {
            let _ = reply.send(Err(TopicError::Unavailable));
            return;
        }
        match self.topics.decide(&self.catalog, self.tracking.tables(), question) {
            Decided::Here(answer) => {
                self.metrics.topics_decided.inc();
                let _ = reply.send(answer);
            }
            Decided::Ask(inquiry) => {
                self.metrics.topics_asked.inc();
                self.handle.tracker.spawn(async move {
                    let _ = reply.send(inquiry.answer().await);
                });
            }
        }
    }

    /// Active from the next transaction to begin; only then the reply leaves, and after it the `system` message.
    pub(super) fn subscribe(&mut self, subscribe: Subscribe, casts: Arc<Casts>, number: u64) {
        if !subscribe.outbox.is_open() {
            return;
        }
        let channel = subscribe.channel;
        let resume = subscribe.resume.clone();
        if resume.is_some() && !self.replays.knows_history() {
            self.replays.before_history.insert(channel, (subscribe, casts, number));
            return;
        }
        if resume.is_none()
            && let Some(place) = self.subscribers.place_of(channel)
        {
            self.renewed(place, &subscribe.identity);
        }
        if let Inserted::At(place, on_active) = self.subscribers.insert(subscribe, casts, number, &mut self.access) {
            let resumes = resume.is_some();
            if let Some(link) = resume {
                self.resume(place, link);
            }
            self.bind(place, on_active);
            if resumes {
                self.resume_bound(place);
            }
        }
        if let Some((subscribe, casts, number)) = self.subscribers.take_early(channel) {
            self.subscribe(subscribe, casts, number);
        }
    }

    fn bind(&mut self, place: usize, on_active: Option<Box<Opening>>) {
        let mut hint = None;
        let message = match self.subscribers.bind(place, &self.catalog) {
            Bind::Ready(bound) => {
                if let Some(subscriber) = self.subscribers.get(place) {
                    let (role, name) = (subscriber.role, &subscriber.identity.role);
                    let access = &mut self.access;
                    hint = hint::not_delivered(&bound, role, name, &self.config, &self.catalog, access);
                }
                let sequence = self.active_from(place);
                self.subscribers.replace(place, bound, sequence, &self.catalog, &mut self.access);
                None
            }
            Bind::NeedsCasts => Some(
                "Unable to subscribe to changes with given parameters: the table changed meanwhile; join again"
                    .to_owned(),
            ),
            Bind::Refused { message, unmatched } => {
                hint = unmatched.and_then(|binding| hint::not_published(&binding, &self.config));
                Some(message)
            }
        };
        let mut gave_up = false;
        if let Some(message) = &message {
            self.subscribers.refuse(place, message);
            gave_up = self.stop_resuming(place);
        }
        let is_join = on_active.is_some();
        if let Some((sequence, xid)) = self.assembler.open_transaction() {
            self.unseen.read(sequence, xid);
        }
        let barrier = self.assembler.next_sequence() - 1;
        let Some(subscriber) = self.subscribers.get_mut(place) else { return };
        let (channel, held) = (subscriber.channel, Held { on_active, message, hint });
        match &mut subscriber.held {
            // A refreshed token before the join's reply has left: what it says now is what the client is told.
            Some(earlier) => (earlier.message, earlier.hint) = (held.message, held.hint),
            None if is_join && self.unseen.holds(channel, barrier, Instant::now()) => subscriber.held = Some(held),
            None => open(subscriber, held),
        }
        // Behind the reply; that of a join is followed by what it came to anyway.
        if gave_up && !is_join {
            self.announce(place);
        }
    }

    /// A reply that waited leaves, and behind it what came meanwhile.
    pub(super) fn release(&mut self, channel: ChannelId, why: Release) {
        let Some(place) = self.subscribers.place_of(channel) else { return };
        let Some(subscriber) = self.subscribers.get_mut(place) else { return };
        let Some(mut held) = subscriber.held.take() else { return };
        if why == Release::Overdue {
            let hint = "Transactions were about to commit before this join and took long: read what you show once more";
            held.hint.get_or_insert_with(|| hint.to_owned());
        }
        open(subscriber, held);
        self.drain(place);
        self.run.forget();
    }
}

/// The reply of a join leaves, with the `system` message that follows it, and the channel's topic begins to reach it.
fn open(subscriber: &Subscriber, held: Held) {
    let (address, hint) = (&subscriber.address, held.hint.as_deref());
    let system = match &held.message {
        None => system::subscribed(address, hint),
        Some(message) => system::postgres_changes_error(address, message, hint),
    };
    match held.on_active {
        Some(opening) => opening.open_with(&subscriber.outbox, system),
        None => drop(subscriber.outbox.push(system)),
    }
}
