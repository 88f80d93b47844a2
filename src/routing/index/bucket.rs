//! The subscriptions that a value leads to.
//!
//! With a hundred thousand keys a lookup costs what it waits for memory. A bucket therefore lies in the hash table
//! itself, its key in one cache line and what most changes need of it in the next: they are fetched together, and
//! nothing has to be followed from there.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use smallvec::SmallVec;

use crate::catalog::ColumnIndex;
use crate::routing::bytewise::Form;
use crate::routing::subscription::SubscriptionId;

/// The buckets of one column.
#[derive(Debug)]
pub(super) struct Buckets {
    pub(super) column: ColumnIndex,
    pub(super) form: Form,
    pub(super) by_value: HashMap<Key, Bucket, foldhash::fast::RandomState>,
}

#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// The subscriptions of the group that asks for this value and for nothing else.
    pub(super) ids: SmallVec<[SubscriptionId; 10]>,
    /// The groups that are to be looked at.
    groups: Option<Box<SmallVec<[u32; 4]>>>,
}

/// Two lines of most processors; the key is aligned to one.
const _: () = assert!(size_of::<(Key, Bucket)>() == 128);

/// A value; a UUID takes 36 bytes.
#[derive(Debug)]
#[repr(align(64))]
pub(super) enum Key {
    Short(u8, [u8; KEY_BYTES_MAX]),
    Long(Box<[u8]>),
}

const KEY_BYTES_MAX: usize = 62;

impl Bucket {
    pub(super) fn groups(&self) -> &[u32] {
        self.groups.as_ref().map_or(&[], |groups| groups)
    }

    /// Adds a group; the answer is its place.
    pub(super) fn add(&mut self, group: u32) -> u32 {
        let groups = self.groups.get_or_insert_default();
        groups.push(group);
        (groups.len() - 1) as u32
    }

    /// Removes the group at a place; the answer is the one that has moved there.
    pub(super) fn take_out(&mut self, place: u32) -> Option<u32> {
        let groups = self.groups.as_mut()?;
        groups.swap_remove(place as usize);
        let moved = groups.get(place as usize).copied();
        if groups.is_empty() {
            self.groups = None;
        }
        moved
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.groups.is_none()
    }
}

impl Key {
    pub(super) fn new(value: &[u8]) -> Key {
        if value.len() > KEY_BYTES_MAX {
            return Key::Long(value.into());
        }
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes[..value.len()].copy_from_slice(value);
        Key::Short(value.len() as u8, bytes)
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        match self {
            Key::Short(len, bytes) => &bytes[..usize::from(*len)],
            Key::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        Borrow::<[u8]>::borrow(self) == Borrow::<[u8]>::borrow(other)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<[u8]>::borrow(self).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_bytes_whatever_its_length() {
        let values: Vec<Vec<u8>> = (0..200).map(|length| vec![0; length]).collect();
        let table: HashMap<Key, usize> = values.iter().map(|value| (Key::new(value), value.len())).collect();
        for value in &values {
            assert_eq!(table.get(&value[..]), Some(&value.len()));
        }
        assert_eq!(table.get(&[0; 200][..]), None);
    }
}
