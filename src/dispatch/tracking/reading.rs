//! Readings: whole tables, asked for where the stream stands, and completed by what it has brought since.

use std::sync::Arc;

use tokio::time::Instant;

use super::Tracking;
use super::entry::{Entry, Gathering, Serving};
use super::look::STORAGE_INTERVAL;
use crate::authz::tracked::load::{LoadError, ReadTable, Reading};
use crate::authz::tracked::loader::{Report, Request};
use crate::authz::tracked::{Refused, Shape};
use crate::causes::with_causes;
use crate::wal::pgoutput::RelationId;

/// Where the stream stands when a reading is asked for.
#[derive(Clone, Debug, Default)]
pub struct Since {
    /// The next transaction to begin: its changes are gathered from there on.
    pub sequence: u64,
    /// Those before it that other sessions may not see yet, the one that is half read among them.
    pub must_see: Vec<u32>,
}

impl Tracking {
    pub(super) fn due(&self) -> Option<Instant> {
        // Before there is a stream nobody knows where it begins: what was committed between a reading and that point
        // would be in neither.
        self.stream.as_ref()?;
        let readings = self.entries.values().filter_map(|entry| entry.due).min();
        [readings, self.next_look].into_iter().flatten().min()
    }

    /// Whether [`Tracking::start`] has something to start.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// Starts what is due. What is read together is read in one snapshot.
    pub fn start(&mut self, since: Since, now: Instant) {
        if self.next_look.is_some_and(|due| due <= now) {
            self.look(&[]);
        }
        let Some(loader) = self.loader.as_ref().filter(|_| self.stream.is_some()) else { return };
        self.number += 1;
        let mut shapes = Vec::new();
        for entry in self.entries.values_mut().filter(|entry| entry.due.is_some_and(|due| due <= now)) {
            entry.due = None;
            let Ok(shape) = &entry.wanted else { continue };
            shapes.push(Arc::clone(shape));
            entry.reading = Some(Gathering {
                number: self.number,
                shape: Arc::clone(shape),
                needs: entry.needs.clone(),
                since: since.sequence,
                changes: Vec::new(),
                bytes: 0,
                missed: Vec::new(),
                ddl: Vec::new(),
            });
        }
        if !shapes.is_empty() {
            // What serves until then is dropped for it.
            let is_replaced = |id: &RelationId| shapes.iter().any(|shape| shape.members().next() == Some(*id));
            let others = self.tables.iter().filter(|(id, _)| !is_replaced(id));
            let taken: usize = others.map(|(_, table)| table.memory_bytes()).sum();
            let room = self.config.memory_bytes_max.saturating_sub(taken);
            loader.ask(Request::Read { number: self.number, shapes, must_see: since.must_see, room });
        }
    }

    /// Takes what the loader says.
    pub fn reported(&mut self, report: Report, now: Instant) {
        match report {
            // A reading in the middle of a transaction would not know what was before it.
            Report::Read { number, reading: Ok(reading) } if self.in_work => self.arrived.push((number, reading)),
            Report::Read { number, reading: Ok(reading) } => self.install(number, reading, now),
            Report::Read { number, reading: Err(error) } => {
                tracing::warn!(error = %with_causes(&error), "tables that policies read could not be read; trying again");
                let is_it = |entry: &&mut Entry| entry.reading.as_ref().is_some_and(|r| r.number == number);
                self.entries.values_mut().filter(is_it).for_each(|entry| entry.read_again(now));
            }
            Report::Storage { number, storage } => self.looked(number, storage, now),
        }
    }

    pub(super) fn install(&mut self, number: u64, reading: Reading, now: Instant) {
        let Reading { snapshot, exact_from, tables } = reading;
        for (shape, result) in tables {
            let Some(id) = shape.members().next() else { continue };
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let Some(gathered) = entry.reading.take_if(|reading| reading.number == number) else { continue };
            let read = match result {
                Ok(read) => read,
                Err(error) => {
                    self.not_read(id, &shape, &error, now);
                    continue;
                }
            };
            if gathered.missed.iter().any(|xid| !snapshot.sees(*xid)) {
                entry.read_again(now);
                continue;
            }
            let ddl: Vec<_> = gathered.ddl.iter().copied().filter(|xid| !snapshot.sees(*xid)).collect();
            let settling = (snapshot.clone(), exact_from);
            let ReadTable { mut table, storage } = read;
            let mut serving = Serving::new(shape, gathered.needs, storage, settling);
            serving.suspended = !ddl.is_empty();
            let mut applied = Ok(());
            for transaction in gathered.changes.chunk_by(|(a, ..), (b, ..)| a == b) {
                if snapshot.sees(transaction[0].0) {
                    continue;
                }
                let mut changes = transaction.iter();
                applied = changes.try_for_each(|(_, relation, change)| serving.apply(&mut table, *relation, change));
                table.finish();
                if applied.is_err() {
                    break;
                }
            }
            if let Err(why) = applied {
                self.broken(id, &why, now);
                continue;
            }
            self.metrics.loads.inc();
            self.metrics.set(serving.shape.sql_name(), table.rows(), table.memory_bytes());
            tracing::info!(relation = serving.shape.sql_name(), rows = table.rows(), "tracked");
            self.tables.insert(id, table);
            self.tables.hide(id, true);
            entry.serve(serving, now);
            if ddl.is_empty() {
                self.next_look.get_or_insert(now + STORAGE_INTERVAL);
            } else {
                self.look(&ddl);
            }
        }
        self.bound();
    }

    fn not_read(&mut self, id: RelationId, shape: &Shape, error: &LoadError, now: Instant) {
        if matches!(error, LoadError::Refused(Refused::TooLarge)) {
            return self.too_large(id);
        }
        let (relation, error) = (shape.sql_name(), with_causes(error));
        tracing::warn!(relation, error, "a table that policies read could not be read; trying again");
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.read_again(now);
        }
    }
}
