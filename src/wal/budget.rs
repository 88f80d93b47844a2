//! What the slot may cost the database, and how near it is to that: pure, so that every case can be told without a server.

use super::pins::Pin;
use super::slot::SlotInfo;

/// Both are the slot's doing: WAL that stays on disk, and dead rows of system catalogs that vacuum has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub retained_bytes_max: u64,
    /// In transactions.
    pub catalog_xmin_age_max: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            // Four times the default of max_wal_size, to which pg_wal grows by itself.
            retained_bytes_max: 4 << 30,
            // A twentieth of the default of autovacuum_freeze_max_age, at which every catalog is vacuumed by force, and
            // in vain for what the slot holds.
            catalog_xmin_age_max: 10_000_000,
        }
    }
}

/// What is to be done about a slot. In order: who lets go at one rung does so at all above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    #[default]
    Within,
    /// Half of the budget: people are told.
    Warn,
    /// Three quarters, and what holds it back is our own confirmed position: what trails on purpose is let go.
    GiveUpPromises,
    /// All of it: the slot is dropped, if so configured, or the culprit is named.
    Exceeded,
}

/// How much the slot holds, and who keeps it there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotPressure {
    pub rung: Rung,
    /// WAL on disk because of the slot.
    pub retained_bytes: u64,
    /// What of it the budget allows.
    pub retained_bytes_max: u64,
    /// The part of it that is behind our confirmed position.
    pub lag_bytes: u64,
    /// In transactions.
    pub catalog_xmin_age: u64,
    /// Whoever outside of walcast keeps it there: a transaction by pid, a prepared one by name. Without one it is walcast,
    /// or a server that has not looked lately.
    pub culprit: Option<String>,
}

impl Rung {
    /// Who has let go goes on so until the slot is well within its budget. `restart_lsn` follows what is confirmed later, by
    /// a look or two of the server: whoever held on again at once would stop it half way.
    pub(super) fn then(self, next: Rung) -> Rung {
        match (self, next) {
            (Rung::GiveUpPromises | Rung::Exceeded, Rung::Warn) => Rung::GiveUpPromises,
            _ => next,
        }
    }
}

impl SlotPressure {
    /// What a slot and the open transactions that pin it come to.
    pub fn of(slot: &SlotInfo, pins: &[Pin], budget: &Budget) -> SlotPressure {
        let (retained_bytes, lag_bytes) = (slot.held_bytes(), slot.lag_bytes());
        let catalog_xmin_age = slot.catalog_xmin_age;
        let retained_bytes_max = budget.bytes_max(slot.keep_bytes_max);
        let culprit = Pin::name_all(pins);
        let mut pressure = SlotPressure {
            rung: Rung::Within,
            retained_bytes,
            retained_bytes_max,
            lag_bytes,
            catalog_xmin_age,
            culprit,
        };
        let of_wal = rung(retained_bytes, retained_bytes_max, pressure.trails());
        pressure.rung = of_wal.max(rung(catalog_xmin_age, budget.catalog_xmin_age_max, pins.is_empty()));
        pressure
    }

    /// Whether confirming would free most of the WAL. Some is always held: the server writes down every 15 seconds what
    /// may be forgotten.
    pub fn trails(&self) -> bool {
        self.lag_bytes >= self.retained_bytes.div_ceil(2)
    }
}

impl Budget {
    /// Where Postgres gives the slot up earlier, that is the bound (`max_slot_wal_keep_size`).
    pub fn bytes_max(&self, keep_bytes_max: Option<u64>) -> u64 {
        keep_bytes_max.map_or(self.retained_bytes_max, |keep| keep.min(self.retained_bytes_max))
    }
}

fn rung(held: u64, max: u64, is_ours: bool) -> Rung {
    let quarters = u128::from(held) * 4 / u128::from(max.max(1));
    match quarters {
        ..=1 => Rung::Within,
        3 if is_ours => Rung::GiveUpPromises,
        2..=3 => Rung::Warn,
        _ => Rung::Exceeded,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lsn;
    use super::*;

    const BUDGET: Budget = Budget { retained_bytes_max: 100, catalog_xmin_age_max: 1000 };

    fn slot(held: u64, lag: u64, catalog_xmin_age: u64) -> SlotInfo {
        let (restart_lsn, confirmed_flush_lsn) = (Some(Lsn(1000 - held)), Lsn(1000 - lag));
        SlotInfo { restart_lsn, confirmed_flush_lsn, wal_end: Lsn(1000), catalog_xmin_age, ..SlotInfo::default() }
    }

    fn rung_of(slot: &SlotInfo, pins: &[Pin]) -> Rung {
        SlotPressure::of(slot, pins, &BUDGET).rung
    }

    #[test]
    fn what_trails_on_purpose_is_let_go_before_the_budget_is_used_up() {
        let rungs = [0, 49, 50, 74, 75, 99, 100, 500].map(|held| rung_of(&slot(held, held, 0), &[]));
        use Rung::{Exceeded, GiveUpPromises, Warn, Within};
        assert_eq!(rungs, [Within, Within, Warn, Warn, GiveUpPromises, GiveUpPromises, Exceeded, Exceeded]);
        let ages = [499, 500, 750, 1000].map(|age| rung_of(&slot(0, 0, age), &[]));
        assert_eq!(ages, [Within, Warn, GiveUpPromises, Exceeded]);
    }

    #[test]
    fn promises_are_kept_where_giving_them_up_would_free_nothing() {
        assert_eq!(rung_of(&slot(80, 10, 0), &[]), Rung::Warn);
        assert_eq!(rung_of(&slot(80, 40, 0), &[]), Rung::GiveUpPromises);
        let pin = Pin { pid: Some(7), description: "somebody".to_owned(), ..Pin::default() };
        assert_eq!(rung_of(&slot(0, 0, 800), std::slice::from_ref(&pin)), Rung::Warn);
        let pressure = SlotPressure::of(&slot(100, 0, 0), &[pin], &BUDGET);
        assert_eq!((pressure.rung, pressure.lag_bytes), (Rung::Exceeded, 0));
        assert_eq!(pressure.culprit.as_deref(), Some("process 7 (somebody)"));
    }

    #[test]
    fn who_has_let_go_goes_on_until_the_slot_is_well_within_its_budget() {
        use Rung::{Exceeded, GiveUpPromises, Warn, Within};
        let rungs = [Warn, GiveUpPromises, Warn, Warn, Exceeded, Warn, Within, Warn];
        let told: Vec<_> = rungs
            .iter()
            .scan(Within, |told, next| {
                *told = told.then(*next);
                Some(*told)
            })
            .collect();
        let all = [Warn, GiveUpPromises, GiveUpPromises, GiveUpPromises, Exceeded, GiveUpPromises, Within, Warn];
        assert_eq!(told, all);
    }

    #[test]
    fn what_postgres_gives_up_earlier_counts() {
        let mut slot = slot(60, 60, 0);
        assert_eq!(rung_of(&slot, &[]), Rung::Warn);
        slot.keep_bytes_max = Some(70);
        assert_eq!(rung_of(&slot, &[]), Rung::GiveUpPromises);
        slot.keep_bytes_max = Some(1000);
        assert_eq!(rung_of(&slot, &[]), Rung::Warn);
    }
}
