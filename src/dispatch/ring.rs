//! The changes of the last minutes, kept for those who come back.
//!
//! Bounded in bytes and in age; what has to go goes from the old end, and [`Ring::floor`] says up to where. They are kept
//! as they came: by whom they may be seen is decided when somebody asks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::catalog::Relation;
use crate::change::{Change, Layout, OldRow, Operation, Row, TransactionHeader};
use crate::resume::Config;
use crate::wal::pgoutput::{OldTuple, StreamRelation, Tuple};
use crate::wal::{Lsn, Position};

/// A change as it came, and what the table was then.
pub struct Kept {
    pub header: TransactionHeader,
    pub index: u32,
    pub operation: Operation,
    pub new: Option<Tuple>,
    pub old: OldTuple,
    /// See [`Change::kept`].
    pub known: Option<Row>,
    pub stream: Arc<StreamRelation>,
    pub relation: Arc<Relation>,
}

impl Kept {
    pub fn position(&self) -> Position {
        Position { lsn: self.header.commit_lsn, index: self.index }
    }

    fn bytes(&self) -> usize {
        let tuple = |tuple: &Tuple| tuple.frame.len() + size_of_val(&tuple.fields[..]);
        let old = match &self.old {
            OldTuple::Absent => 0,
            // In the same frame as the new one, where there is one.
            OldTuple::Key(old) | OldTuple::Full(old) if self.new.is_some() => size_of_val(&old.fields[..]),
            OldTuple::Key(old) | OldTuple::Full(old) => tuple(old),
        };
        let known = self.known.as_ref().map_or(0, |row| tuple(&row.tuple));
        size_of::<Entry>() + self.new.as_ref().map_or(0, tuple) + old + known
    }

    /// Rows as they come are slices of what was read at once, with much beside them that is not kept: a small one would
    /// hold on to all of it.
    fn detach(&mut self) {
        let was = self.new.as_ref().map(|new| new.frame.clone());
        if let Some(new) = &mut self.new {
            new.frame = Bytes::copy_from_slice(&new.frame);
        }
        if let OldTuple::Key(old) | OldTuple::Full(old) = &mut self.old {
            let is_shared = was.is_some_and(|was| was.as_ptr() == old.frame.as_ptr() && was.len() == old.frame.len());
            old.frame = match &self.new {
                Some(new) if is_shared => new.frame.clone(),
                _ => Bytes::copy_from_slice(&old.frame),
            };
        }
    }

    /// The rows' layout under a later state of the table. What another column had is not read by its name.
    pub fn layout(&self, relation: &Arc<Relation>) -> Layout {
        let mut layout = Layout::new(Arc::clone(relation), &self.stream);
        if !Arc::ptr_eq(&self.relation, relation) {
            let earlier = &self.relation;
            layout.forget(|column| earlier.columns.iter().any(|known| known.name == column.name && !known.is(column)));
        }
        layout
    }

    /// The change under such a layout.
    pub fn change(&self, layout: &Arc<Layout>) -> Change {
        let row = |tuple: &Tuple, key_only| Row { layout: Arc::clone(layout), tuple: tuple.clone(), key_only };
        Change {
            relation: Arc::clone(&layout.relation),
            operation: self.operation,
            new: self.new.as_ref().map(|tuple| row(tuple, false)),
            old: match &self.old {
                OldTuple::Absent => OldRow::Absent,
                OldTuple::Key(tuple) => OldRow::Key(row(tuple, true)),
                OldTuple::Full(tuple) => OldRow::Full(row(tuple, false)),
            },
            // Its columns are those of the table as it was.
            kept: self.known.clone().filter(|_| Arc::ptr_eq(&self.relation, &layout.relation)),
            commit_lsn: self.header.commit_lsn,
            index: self.index,
            commit_timestamp: self.header.commit_timestamp,
        }
    }
}

struct Entry {
    kept: Kept,
    bytes: usize,
    since: Instant,
}

/// Why what lies before the floor is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nobody had asked for anything to be kept.
    NotKept,
    TooOld,
    TooMuch,
    /// The slot has lost it.
    SlotLost,
    /// A change was above `--wal-frame-max`.
    TooLarge,
    /// A table was altered, or left the publication, in between.
    Altered,
    /// The position is of another database, or of a history that was left.
    OtherHistory,
    /// What the client passed is no position.
    NoPosition,
    /// A policy could not be evaluated while nobody could be told.
    Undecided,
}

impl Missing {
    /// As clients are told.
    pub fn text(self) -> &'static str {
        match self {
            Missing::NotKept => "changes were not kept then: the relay began to keep them later",
            Missing::TooOld => "it is longer ago than --resume-retention",
            Missing::TooMuch => "more was changed meanwhile than --resume-memory-max keeps",
            Missing::SlotLost => "the replication slot lost it",
            Missing::TooLarge => "a change was too large to be read (--wal-frame-max)",
            Missing::Altered => "a table was altered meanwhile, or left the publication",
            Missing::OtherHistory => "the position is of another database, or of a history that it has left",
            Missing::Undecided => "row-level security could not be evaluated for you meanwhile",
            Missing::NoPosition => "what was passed as `since` is not a position",
        }
    }
}

/// While somebody waits for what is kept, it is kept for so many times the retention.
const AWAITED: u32 = 2;

pub struct Ring {
    config: Config,
    entries: VecDeque<Entry>,
    /// The number of the first entry; they are counted from 0, and the numbers are not used again.
    first: u64,
    bytes: usize,
    floor: Position,
    missing: Missing,
    /// The end of the last transaction of which something is not kept: the slot has to hold what comes after it.
    floor_end: Lsn,
    /// Transactions that had begun before are not kept whole. `None`: nothing is kept.
    from_sequence: Option<u64>,
}

impl Ring {
    pub fn new(config: Config) -> Ring {
        Ring {
            config,
            entries: VecDeque::new(),
            first: 0,
            bytes: 0,
            floor: Position::START,
            missing: Missing::NotKept,
            floor_end: Lsn::ZERO,
            from_sequence: None,
        }
    }

    pub fn is_on(&self) -> bool {
        self.from_sequence.is_some()
    }

    /// From here on changes are kept, of transactions from `sequence` on. `floor`: there was nothing after it until now.
    pub fn turn_on(&mut self, sequence: u64, floor: Position, floor_end: Lsn) {
        if !self.is_on() {
            self.from_sequence = Some(sequence);
            (self.floor, self.floor_end, self.missing) = (floor, floor_end, Missing::NotKept);
        }
    }

    pub fn turn_off(&mut self) {
        self.from_sequence = None;
        self.first += self.entries.len() as u64;
        self.entries = VecDeque::new();
        self.bytes = 0;
    }

    /// Everything after it is kept; the reason why what is before it is not.
    pub fn floor(&self) -> (Position, Missing) {
        (self.floor, self.missing)
    }

    /// Nothing that was kept up to a position is any good.
    pub fn forget(&mut self, to: Position, end: Lsn, missing: Missing) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
        self.bytes = 0;
        self.raise_floor(to, end, missing);
    }

    /// Something before a position was never read.
    pub fn has_hole(&mut self, to: Position, end: Lsn, missing: Missing) {
        self.raise_floor(to, end, missing);
    }

    fn raise_floor(&mut self, to: Position, end: Lsn, missing: Missing) {
        if self.floor < to {
            (self.floor, self.missing) = (to, missing);
        }
        self.floor_end = self.floor_end.max(end);
    }

    /// Whether changes of a transaction are kept. One that had begun before raises the floor.
    pub fn takes(&mut self, sequence: u64, header: &TransactionHeader) -> bool {
        match self.from_sequence {
            Some(from) if from <= sequence => true,
            Some(_) => {
                self.raise_floor(Position::end_of(header.commit_lsn), header.end_lsn, Missing::NotKept);
                false
            }
            None => false,
        }
    }

    /// `age`: how long ago it was committed, where that is not just now.
    pub fn push(&mut self, mut kept: Kept, age: Duration, now: Instant) {
        kept.detach();
        let since = now.checked_sub(age.min(self.config.retention)).unwrap_or(now);
        let bytes = kept.bytes();
        self.bytes += bytes;
        self.entries.push_back(Entry { kept, bytes, since });
        while self.bytes > self.config.memory_bytes_max && !self.entries.is_empty() {
            self.drop_first(Missing::TooMuch);
        }
    }

    /// Lets go of what is too old. Whoever is waiting for it may be waiting for others: meanwhile it is kept for longer.
    pub fn expire(&mut self, now: Instant, is_awaited: bool) {
        while self.expires_at(is_awaited).is_some_and(|at| at <= now) {
            self.drop_first(Missing::TooOld);
        }
    }

    /// When [`Ring::expire`] has something to do next.
    pub fn expires_at(&self, is_awaited: bool) -> Option<Instant> {
        let kept_for = if is_awaited { self.config.retention * AWAITED } else { self.config.retention };
        self.entries.front().map(|entry| entry.since + kept_for)
    }

    fn drop_first(&mut self, missing: Missing) {
        let Some(Entry { kept, bytes, .. }) = self.entries.pop_front() else { return };
        self.first += 1;
        self.bytes -= bytes;
        self.raise_floor(kept.position(), kept.header.end_lsn, missing);
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    /// Where the slot has to begin after a restart so that all this comes again. `None`: it need not hold anything.
    pub fn held_from(&self) -> Option<Lsn> {
        let first = self.entries.front()?;
        // Of a transaction that was kept in part the rest is worth having, too.
        Some(self.floor_end.min(Lsn(first.kept.header.commit_lsn.0)))
    }

    /// Up to where something is missing in front of the entry with a number. `None`: somewhere behind it, there is a hole
    /// among what is kept.
    pub fn gap_before(&self, number: u64) -> Option<Position> {
        match self.at_or_after(number) {
            Some((_, kept)) if kept.position() <= self.floor => None,
            _ => Some(self.floor),
        }
    }

    /// The number of the first entry, or of the next one.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number behind the last entry.
    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// What stands at a position.
    pub fn get(&self, position: Position) -> Option<&Kept> {
        let place = self.entries.partition_point(|entry| entry.kept.position() < position);
        self.entries.get(place).map(|entry| &entry.kept).filter(|kept| kept.position() == position)
    }

    /// The number of the first entry behind a position.
    pub fn seek(&self, after: Position) -> u64 {
        self.first + self.entries.partition_point(|entry| entry.kept.position() <= after) as u64
    }

    /// The position of what stands before a number; `None`: nothing is there.
    pub fn before(&self, number: u64) -> Option<Position> {
        let place = number.checked_sub(self.first + 1)?;
        self.entries.get(place as usize).map(|entry| entry.kept.position())
    }

    /// The entry with a number, or the first that is still there behind it.
    pub fn at_or_after(&self, number: u64) -> Option<(u64, &Kept)> {
        let number = number.max(self.first);
        let entry = self.entries.get((number - self.first) as usize)?;
        Some((number, &entry.kept))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::sample::{OPEN, relation};
    use crate::wal::pgoutput::RelationColumn;

    fn kept(lsn: u64, index: u32) -> Kept {
        let relation = Arc::new(relation(OPEN));
        let column =
            |name: &str| RelationColumn { name: name.to_owned(), type_oid: 25, type_modifier: -1, is_key: false };
        let columns = relation.columns.iter().map(|known| column(&known.name)).collect();
        let stream = StreamRelation {
            id: relation.id,
            schema: relation.schema.clone(),
            name: relation.name.clone(),
            replica_identity: b'd',
            columns,
        };
        Kept {
            header: TransactionHeader { xid: 1, commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 5), commit_timestamp: 0 },
            index,
            operation: Operation::Insert,
            new: Some(Tuple::from_values([Some(&b"1"[..]), None])),
            old: OldTuple::Absent,
            known: None,
            stream: Arc::new(stream),
            relation,
        }
    }

    fn ring(memory_bytes_max: usize) -> Ring {
        let mut ring = Ring::new(Config { memory_bytes_max, ..Config::default() });
        ring.turn_on(7, Position::through(Lsn(10)), Lsn(10));
        ring
    }

    fn positions(ring: &Ring, after: Position) -> Vec<(u64, u32)> {
        let mut number = ring.seek(after);
        std::iter::from_fn(|| {
            let (found, kept) = ring.at_or_after(number)?;
            number = found + 1;
            Some((kept.header.commit_lsn.0, kept.index))
        })
        .collect()
    }

    #[test]
    fn what_comes_after_a_position_is_found() {
        let mut ring = ring(1 << 20);
        let now = Instant::now();
        for (lsn, index) in [(20, 0), (20, 1), (30, 0)] {
            ring.push(kept(lsn, index), Duration::ZERO, now);
        }
        assert_eq!(positions(&ring, ring.floor().0), [(20, 0), (20, 1), (30, 0)]);
        assert_eq!(positions(&ring, Position { lsn: Lsn(20), index: 0 }), [(20, 1), (30, 0)]);
        assert_eq!(positions(&ring, Position::through(Lsn(25))), [(30, 0)]);
        assert_eq!(positions(&ring, Position::end_of(Lsn(30))), []);
        assert_eq!(ring.held_from(), Some(Lsn(10)));
    }

    #[test]
    fn what_is_kept_holds_on_to_nothing_else() {
        let mut ring = ring(1 << 20);
        let read = Bytes::from(vec![0; 1 << 16]);
        let mut kept = kept(20, 0);
        let tuple = kept.new.take().unwrap();
        let frame = read.slice(100..200);
        kept.old = OldTuple::Full(Tuple { frame: frame.clone(), ..tuple.clone() });
        kept.new = Some(Tuple { frame, ..tuple });
        ring.push(kept, Duration::ZERO, Instant::now());
        assert!(read.is_unique());
        let kept = ring.at_or_after(0).unwrap().1;
        let OldTuple::Full(old) = &kept.old else { panic!("the old row is gone") };
        assert_eq!(old.frame.as_ptr(), kept.new.as_ref().unwrap().frame.as_ptr(), "counted once, and there once");
    }

    #[test]
    fn the_floor_rises_with_what_goes() {
        let now = Instant::now();
        let bytes = kept(20, 0).bytes();
        let mut ring = ring(2 * bytes);
        for (lsn, index) in [(20, 0), (20, 1), (30, 0)] {
            ring.push(kept(lsn, index), Duration::ZERO, now);
        }
        assert_eq!(ring.floor(), (Position { lsn: Lsn(20), index: 0 }, Missing::TooMuch));
        assert_eq!(ring.held_from(), Some(Lsn(20)), "what is left of the transaction comes again only with all of it");
        ring.expire(now + Config::default().retention * 2, false);
        assert_eq!(
            (ring.floor(), ring.len(), ring.bytes()),
            ((Position { lsn: Lsn(30), index: 0 }, Missing::TooOld), 0, 0)
        );
        assert_eq!(ring.held_from(), None);
        assert_eq!(ring.end(), 3, "numbers are not used again");
    }

    #[test]
    fn a_transaction_that_had_begun_is_not_kept() {
        let mut ring = ring(1 << 20);
        let header = kept(20, 0).header;
        assert!(!ring.takes(6, &header));
        assert_eq!(ring.floor(), (Position::end_of(Lsn(20)), Missing::NotKept));
        assert!(ring.takes(7, &kept(30, 0).header));
    }
}
