//! Where a change stands in the history of a database.

use std::fmt;
use std::str::FromStr;

use super::Lsn;

/// A change by its transaction's commit and its place in it. Ordered as changes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Of the commit record.
    pub lsn: Lsn,
    /// Counted from 0.
    pub index: u32,
}

impl Position {
    /// Before every change.
    pub const START: Position = Position { lsn: Lsn::ZERO, index: 0 };

    /// Behind the last change of every transaction that ends at or before `end_lsn`, and before all others: the commit
    /// record of the next one begins there at the earliest.
    pub fn through(end_lsn: Lsn) -> Position {
        Position { lsn: Lsn(end_lsn.0.saturating_sub(1)), index: u32::MAX }
    }

    /// Behind the last change of the transaction that commits at `commit_lsn`.
    pub fn end_of(commit_lsn: Lsn) -> Position {
        Position { lsn: commit_lsn, index: u32::MAX }
    }
}

/// Of which history positions are: LSNs mean nothing in another database, nor past the point where a timeline was left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub system_identifier: String,
    pub timeline: u32,
}

impl Origin {
    pub fn stamp(&self, position: Position) -> Stamp {
        Stamp { origin: self.clone(), position }
    }
}

/// A position as clients keep it: `7437012345678901234:1:0/16B3748:3`. The place in the transaction is absent where all
/// of it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub origin: Origin,
    pub position: Position,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { system_identifier, timeline } = &self.origin;
        let Position { lsn, index } = self.position;
        write!(f, "{system_identifier}:{timeline}:{lsn}")?;
        if index == u32::MAX { Ok(()) } else { write!(f, ":{index}") }
    }
}

/// The text was not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position (expected something like 7437012345678901234:1:0/16B3748:3)")]
pub struct ParseStampError;

impl FromStr for Stamp {
    type Err = ParseStampError;

    fn from_str(text: &str) -> Result<Stamp, ParseStampError> {
        let digits = |text: &str, most: usize| {
            let plain = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            plain.then_some(()).ok_or(ParseStampError)
        };
        let mut parts = text.splitn(4, ':');
        let mut part = || parts.next().ok_or(ParseStampError);
        let (system, timeline, lsn) = (part()?, part()?, part()?);
        digits(system, 20)?;
        digits(timeline, 10)?;
        let timeline = timeline.parse().map_err(|_| ParseStampError)?;
        let lsn: Lsn = lsn.parse().map_err(|_| ParseStampError)?;
        let index = match parts.next() {
            None => u32::MAX,
            Some(index) => {
                digits(index, 10)?;
                index.parse().map_err(|_| ParseStampError)?
            }
        };
        let origin = Origin { system_identifier: system.to_owned(), timeline };
        Ok(Stamp { origin, position: Position { lsn, index } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let origin = Origin { system_identifier: "7437012345678901234".to_owned(), timeline: 2 };
        for (position, text) in [
            (Position { lsn: Lsn(0x16B3748), index: 3 }, "7437012345678901234:2:0/16B3748:3"),
            (Position::end_of(Lsn(0xA_0000_0001)), "7437012345678901234:2:A/1"),
        ] {
            let stamp = origin.stamp(position);
            assert_eq!(stamp.to_string(), text);
            assert_eq!(text.parse(), Ok(stamp));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "1",
            "1:1",
            "1:1:",
            "1:1:0/1:",
            "1:1:0/1:-1",
            "1:1:0/1:1:1",
            "x:1:0/1",
            "1:+1:0/1",
            "1:1:0/1:4294967296",
            ":1:0/1:1",
            "1::0/1",
        ] {
            assert_eq!(text.parse::<Stamp>(), Err(ParseStampError), "{text:?}");
        }
    }

    #[test]
    fn an_end_is_behind_its_changes_and_before_the_next() {
        let (commit, end) = (Lsn(100), Lsn(150));
        let last = Position { lsn: commit, index: 7 };
        let next = Position { lsn: end, index: 0 };
        assert!(last < Position::end_of(commit) && Position::end_of(commit) < Position::through(end));
        assert!(Position::through(end) < next);
        assert_eq!(Position::through(Lsn::ZERO), Position { lsn: Lsn::ZERO, index: u32::MAX });
    }
}
