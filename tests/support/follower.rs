//! Tracked tables kept by a real stream and a real loader, beside a plain replay of the same stream from its beginning:
//! what the one decides by must be what the other has, at every commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walcast::authz::policy::{Need, Value};
use walcast::authz::tracked::{Loader, Moment, Table};
use walcast::catalog::{Catalog, ColumnIndex, Followed, Relation, RelationKind, loader};
use walcast::change::assembler::{self, Assembler};
use walcast::change::{SpillMetrics, Transaction, TransactionHeader};
use walcast::dispatch::tracking::{Config, Event, Since, Tracking, TrackingMetrics};
use walcast::wal::pgoutput::{Datum, Message, OldTuple, RelationId, StreamRelation, Tuple};
use walcast::wal::{Batch, Conninfo, Error, Handle, Lsn, StreamFrame, WalMetrics, reader};

use super::database::{Database, connect};
use super::replica;

type Row = Vec<Option<String>>;
/// Rows, and how often each is there.
pub type Rows = BTreeMap<Row, usize>;

pub struct Follower {
    pub tracking: Tracking,
    pub catalog: Catalog,
    handle: Handle,
    batches: mpsc::Receiver<Batch>,
    backlog: Vec<StreamFrame>,
    assembler: Assembler,
    needs: Vec<Need>,
    /// Everything that was streamed: a reading has to see all of it.
    streamed: Vec<u32>,
    replay: Replay,
    /// How often a table that decides was compared; `None`: the replay does not have what was there before it.
    pub compared: Option<usize>,
    metrics: TrackingMetrics,
    streaming: bool,
    stop: CancellationToken,
    tasks: (JoinHandle<Result<(), Error>>, JoinHandle<()>),
}

/// Every row since the stream began, by the relation that names it.
#[derive(Default)]
struct Replay {
    relations: BTreeMap<RelationId, Arc<StreamRelation>>,
    rows: BTreeMap<RelationId, Rows>,
}

impl Follower {
    /// Follows tables (a partitioned one by its root) from before their first row on.
    pub async fn start(database: &Database, tables: &[&str], config: Config) -> Follower {
        let wal = replica::config(&database.url, &database.name);
        let (reader, handle, batches) = reader(wal, WalMetrics::default().into());
        let stop = CancellationToken::new();
        let (tables_loader, loader_handle) = Loader::new(Conninfo::parse(&database.url).unwrap());
        let tasks = (tokio::spawn(reader.run(stop.clone())), tokio::spawn(tables_loader.run(stop.clone())));
        let catalog = catalog(database, tables).await;
        let need = |(id, relation): (&RelationId, &Arc<Relation>)| Need {
            relation: *id,
            columns: relation.indices().collect(),
            indexes: vec![[ColumnIndex(1)].into()],
        };
        let needs = catalog.referenced.iter().map(need).collect();
        let metrics = TrackingMetrics::default();
        let mut follower = Follower {
            tracking: Tracking::new(config, metrics.clone(), Some(loader_handle)),
            catalog,
            handle,
            batches,
            backlog: Vec::new(),
            assembler: Assembler::new(assembler::Config::default(), SpillMetrics::default()),
            needs,
            streamed: Vec::new(),
            replay: Replay::default(),
            compared: Some(0),
            metrics,
            streaming: false,
            stop,
            tasks,
        };
        follower.want();
        follower.until(|follower| follower.streaming).await;
        follower
    }

    pub fn id(&self, name: &str) -> RelationId {
        *self.catalog.referenced.iter().find(|(_, table)| table.name == name).unwrap().0
    }

    /// Tables that did not agree with the stream.
    pub fn broken(&self) -> u64 {
        ["row_not_found", "duplicate", "identity", "altered", "value", "unread"]
            .into_iter()
            .map(|reason| self.metrics.times_broken(reason))
            .sum()
    }

    fn want(&mut self) {
        self.tracking.want(&self.needs, &self.catalog, tokio::time::Instant::now());
        self.assembler.track(self.tracking.members());
    }

    /// Forgets the tables, and reads them again from where the stream is now.
    pub fn read_again(&mut self) {
        self.tracking.want([], &self.catalog, tokio::time::Instant::now());
        self.want();
    }

    pub fn serves_all(&self) -> bool {
        self.needs.iter().all(|need| self.tracking.tables().get(need.relation).is_some())
    }

    /// Does what comes next: an event of the tables, or the next frames up to a Commit.
    pub async fn step(&mut self) -> Option<TransactionHeader> {
        if !self.backlog.is_empty() {
            return self.read();
        }
        tokio::select! {
            event = self.tracking.next() => self.event(event),
            batch = self.batches.recv() => {
                self.backlog = batch.expect("the reader goes on").frames;
                self.backlog.reverse();
            }
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("nothing happens"),
        }
        None
    }

    /// Goes on until something is so.
    pub async fn until(&mut self, reached: impl Fn(&Follower) -> bool) {
        let began = Instant::now();
        while !reached(self) {
            assert!(began.elapsed() < Duration::from_secs(90), "never reached");
            self.step().await;
        }
    }

    pub async fn until_position(&mut self, position: Lsn) {
        self.until(|follower| follower.handle.progress().dispatched() >= position).await;
    }

    fn event(&mut self, event: Event) {
        let now = tokio::time::Instant::now();
        if let Event::Reported(report) = event {
            self.tracking.reported(report, now);
        }
        if self.tracking.is_due(now) {
            let open = self.assembler.open_transaction().map(|(_, xid)| xid);
            let must_see = self.streamed.iter().copied().chain(open).collect();
            self.tracking.start(Since { sequence: self.assembler.next_sequence(), must_see }, now);
        }
    }

    fn read(&mut self) -> Option<TransactionHeader> {
        while let Some(frame) = self.backlog.pop() {
            match frame {
                StreamFrame::Data { bytes, .. } => {
                    let mut transaction = self.assembler.push(bytes, |_| false, |_, _| true).expect("a frame");
                    while self.assembler.is_gathering() {
                        transaction = self.assembler.gather().expect("a file");
                    }
                    if let Some(transaction) = transaction {
                        return Some(self.committed(transaction));
                    }
                }
                StreamFrame::KeepAlive { wal_end } if !self.assembler.is_open() => {
                    self.handle.progress().dispatched_to(wal_end);
                }
                StreamFrame::Started(started) => {
                    self.streaming = true;
                    self.assembler.started(started.own_publication);
                    let started = walcast::wal::Started { own_publication: true, ..started };
                    self.tracking.started(&started, &self.catalog, tokio::time::Instant::now());
                }
                _ => {}
            }
        }
        None
    }

    fn committed(&mut self, mut transaction: Transaction) -> TransactionHeader {
        let (header, now) = (transaction.header, tokio::time::Instant::now());
        self.streamed.push(header.xid);
        self.tracking.apply(&header, transaction.sequence, &transaction.tracked, now);
        self.compare(Moment::Before);
        while let Some(message) = transaction.next_message().expect("a frame") {
            self.replay.apply(message);
        }
        // Truncates are not among a transaction's own messages.
        self.replay.follow_truncates(&transaction);
        self.compare(Moment::After);
        self.tracking.finish_transaction(now);
        self.compare(Moment::After);
        self.compare(Moment::Before);
        self.handle.progress().dispatched_to(header.end_lsn);
        header
    }

    fn compare(&mut self, moment: Moment) {
        let Some(compared) = &mut self.compared else { return };
        for need in &self.needs {
            let Some(table) = self.tracking.tables().get(need.relation) else { continue };
            let relation = &self.catalog.referenced[&need.relation];
            let expected = self.replay.rows_of(relation);
            assert_eq!(rows(table, relation, moment), expected, "{} {moment:?}", relation.name);
            *compared += 1;
        }
    }

    /// A table's rows, if anything may be decided by it.
    pub fn rows(&self, name: &str) -> Option<Rows> {
        let id = self.id(name);
        self.tracking.tables().get(id).map(|table| rows(table, &self.catalog.referenced[&id], Moment::After))
    }

    pub async fn stop(self) {
        self.stop.cancel();
        drop(self.batches);
        drop(self.tracking);
        let _ = self.tasks.0.await.expect("the reader does not panic");
        self.tasks.1.await.expect("the loader does not panic");
    }
}

fn rows(table: &Table, relation: &Relation, moment: Moment) -> Rows {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::Int(number) => Some(number.to_string()),
        Value::Text(text) => Some(text.to_string()),
        other => panic!("{other:?}"),
    };
    let mut rows = Rows::new();
    for row in table.scan(moment) {
        let values = relation.indices().map(|column| text(table.value(row, column).unwrap()));
        *rows.entry(values.collect()).or_default() += 1;
        // The index leads to it, too.
        if let Some(key) = table.value(row, ColumnIndex(1)).filter(|key| !key.is_null()) {
            let mut found = table.lookup(&[ColumnIndex(1)], std::slice::from_ref(key), moment).unwrap();
            assert!(
                found.any(|other| table.value(other, ColumnIndex(1)).is_some_and(|value| std::ptr::eq(value, key)))
            );
        }
    }
    rows
}

/// What the catalog will say of tables in walcast's own publication: a partitioned one under its root.
async fn catalog(database: &Database, tables: &[&str]) -> Catalog {
    let mut client = connect(&database.url).await;
    let mut catalog = loader::load(&mut client, &["app".to_owned()], None).await.unwrap().catalog;
    let published = std::mem::take(&mut catalog.relations);
    for name in tables {
        let sql = "select c.oid, array(select relid::oid from pg_partition_tree(c.oid) where isleaf and relid <> c.oid), \
                   c.relkind = 'p' from pg_class c where c.oid = $1::text::regclass";
        let row = client.query_one(sql, &[name]).await.unwrap();
        let (oid, leaves, partitioned): (u32, Vec<u32>, bool) = (row.get(0), row.get(1), row.get(2));
        let like = RelationId(*leaves.first().unwrap_or(&oid));
        let mut relation = (*published[&like]).clone();
        relation.id = RelationId(oid);
        relation.name = (*name).to_owned();
        relation.kind = if partitioned { RelationKind::Partitioned } else { RelationKind::Table };
        relation.followed = Followed::Whole;
        relation.leaves = leaves.into_iter().map(RelationId).collect();
        catalog.referenced.insert(relation.id, Arc::new(relation));
    }
    catalog
}

impl Replay {
    fn rows_of(&self, relation: &Relation) -> Rows {
        let mut all = Rows::new();
        for id in relation.leaves.iter().chain([&relation.id]) {
            for (row, count) in self.rows.get(id).into_iter().flatten() {
                *all.entry(row.clone()).or_default() += count;
            }
        }
        all
    }

    fn apply(&mut self, message: Message) {
        match message {
            Message::Relation(relation) => drop(self.relations.insert(relation.id, Arc::new(relation))),
            Message::Insert { relation, new } => self.add(relation, values(&new, None)),
            Message::Update { relation, old, new } => {
                let old = match old {
                    OldTuple::Absent => self.take(relation, &new),
                    OldTuple::Key(old) | OldTuple::Full(old) => self.take(relation, &old),
                };
                self.add(relation, values(&new, Some(&old)));
            }
            Message::Delete { relation, old: OldTuple::Key(old) | OldTuple::Full(old) } => {
                self.take(relation, &old);
            }
            other => panic!("{other:?}"),
        }
    }

    fn follow_truncates(&mut self, transaction: &Transaction) {
        for change in &transaction.tracked.changes {
            if let walcast::change::TrackedChange::Truncate(relations) = change {
                assert_eq!(transaction.tracked.changes.len(), 1, "a truncate stands alone in these histories");
                relations.iter().for_each(|relation| drop(self.rows.remove(relation)));
            }
        }
    }

    fn add(&mut self, relation: RelationId, row: Row) {
        *self.rows.entry(relation).or_default().entry(row).or_default() += 1;
    }

    /// Takes out the row that a tuple names by its key.
    fn take(&mut self, relation: RelationId, named: &Tuple) -> Row {
        let keys: Vec<_> = self.relations[&relation].columns.iter().map(|column| column.is_key).collect();
        let named = values(named, None);
        let rows = self.rows.entry(relation).or_default();
        let is_it = |row: &Row| keys.iter().enumerate().all(|(place, is_key)| !is_key || row[place] == named[place]);
        let row = rows.keys().find(|row| is_it(row)).cloned().expect("the row is there");
        let count = rows.get_mut(&row).unwrap();
        *count -= 1;
        if *count == 0 {
            rows.remove(&row);
        }
        row
    }
}

fn values(tuple: &Tuple, old: Option<&Row>) -> Row {
    let value = |place| match tuple.get(place) {
        Datum::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Datum::UnchangedToast => old.and_then(|row| row[place].clone()),
        Datum::Null | Datum::Missing => None,
    };
    (0..tuple.fields.len()).map(value).collect()
}
