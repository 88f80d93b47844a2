//! A hash index of tracked rows.

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use super::table::TrackedRow;
use crate::authz::policy::Value;
use crate::catalog::ColumnIndex;
use crate::wal::pgoutput::RelationId;

/// No row.
const NONE: u32 = u32::MAX;

/// Rows with equal keys are a doubly linked chain, so that one of ten thousand is taken out in one step, and a key is
/// kept nowhere but in the rows themselves.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) columns: Box<[ColumnIndex]>,
    /// The columns' places in a row's values.
    places: Box<[u16]>,
    of: IndexOf,
    /// The first row of each chain.
    heads: HashTable<u32>,
    /// By the row's place.
    links: Vec<Link>,
    hasher: RandomState,
}

/// What an index is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IndexOf {
    /// Joins by SQL's `=`: rows with a NULL are left out.
    Join,
    /// Finds the row that the stream names; a key is unique within one leaf only.
    Key,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

impl Index {
    /// `kept`: the columns of a row's values, ascending; `columns` are among them.
    pub(super) fn new(columns: Box<[ColumnIndex]>, kept: &[ColumnIndex], of: IndexOf) -> Index {
        let place = |column| kept.binary_search(column).expect("an index is on kept columns") as u16;
        let places = columns.iter().map(place).collect();
        Index { columns, places, of, heads: HashTable::new(), links: Vec::new(), hasher: RandomState::default() }
    }

    fn key<'a>(&'a self, row: &'a TrackedRow) -> impl Iterator<Item = &'a Value> {
        self.places.iter().map(|place| &row.values[usize::from(*place)])
    }

    fn hash<'a>(&self, leaf: RelationId, key: impl Iterator<Item = &'a Value>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        if self.of == IndexOf::Key {
            leaf.hash(&mut hasher);
        }
        key.for_each(|value| value.hash(&mut hasher));
        hasher.finish()
    }

    fn has(&self, row: &TrackedRow) -> bool {
        self.of == IndexOf::Key || !self.key(row).any(Value::is_null)
    }

    fn is_same<'a>(&self, row: &TrackedRow, leaf: RelationId, key: impl Iterator<Item = &'a Value>) -> bool {
        (self.of == IndexOf::Join || row.leaf == leaf) && self.key(row).zip(key).all(|(a, b)| identical(a, b))
    }

    /// The first row of a key's chain.
    pub(super) fn first(&self, rows: &Slab<TrackedRow>, leaf: RelationId, key: &[Value]) -> Option<u32> {
        if key.len() != self.places.len() {
            return None;
        }
        let hash = self.hash(leaf, key.iter());
        self.heads.find(hash, |head| self.is_same(&rows[*head as usize], leaf, key.iter())).copied()
    }

    pub(super) fn next(&self, place: u32) -> Option<u32> {
        Some(self.links[place as usize].next).filter(|next| *next != NONE)
    }

    /// Adds the row at a place.
    pub(super) fn add(&mut self, rows: &Slab<TrackedRow>, place: u32) {
        if self.links.len() <= place as usize {
            self.links.resize(place as usize + 1, Link { previous: NONE, next: NONE });
        }
        let row = &rows[place as usize];
        if !self.has(row) {
            return;
        }
        let hash = self.hash(row.leaf, self.key(row));
        let mut heads = std::mem::take(&mut self.heads);
        let is_same = |head: &u32| self.is_same(&rows[*head as usize], row.leaf, self.key(row));
        let rehash = |head: &u32| {
            let row = &rows[*head as usize];
            self.hash(row.leaf, self.key(row))
        };
        let next = match heads.entry(hash, is_same, rehash) {
            hashbrown::hash_table::Entry::Occupied(mut head) => std::mem::replace(head.get_mut(), place),
            hashbrown::hash_table::Entry::Vacant(head) => {
                head.insert(place);
                NONE
            }
        };
        self.heads = heads;
        self.links[place as usize] = Link { previous: NONE, next };
        if next != NONE {
            self.links[next as usize].previous = place;
        }
    }

    /// Takes out a row that is still in the slab.
    pub(super) fn remove(&mut self, rows: &Slab<TrackedRow>, place: u32) {
        let row = &rows[place as usize];
        if !self.has(row) {
            return;
        }
        let Link { previous, next } = self.links[place as usize];
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        if previous != NONE {
            self.links[previous as usize].next = next;
            return;
        }
        let hash = self.hash(row.leaf, self.key(row));
        if let Ok(mut head) = self.heads.find_entry(hash, |head| *head == place) {
            match next {
                NONE => drop(head.remove()),
                next => *head.get_mut() = next,
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.heads.allocation_size() + self.links.capacity() * size_of::<Link>()
    }
}

/// Whether two values are the same down to how they are written: `1.0` and `1.00` are equal, but not this.
fn identical(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Numeric(a), Value::Numeric(b)) => a.as_bigint_and_exponent() == b.as_bigint_and_exponent(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| identical(a, b))
        }
        // Numbers inside keep their digits as well.
        (Value::Jsonb(a), Value::Jsonb(b)) => a == b && format!("{a:?}") == format!("{b:?}"),
        (a, b) => a == b,
    }
}
