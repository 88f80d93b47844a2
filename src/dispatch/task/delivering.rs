//! From deliveries to outboxes, in the order of each channel.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Dispatch, PAUSE, READ_AGAIN};
use crate::catalog::Relation;
use crate::causes::with_causes;
use crate::change::Operation;
use crate::channels::outbox::Pushed;
use crate::channels::phoenix::Address;
use crate::channels::subscribe::EventShapeKind;
use crate::channels::system::{self, EventShape};
use crate::dispatch::audience::{Audience, Member};
use crate::dispatch::delivery::Chunk;
use crate::dispatch::pending::{Content, Delivery, Outcome, PendingChange, Queued};
use crate::dispatch::questions::Answered;
use crate::dispatch::run::{FrameOf, Source};
use crate::dispatch::subscriber::NotShown;
use crate::encode::{self, OldVisibility, RecordShape};

/// How often rows above `--record-max` are spoken of.
const WORDS_APART: std::time::Duration = std::time::Duration::from_secs(60);

/// What writing rows as JSON needs.
#[derive(Default)]
pub(super) struct Encoding {
    /// Reused from change to change.
    buffer: Vec<u8>,
    /// When rows above `--record-max` were last spoken of.
    told_of_cuts: Option<Instant>,
}

impl Dispatch {
    /// Puts the chunk's questions, and its deliveries into their channels' order.
    pub(super) fn flush(&mut self, mut chunk: Chunk) {
        if self.burst.is_empty() {
            self.burst_since = Instant::now();
        }
        chunk.finish();
        self.access.people.prune();
        self.metrics.decisions.inc_by(chunk.counts.here);
        self.metrics.decisions_left_open.inc_by(chunk.counts.left_open);
        self.metrics.decisions_not_compiled.inc_by(chunk.counts.not_compiled);
        for (asked, question) in std::mem::take(&mut chunk.ready) {
            self.questions.put(asked, question);
        }
        for (place, relation, why) in std::mem::take(&mut chunk.undecidable) {
            self.metrics.events_undecided.inc();
            self.note_undecided(place);
            if self.tell(place, &relation, NotShown::Undecided) {
                tracing::warn!(relation = %relation.sql_name(), %why, "events are not shown");
            }
        }
        if let Some(audience) = chunk.audience.take() {
            self.deliver_to(audience);
        }
        // Channel by channel, each in commit order: what one gets of this chunk is queued at once.
        let mut previous = None;
        for index in chunk.by_channel() {
            let (place, delivery) = &mut chunk.deliveries[index as usize];
            let place = *place;
            if let Some(previous) = previous.replace(place)
                && previous != place
            {
                self.finish_run(previous);
            }
            self.offer(place, delivery);
        }
        if let Some(place) = previous {
            self.finish_run(place);
        }
        self.run.forget();
        self.pause_under_pressure(chunk.bytes);
    }

    fn pause_under_pressure(&mut self, bytes: usize) {
        if self.pressure.judge(bytes) {
            self.paused_until = Some(Instant::now() + PAUSE);
        }
    }

    /// The same changes to each of many channels.
    fn deliver_to(&mut self, audience: Audience) {
        let frames = audience.changes.len();
        // Whose run is kept: what the next channel's depends on.
        let mut kept: Option<(Address, EventShapeKind, &Member)> = None;
        let mut repeated = 0;
        for member in &audience.members {
            let Some(subscriber) = self.subscribers.get_mut(member.place) else { continue };
            if !subscriber.outbox.is_open() && !subscriber.is_noted() {
                // Its unsubscribe is on the way.
                subscriber.queue.clear();
                continue;
            }
            if subscriber.resuming.is_some() {
                // What it is sent is noted, each by itself.
                for shared in &audience.changes {
                    self.offer(member.place, &mut Some(member.delivery(shared)));
                }
                self.finish_run(member.place);
                kept = None;
                continue;
            }
            if subscriber.held.is_some() || !subscriber.queue.is_empty() {
                let deliveries = audience.changes.iter().map(|change| member.delivery(change));
                subscriber.queue.extend(deliveries.map(|delivery| Queued::new(delivery, &self.budget)));
                continue;
            }
            let is_alike = kept.as_ref().is_some_and(|(address, shape, other)| {
                Arc::ptr_eq(&address.topic, &subscriber.address.topic)
                    && address.serializer == subscriber.address.serializer
                    && *shape == subscriber.shape
                    && other.ids == member.ids
                    && Arc::ptr_eq(&other.shape, &member.shape)
            });
            if is_alike && let Some(pushed) = self.run.repeat(&subscriber.outbox, &mut self.burst) {
                self.pushed(pushed, frames);
                repeated += frames;
                continue;
            }
            if !is_alike {
                kept = Some((subscriber.address.clone(), subscriber.shape, member));
            }
            for shared in &audience.changes {
                let source = Source::Row(&member.shape);
                self.put(member.place, &shared.change, source, &member.ids, shared.whole_old);
            }
            self.finish_run(member.place);
        }
        self.metrics.events_delivered.inc_by(repeated as u64);
    }

    /// Delivers at once where nothing of the channel waits before it; else it waits its turn.
    fn offer(&mut self, place: usize, offered: &mut Option<Delivery>) {
        let Some(delivery) = offered else { return };
        let Some(subscriber) = self.subscribers.get_mut(place) else { return };
        if !subscriber.outbox.is_open() && !subscriber.is_noted() {
            // Its unsubscribe is on the way.
            return subscriber.queue.clear();
        }
        if subscriber.queue.is_empty() && subscriber.held.is_none() {
            match delivery.outcome() {
                Outcome::Wait => {}
                outcome => return self.perform(place, delivery, outcome),
            }
        }
        for asked in delivery.undecided() {
            asked.wait(place);
        }
        let is_first = subscriber.queue.is_empty();
        subscriber.queue.extend(offered.take().map(|delivery| Queued::new(delivery, &self.budget)));
        if is_first {
            subscriber.say_what_waits();
        }
    }

    pub(super) fn answered(&mut self, answered: Answered) {
        self.questions.settle(&answered);
        let Answered { asked, relation, answer, .. } = answered;
        if let Err(error) = &answer
            && self.questions.is_worth_a_word(relation.id)
        {
            tracing::warn!(relation = %relation.sql_name(), %error, "questions to Postgres have no answer: denied");
        }
        for place in asked.settle(answer) {
            self.drain(place);
        }
        self.run.forget();
        self.pause_under_pressure(0);
    }

    /// Delivers what is decided at the head of a channel's queue. A run never outlives the channel that it is for: what
    /// was left in it would go to the next one.
    pub(super) fn drain(&mut self, place: usize) {
        self.announce_if_due(place);
        self.perform_decided(place);
        self.finish_run(place);
        if let Some(subscriber) = self.subscribers.get(place) {
            subscriber.say_what_waits();
        }
    }

    fn perform_decided(&mut self, place: usize) {
        while let Some(subscriber) = self.subscribers.get_mut(place).filter(|subscriber| subscriber.held.is_none()) {
            let Some(head) = subscriber.queue.front() else { return };
            let outcome = head.delivery.outcome();
            if outcome == Outcome::Wait {
                return;
            }
            let Some(Queued { delivery, .. }) = subscriber.queue.pop_front() else { return };
            self.perform(place, &delivery, outcome);
            self.count_down(place);
        }
    }

    /// Puts a delivery into the channel's run; the caller finishes it.
    fn perform(&mut self, place: usize, delivery: &Delivery, outcome: Outcome) {
        let relation = &delivery.change.change.relation;
        let (ids, whole_old) = match outcome {
            Outcome::Wait | Outcome::Drop => return,
            Outcome::Fail => {
                self.metrics.events_undecided.inc();
                // What came before it goes before it.
                self.finish_run(place);
                self.note_undecided(place);
                self.tell(place, relation, NotShown::Undecided);
                return;
            }
            Outcome::Deliver { ids, whole_old } => (ids, whole_old),
        };
        let is_error = matches!(delivery.content, Content::Error(_));
        if !self.note(place, delivery.change.change.position(), &ids, (whole_old, is_error)) {
            return;
        }
        let source = match &delivery.content {
            Content::Error(data) => Source::Error(data),
            Content::Row { shape, .. } => Source::Row(shape),
        };
        self.put(place, &delivery.change, source, &ids, whole_old);
    }

    /// Puts a frame into the channel's run.
    pub(super) fn put(
        &mut self,
        place: usize,
        change: &Arc<PendingChange>,
        source: Source<'_>,
        ids: &SmallVec<[u32; 4]>,
        whole_old: bool,
    ) {
        let Some(subscriber) = self.subscribers.get(place) else { return };
        let shape = event_shape(subscriber.shape, change.change.operation);
        let frame = FrameOf { address: &subscriber.address, shape, change, source, ids, whole_old };
        if self.run.push_known(&frame) {
            return;
        }
        let data = match source {
            Source::Error(data) => Some(data.clone()),
            Source::Row(shape) => self.data(change, shape, whole_old),
        };
        let Some(data) = data else {
            self.finish_run(place);
            self.tell(place, &change.change.relation, NotShown::NotEncoded);
            return;
        };
        let Some(subscriber) = self.subscribers.get(place) else { return };
        let address = &subscriber.address;
        self.run.push_new(&FrameOf { address, shape, change, source, ids, whole_old }, &data);
    }

    /// Queues what `perform` has gathered for the channel.
    pub(super) fn finish_run(&mut self, place: usize) {
        let frames = self.run.frames();
        let Some(subscriber) = self.subscribers.get(place).filter(|subscriber| subscriber.outbox.is_open()) else {
            return self.run.discard();
        };
        if frames == 0 {
            return;
        }
        let pushed = self.run.finish(&subscriber.outbox, &mut self.burst);
        self.pushed(pushed, frames);
        self.metrics.events_delivered.inc_by(frames as u64);
    }

    fn pushed(&mut self, pushed: Pushed, frames: usize) {
        if pushed == Pushed::Full {
            // Perhaps only because its connection does not know yet.
            self.burst.let_go();
        }
        self.pressure.note(pushed, frames);
    }

    fn data(&mut self, pending: &PendingChange, shape: &Arc<RecordShape>, whole_old: bool) -> Option<Bytes> {
        let (limits, metrics) = (&self.config.limits, &self.metrics);
        let Encoding { buffer, told_of_cuts: told } = &mut self.encoding;
        pending.data(shape, whole_old, |is_first| {
            if is_first && limits.exceeded_by(&pending.change) {
                metrics.changes_cut.inc();
                if told.is_none_or(|told| told.elapsed() > WORDS_APART) {
                    *told = Some(Instant::now());
                    let relation = pending.change.relation.sql_name();
                    tracing::warn!(relation, "a row above --record-max is delivered with its small values only");
                }
            }
            let computed = pending.computed.values();
            let old = if whole_old { OldVisibility::Whole } else { OldVisibility::KeyOnly };
            let data = encode::change_data(shape, &pending.change, old, limits, Some(&computed), buffer);
            data.inspect_err(|error| {
                metrics.encode_errors.inc();
                let relation = pending.change.relation.sql_name();
                tracing::error!(relation, error = %with_causes(error), "a change is delivered to nobody");
            })
            .ok()
        })
    }

    /// Tells a client, once per table and subscription, that something is not shown. `true`: it was the first time.
    pub(super) fn tell(&mut self, place: usize, relation: &Relation, what: NotShown) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(place).filter(|subscriber| subscriber.outbox.is_open()) else {
            return false;
        };
        if subscriber.told.contains(&(relation.id, what)) {
            return false;
        }
        subscriber.told.push((relation.id, what));
        let table = format!("{}.{}", relation.schema, relation.name);
        let (message, hint) = match what {
            NotShown::LeftOut => (
                format!("{table} was altered while the relay was away: changes from before that are not shown"),
                READ_AGAIN,
            ),
            NotShown::Undecided => (
                format!("Row-level security of {table} could not be evaluated for you: its events are not shown"),
                "The server's log has the error; SELECT from the table with the same token to see it",
            ),
            NotShown::NotEncoded => (
                format!("A change of {table} could not be written as JSON: it is not shown"),
                "The server's log has the error; read what you show from the database again",
            ),
        };
        let frame = system::postgres_changes_error(&subscriber.address, &message, Some(hint));
        subscriber.outbox.push(frame);
        true
    }
}

fn event_shape(kind: EventShapeKind, operation: Operation) -> EventShape {
    match kind {
        EventShapeKind::Standard => EventShape::Standard,
        EventShapeKind::Legacy => EventShape::Legacy(operation),
    }
}
