//! What was missed, replayed in passes that all who come back share.

use std::sync::Arc;

use super::routing::is_published;
use super::{CHUNK_BYTES_MAX, CHUNK_DELIVERIES_MAX, Dispatch, Phase};
use crate::catalog::{ColumnSet, Relation};
use crate::change::Layout;
use crate::channels::subscribe::ChannelId;
use crate::dispatch::delivery::{Chunk, Context};
use crate::dispatch::pending::Ticket;
use crate::dispatch::replays::{Pass, Replays, Stage};
use crate::dispatch::ring::Kept;
use crate::encode;
use crate::routing::Matches;
use crate::wal::Position;
use crate::wal::pgoutput::StreamRelation;

/// Kept changes that are looked at before the stream has its turn again.
const REPLAY_CHANGES: usize = 512;

impl Dispatch {
    /// Replays some of what is owed; `false`: there is nothing to do at present.
    pub(super) fn replay(&mut self, matches: &mut Matches) -> bool {
        if self.replays.is_idle() || matches!(self.phase, Phase::Waiting(..)) {
            return false;
        }
        self.look_again();
        let drained = self.drain_logs();
        self.step_back();
        if self.replays.pass.is_none() {
            self.replays.waiting.append(&mut self.replays.behind);
        }
        self.admit_waiting();
        drained | self.replay_pass(matches)
    }

    /// At those to whom nothing could be sent a moment ago.
    fn look_again(&mut self) {
        for channel in self.replays.take_stalled() {
            let subscriber = self.subscribers.place_of(channel).and_then(|place| self.subscribers.get(place));
            let Some(resuming) = subscriber.and_then(|subscriber| subscriber.resuming.as_ref()) else { continue };
            match resuming.stage {
                Stage::Waiting => self.replays.waiting.push(channel),
                _ => self.replays.draining.push(channel),
            }
        }
    }

    /// Some of what the pass has before it; `false`: it could not move.
    fn replay_pass(&mut self, matches: &mut Matches) -> bool {
        let Some(mut pass) = self.replays.pass.take() else { return false };
        let before = pass.cursor;
        let at_end = self.replay_chunk(&mut pass, matches);
        let mut moved = pass.cursor != before;
        // Not by what has been read: of a silent transaction that is still worked on the rest is kept, and sent to nobody.
        let reached = self.reached();
        if at_end && reached >= Position::through(self.replays.silent_until) {
            let members = std::mem::take(&mut pass.members);
            for channel in members {
                let Some(place) = self.subscribers.place_of(channel) else { continue };
                let resuming = self.subscribers.get(place).and_then(|subscriber| subscriber.resuming.as_ref());
                let Some(resuming) = resuming.filter(|resuming| resuming.stage == Stage::Replaying) else { continue };
                if resuming.newest() > reached {
                    pass.members.push(channel);
                    continue;
                }
                moved = true;
                self.go_live(place);
            }
        }
        // Those behind it have their turn.
        moved |= pass.members.is_empty();
        self.replays.pass = Some(pass).filter(|pass| !pass.members.is_empty());
        self.replays.metrics.replaying.set(self.replaying());
        moved
    }

    fn replaying(&self) -> i64 {
        let Replays { waiting, behind, stalled, draining, pass, .. } = &self.replays;
        let lists = [waiting, behind, stalled, draining].into_iter().chain(pass.as_ref().map(|pass| &pass.members));
        lists.map(Vec::len).sum::<usize>() as i64
    }

    /// Members whose outboxes are full leave the pass, and wait for their turn from where they are.
    fn step_back(&mut self) {
        let Some(mut pass) = self.replays.pass.take() else { return };
        let sent = self.replays.ring.before(pass.cursor);
        let members = std::mem::take(&mut pass.members);
        for channel in members {
            let Some(place) = self.subscribers.place_of(channel) else { continue };
            let Some(subscriber) = self.subscribers.get_mut(place) else { continue };
            let Some(resuming) = subscriber.resuming.as_mut().filter(|resuming| resuming.stage == Stage::Replaying)
            else {
                continue;
            };
            if let Some(sent) = sent {
                resuming.say_replayed(sent);
            }
            if !subscriber.outbox.of_socket().is_full() {
                pass.members.push(channel);
                continue;
            }
            if let Some(sent) = sent {
                // Those that did not ask as well: what they are owed since the join has been sent up to here.
                resuming.joined_at = resuming.joined_at.max(sent);
                resuming.owed.iter_mut().for_each(|(_, owed)| *owed = sent.max(*owed));
            }
            resuming.stage = Stage::Waiting;
            self.rebind_resuming(place);
            self.replays.waiting.push(channel);
        }
        self.replays.pass = Some(pass).filter(|pass| !pass.members.is_empty());
    }

    /// Whoever may join the pass does.
    fn admit_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.replays.waiting);
        let cursor = self.replays.pass.as_ref().map(|pass| pass.cursor);
        let mut admitted: Vec<(u64, ChannelId, usize)> = Vec::new();
        for channel in waiting {
            let Some(place) = self.subscribers.place_of(channel) else { continue };
            let is_in_doubt = self.is_in_doubt(place);
            let Some(subscriber) = self.subscribers.get_mut(place) else { continue };
            // One that was given up meanwhile is live, and must not be sent what came before that.
            let Some(resuming) = subscriber.resuming.as_mut().filter(|resuming| resuming.stage == Stage::Waiting)
            else {
                continue;
            };
            let (floor, missing) = self.replays.ring.floor();
            if resuming.oldest() < floor {
                resuming.missing.get_or_insert(missing);
            }
            let start = self.replays.ring.seek(resuming.oldest());
            if cursor.is_some_and(|cursor| start < cursor) {
                self.replays.behind.push(channel);
                continue;
            }
            if subscriber.held.is_some() || is_in_doubt || subscriber.outbox.of_socket().is_full() {
                self.replays.stall(channel);
                continue;
            }
            admitted.push((start, channel, place));
        }
        for (start, _, place) in &admitted {
            if let Some(resuming) = self.subscribers.get_mut(*place).and_then(|subscriber| subscriber.resuming.as_mut())
            {
                resuming.stage = Stage::Replaying;
            }
            let until = self.replays.ring.gap_before(*start).unwrap_or(Position::START);
            self.tell_gap(*place, until);
            self.tell_altered(*place, self.left_out_until(*place));
            self.rebind_resuming(*place);
        }
        admitted.retain(|(_, _, place)| {
            let resuming = self.subscribers.get(*place).and_then(|subscriber| subscriber.resuming.as_ref());
            resuming.is_some_and(|resuming| resuming.stage == Stage::Replaying)
        });
        if let Some(first) = admitted.iter().map(|(start, ..)| *start).min() {
            let pass = self.replays.pass.get_or_insert_with(|| Pass { cursor: first, members: Vec::new() });
            pass.members.extend(admitted.into_iter().map(|(_, channel, _)| channel));
        }
    }

    /// `true`: there is nothing behind what was replayed.
    fn replay_chunk(&mut self, pass: &mut Pass, matches: &mut Matches) -> bool {
        // Nothing waits for it: the slot may be confirmed.
        let ticket = Arc::new(Ticket);
        let mut chunk = Chunk::default();
        let mut layouts: Vec<KeptLayout> = Vec::new();
        let mut at_end = false;
        // What is kept changes between chunks alone.
        if pass.cursor < self.replays.ring.first() {
            self.overtaken(pass);
        }
        for _ in 0..REPLAY_CHANGES {
            let Some((number, kept)) = self.replays.ring.at_or_after(pass.cursor) else {
                at_end = true;
                break;
            };
            pass.cursor = number + 1;
            self.replays.metrics.changes_replayed.inc();
            let id = kept.relation.id;
            let Some(relation) = self.catalog.relation(id) else { continue };
            if self.subscribers.audience(id).is_empty() || !is_published(relation, kept.operation) {
                continue;
            }
            let place = layouts.iter().position(|known| known.is_of(kept)).unwrap_or_else(|| {
                let layout = Arc::new(kept.layout(relation));
                let columns_asked = encode::columns_only_postgres_encodes(&self.catalog, relation, &layout);
                let (stream, was) = (Arc::clone(&kept.stream), Arc::clone(&kept.relation));
                layouts.push(KeptLayout { stream, was, layout, columns_asked });
                layouts.len() - 1
            });
            let KeptLayout { layout, columns_asked, .. } = &layouts[place];
            let context = Context {
                catalog: &self.catalog,
                config: &self.config,
                subscribers: &self.subscribers,
                budget: &self.budget,
                columns_asked,
                tables: self.tracking.tables(),
                xid: kept.header.xid,
                sequence: 0,
                replayed: Some(kept.position()),
            };
            chunk.add(kept.change(layout), &ticket, matches, &mut self.access, None, &context);
            if chunk.delivery_count() >= CHUNK_DELIVERIES_MAX || chunk.bytes >= CHUNK_BYTES_MAX {
                break;
            }
        }
        self.replays.metrics.events_replayed.inc_by(chunk.delivery_count() as u64);
        // Full outboxes are seen to before the next chunk: the stream is not too fast because of them.
        let pressure = std::mem::take(&mut self.pressure);
        let paused_until = self.paused_until;
        self.flush(chunk);
        (self.pressure, self.paused_until) = (pressure, paused_until);
        at_end
    }

    /// Changes were let go before they could be replayed. Whoever is owed only what came after them misses nothing: after
    /// a restart a pass waits at the end while older changes are read again, and let go.
    fn overtaken(&mut self, pass: &mut Pass) {
        pass.cursor = self.replays.ring.first();
        let (floor, missing) = self.replays.ring.floor();
        let until = self.replays.ring.gap_before(pass.cursor).unwrap_or(Position::START);
        for channel in &pass.members {
            let Some(place) = self.subscribers.place_of(*channel) else { continue };
            let resuming = self.subscribers.get_mut(place).and_then(|subscriber| subscriber.resuming.as_mut());
            if let Some(resuming) = resuming.filter(|resuming| resuming.oldest() < floor) {
                resuming.missing.get_or_insert(missing);
                self.tell_gap(place, until);
            }
        }
    }
}

/// How kept rows of one table, as it was, are read.
struct KeptLayout {
    stream: Arc<StreamRelation>,
    was: Arc<Relation>,
    layout: Arc<Layout>,
    columns_asked: ColumnSet,
}

impl KeptLayout {
    fn is_of(&self, kept: &Kept) -> bool {
        Arc::ptr_eq(&self.stream, &kept.stream) && Arc::ptr_eq(&self.was, &kept.relation)
    }
}
