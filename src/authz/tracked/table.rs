//! The rows of one tracked table, and its hash indexes.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;

use super::Moment;
use crate::authz::policy::Value;
use crate::catalog::ColumnIndex;

/// Tracked columns of a table's rows.
#[derive(Debug)]
pub struct Table {
    /// The columns that are kept, ascending.
    columns: Box<[ColumnIndex]>,
    rows: Slab<TrackedRow>,
    indexes: Vec<Index>,
}

#[derive(Debug)]
pub struct TrackedRow {
    values: Box<[Value]>,
    /// Made by the transaction in work.
    is_new: bool,
    /// Removed by it.
    is_gone: bool,
}

#[derive(Debug)]
struct Index {
    columns: Box<[ColumnIndex]>,
    rows: HashMap<Box<[Value]>, SmallVec<[u32; 2]>, RandomState>,
}

impl TrackedRow {
    fn is_visible(&self, moment: Moment) -> bool {
        match moment {
            Moment::Before => !self.is_new,
            Moment::After => !self.is_gone,
        }
    }
}

impl Table {
    /// An empty table of these columns (ascending), with hash indexes on those.
    pub fn new(columns: Box<[ColumnIndex]>, indexes: impl IntoIterator<Item = Box<[ColumnIndex]>>) -> Table {
        let indexes = indexes.into_iter().map(|columns| Index { columns, rows: HashMap::default() }).collect();
        Table { columns, rows: Slab::new(), indexes }
    }

    /// The value of a column that is kept.
    pub fn value<'a>(&self, row: &'a TrackedRow, column: ColumnIndex) -> Option<&'a Value> {
        self.columns.binary_search(&column).ok().map(|place| &row.values[place])
    }

    /// Adds a row that was there before the transaction in work (a load). Its values are those of the kept columns.
    pub fn load(&mut self, values: Box<[Value]>) -> u32 {
        self.add(values, false)
    }

    /// Adds a row that the transaction in work made.
    pub fn insert(&mut self, values: Box<[Value]>) -> u32 {
        self.add(values, true)
    }

    fn add(&mut self, values: Box<[Value]>, is_new: bool) -> u32 {
        let columns = &self.columns;
        let key = |index: &Index| -> Box<[Value]> {
            let place = |column: &ColumnIndex| columns.binary_search(column).expect("an index is on kept columns");
            index.columns.iter().map(|column| values[place(column)].clone()).collect()
        };
        let keys: Vec<Box<[Value]>> = self.indexes.iter().map(key).collect();
        let place = self.rows.insert(TrackedRow { values, is_new, is_gone: false }) as u32;
        for (index, key) in self.indexes.iter_mut().zip(keys) {
            index.rows.entry(key).or_default().push(place);
        }
        place
    }

    /// The rows whose `columns` (those of an index, in its order) have these values, none of them NULL; `None`: there
    /// is no such index.
    pub fn lookup<'a>(&'a self, columns: &[ColumnIndex], key: &[Value], moment: Moment) -> Option<Rows<'a>> {
        let index = self.indexes.iter().find(|index| *index.columns == *columns)?;
        let places = index.rows.get(key).map_or(&[][..], |places| &places[..]);
        Some(Rows { table: self, places: Places::Some(places.iter()), moment })
    }

    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    pub fn scan(&self, moment: Moment) -> Rows<'_> {
        Rows { table: self, places: Places::All(self.rows.iter()), moment }
    }
}

/// Rows of a table, as of a moment.
pub struct Rows<'a> {
    table: &'a Table,
    places: Places<'a>,
    moment: Moment,
}

enum Places<'a> {
    Some(std::slice::Iter<'a, u32>),
    All(slab::Iter<'a, TrackedRow>),
}

impl<'a> Iterator for Rows<'a> {
    type Item = &'a TrackedRow;

    fn next(&mut self) -> Option<&'a TrackedRow> {
        loop {
            let row = match &mut self.places {
                Places::Some(places) => &self.table.rows[*places.next()? as usize],
                Places::All(rows) => rows.next()?.1,
            };
            if row.is_visible(self.moment) {
                return Some(row);
            }
        }
    }
}
