//! A hash index of tracked rows.

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::rows::Rows;
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

    fn key<'a>(&'a self, rows: &'a Rows, place: u32) -> impl Iterator<Item = &'a Value> {
        let values = rows.values(place);
        self.places.iter().map(|place| &values[usize::from(*place)])
    }

    /// The partition, where keys are told apart by it.
    fn leaf(&self, rows: &Rows, place: u32) -> RelationId {
        match self.of {
            IndexOf::Key => rows.marks(place).leaf,
            IndexOf::Join => RelationId(0),
        }
    }

    fn hash<'a>(&self, leaf: RelationId, key: impl Iterator<Item = &'a Value>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        if self.of == IndexOf::Key {
            leaf.hash(&mut hasher);
        }
        key.for_each(|value| value.hash(&mut hasher));
        hasher.finish()
    }

    fn has(&self, rows: &Rows, place: u32) -> bool {
        self.of == IndexOf::Key || !self.key(rows, place).any(Value::is_null)
    }

    fn is_same<'a>(&self, rows: &Rows, place: u32, leaf: RelationId, key: impl Iterator<Item = &'a Value>) -> bool {
        (self.of == IndexOf::Join || rows.marks(place).leaf == leaf)
            && self.key(rows, place).zip(key).all(|(a, b)| a.is_identical(b))
    }

    /// The first row of a key's chain.
    pub(super) fn first(&self, rows: &Rows, leaf: RelationId, key: &[Value]) -> Option<u32> {
        if key.len() != self.places.len() {
            return None;
        }
        let hash = self.hash(leaf, key.iter());
        self.heads.find(hash, |head| self.is_same(rows, *head, leaf, key.iter())).copied()
    }

    pub(super) fn next(&self, place: u32) -> Option<u32> {
        Some(self.links[place as usize].next).filter(|next| *next != NONE)
    }

    /// Adds the row at a place.
    pub(super) fn add(&mut self, rows: &Rows, place: u32) {
        if self.links.len() <= place as usize {
            self.links.resize(place as usize + 1, Link { previous: NONE, next: NONE });
        }
        if !self.has(rows, place) {
            return;
        }
        let leaf = self.leaf(rows, place);
        let hash = self.hash(leaf, self.key(rows, place));
        let mut heads = std::mem::take(&mut self.heads);
        let is_same = |head: &u32| self.is_same(rows, *head, leaf, self.key(rows, place));
        let rehash = |head: &u32| self.hash(self.leaf(rows, *head), self.key(rows, *head));
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

    /// Takes out a row that is still there.
    pub(super) fn remove(&mut self, rows: &Rows, place: u32) {
        if !self.has(rows, place) {
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
        let hash = self.hash(self.leaf(rows, place), self.key(rows, place));
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
