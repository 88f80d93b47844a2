//! Changes as JSON: the bytes that Postgres' `to_jsonb` would give, written straight from the stream's text values.
//!
//! Given a change and what of its row somebody may see; gives the `data` object of a `postgres_changes` event.
//! Pure, total on any bytes, and without a tree but for `json` columns, whose keys Postgres re-orders. Knows no
//! roles, no subscriptions and no channels: whoever asks has already decided which columns are visible.
//!
//! What only Postgres can encode (types with a cast to `json`, stored generated columns that the stream leaves out)
//! is named by [`columns_only_postgres_encodes`] and comes back in as [`Computed`].

mod array;
mod composite;
pub mod datum;
mod error;
mod escape;
pub mod jsonb;
pub mod limit;
mod number;
pub mod record;
mod timestamp;

use crate::catalog::ColumnSet;

pub use datum::{Encoding, columns_only_postgres_encodes, write_json};
pub use error::{DatumError, EncodeError};
pub use limit::Limits;
pub use record::{Computed, ComputedValues, ErrorRow, RecordShape, change_data, error_data};

/// How much of the row before the change may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OldVisibility {
    /// All that the stream carries: no row-level security, or it allowed the old row too.
    Whole,
    /// The key alone.
    KeyOnly,
}

/// What of a change is shown: equal projections of one change are equal bytes, so each is written once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Projection {
    /// The columns visible to the role, cut to `select` and the primary key where there is a `select`.
    pub columns: ColumnSet,
    pub old: OldVisibility,
}
