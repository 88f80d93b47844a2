//! Which WAL positions belong together: those of one cluster, along the timelines that led to where it is now.
//!
//! A promoted standby goes on from a position of the old primary's timeline under a new one; what the old primary wrote
//! after that position is in another history. The server tells of it in answer to `TIMELINE_HISTORY` (manual 55.4).

use super::Lsn;
use super::connection::SystemIdentity;
use super::error::Error;

/// A cluster's timelines up to the present one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub system_identifier: String,
    /// The present one.
    pub timeline: u32,
    /// Each earlier timeline, and the position at which the next one left it.
    pub switches: Vec<(u32, Lsn)>,
}

impl History {
    /// `file`: the timeline's history file; the first timeline has none.
    pub(super) fn new(identity: &SystemIdentity, file: Option<&str>) -> Result<History, Error> {
        Ok(History {
            system_identifier: identity.system_identifier.clone(),
            timeline: identity.timeline,
            switches: file.map_or(Ok(Vec::new()), parse_file)?,
        })
    }

    /// Whether everything before a position, as it was on a timeline of this cluster, is part of this history.
    pub fn covers(&self, timeline: u32, position: Lsn) -> bool {
        timeline == self.timeline || self.end_of(timeline).is_some_and(|end| position <= end)
    }

    /// How far this history and a position on an earlier timeline of the same cluster are the same. None: not at all, or
    /// the server no longer knows.
    pub fn common(&self, timeline: u32, position: Lsn) -> Option<Lsn> {
        match timeline == self.timeline {
            true => Some(position),
            false => self.end_of(timeline).map(|end| end.min(position)),
        }
    }

    fn end_of(&self, timeline: u32) -> Option<Lsn> {
        self.switches.iter().find(|(known, _)| *known == timeline).map(|(_, end)| *end)
    }
}

/// Lines of a timeline, its end and a reason; comments and empty lines between.
fn parse_file(text: &str) -> Result<Vec<(u32, Lsn)>, Error> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let switch = |line: &str| {
        let mut words = line.split_whitespace();
        let switch = (|| Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?)))();
        switch.ok_or_else(|| Error::Protocol(format!("a line of a timeline history that is none: {line:?}")))
    };
    lines.map(switch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(timeline: u32, file: Option<&str>) -> History {
        let identity = SystemIdentity { system_identifier: "7".to_owned(), timeline, wal_end: Lsn(0) };
        History::new(&identity, file).unwrap()
    }

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    /// As Postgres 15 writes it.
    const SECOND: &str = "1\t0/3000148\tno recovery target specified\n";
    /// After two more promotions, one of them to a point in time before the end of its predecessor.
    const FOURTH: &str = "1\t0/3000148\tno recovery target specified\n\n\
        2\t0/5000000\tbefore 2026-11-20 10:00:00.123456+00\n\n# by hand\n3\t16/B374D848\tat restore point \"x 1\"\n";

    #[test]
    fn the_first_timeline_has_no_predecessors() {
        let first = history(1, None);
        assert!(first.covers(1, lsn("FF/0")));
        assert!(!first.covers(2, Lsn(1)), "a timeline that this server has never been on");
    }

    #[test]
    fn a_position_counts_up_to_where_its_timeline_was_left() {
        let second = history(2, Some(SECOND));
        assert!(second.covers(1, lsn("0/3000148")) && second.covers(1, Lsn(1)));
        assert!(!second.covers(1, lsn("0/3000149")), "the old primary wrote on");
        assert!(second.covers(2, lsn("FF/0")));
        assert_eq!(second.common(1, lsn("0/4000000")), Some(lsn("0/3000148")));
        assert_eq!(second.common(1, lsn("0/2000000")), Some(lsn("0/2000000")));
        assert_eq!(second.common(3, Lsn(1)), None);
    }

    #[test]
    fn every_predecessor_has_an_end_of_its_own() {
        let fourth = history(4, Some(FOURTH));
        assert_eq!(fourth.switches.len(), 3);
        assert!(fourth.covers(2, lsn("0/5000000")) && !fourth.covers(2, lsn("0/5000001")));
        assert!(fourth.covers(3, lsn("16/B374D848")) && !fourth.covers(3, lsn("17/0")));
    }

    #[test]
    fn a_file_that_is_none_is_an_error() {
        let identity = SystemIdentity { system_identifier: "7".to_owned(), timeline: 2, wal_end: Lsn(0) };
        for text in ["x", "1", "1\tzzz", "-1\t0/1", "99999999999\t0/1"] {
            assert!(History::new(&identity, Some(text)).is_err(), "{text}");
        }
        assert!(History::new(&identity, Some("")).is_ok());
    }
}
