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
pub mod metrics;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::{Instant, sleep_until};

pub use deletes::{KeptRow, KeptText, OldRow, TableName};
use entry::{Entry, Gathering, Serving};
pub use metrics::{ReasonLabel, TrackingMetrics};

use crate::authz::policy::Need;
use crate::authz::tracked::load::{LoadError, ReadTable, Reading, Storage};
use crate::authz::tracked::loader::{LoaderHandle, Report, Request};
use crate::authz::tracked::{Broken, Moment, Refused, Shape, Tables};
use crate::catalog::{Catalog, ColumnSet};
use crate::causes::with_causes;
use crate::change::{TrackedChange, TrackedLog, TransactionHeader};
use crate::wal::Started;
use crate::wal::pgoutput::{RelationId, StreamRelation, Tuple};

/// How often is looked whether a table was rewritten, for what no event trigger sees.
const STORAGE_INTERVAL: Duration = Duration::from_secs(1);

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

/// Where the stream stands when a reading is asked for.
#[derive(Clone, Debug, Default)]
pub struct Since {
    /// The next transaction to begin: its changes are gathered from there on.
    pub sequence: u64,
    /// Those before it that other sessions may not see yet, the one that is half read among them.
    pub must_see: Vec<u32>,
}

/// What [`Tracking::next`] waits for.
#[derive(Debug)]
pub enum Event {
    Reported(Report),
    /// A reading is due, or a look at where tables lie.
    Due,
}

/// A look at where tables lie.
struct Look {
    number: u64,
    relations: Vec<RelationId>,
    must_see: Vec<u32>,
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

    /// A transaction with DDL: it may have rewritten tables, and then nothing of that is in the stream. Until somebody
    /// has looked nothing is decided by them.
    pub fn ddl(&mut self, xid: u32) {
        if self.entries.is_empty() {
            return;
        }
        for (id, entry) in &mut self.entries {
            if let Some(serving) = &mut entry.serving {
                serving.suspended = true;
                self.tables.hide(*id, true);
            }
            if let Some(reading) = &mut entry.reading {
                reading.ddl.push(xid);
            }
        }
        self.look(&[xid]);
    }

    fn look(&mut self, must_see: &[u32]) {
        let Some(loader) = &self.loader else { return };
        // Also where nothing is left to look at: what stays due keeps dispatch from everything else.
        self.next_look = None;
        let serving = self.entries.iter().filter(|(_, entry)| entry.serving.is_some());
        let relations: Vec<_> = serving.map(|(id, _)| *id).collect();
        self.next_look = None;
        if relations.is_empty() {
            self.look = None;
            // Left due, it would keep dispatch from ever reading the stream again.
            self.next_look = None;
            return;
        }
        // The one that is under way may not see this, and what it had to see this one has to see, too.
        let mut all = self.look.take().map(|look| look.must_see).unwrap_or_default();
        all.extend(must_see);
        self.number += 1;
        let number = self.number;
        loader.ask(Request::Storage { number, relations: relations.clone(), must_see: all.clone() });
        self.look = Some(Look { number, relations, must_see: all });
    }

    /// At a Commit, when its catalog is in force, and before anything of it is judged.
    pub fn apply(&mut self, header: &TransactionHeader, sequence: u64, log: &TrackedLog, now: Instant) {
        if self.entries.is_empty() {
            return;
        }
        self.in_work = true;
        self.settle(header.commit_lsn);
        if log.is_empty() {
            return;
        }
        let missed = self.members.iter().filter(|(member, _)| log.all_missed || log.missed.contains(member));
        let mut missed: Vec<_> = missed.map(|(_, id)| *id).collect();
        missed.sort_unstable();
        missed.dedup();
        for id in missed {
            let why = if log.all_missed { Broken::Unread } else { Broken::TooManyChanges };
            self.missed(id, header.xid, sequence, &why, now);
        }
        for change in &log.changes {
            for relation in change.relations() {
                if let Some(id) = self.members.get(relation).copied() {
                    self.apply_to(id, *relation, header.xid, sequence, change, now);
                }
            }
        }
        self.bound();
    }

    /// Shows the tables whose reading the stream has come up with: everything committed before `position` has been
    /// applied, and nothing at or after it. Private channels are asked about on a quiet database too.
    pub fn settle(&mut self, position: crate::wal::Lsn) {
        for (id, entry) in &mut self.entries {
            if let Some(serving) = &mut entry.serving
                && serving.settling.as_ref().is_some_and(|(_, exact_from)| *exact_from <= position)
            {
                serving.settling = None;
                self.tables.hide(*id, serving.is_hidden());
            }
        }
    }

    fn missed(&mut self, id: RelationId, xid: u32, sequence: u64, why: &Broken, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let Some(reading) = &mut entry.reading
            && sequence >= reading.since
        {
            reading.missed.push(xid);
        }
        if entry.serving.as_ref().is_some_and(|serving| !serving.has_seen(xid)) {
            self.broken(id, why, now);
        }
    }

    fn apply_to(
        &mut self,
        id: RelationId,
        relation: RelationId,
        xid: u32,
        sequence: u64,
        change: &TrackedChange,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let Some(reading) = &mut entry.reading
            && sequence >= reading.since
        {
            reading.gather(xid, relation, change);
        }
        let Some(serving) = entry.serving.as_mut().filter(|serving| !serving.has_seen(xid)) else { return };
        let Some(table) = self.tables.get_mut(id) else { return };
        if !self.touched.contains(&id) {
            self.touched.push(id);
        }
        if let Err(why) = serving.apply(table, relation, change) {
            self.broken(id, &why, now);
        }
    }

    /// The last change of the transaction has been judged.
    pub fn finish_transaction(&mut self, now: Instant) {
        if !self.in_work {
            return;
        }
        self.in_work = false;
        for id in std::mem::take(&mut self.touched) {
            if let Some(table) = self.tables.get_mut(id) {
                table.finish();
                self.metrics.set(table.shape().sql_name(), table.rows(), table.memory_bytes());
            }
        }
        for (number, reading) in std::mem::take(&mut self.arrived) {
            self.install(number, reading, now);
        }
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

    fn due(&self) -> Option<Instant> {
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

    fn install(&mut self, number: u64, reading: Reading, now: Instant) {
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

    fn looked(&mut self, number: u64, storage: Result<HashMap<RelationId, Storage>, LoadError>, now: Instant) {
        let Some(look) = self.look.take_if(|look| look.number == number) else {
            return; // A later one is under way.
        };
        self.next_look = Some(now + STORAGE_INTERVAL);
        let storage = match storage {
            Ok(storage) => storage,
            Err(error) => {
                tracing::warn!(error = %with_causes(&error), "nobody knows whether tracked tables were rewritten; looking again");
                self.look = Some(look); // What it had to see the next one has to see.
                return;
            }
        };
        let mut rewritten = Vec::new();
        for (id, entry) in &mut self.entries {
            let Some(serving) = entry.serving.as_mut().filter(|_| look.relations.contains(id)) else { continue };
            if storage.get(id) == Some(&serving.storage) {
                serving.suspended = false;
                self.tables.hide(*id, serving.is_hidden());
            } else {
                rewritten.push(*id);
            }
        }
        for id in rewritten {
            self.broken(id, &Broken::Rewritten, now);
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

    /// The text of what is kept of the row with this key, as it was before the transaction in work.
    pub fn kept_row(&self, stream: &Arc<StreamRelation>, key: &Tuple) -> Option<KeptText> {
        match self.old_row(stream, key) {
            OldRow::Row(table, row) => Some(KeptText::of(table, row)),
            OldRow::Unknown | OldRow::Absent => None,
        }
    }

    /// The row that a DELETE or an UPDATE of the transaction in work is about, as it was before that transaction.
    /// `named`: the old tuple, or, where an UPDATE has none, the new one: the key is the same.
    pub fn old_row(&self, stream: &Arc<StreamRelation>, named: &Tuple) -> OldRow<'_> {
        let table = self.members.get(&stream.id).and_then(|id| self.tables.get(*id));
        let Some(table) = table.filter(|table| table.shape().has_unique_key()) else { return OldRow::Unknown };
        let shape = table.shape();
        let Ok(key) = shape.layout(stream).and_then(|layout| shape.key_of(&layout, named)) else {
            return OldRow::Unknown;
        };
        match table.row_with_key(stream.id, &key, Moment::Before) {
            Some(row) => OldRow::Row(table, row),
            None => OldRow::Absent,
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
