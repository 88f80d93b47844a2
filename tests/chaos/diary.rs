//! What a client wrote down while it lived. The checker reads it afterwards; nothing is judged here.

use super::binding::Binding;
use super::world::{ChangeId, Person};

/// What a client does to miss nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing: what it misses while it is away is its loss.
    Plain,
    /// A `resume` key, and heartbeats that wait for their replies.
    Key,
    /// Its own position, passed as `since`.
    Since,
}

pub struct Diary {
    pub number: usize,
    pub person: Person,
    pub kind: Kind,
    pub bindings: Vec<Binding>,
    pub stints: Vec<Stint>,
    /// What the client could not make sense of.
    pub complaints: Vec<(i64, String)>,
}

/// From a join to the end of that channel.
#[derive(Default)]
pub struct Stint {
    pub asked_at: i64,
    /// When the join reply was read.
    pub joined_at: Option<i64>,
    pub since: Option<Position>,
    pub notices: Vec<Notice>,
    pub got: Vec<Got>,
    pub replies: Vec<Reply>,
    pub ended_at: i64,
    pub end: String,
}

pub struct Got {
    pub change: ChangeId,
    pub at: i64,
    /// Zero where the client did not ask for positions.
    pub position: Position,
    /// Of which bindings, by the ids of the join reply.
    pub bindings: u8,
    /// The old record has more than the key.
    pub shows_old: bool,
}

/// (commit LSN, index in its transaction).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub lsn: u64,
    pub index: u32,
}

impl Position {
    /// `<system identifier>:<timeline>:<X/X>:<index>`; without the index, the end of that transaction.
    pub fn parse(text: &str) -> Option<Position> {
        let mut parts = text.split(':').skip(2);
        let (high, low) = parts.next()?.split_once('/')?;
        let (high, low) = (u64::from_str_radix(high, 16).ok()?, u64::from_str_radix(low, 16).ok()?);
        let index = parts.next().map_or(Ok(u32::MAX), str::parse).ok()?;
        Some(Position { lsn: high << 32 | low, index })
    }
}

/// The reply to a heartbeat.
pub struct Reply {
    pub at: i64,
    /// How many events of the stint had been read before it.
    pub got: usize,
}

/// The `resume` of a system message.
#[derive(Clone, Debug)]
pub struct Notice {
    pub at: i64,
    pub got: usize,
    pub state: String,
    pub from: Option<Position>,
    pub position: Option<Position>,
    pub reason: String,
}

#[test]
fn a_position_is_read_from_its_text() {
    let position = Position::parse("7437012345678901234:1:1/16B3748:3");
    assert_eq!(position, Some(Position { lsn: 0x1_016B_3748, index: 3 }));
    assert_eq!(Position::parse("7437012345678901234:1:1/0"), Some(Position { lsn: 1 << 32, index: u32::MAX }));
    assert_eq!(Position::parse("7437012345678901234"), None);
}
