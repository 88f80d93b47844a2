//! What is decided for channels that can be resumed is noted, and sent to whoever comes back with their keys.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::Dispatch;
use crate::authz::Identity;
use crate::change::Layout;
use crate::channels::subscribe::ChannelId;
use crate::dispatch::access::Selection;
use crate::dispatch::pending::{ComputedRows, PendingChange, Queued, Ticket};
use crate::dispatch::replays::{PARKED_MAX, Resuming, Stage};
use crate::dispatch::ring::Missing;
use crate::dispatch::run::Source;
use crate::dispatch::sent::{BINDINGS_MAX, Sent, SentLog};
use crate::encode::{self, ErrorRow, RecordShape};
use crate::resume::{Holder, Link, ResumeKey};
use crate::wal::Position;

/// Notes that are sent to one channel before the next one, and the stream, have their turn.
const DRAINED_MAX: usize = 256;

/// As the client knows them.
type BindingIds = SmallVec<[u32; 4]>;

impl Dispatch {
    /// The channel's own keys, in order, if each of its bindings has one.
    pub(super) fn keys_of(&self, place: usize, link: &Link) -> Option<Arc<[ResumeKey]>> {
        let keys = link.asks.iter().filter_map(|ask| ask.key.as_ref()?.as_ref().ok().copied());
        let mut keys: Vec<ResumeKey> = keys.collect();
        keys.sort_unstable();
        keys.dedup();
        let bindings = self.subscribers.bindings(place);
        (keys.len() == bindings && bindings <= BINDINGS_MAX).then(|| keys.into())
    }

    /// Goes on from what was noted for an earlier channel of the same keys. Its socket may be gone, or not be known to be.
    pub(super) fn adopt(&mut self, place: usize, resuming: &mut Resuming) -> bool {
        let Some(keys) = resuming.keys.clone() else { return false };
        let Some(source) = self.replays.holders.remove(&keys) else { return false };
        let log = self.notes_for(source, place, resuming);
        let adopted = log.is_some();
        if let Some((log, queue)) = log {
            let earlier = self.subscribers.get(source).and_then(|from| from.resuming.as_deref());
            let told = earlier.and_then(|earlier| earlier.told).filter(|(at, _)| resuming.oldest() < *at);
            for queued in &queue {
                queued.delivery.undecided().for_each(|asked| asked.wait(place));
            }
            resuming.log = Some(log);
            resuming.is_direct = false;
            resuming.told = told;
            resuming.missing = resuming.missing.or(told.map(|(_, missing)| missing));
            if let Some(subscriber) = self.subscribers.get_mut(place) {
                subscriber.queue.extend(queue);
                self.replays.draining.push(subscriber.channel);
            }
            self.replays.holders.insert(keys, place);
        }
        let is_parked = |resuming: &Resuming| resuming.is_parked;
        if self.subscribers.get(source).and_then(|from| from.resuming.as_deref()).is_some_and(is_parked) {
            self.subscribers.remove_parked(source);
        }
        adopted
    }

    /// A copy of what was noted, if all that is owed is in it.
    fn notes_for(&self, source: usize, place: usize, resuming: &Resuming) -> Option<(SentLog, Vec<Queued>)> {
        let from = self.subscribers.get(source)?;
        if !from.identity.is_same_but_for_time(&self.subscribers.get(place)?.identity) {
            return None;
        }
        let earlier = from.resuming.as_deref().filter(|earlier| earlier.stage == Stage::Live)?;
        let log = earlier.log.as_ref()?;
        let mut ids: Vec<u32> = self.subscribers.binding_ids(place).collect();
        let mut known: Vec<u32> = log.bindings().to_vec();
        ids.sort_unstable();
        known.sort_unstable();
        let is_whole = !resuming.owed.is_empty() && resuming.oldest() >= log.from() && ids == known;
        if !is_whole || from.refused.is_some() {
            return None;
        }
        let mut log = log.clone();
        log.begin_again();
        let queue = from.queue.iter().map(|queued| Queued::new(queued.delivery.clone(), &self.budget)).collect();
        Some((log, queue))
    }

    /// The channel has another token. What was decided under other claims is not for whoever comes back with these, and
    /// keys that are another person's are not this one's.
    pub(super) fn renewed(&mut self, place: usize, identity: &Identity) {
        let Some(subscriber) = self.subscribers.get_mut(place) else { return };
        let before = Arc::clone(&subscriber.identity);
        let Some(resuming) = &mut subscriber.resuming else { return };
        if before.is_same_but_for_time(identity) {
            return;
        }
        if Holder::of(&before) != Holder::of(identity)
            && let Some(keys) = resuming.keys.take()
        {
            // Somebody else may have them by now.
            if self.replays.holders.get(&keys) == Some(&place) {
                self.replays.holders.remove(&keys);
            }
        }
        self.forget_log(place);
    }

    /// Whoever comes back is judged anew; so is, for the rest of it, whoever is being sent what was noted.
    pub(super) fn forget_log(&mut self, place: usize) {
        let resuming = self.subscribers.get_mut(place).and_then(|subscriber| subscriber.resuming.as_mut());
        let Some(resuming) = resuming else { return };
        if let Some(log) = resuming.log.take() {
            resuming.fall_back_from = (!resuming.is_direct).then(|| log.last_sent());
        }
    }

    /// The bindings' ids, if what they are sent can be noted and sent again without asking anybody.
    pub(super) fn new_log(&self, place: usize) -> Option<Vec<u32>> {
        let is_plain = |id| {
            let relation = self.catalog.relation(id)?;
            let layout = Layout::identity(Arc::clone(relation));
            Some(encode::columns_only_postgres_encodes(&self.catalog, relation, &layout).is_empty())
        };
        self.subscribers.get(place)?;
        let all_plain = self.subscribers.entries(place).all(|entry| is_plain(entry.relation) == Some(true));
        all_plain.then(|| self.subscribers.binding_ids(place).collect())
    }

    /// Notes what was decided for a channel. `true`: it is to be sent now.
    pub(super) fn note(&mut self, place: usize, position: Position, ids: &[u32], flags: (bool, bool)) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(place) else { return false };
        let is_open = subscriber.outbox.is_open();
        let Some(resuming) = &mut subscriber.resuming else { return true };
        let is_sent = resuming.is_direct && is_open;
        if is_sent {
            resuming.sent = position;
        }
        let Some(log) = &mut resuming.log else { return is_sent };
        let acknowledged = resuming.link.acknowledged();
        let fits = log.note(position, ids.iter().copied(), flags, is_sent, acknowledged);
        if !fits || self.replays.metrics.noted_bytes.get() > self.replays.config.memory_bytes_max as i64 {
            // Whoever comes back is judged anew; whoever is being sent it goes on from where it is (see `drain_logs`).
            resuming.fall_back_from = (!resuming.is_direct && is_open).then(|| log.last_sent());
            resuming.log = None;
        }
        is_sent
    }

    /// Nobody could be told that a policy could not be evaluated.
    pub(super) fn note_undecided(&mut self, place: usize) {
        self.note_missing(place, Missing::Undecided);
    }

    /// What whoever comes back has to be told, unless he has acknowledged something later: the socket may be gone without
    /// anybody knowing.
    pub(super) fn note_missing(&mut self, place: usize, missing: Missing) {
        // Nothing behind this has been handed over yet.
        let at = Position::end_of(self.position);
        let resuming = self.subscribers.get_mut(place).and_then(|subscriber| subscriber.resuming.as_mut());
        let Some(resuming) = resuming else { return };
        if resuming.stage != Stage::Live || !resuming.is_direct {
            resuming.missing.get_or_insert(missing);
        }
        resuming.told = Some((at, missing));
    }

    /// Sends some of what was noted to those who came back. `false`: nothing could be sent.
    pub(super) fn drain_logs(&mut self) -> bool {
        let mut moved = false;
        for channel in std::mem::take(&mut self.replays.draining) {
            let Some(place) = self.subscribers.place_of(channel) else { continue };
            let Some(subscriber) = self.subscribers.get_mut(place) else { continue };
            let Some(resuming) = &mut subscriber.resuming else { continue };
            if let Some(sent) = resuming.fall_back_from.take() {
                let ids = resuming.link.asks.iter().map(|ask| ask.binding);
                resuming.owed = ids.map(|id| (id, sent.max(resuming.owed_after(id)))).collect();
                (resuming.stage, resuming.is_direct) = (Stage::Waiting, true);
                subscriber.queue.clear();
                subscriber.say_what_waits();
                self.rebind_resuming(place);
                self.replays.waiting.push(channel);
                continue;
            }
            let Some(log) = &resuming.log else { continue };
            resuming.say_replayed(log.last_sent());
            if subscriber.held.is_some() || subscriber.outbox.of_socket().is_full() {
                self.replays.stall(channel);
                continue;
            }
            moved = true;
            let is_left_out = resuming.missing == Some(Missing::Altered);
            let until = if is_left_out { self.left_out_until(place) } else { Position::START };
            self.tell_gap(place, until);
            if !self.drain_log(place) {
                self.replays.draining.push(channel);
            }
        }
        moved
    }

    /// `true`: all that was noted is sent.
    fn drain_log(&mut self, place: usize) -> bool {
        let ticket = Arc::new(Ticket);
        let mut drained = false;
        for _ in 0..DRAINED_MAX {
            let Some(resuming) = self.subscribers.get_mut(place).and_then(|subscriber| subscriber.resuming.as_mut())
            else {
                return true;
            };
            let Some(sent) = resuming.log.as_mut().and_then(|log| log.next()) else {
                resuming.is_direct = true;
                drained = true;
                break;
            };
            self.send_noted(place, sent, &ticket);
        }
        self.finish_run(place);
        self.run.forget();
        if drained {
            self.announce(place);
        }
        drained
    }

    /// What was decided holds; what the row looks like is up to the present columns and grants.
    fn send_noted(&mut self, place: usize, sent: Sent, ticket: &Arc<Ticket>) {
        let Some(subscriber) = self.subscribers.get(place) else { return };
        let Some(resuming) = &subscriber.resuming else { return };
        let Some(log) = &resuming.log else { return };
        let is_owed = |(bit, id): (usize, &u32)| {
            (sent.bindings >> bit & 1 == 1 && resuming.owed_after(*id) < sent.position).then_some(*id)
        };
        let owed: SmallVec<[u32; 4]> = log.bindings().iter().enumerate().filter_map(is_owed).collect();
        if owed.is_empty() {
            return;
        }
        let known = self.replays.ring.get(sent.position);
        let relation = known.and_then(|kept| self.catalog.relation(kept.relation.id));
        let (Some(kept), Some(relation)) = (known, relation) else {
            let (is_kept, (floor, missing)) = (known.is_some(), self.replays.ring.floor());
            if let Some(resuming) = self.subscribers.get_mut(place).and_then(|subscriber| subscriber.resuming.as_mut())
            {
                resuming.missing.get_or_insert(if is_kept { Missing::Altered } else { missing });
            }
            // Once for all that is gone. What is there and cannot be shown is told at the end.
            if !is_kept && sent.position <= floor {
                self.finish_run(place);
                self.tell_gap(place, floor);
            }
            return;
        };
        let change = kept.change(&Arc::new(kept.layout(relation)));
        let relation = Arc::clone(relation);
        let access = self.access.access(&self.catalog, &relation, subscriber.role);
        let mut groups: SmallVec<[(Arc<Selection>, BindingIds); 1]> = SmallVec::new();
        for entry in self.subscribers.entries(place).filter(|entry| entry.relation == relation.id) {
            if !owed.contains(&entry.client_id) {
                continue;
            }
            match groups.iter_mut().find(|(selection, _)| *selection == entry.selection) {
                Some((_, ids)) => ids.push(entry.client_id),
                None => groups.push((Arc::clone(&entry.selection), SmallVec::from_slice(&[entry.client_id]))),
            }
        }
        let pending = PendingChange::new(change, Arc::clone(ticket), ComputedRows::default(), &self.budget);
        let pending = Arc::new(pending);
        for (selection, ids) in groups {
            self.replays.metrics.events_replayed.inc();
            if sent.is_error || (access.is_error_row() && pending.change.new.is_some()) {
                let error = if access.no_primary_key { ErrorRow::NoPrimaryKey } else { ErrorRow::Unauthorized };
                let origin = selection.positions.then(|| Arc::clone(&self.replays.origin));
                let data = encode::error_data(&pending.change, error, origin.as_deref());
                self.put(place, &pending, Source::Error(&data), &ids, false);
                continue;
            }
            let shape: Arc<RecordShape> = self.access.shape(&self.catalog, &relation, &access.visible, &selection);
            self.put(place, &pending, Source::Row(&shape), &ids, sent.whole_old);
        }
    }

    /// Ends a channel, or keeps deciding for it until nobody can come back for what it missed.
    pub(super) fn unsubscribe(&mut self, channel: ChannelId) {
        self.replays.before_history.remove(&channel);
        let place = self.subscribers.place_of(channel);
        let held = place.and_then(|place| self.subscribers.get_mut(place).map(|subscriber| (place, subscriber)));
        let Some((place, subscriber)) = held else { return self.subscribers.remove(channel) };
        // Where nothing is kept there is nothing to come back for.
        let may_wait = subscriber.held.is_none() && self.replays.is_enabled();
        let Some(resuming) = &mut subscriber.resuming else { return self.subscribers.remove(channel) };
        let held_by = resuming.keys.as_ref().and_then(|keys| self.replays.holders.get(keys));
        let is_holder = held_by == Some(&place);
        if is_holder && may_wait && resuming.stage == Stage::Live && resuming.log.is_some() {
            (resuming.is_parked, resuming.announcement) = (true, None);
            self.subscribers.park(channel);
            self.replays.parked.push_back((Instant::now(), place, channel));
            while self.replays.parked.len() > PARKED_MAX {
                self.forget_longest_parked();
            }
        } else {
            if let Some(keys) = resuming.keys.as_ref().filter(|_| is_holder) {
                self.replays.holders.remove(keys);
            }
            self.subscribers.remove(channel);
        }
        self.replays.metrics.parked.set(self.replays.parked.len() as i64);
    }

    pub(super) fn expire_parked(&mut self, now: Instant) {
        let retention = self.replays.config.retention;
        while let Some((since, place, channel)) = self.replays.parked.front().copied() {
            let subscriber = self.subscribers.get(place).filter(|subscriber| subscriber.channel == channel);
            let is_parked = subscriber.and_then(|s| s.resuming.as_ref()).is_some_and(|resuming| resuming.is_parked);
            if is_parked && now.duration_since(since) < retention {
                break;
            }
            self.forget_longest_parked();
        }
        self.replays.metrics.parked.set(self.replays.parked.len() as i64);
    }

    fn forget_longest_parked(&mut self) {
        let Some((_, place, channel)) = self.replays.parked.pop_front() else { return };
        if self.subscribers.get(place).is_some_and(|subscriber| subscriber.channel == channel) {
            self.forget_parked(place);
        }
    }

    /// `true`: it was parked, and nobody will find it any more.
    pub(super) fn forget_parked(&mut self, place: usize) -> bool {
        let resuming = self.subscribers.get(place).and_then(|subscriber| subscriber.resuming.as_deref());
        let Some(resuming) = resuming.filter(|resuming| resuming.is_parked) else { return false };
        if let Some(keys) = &resuming.keys
            && self.replays.holders.get(keys) == Some(&place)
        {
            self.replays.holders.remove(keys);
        }
        self.subscribers.remove_parked(place);
        self.count_subscribers();
        true
    }
}
