//! Changes too large to send whole (PROTOCOL 4.4, error 413).

use crate::change::{Change, Row};
use crate::wal::pgoutput::Datum;

/// Which changes are too large, and which of their values are sent all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Supabase's `poll_max_record_bytes`.
    pub record_bytes_max: usize,
    /// The longest JSON of a value that stays in a change above `record_bytes_max`.
    pub kept_value_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { record_bytes_max: 1024 * 1024, kept_value_bytes_max: 64 }
    }
}

/// `{"pk": [..], "table": .., "action": "I", "schema": .., "columns": [], "timestamp": ..}` around the columns.
const ENVELOPE_BYTES: usize = 200;
/// `{"name": "", "type": "", "value": ""}, ` and a type name of ten letters.
const COLUMN_BYTES: usize = 50;
/// NAMEDATALEN without its zero.
const NAME_BYTES_MAX: usize = 63;

impl Limits {
    /// Whether the change counts as too large.
    ///
    /// Supabase measures the text that wal2json makes of the whole row, columns nobody sees included. This is an
    /// approximation of it: the values' texts and names, and what stands around each. Escapes in values and longer
    /// type names are not counted, so within some percent of the limit the two may differ.
    pub fn exceeded_by(&self, change: &Change) -> bool {
        let rows = || change.new.iter().chain(change.old.row());
        // Rows are rarely anywhere near it: the frames' lengths bound them without a look at the fields.
        let bound = |row: &Row| row.tuple.frame.len() + row.layout.positions.len() * (COLUMN_BYTES + NAME_BYTES_MAX);
        if rows().map(bound).sum::<usize>() + ENVELOPE_BYTES <= self.record_bytes_max {
            return false;
        }
        rows().map(row_bytes).sum::<usize>() + ENVELOPE_BYTES > self.record_bytes_max
    }
}

fn row_bytes(row: &Row) -> usize {
    let relation = &row.layout.relation;
    let column = |index| match row.datum(index) {
        Datum::Text(text) => relation.column(index).name.len() + COLUMN_BYTES + text.len(),
        Datum::Null => relation.column(index).name.len() + COLUMN_BYTES + "null".len(),
        Datum::UnchangedToast | Datum::Missing => 0,
    };
    relation.indices().map(column).sum()
}
