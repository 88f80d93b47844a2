//! The rows of one tracked table, and its hash indexes.

use std::sync::Arc;

use super::Moment;
use super::index::{Index, IndexOf};
use super::rows::{Marks, Rows};
use super::shape::Shape;
use super::weight::heap_bytes;
use crate::authz::policy::Value;
use crate::catalog::ColumnIndex;
use crate::wal::pgoutput::RelationId;

/// Tracked columns of a table's rows.
#[derive(Debug)]
pub struct Table {
    pub(super) shape: Arc<Shape>,
    rows: Rows,
    indexes: Vec<Index>,
    /// Where the key is unique, all rows; else those only that the transaction in work has left.
    key: Index,
    /// Rows that the transaction in work made or removed; some are no more, and some come twice.
    touched: Vec<u32>,
    value_bytes: usize,
}

/// One of its rows.
#[derive(Clone, Copy, Debug)]
pub struct TrackedRow<'a> {
    /// Of the kept columns.
    pub(super) values: &'a [Value],
}

impl Table {
    /// An empty table of these columns (ascending), with hash indexes on those, to be filled by hand.
    pub fn new(columns: Box<[ColumnIndex]>, indexes: impl IntoIterator<Item = Box<[ColumnIndex]>>) -> Table {
        Table::of(Arc::new(Shape::by_hand(columns, indexes.into_iter().collect())))
    }

    /// An empty table.
    pub fn of(shape: Arc<Shape>) -> Table {
        let index = |columns: &[ColumnIndex], of| Index::new(columns.into(), &shape.columns, of);
        let indexes = shape.indexes.iter().map(|columns| index(columns, IndexOf::Join)).collect();
        let key = index(&shape.key, IndexOf::Key);
        let rows = Rows::new(shape.columns.len());
        Table { shape, rows, indexes, key, touched: Vec::new(), value_bytes: 0 }
    }

    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// The value of a column that is kept to be read.
    pub fn value<'a>(&self, row: TrackedRow<'a>, column: ColumnIndex) -> Option<&'a Value> {
        let place = self.shape.columns.binary_search(&column).ok()?;
        // Of a key that nobody reads the bytes are kept, which are not its value.
        let is_value = self.shape.kept.get(place).is_none_or(|kept| kept.datum_type.is_some());
        is_value.then(|| &row.values[place])
    }

    /// Adds a row that was there before the transaction in work (a load). Its values are those of the kept columns.
    pub fn load(&mut self, values: Box<[Value]>) -> u32 {
        self.add(self.shape.relation.unwrap_or(RelationId(0)), values, false)
    }

    /// Adds a row that the transaction in work made.
    pub fn insert(&mut self, values: Box<[Value]>) -> u32 {
        self.add(self.shape.relation.unwrap_or(RelationId(0)), values, true)
    }

    pub(super) fn add(&mut self, leaf: RelationId, values: Box<[Value]>, is_new: bool) -> u32 {
        self.value_bytes += heap_bytes(&values);
        let place = self.rows.insert(values, Marks::new(leaf, is_new));
        for index in &mut self.indexes {
            index.add(&self.rows, place);
        }
        self.key.add(&self.rows, place);
        if is_new {
            self.touched.push(place);
        }
        place
    }

    pub(super) fn row(&self, place: u32) -> TrackedRow<'_> {
        TrackedRow { values: self.rows.values(place) }
    }

    /// The row with this key, as the changes so far leave it.
    pub(super) fn find(&self, leaf: RelationId, key: &[Value]) -> Option<u32> {
        self.find_visible(leaf, key, Moment::After)
    }

    /// The row with this key as of a moment. Only of tables with a unique key, and by all of its columns in its order.
    pub fn row_with_key(&self, leaf: RelationId, key: &[Value], moment: Moment) -> Option<TrackedRow<'_>> {
        self.find_visible(leaf, key, moment).filter(|_| self.shape.unique).map(|place| self.row(place))
    }

    fn find_visible(&self, leaf: RelationId, key: &[Value], moment: Moment) -> Option<u32> {
        let chain = std::iter::successors(self.key.first(&self.rows, leaf, key), |place| self.key.next(*place));
        chain.into_iter().find(|place| self.rows.marks(*place).is_visible(moment))
    }

    /// Removes a row that the transaction in work has left so far.
    pub(super) fn remove(&mut self, place: u32) {
        if self.rows.marks(place).is_new {
            // Nobody sees it: not before the transaction, and not after it.
            self.key.remove(&self.rows, place);
            return self.forget(place);
        }
        if !self.shape.unique {
            // Else equal rows that are gone would have to be passed by to find one that is not.
            self.key.remove(&self.rows, place);
        }
        if let Some(marks) = self.rows.marks_mut(place) {
            marks.is_gone = true;
        }
        self.touched.push(place);
    }

    fn forget(&mut self, place: u32) {
        for index in &mut self.indexes {
            index.remove(&self.rows, place);
        }
        self.value_bytes -= heap_bytes(self.rows.values(place));
        self.rows.remove(place);
    }

    /// Removes all rows, or those of one leaf.
    pub fn truncate(&mut self, relation: RelationId) {
        let all = self.shape.relation == Some(relation);
        let is_left = |marks: Marks| !marks.is_gone && (all || marks.leaf == relation);
        let places: Vec<_> = self.rows.places(0).filter(|place| is_left(self.rows.marks(*place))).collect();
        places.into_iter().for_each(|place| self.remove(place));
    }

    /// The transaction in work is done with: what it left is what there is.
    pub fn finish(&mut self) {
        while let Some(place) = self.touched.pop() {
            let Some(marks) = self.rows.marks_mut(place) else { continue };
            marks.is_new = false;
            if marks.is_gone {
                if self.shape.unique {
                    self.key.remove(&self.rows, place);
                }
                self.forget(place);
            }
        }
        // One large transaction should not be paid for ever.
        self.touched.shrink_to(1024);
    }

    /// The rows whose `columns` (those of an index, in its order) have these values, none of them NULL; `None`: there
    /// is no such index.
    pub fn lookup<'a>(&'a self, columns: &[ColumnIndex], key: &[Value], moment: Moment) -> Option<Found<'a>> {
        let index = self.indexes.iter().find(|index| *index.columns == *columns)?;
        let next = index.first(&self.rows, RelationId(0), key);
        Some(Found { table: self, places: Places::Chain(index, next), moment })
    }

    pub fn scan(&self, moment: Moment) -> Found<'_> {
        Found { table: self, places: Places::All(0), moment }
    }

    /// Rows, those included that the transaction in work has removed.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// About what it takes.
    pub fn memory_bytes(&self) -> usize {
        let indexes: usize = self.indexes.iter().map(Index::memory_bytes).sum();
        self.rows.memory_bytes()
            + indexes
            + self.key.memory_bytes()
            + self.value_bytes
            + self.touched.capacity() * size_of::<u32>()
    }
}

/// Rows of a table, as of a moment.
pub struct Found<'a> {
    table: &'a Table,
    places: Places<'a>,
    moment: Moment,
}

enum Places<'a> {
    Chain(&'a Index, Option<u32>),
    /// All from here on.
    All(u32),
}

impl<'a> Iterator for Found<'a> {
    type Item = TrackedRow<'a>;

    fn next(&mut self) -> Option<TrackedRow<'a>> {
        loop {
            let place = match &mut self.places {
                Places::Chain(index, next) => {
                    let place = (*next)?;
                    *next = index.next(place);
                    place
                }
                Places::All(from) => {
                    let place = self.table.rows.places(*from).next()?;
                    *from = place + 1;
                    place
                }
            };
            if self.table.rows.marks(place).is_visible(self.moment) {
                return Some(self.table.row(place));
            }
        }
    }
}
