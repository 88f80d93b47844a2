//! Where the rows of a tracked table lie.
//!
//! A row's values lie side by side with those of other rows, so that looking at one is one look at memory, and a row costs
//! no block of its own.

use crate::authz::policy::Value;
use crate::wal::pgoutput::RelationId;

use super::Moment;

/// Rows of a block: a table grows by so many at a time.
const OF_BLOCK: usize = 256;

/// Rows by their places, which are used again.
#[derive(Debug)]
pub(super) struct Rows {
    /// Of each row.
    width: usize,
    blocks: Vec<Block>,
    marks: Vec<Marks>,
    free: Vec<u32>,
    /// Of what the blocks hold, empty places included: asked for with each row of a load.
    block_bytes: usize,
}

#[derive(Debug, Default)]
struct Block {
    /// Empty where it has no row.
    values: Box<[Value]>,
    rows: u32,
}

/// What is known of a row besides its values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// The partition that it is in.
    pub(super) leaf: RelationId,
    /// Nothing else is said of a place without a row.
    is_there: bool,
    /// Made by the transaction in work.
    pub(super) is_new: bool,
    /// Removed by it.
    pub(super) is_gone: bool,
}

impl Marks {
    pub(super) fn new(leaf: RelationId, is_new: bool) -> Marks {
        Marks { leaf, is_there: true, is_new, is_gone: false }
    }

    pub(super) fn is_visible(self, moment: Moment) -> bool {
        match moment {
            Moment::Before => !self.is_new,
            Moment::After => !self.is_gone,
        }
    }
}

impl Rows {
    /// For rows of so many values.
    pub(super) fn new(width: usize) -> Rows {
        Rows { width, blocks: Vec::new(), marks: Vec::new(), free: Vec::new(), block_bytes: 0 }
    }

    pub(super) fn insert(&mut self, values: Box<[Value]>, marks: Marks) -> u32 {
        debug_assert_eq!(values.len(), self.width);
        let place = self.free.pop().unwrap_or(self.marks.len() as u32);
        match self.marks.get_mut(place as usize) {
            Some(before) => *before = marks,
            None => self.marks.push(marks),
        }
        let (block, from) = self.lies(place);
        if self.blocks.len() <= block {
            self.blocks.push(Block::default());
        }
        let block = &mut self.blocks[block];
        if block.rows == 0 {
            block.values = vec![Value::Null; OF_BLOCK * self.width].into();
            self.block_bytes += size_of_val(&*block.values);
        }
        block.rows += 1;
        for (to, value) in block.values[from..].iter_mut().zip(values) {
            *to = value;
        }
        place
    }

    /// Lets go of the row's values.
    pub(super) fn remove(&mut self, place: u32) {
        self.marks[place as usize].is_there = false;
        self.free.push(place);
        let (block, from) = self.lies(place);
        let block = &mut self.blocks[block];
        block.rows -= 1;
        match block.rows {
            0 => self.block_bytes -= size_of_val(&*std::mem::take(&mut block.values)),
            _ => block.values[from..from + self.width].fill(Value::Null),
        }
    }

    pub(super) fn values(&self, place: u32) -> &[Value] {
        let (block, from) = self.lies(place);
        &self.blocks[block].values[from..from + self.width]
    }

    /// The block, and where in it.
    fn lies(&self, place: u32) -> (usize, usize) {
        let place = place as usize;
        (place / OF_BLOCK, place % OF_BLOCK * self.width)
    }

    pub(super) fn marks(&self, place: u32) -> Marks {
        self.marks[place as usize]
    }

    /// `None`: there is no row.
    pub(super) fn marks_mut(&mut self, place: u32) -> Option<&mut Marks> {
        self.marks.get_mut(place as usize).filter(|marks| marks.is_there)
    }

    /// The places that have rows, from one on.
    pub(super) fn places(&self, from: u32) -> impl Iterator<Item = u32> {
        let marks = self.marks.get(from as usize..).unwrap_or_default().iter().zip(from..);
        marks.filter(|(marks, _)| marks.is_there).map(|(_, place)| place)
    }

    pub(super) fn len(&self) -> usize {
        self.marks.len() - self.free.len()
    }

    /// Without what values have elsewhere.
    pub(super) fn memory_bytes(&self) -> usize {
        self.block_bytes
            + self.blocks.capacity() * size_of::<Block>()
            + self.marks.capacity() * size_of::<Marks>()
            + self.free.capacity() * size_of::<u32>()
    }
}
