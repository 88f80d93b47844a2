//! Match, authorize, encode, deliver, confirm.
//!
//! One task owns the subscription index and the subscribers. It is given frames, catalog states, commands and answers;
//! it gives frames to outboxes and the dispatched position to [`crate::wal`]. [`task`] sequences and decides nothing:
//!
//! * [`handle`]: how channels subscribe, and what must be asked of Postgres before they can;
//! * [`subscribers`]: who is subscribed to what;
//! * [`access`]: what a role may see of a relation, worked out once per catalog state;
//! * [`pending`]: changes that wait for an answer, in the order of their channel;
//! * [`questions`]: what is asked of Postgres, within bounds;
//! * [`unseen`]: what a join's reply waits for;
//! * [`topics`]: who may use a private channel;
//! * [`delivery`], `grouping`, [`judging`]: one change to the channels that it matches;
//! * [`tracking`]: tables that policies read, kept current;
//! * [`broadcasts`]: what the database broadcasts;
//! * `ring`, [`replays`], `sent`: what was changed lately, for those who come back;
//! * [`updates`], [`facts`]: catalog states, and what a session says of them, until the stream has come as far;
//! * [`run`], [`pressure`]: what goes to many outboxes, and how full they are.

pub mod access;
mod audience;
pub mod broadcasts;
pub mod by_policy;
pub mod delivery;
pub mod facts;
mod grouping;
pub mod handle;
mod hint;
pub mod judging;
pub mod metrics;
pub mod pending;
pub mod people;
pub mod pressure;
pub mod questions;
pub mod replays;
mod ring;
pub mod run;
#[cfg(test)]
mod sample;
mod sent;
pub mod subscriber;
pub mod subscribers;
pub mod task;
mod texts;
pub mod topics;
pub mod tracking;
pub mod unseen;
pub mod updates;

pub use handle::Handle;
pub use metrics::DispatchMetrics;
pub use task::{Dispatch, Inputs};
pub use tracking::{TableName, Tracking};

use crate::change::assembler;
use crate::encode::Limits;

/// What happens to a DELETE under row-level security whose old row is not in the stream (DESIGN section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Deletes {
    /// The bare key goes to whoever subscribes to the table, as Supabase does.
    #[default]
    Compatible,
    /// Only deletes that the policies could judge.
    Authorized,
    /// No deletes at all of tables with row-level security.
    None,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// The user's publications: states of others in `walcast.ddl_log` are not taken for theirs.
    pub publications: Vec<String>,
    pub transaction: assembler::Config,
    pub tracking: tracking::Config,
    pub deletes: Deletes,
    pub limits: Limits,
    /// Row images that wait for an answer of Postgres, in bytes; the stream is not read further past it.
    pub pending_bytes_max: usize,
    /// Rows that one question may carry: long enough to amortise a round trip, short enough to answer in a few ms.
    pub question_rows_max: usize,
    /// Bytes of row images after which a question is full, however few they are.
    pub question_bytes_max: usize,
    /// Changes worked on before other inputs get their turn.
    pub chunk_changes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            publications: vec!["supabase_realtime".to_owned()],
            transaction: assembler::Config::default(),
            tracking: tracking::Config::default(),
            deletes: Deletes::default(),
            limits: Limits::default(),
            pending_bytes_max: 64 << 20,
            question_rows_max: 128,
            question_bytes_max: 1 << 20,
            chunk_changes: 256,
        }
    }
}
