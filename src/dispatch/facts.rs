//! What a session said of the catalog, until the stream has come as far.
//!
//! A reading was made for one state of the catalog, some time after that state: names in function bodies may have come to
//! mean something else in between. Whatever changed that was committed before the reading's position; if the stream gets
//! there without having told of a change, there was none. (What only the poll sees comes up to a second later than the
//! reading, as it does where policies are concerned.)
//!
//! A second after the stream has told of a change the poll finds it as well. Reading everything again for that would stop
//! decisions twice; the fingerprint tells whether the poll has found anything that the reading had not.

use std::sync::Arc;

use crate::catalog::{SessionFacts, SessionReading};
use crate::wal::Lsn;

#[derive(Default)]
pub struct Facts {
    /// The version of the catalog that readings are made for.
    version: u64,
    waiting: Option<SessionReading>,
    /// Of the reading that is in force.
    fingerprint: Option<Arc<str>>,
    /// What a poll has found since the version, before there was a reading.
    polled: Option<Arc<str>>,
}

impl Facts {
    pub fn new(version: u64) -> Facts {
        Facts { version, ..Facts::default() }
    }

    /// Another state of the catalog is in force: what was read of the one before says nothing of it.
    pub fn catalog_changed(&mut self, version: u64) {
        *self = Facts::new(version);
    }

    /// A reading has come. Of two of one state the later one counts. `false`: it may have begun before what a poll has found
    /// in the meantime, so that another one is needed.
    pub fn read(&mut self, reading: SessionReading) -> bool {
        if reading.version != self.version {
            return true;
        }
        if self.polled.take().is_some_and(|polled| polled != reading.fingerprint) {
            return false;
        }
        self.waiting = Some(reading);
        true
    }

    /// What is to hold for transactions that are committed at or after `position`.
    pub fn due(&mut self, position: Lsn) -> Option<Arc<SessionFacts>> {
        let reading = self.waiting.take_if(|reading| reading.lsn <= position)?;
        self.fingerprint = Some(reading.fingerprint);
        Some(reading.facts)
    }

    /// A poll has found the catalog that is in force. `false`: and something else that what was read does not know of. The
    /// reading that is under way shows by its own fingerprint whether it does.
    pub fn polled(&mut self, fingerprint: Arc<str>) -> bool {
        let waiting = self.waiting.as_ref().map(|reading| &reading.fingerprint);
        let mut known = self.fingerprint.iter().chain(waiting).peekable();
        if known.peek().is_none() {
            self.polled = Some(fingerprint);
            return true;
        }
        known.all(|known| *known == fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(version: u64, lsn: u64) -> SessionReading {
        let facts = SessionFacts { time_zone: lsn.to_string(), ..SessionFacts::default() };
        SessionReading { version, lsn: Lsn(lsn), fingerprint: lsn.to_string().into(), facts: Arc::new(facts) }
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

    #[test]
    fn a_poll_finds_nothing_new_if_every_reading_has_its_fingerprint() {
        let mut facts = Facts::new(1);
        let known = |facts: &mut Facts| ["100", "120"].map(|fingerprint| facts.polled(fingerprint.into()));
        facts.read(reading(1, 100));
        assert_eq!(known(&mut facts), [true, false]);
        due(&mut facts, 100);
        assert_eq!(known(&mut facts), [true, false]);
        facts.read(reading(1, 120));
        assert_eq!(known(&mut facts), [false, false], "one of them is of another state");
        due(&mut facts, 120);
        assert_eq!(known(&mut facts), [false, true]);
    }

    #[test]
    fn a_reading_that_was_under_way_counts_if_it_has_the_fingerprint_of_the_poll() {
        let mut facts = Facts::new(1);
        assert!(facts.polled("100".into()));
        assert!(facts.polled("120".into()), "the last one counts");
        assert!(facts.read(reading(7, 100)), "nobody has asked for it");
        assert!(!facts.read(reading(1, 100)));
        assert_eq!(due(&mut facts, 200), None);
        facts.catalog_changed(2);
        assert!(facts.read(reading(2, 140)), "it was begun after that");

        facts.catalog_changed(3);
        assert!(facts.polled("100".into()) && facts.read(reading(3, 100)));
        assert_eq!(due(&mut facts, 100).as_deref(), Some("100"));
        assert!(facts.read(reading(3, 120)), "settings have changed since");
        assert_eq!(due(&mut facts, 120).as_deref(), Some("120"));
    }
}
