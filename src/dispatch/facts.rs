//! What a session said of the catalog, until the stream has come as far.
//!
//! A reading was made for one state of the catalog, some time after that state: names in function bodies may have come to
//! mean something else in between. Whatever changed that was committed before the reading's position; if the stream gets
//! there without having told of a change, there was none. (What only the poll sees comes up to a second later than the
//! reading, as it does where policies are concerned.)

use std::sync::Arc;

use crate::catalog::{SessionFacts, SessionReading};
use crate::wal::Lsn;

#[derive(Default)]
pub struct Facts {
    /// The version of the catalog that readings are made for.
    version: u64,
    waiting: Option<SessionReading>,
}

impl Facts {
    pub fn new(version: u64) -> Facts {
        Facts { version, waiting: None }
    }

    /// Another state of the catalog is in force: what was read of the one before says nothing of it.
    pub fn catalog_changed(&mut self, version: u64) {
        *self = Facts::new(version);
    }

    /// A reading has come. Of two of one state the later one counts.
    pub fn read(&mut self, reading: SessionReading) {
        if reading.version == self.version {
            self.waiting = Some(reading);
        }
    }

    /// What is to hold for transactions that are committed at or after `position`.
    pub fn due(&mut self, position: Lsn) -> Option<Arc<SessionFacts>> {
        self.waiting.take_if(|reading| reading.lsn <= position).map(|reading| reading.facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(version: u64, lsn: u64) -> SessionReading {
        let facts = SessionFacts { time_zone: lsn.to_string(), ..SessionFacts::default() };
        SessionReading { version, lsn: Lsn(lsn), facts: Arc::new(facts) }
    }

    fn due(facts: &mut Facts, position: u64) -> Option<String> {
        facts.due(Lsn(position)).map(|facts| facts.time_zone.clone())
    }

    #[test]
    fn a_reading_waits_for_the_stream_and_holds_once() {
        let mut facts = Facts::new(1);
        facts.read(reading(1, 100));
        assert_eq!(due(&mut facts, 99), None);
        assert_eq!(due(&mut facts, 100).as_deref(), Some("100"));
        assert_eq!(due(&mut facts, 200), None);
    }

    #[test]
    fn a_change_that_comes_before_the_reading_is_due_drops_it() {
        let mut facts = Facts::new(1);
        facts.read(reading(1, 100));
        facts.catalog_changed(2);
        assert_eq!(due(&mut facts, 200), None);
        facts.read(reading(1, 100));
        assert_eq!(due(&mut facts, 200), None, "it was still on its way");
        facts.read(reading(2, 150));
        assert_eq!(due(&mut facts, 200).as_deref(), Some("150"));
    }

    #[test]
    fn of_two_readings_of_one_state_the_later_one_counts() {
        let mut facts = Facts::new(1);
        facts.read(reading(1, 100));
        facts.read(reading(1, 120));
        assert_eq!(due(&mut facts, 110), None);
        assert_eq!(due(&mut facts, 120).as_deref(), Some("120"));
    }
}
