//! Those who come back are sent what they missed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Dispatch, Phase, Work};
use crate::catalog::Relation;
use crate::change::{Operation, Row};
use crate::channels::system::{self, Resumption};
use crate::dispatch::replays::{Replays, Resuming, Stage};
use crate::dispatch::ring::{Kept, Missing};
use crate::dispatch::sent::SentLog;
use crate::dispatch::subscribers::Bind;
use crate::resume::store::Restored;
use crate::resume::{Config, Ledger, Link, ResumeMetrics, Since};
use crate::wal::batch::Started;
use crate::wal::budget::SlotPressure;
use crate::wal::pgoutput::{OldTuple, StreamRelation, Tuple};
use crate::wal::{Lsn, Origin, Position, Stamp};

/// Between 1970 and 2000, in microseconds.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl Dispatch {
    /// Gives what resuming needs; without it nobody can. `restored`: what an earlier process has left.
    pub fn resume_with(
        &mut self,
        config: Config,
        ledger: Arc<Ledger>,
        metrics: ResumeMetrics,
        restored: Restored,
        pressure: watch::Receiver<SlotPressure>,
    ) {
        let mut replays = Replays::new(config, ledger, metrics);
        replays.pressure = pressure;
        replays.silent_until = restored.handed_over;
        replays.ledger.handed_over_to(restored.handed_over);
        replays.before_start = Some(restored.handed_over).filter(|_| restored.is_exact);
        self.replays = replays;
        if restored.is_awaited {
            // Whoever was there a moment ago may come back: what the slot still has is kept from the start.
            self.keep_changes();
        }
    }

    /// From here on changes are kept.
    fn keep_changes(&mut self) {
        self.replays.unused_since = Instant::now();
        if !self.replays.is_enabled() {
            return;
        }
        self.replays.ledger.keep(true);
        if self.replays.ring.is_on() {
            return;
        }
        let (floor, floor_end) = (self.joined_at(), self.position);
        self.replays.ring.turn_on(self.assembler.next_sequence(), floor, floor_end);
        self.replays.ledger.handed_over_to(self.progress.dispatched());
    }

    /// Where a channel stands that joins now: what is committed later is for it.
    fn joined_at(&self) -> Position {
        let before = Position::through(self.replays.silent_until);
        // Not before what the slot may be confirmed up to: a restart would take what lies between for lost.
        self.reached().max(Position::end_of(self.last_commit)).max(before)
    }

    /// How far everything has been routed.
    pub(super) fn reached(&self) -> Position {
        match self.phase {
            Phase::Reading => self.replays.worked.max(Position::through(self.position)),
            Phase::Waiting(..) | Phase::Working(_) => self.replays.worked,
        }
    }

    /// A stream begins.
    pub(super) fn resume_started(&mut self, started: &Started) {
        let history = &started.history;
        let origin = Origin { system_identifier: history.system_identifier.clone(), timeline: history.timeline };
        let begins = Position::through(started.confirmed);
        let replays = &mut self.replays;
        replays.wal_end = replays.wal_end.max(started.wal_end);
        let known = &replays.origin;
        let is_first = known.system_identifier.is_empty();
        if is_first {
            let floor = replays.before_start.filter(|end| *end <= started.confirmed);
            replays.worked = floor.map_or(begins, Position::through);
            if replays.ring.is_on() {
                replays.ring.turn_off();
                let floor_end = started.confirmed;
                replays.ring.turn_on(self.assembler.next_sequence(), replays.worked, floor_end);
            }
        } else if known.system_identifier != origin.system_identifier {
            replays.ledger.begin_again(Position::START, started.confirmed);
            replays.ring.forget(begins, started.confirmed, Missing::OtherHistory);
            (replays.worked, replays.wal_end, replays.silent_until) = (begins, started.wal_end, Lsn::ZERO);
        }
        // A timeline that was left past what had been dispatched takes nothing back.
        replays.history = Arc::clone(history);
        if let Some((_, to)) = started.lost {
            replays.ring.has_hole(Position::through(to), to, Missing::SlotLost);
        }
        if *replays.origin != origin {
            replays.origin = Arc::new(origin);
            self.access.set_origin(Arc::clone(&self.replays.origin));
        }
    }

    /// Whether this transaction's changes are kept, and whether they are for those who come back alone.
    pub(super) fn keeps(&mut self, work: &mut Work) {
        let header = &work.transaction.header;
        work.is_kept = self.replays.ring.takes(work.transaction.sequence, header);
        work.is_silent = header.end_lsn <= self.replays.silent_until;
        if std::mem::take(&mut self.replays.has_skipped) {
            // Whoever was not there to be told is told when he comes back.
            self.replays.ring.has_hole(Position::end_of(header.commit_lsn), header.end_lsn, Missing::TooLarge);
        }
        if self.replays.ring.is_on() && !work.is_kept {
            // It had begun before changes were kept, and is not among them.
            self.replays.unsettled.push_back(header.end_lsn);
        }
    }

    /// Keeps a change.
    pub(super) fn keep(
        &mut self,
        work: &mut Work,
        (operation, new, old): (Operation, Option<&Tuple>, &OldTuple),
        (stream, relation, known): (&Arc<StreamRelation>, &Arc<Relation>, Option<&Row>),
    ) {
        if !work.is_kept {
            return;
        }
        let kept = Kept {
            header: work.transaction.header,
            index: work.index - 1,
            operation,
            new: new.cloned(),
            old: old.clone(),
            known: known.cloned(),
            stream: Arc::clone(stream),
            relation: Arc::clone(relation),
        };
        let age = if work.is_silent { age(work.transaction.header.commit_timestamp) } else { Duration::ZERO };
        self.replays.ring.push(kept, age, Instant::now());
        let end = work.transaction.header.end_lsn;
        if self.replays.unsettled.back() != Some(&end) {
            self.replays.unsettled.push_back(end);
        }
    }

    /// Everything up to here has been handed over.
    pub(super) fn resume_settled(&mut self, end_lsn: Lsn) {
        let replays = &mut self.replays;
        while let Some(end) = replays.unsettled.front().copied().filter(|end| *end <= end_lsn) {
            replays.unsettled.pop_front();
            replays.ledger.handed_over_to(end);
        }
    }

    /// Lets go of what is too old, and says what the slot has to hold.
    pub(super) fn hold(&mut self) {
        if !self.replays.ring.is_on() {
            return;
        }
        let now = Instant::now();
        self.replays.ring.expire(now, !self.replays.is_idle());
        self.expire_parked(now);
        let replays = &mut self.replays;
        if self.subscribers.resumable() > 0 {
            replays.unused_since = now;
        }
        let is_unused = now.duration_since(replays.unused_since) >= replays.config.retention;
        // Over its budget the slot waits for nothing, not even for what cannot be written down; what is written next says
        // so.
        let written = replays.ledger.written();
        let is_exact = written.is_none() || !replays.is_over_budget();
        replays.ledger.keep(!is_unused && is_exact);
        // Changes are kept until that is written down: else a restart would know of no gap.
        if is_unused && !replays.ledger.is_keeping_written() {
            replays.ring.turn_off();
        }
        // What is in memory stays: only a restart would miss it.
        let kept = replays.ring.held_from().filter(|_| !replays.must_let_go());
        match kept.into_iter().chain(written.filter(|_| is_exact)).min() {
            Some(position) if replays.ring.is_on() => self.progress.hold_from(position),
            _ => self.progress.release(),
        }
        replays.metrics.kept_changes.set(replays.ring.len() as i64);
        replays.metrics.kept_bytes.set(replays.ring.bytes() as i64);
    }

    /// Works out what a channel that joins is owed. Before it is bound.
    pub(super) fn resume(&mut self, place: usize, link: Arc<Link>) {
        if self.replays.is_enabled() {
            self.keep_changes();
        }
        let joined_at = self.joined_at();
        let mut resuming = Resuming::new(Arc::clone(&link), joined_at);
        let mut claims = Vec::new();
        if !self.replays.is_enabled() {
            resuming.refused = Some("this server keeps no changes: --resume-retention is 0".into());
        }
        for ask in link.asks.iter().filter(|_| self.replays.is_enabled()) {
            let mut known = None;
            match &ask.key {
                None => {}
                Some(Err(why)) => resuming.refused = Some(why.to_string().into()),
                Some(Ok(key)) => {
                    let (claim, at) = self.replays.ledger.claim(*key, joined_at);
                    claims.push(claim);
                    known = at;
                }
            }
            match &ask.since {
                Since::Absent => {}
                Since::Malformed => resuming.missing = Some(Missing::NoPosition),
                Since::At(stamp) if self.is_of_this_history(stamp) => known = Some(stamp.position),
                Since::At(_) => resuming.missing = Some(Missing::OtherHistory),
            }
            if let Some(known) = known.filter(|known| self.may_be(*known)) {
                resuming.owed.push((ask.binding, known));
            } else if known.is_some() {
                resuming.missing = Some(Missing::OtherHistory);
            }
        }
        link.set_claims(claims);
        resuming.keys = self.keys_of(place, &link);
        if !resuming.owed.is_empty() {
            resuming.from = Some(resuming.oldest());
        }
        if !self.adopt(place, &mut resuming)
            && !resuming.owed.is_empty()
            && let Some(subscriber) = self.subscribers.get(place)
        {
            resuming.stage = Stage::Waiting;
            self.replays.waiting.push(subscriber.channel);
        }
        self.subscribers.resume(place, resuming);
        if let Some(subscriber) = self.subscribers.get(place) {
            subscriber.say_what_waits();
        }
    }

    fn is_of_this_history(&self, stamp: &Stamp) -> bool {
        let Origin { system_identifier, timeline } = &stamp.origin;
        let history = &self.replays.history;
        *system_identifier == history.system_identifier && history.covers(*timeline, stamp.position.lsn)
    }

    /// A position past the end of the WAL is of another history.
    fn may_be(&self, position: Position) -> bool {
        position <= Position::through(self.replays.wal_end.max(self.position).max(self.progress.received()))
    }

    /// From which transaction on a channel that is being bound is live. One that goes on from another's log is at once.
    pub(super) fn active_from(&self, place: usize) -> u64 {
        let resuming = self.subscribers.get(place).and_then(|subscriber| subscriber.resuming.as_ref());
        match resuming {
            Some(resuming) if resuming.log.is_some() => 0,
            _ => self.assembler.next_sequence(),
        }
    }

    /// The channel is bound and its join answered. Whoever is owed nothing is told so.
    pub(super) fn resume_bound(&mut self, place: usize) {
        self.doubt.bound();
        let subscriber = self.subscribers.get(place);
        let is_live = |resuming: &Resuming| resuming.stage == Stage::Live && resuming.is_direct;
        if subscriber.and_then(|subscriber| subscriber.resuming.as_deref()).is_some_and(is_live) {
            self.announce(place);
        }
    }

    /// Binds a channel as its stage says. What cannot be bound any more has nothing to wait for.
    pub(super) fn rebind_resuming(&mut self, place: usize) {
        match self.subscribers.bind(place, &self.catalog) {
            Bind::Ready(bound) => {
                let stage =
                    self.subscribers.get(place).and_then(|s| s.resuming.as_ref()).map(|resuming| resuming.stage);
                // Live from the next change on: all that came before has been replayed, whatever its transaction.
                let sequence = if stage == Some(Stage::Live) { 0 } else { self.assembler.next_sequence() };
                self.subscribers.replace(place, bound, sequence, &self.catalog, &mut self.access);
            }
            Bind::NeedsCasts | Bind::Refused { .. } => self.give_up(place),
        }
    }

    /// Its tables are not what they were: it is told of a gap, and bound like any other.
    pub(super) fn give_up(&mut self, place: usize) {
        if self.stop_resuming(place) {
            self.announce(place);
        }
    }

    /// `true`: it has to be told.
    pub(super) fn stop_resuming(&mut self, place: usize) -> bool {
        let Some(resuming) = self.subscribers.get_mut(place).and_then(|subscriber| subscriber.resuming.as_mut()) else {
            return false;
        };
        let was_live = resuming.stage == Stage::Live && resuming.is_direct;
        (resuming.stage, resuming.is_direct, resuming.log, resuming.fall_back_from) = (Stage::Live, true, None, None);
        if !was_live {
            resuming.missing = Some(Missing::Altered);
        }
        !was_live
    }

    /// What is missing is told before what follows it: a client that goes by its own position, and is cut off in between,
    /// would never hear of it. `until`: what is kept begins there.
    pub(super) fn tell_gap(&mut self, place: usize, until: Position) {
        let origin = Arc::clone(&self.replays.origin);
        let Some(subscriber) = self.subscribers.get_mut(place) else { return };
        let Some(resuming) = &mut subscriber.resuming else { return };
        let Some(missing) = resuming.missing.take() else { return };
        let from = resuming.from.map(|from| origin.stamp(from).to_string());
        let until = until.max(resuming.oldest());
        let resumption = Resumption {
            from: from.as_deref(),
            position: &origin.stamp(until).to_string(),
            missing: Some(missing.text()),
            refused: None,
        };
        subscriber.outbox.push(system::resumed(&subscriber.address, &resumption));
        // Told again to whoever comes back and has acknowledged nothing behind it.
        let at = resuming.told.map_or(until, |(at, _)| until.max(at));
        resuming.told = Some((at, missing));
        resuming.from = Some(until);
        resuming.owed.iter_mut().for_each(|(_, owed)| *owed = until.max(*owed));
        self.replays.metrics.gaps.inc();
    }

    /// All that it is owed has been routed to it.
    pub(super) fn go_live(&mut self, place: usize) {
        let Some(resuming) = self.subscribers.get_mut(place).and_then(|subscriber| subscriber.resuming.as_mut()) else {
            return;
        };
        resuming.stage = Stage::Live;
        self.doubt.bound();
        self.rebind_resuming(place);
        self.announce(place);
    }

    /// What became of resuming is told behind what is still being decided.
    pub(super) fn announce(&mut self, place: usize) {
        let reached = self.reached();
        let log = self.new_log(place);
        let Some(subscriber) = self.subscribers.get_mut(place) else { return };
        let Some(resuming) = &mut subscriber.resuming else { return };
        let position = if resuming.from.is_some() { reached } else { resuming.joined_at };
        if resuming.log.is_none() && resuming.keys.is_some() {
            resuming.log = log.and_then(|ids| SentLog::new(position, ids, &self.replays.metrics.noted_bytes));
        }
        if let Some(keys) = resuming.keys.as_ref().filter(|_| resuming.log.is_some()) {
            self.replays.holders.insert(Arc::clone(keys), place);
        }
        match (resuming.missing, resuming.from) {
            (Some(_), _) => self.replays.metrics.gaps.inc(),
            (None, Some(_)) => self.replays.metrics.resumed.inc(),
            (None, None) => 0,
        };
        resuming.announcement = Some((subscriber.queue.len(), position));
        self.announce_if_due(place);
    }

    /// One of the channel's deliveries has been decided.
    pub(super) fn count_down(&mut self, place: usize) {
        let Some(resuming) = self.subscribers.get_mut(place).and_then(|subscriber| subscriber.resuming.as_mut()) else {
            return;
        };
        let Some((left, _)) = &mut resuming.announcement else { return };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.finish_run(place);
            self.announce_if_due(place);
        }
    }

    /// From here on what is sent can be acknowledged.
    pub(super) fn announce_if_due(&mut self, place: usize) {
        let origin = Arc::clone(&self.replays.origin);
        let Some(subscriber) = self.subscribers.get_mut(place).filter(|subscriber| subscriber.held.is_none()) else {
            return;
        };
        let Some(resuming) = &mut subscriber.resuming else { return };
        let Some((_, position)) = resuming.announcement.take_if(|(left, _)| *left == 0) else { return };
        let stamp = |position| origin.stamp(position).to_string();
        // Not behind what it has: who goes on from here would be sent that again.
        let (from, position) = (resuming.from.map(stamp), stamp(position.max(resuming.sent)));
        let resumption = Resumption {
            from: from.as_deref(),
            position: &position,
            missing: resuming.missing.map(Missing::text),
            refused: resuming.refused.as_deref(),
        };
        subscriber.outbox.push(system::resumed(&subscriber.address, &resumption));
        resuming.link.go_live();
    }
}

/// How long ago a transaction was committed, by the database's clock.
fn age(commit_timestamp: i64) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let committed = Duration::from_micros(commit_timestamp.saturating_add(POSTGRES_EPOCH).max(0) as u64);
    now.saturating_sub(committed)
}
