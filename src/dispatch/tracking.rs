//! Tracked tables, kept current by the stream that dispatch reads.
//!
//! ```text
//!   wanted ──due──► reading ──reading arrives, between two transactions──► settling ──the stream is as far──► serving
//!     ▲               │ the stream's changes are gathered                    │ hidden                           │
//!     └───────────────┴──────────────── broken, altered, rewritten, lost ◄───┴──────────────────────────────────┘
//! ```
//!
//! A transaction is applied if and only if the reading's snapshot does not see it. Until the stream has come to where
//! the snapshot was taken, the table may hold what was committed later than the change that is judged: it is hidden, and
//! its policies are left to Postgres. Whatever is in doubt is hidden: nothing is ever decided by a table that may be
//! wrong. The slot's position has nothing to do with it: after a restart tables are read anew.

mod deletes;
mod entry;
mod look;
pub mod metrics;
mod reading;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tokio::time::{Instant, sleep_until};

pub use deletes::{KeptRow, KeptText, OldRow, TableName};
use entry::Entry;
use look::Look;
pub use metrics::{ReasonLabel, TrackingMetrics};
pub use reading::Since;

use crate::authz::policy::Need;
use crate::authz::tracked::load::Reading;
use crate::authz::tracked::loader::{LoaderHandle, Report};
use crate::authz::tracked::{Broken, Refused, Tables};
use crate::catalog::{Catalog, ColumnSet};
use crate::wal::Started;
use crate::wal::pgoutput::RelationId;

#[derive(Clone, Debug)]
pub struct Config {
    /// What all tracked tables may take: `--tracked-memory-max`.
    pub memory_bytes_max: usize,
    /// Published tables whose deletes are to be judged by their rows: `--delete-index`.
    pub delete_indexes: Vec<TableName>,
}

impl Default for Config {
    fn default() -> Self {
        // Some three million memberships of two uuids with two indexes: more than most have, and less than what the
        // smallest machine that has so many can spare.
        Config { memory_bytes_max: 512 << 20, delete_indexes: Vec::new() }
    }
}

/// What [`Tracking::next`] waits for.
#[derive(Debug)]
pub enum Event {
    Reported(Report),
    /// A reading is due, or a look at where tables lie.
    Due,
}

/// The one owner of tracked tables.
pub struct Tracking {
    config: Config,
    metrics: TrackingMetrics,
    loader: Option<LoaderHandle>,
    tables: Tables,
    entries: HashMap<RelationId, Entry, RandomState>,
    /// The relations that the stream names rows by, to the tables that they are of.
    members: HashMap<RelationId, RelationId, RandomState>,
    /// The stream that is read: its system and timeline.
    stream: Option<(String, u32)>,
    own_publication: bool,
    /// A transaction has been applied and is being judged.
    in_work: bool,
    touched: Vec<RelationId>,
    /// Readings that wait for it.
    arrived: Vec<(u64, Reading)>,
    number: u64,
    look: Option<Look>,
    next_look: Option<Instant>,
}

impl Tracking {
    pub fn new(config: Config, metrics: TrackingMetrics, loader: Option<LoaderHandle>) -> Tracking {
        Tracking {
            config,
            metrics,
            loader,
            tables: Tables::default(),
            entries: HashMap::default(),
            members: HashMap::default(),
            stream: None,
            own_publication: true,
            in_work: false,
            touched: Vec::new(),
            arrived: Vec::new(),
            number: 0,
            look: None,
            next_look: None,
        }
    }

    /// What can be decided by now.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn set_loader(&mut self, loader: LoaderHandle) {
        self.loader = Some(loader);
    }

    /// Whether a relation's changes have to be gathered, whoever else wants them.
    pub fn wanted(&self, relation: RelationId) -> bool {
        self.members.contains_key(&relation)
    }

    /// All such relations.
    pub fn members(&self) -> impl Iterator<Item = RelationId> + '_ {
        self.members.keys().copied()
    }

    /// Why a table is not tracked at all; `None`: it is, or will be soon.
    pub fn refused(&self, relation: RelationId) -> Option<&Refused> {
        self.entries.get(&relation).and_then(|entry| entry.wanted.as_ref().err())
    }

    /// What the tables of `--delete-index` need; to be given to [`Tracking::want`] with the programs' needs. `filters`:
    /// the columns that live filters on a table read.
    pub fn delete_needs(&self, catalog: &Catalog, filters: impl Fn(RelationId) -> ColumnSet) -> Vec<Need> {
        let tables = self.config.delete_indexes.iter().filter_map(|name| deletes::published(catalog, name));
        tables.map(|relation| deletes::need(catalog, relation, &filters(relation.id))).collect()
    }

    /// All that programs need from now on. Readings are started for what is new or has grown; what serves goes on doing
    /// so until then; what nobody needs is dropped.
    pub fn want<'a>(&mut self, needs: impl IntoIterator<Item = &'a Need>, catalog: &Catalog, now: Instant) {
        let mut by_relation: HashMap<RelationId, Vec<Need>> = HashMap::new();
        for need in needs {
            let known = by_relation.entry(need.relation).or_default();
            if !known.contains(need) {
                known.push(need.clone());
            }
        }
        let gone: Vec<_> = self.entries.keys().filter(|id| !by_relation.contains_key(id)).copied().collect();
        for id in gone {
            self.drop_table(id);
            self.entries.remove(&id);
        }
        for (id, needs) in by_relation {
            self.entries.entry(id).or_insert_with(Entry::new).needs = needs;
        }
        self.catalog_changed(catalog, now);
    }

    /// Another catalog is in force: tables that are not what they were are dropped at once, and read again.
    pub fn catalog_changed(&mut self, catalog: &Catalog, now: Instant) {
        if self.entries.is_empty() {
            self.members.clear();
            return;
        }
        let ids: Vec<_> = self.entries.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.reshape(id, catalog, self.own_publication, now);
            if entry.serving.is_some() && !entry.serves_truly(id, catalog, self.own_publication) {
                self.drop_table(id);
                self.read_if_not_read(id, now);
            }
        }
        let entries = self.entries.iter();
        let shapes = entries.filter_map(|(id, entry)| entry.wanted.as_ref().ok().map(|shape| (*id, shape)));
        self.members = shapes.flat_map(|(id, shape)| shape.members().map(move |member| (member, id))).collect();
    }

    fn read_if_not_read(&mut self, id: RelationId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.wanted.is_ok()
            && entry.reading.is_none()
            && entry.due.is_none()
        {
            entry.due = Some(now);
        }
    }

    /// A new connection. What is loaded goes on, unless changes may have been missed.
    pub fn started(&mut self, started: &Started, catalog: &Catalog, now: Instant) {
        let stream = (started.system_identifier.clone(), started.timeline);
        let known = self.stream.replace(stream.clone());
        self.own_publication = started.own_publication;
        if started.lost.is_some() || known.is_some_and(|known| known != stream) {
            let ids: Vec<_> = self.entries.keys().copied().collect();
            for id in ids {
                self.broken(id, &Broken::StreamLost, now);
            }
        }
        self.catalog_changed(catalog, now);
    }

    /// What is to be done next; pending while there is nothing. Safe to cancel.
    pub async fn next(&mut self) -> Event {
        let due = self.due();
        let Some(loader) = &mut self.loader else { return std::future::pending().await };
        tokio::select! {
            biased;
            report = loader.next() => match report {
                Some(report) => Event::Reported(report),
                // The relay ends with its loader.
                None => std::future::pending().await,
            },
            () = until(due) => Event::Due,
        }
    }

    /// The table is dropped and read again.
    fn broken(&mut self, id: RelationId, why: &Broken, now: Instant) {
        let served = self.drop_table(id);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if served || entry.reading.is_some() {
            self.metrics.broken(why);
            let relation = entry.wanted.as_ref().map(|shape| shape.sql_name().to_owned()).unwrap_or_default();
            tracing::warn!(relation, %why, "a tracked table is read again; until then its policies are left to Postgres");
        }
        entry.read_again(now);
    }

    fn too_large(&mut self, id: RelationId) {
        self.drop_table(id);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let relation = entry.wanted.as_ref().map(|shape| shape.sql_name().to_owned()).unwrap_or_default();
        let bytes = self.config.memory_bytes_max;
        tracing::error!(
            relation,
            bytes,
            "a table that policies read does not fit --tracked-memory-max: they are left to Postgres"
        );
        entry.wanted = Err(Refused::TooLarge);
        entry.reading = None;
        entry.due = None;
    }

    /// Past the limit the largest goes first: no other makes as much room.
    fn bound(&mut self) {
        loop {
            let gathered = |id: &RelationId| {
                let reading = self.entries.get(id).and_then(|entry| entry.reading.as_ref());
                reading.map_or(0, |reading| reading.bytes)
            };
            let table = |id: &RelationId| self.tables.table(*id).map_or(0, |table| table.memory_bytes());
            let sizes: Vec<_> = self.entries.keys().map(|id| (table(id) + gathered(id), *id)).collect();
            if sizes.iter().map(|(bytes, _)| bytes).sum::<usize>() <= self.config.memory_bytes_max {
                return;
            }
            let Some((_, largest)) = sizes.into_iter().max() else { return };
            self.too_large(largest);
        }
    }

    fn drop_table(&mut self, id: RelationId) -> bool {
        let Some(table) = self.tables.remove(id) else { return false };
        self.metrics.remove(table.shape().sql_name());
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.serving = None;
        }
        true
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
