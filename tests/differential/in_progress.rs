//! Large transactions that come in part while they are in progress, beside the same ones read at their commit: what is told
//! of them, and in which order, may not differ.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use walcast::change::assembler::{self, Assembler, Error};
use walcast::change::{SpillMetrics, Transaction};
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::wal::pgoutput::{Message, RelationId, StreamRelation};
use walcast::wal::{Batch, Config, Conninfo, Handle, Lsn, StreamFrame, WalMetrics, reader};

use crate::support::database::{Database, connect};
use crate::support::scene::{execute, prepared};

const TABLES: &str = "
    create table things_0 (id int primary key, name text);
    create table things_1 (id int primary key, name text);
    create table members (id int primary key, name text);
    create table quiet (id int primary key, name text);
    create table small (id int primary key, name text);
    alter publication supabase_realtime add table things_0, things_1, members, quiet, small;";

const STEPS: usize = 250;

/// What one reader is told.
struct Reading {
    handle: Handle,
    batches: mpsc::Receiver<Batch>,
    assembler: Assembler,
    relations: BTreeMap<RelationId, StreamRelation>,
    quiet: RelationId,
    last: Lsn,
    streams: watch::Sender<usize>,
    blocks: usize,
    told: Vec<String>,
    is_done: bool,
    /// What comes is of no use until the next stream, as in dispatch.
    is_deaf: bool,
}

impl Reading {
    async fn new(database: &Database, slot: &str, in_progress: bool, stop: CancellationToken) -> Reading {
        let url = format!("{}?options=-c%20logical_decoding_work_mem%3D64kB", database.url);
        let url = if in_progress { url } else { database.url.clone() };
        let mut config = Config::new(Conninfo::parse(&url).unwrap(), "supabase_realtime");
        config.slot.name = format!("{}_{slot}", database.name);
        config.own_publication = Some("walcast".to_owned());
        config.in_progress = in_progress;
        let (reader, handle, batches) = reader(config, WalMetrics::default().into());
        tokio::spawn(reader.run(stop));
        let limits = assembler::Config { memory_bytes_max: 50_000, ..assembler::Config::default() };
        let mut assembler = Assembler::new(limits, SpillMetrics::default());
        let row = database
            .client
            .query_one("select 'members'::regclass::oid, 'things_1'::regclass::oid, 'quiet'::regclass::oid", &[]);
        let row = row.await.unwrap();
        assembler.track([RelationId(row.get(0)), RelationId(row.get(1))]);
        Reading {
            handle,
            batches,
            assembler,
            relations: BTreeMap::new(),
            quiet: RelationId(row.get(2)),
            last: Lsn::ZERO,
            streams: watch::Sender::new(0),
            blocks: 0,
            told: Vec::new(),
            is_done: false,
            is_deaf: false,
        }
    }

    /// Up to the end of the history.
    async fn run(mut self) -> (Vec<String>, usize) {
        while !self.is_done {
            let batch = tokio::time::timeout(Duration::from_secs(60), self.batches.recv()).await;
            for frame in batch.expect("something comes").expect("the reader goes on").frames {
                self.take(frame);
            }
        }
        (self.told, self.blocks)
    }

    fn take(&mut self, frame: StreamFrame) {
        match frame {
            StreamFrame::Started(_) => {
                self.is_deaf = false;
                self.assembler.started(true);
                self.assembler.take_broadcasts(true);
                self.relations.clear();
                self.streams.send_modify(|streams| *streams += 1);
            }
            StreamFrame::Disconnected => self.assembler.reset(),
            _ if self.is_deaf => {}
            StreamFrame::KeepAlive { wal_end } if !self.assembler.is_open() => {
                self.handle.progress().dispatched_to(wal_end);
            }
            StreamFrame::KeepAlive { .. } => {}
            StreamFrame::SkippedFrame { .. } => panic!("{frame:?}"),
            StreamFrame::Data { bytes, .. } => {
                self.blocks += usize::from(bytes[0] == b'S');
                let (last, quiet) = (self.last, self.quiet);
                let wanted = |relation, _| relation != quiet;
                let pushed = self.assembler.push(bytes, |begin| begin.final_lsn <= last, wanted);
                if let Err(Error::Unclear(end_lsn)) = pushed {
                    self.assembler.reset();
                    self.handle.progress().take_whole_to(end_lsn);
                    self.is_deaf = true;
                    return;
                }
                let mut transaction = pushed.expect("a frame");
                while self.assembler.is_gathering() {
                    transaction = self.assembler.gather().expect("a file");
                }
                if let Some(transaction) = transaction {
                    self.committed(transaction);
                }
            }
        }
    }

    fn committed(&mut self, mut transaction: Transaction) {
        let header = transaction.header;
        let mut told = format!("{header:?} {:?} {:?}", transaction.ddl_log, transaction.tracked);
        while let Some(message) = transaction.next_message().expect("a frame") {
            let id = match &message {
                Message::Relation(relation) => {
                    self.relations.insert(relation.id, relation.clone());
                    continue;
                }
                Message::Insert { relation, .. }
                | Message::Update { relation, .. }
                | Message::Delete { relation, .. } => *relation,
                _ => RelationId(0),
            };
            let relation = self.relations.get(&id).map(|relation| (&relation.name, relation.columns.len()));
            let message = match message {
                // Its own position is where it was written.
                Message::Logical { prefix, content, .. } => format!("{prefix} {content:?}"),
                message => format!("{message:?}"),
            };
            self.is_done |= message.contains("done");
            told += &format!("\n  {relation:?} {message}");
        }
        if header.commit_lsn > self.last {
            self.last = header.commit_lsn;
            self.told.push(told);
        }
        self.handle.progress().dispatched_to(header.end_lsn);
    }
}

/// A session with a transaction at a time, which others' are between.
struct Writer {
    client: Client,
    number: usize,
    savepoints: usize,
    is_open: bool,
    next_id: usize,
    prepared: Vec<String>,
}

impl Writer {
    async fn new(database: &Database, number: usize) -> Writer {
        let client = connect(&database.url).await;
        execute(&client, "set lock_timeout = '200ms'").await;
        let next_id = 1 + number * 10_000_000;
        Writer { client, number, savepoints: 0, is_open: false, next_id, prepared: Vec::new() }
    }

    /// What fails rolls all of it back.
    async fn run(&mut self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql).await {
            println!("{error}: {sql}");
            execute(&self.client, "rollback").await;
            (self.savepoints, self.is_open) = (0, false);
        }
    }

    fn ids(&mut self, count: usize) -> (usize, usize) {
        self.next_id += count;
        (self.next_id - count, self.next_id - 1)
    }

    async fn step(&mut self, random: &mut StdRng) {
        if !self.is_open {
            self.is_open = true;
            self.run("begin").await;
        }
        let own = format!("things_{}", self.number);
        let table = [own.as_str(), &own, "members", "quiet"][random.random_range(0..4)];
        let rows = [1, 10, 800][random.random_range(0..3)];
        let (first, last) = self.ids(rows);
        let from = first.saturating_sub(random.random_range(0..3000)).max(1 + self.number * 10_000_000);
        let to = from + random.random_range(0..300);
        let sql = match random.random_range(0..24) {
            0..6 => format!(
                "insert into {table} (id, name) select n, repeat('x', 50) from generate_series({first}, {last}) n"
            ),
            6 => format!(
                "insert into {table} (id, name) select {first}, string_agg(md5(n::text), '') from generate_series(1, 3000) n"
            ),
            7..9 => {
                format!("update {table} set name = name || 'y' where id between {from} and {to} and length(name) < 100")
            }
            9 => format!("update {table} set id = -id where id between {from} and {to}"),
            10 => format!("delete from {table} where id between {from} and {to}"),
            11..14 => {
                self.savepoints += 1;
                format!("savepoint s{}", self.savepoints)
            }
            14 | 15 if self.savepoints > 0 => {
                // To an outer one, too.
                self.savepoints = random.random_range(1..=self.savepoints);
                format!("rollback to s{}", self.savepoints)
            }
            16 if self.savepoints > 0 => {
                self.savepoints -= 1;
                format!("release s{}", self.savepoints + 1)
            }
            17 => {
                let (first, _) = self.ids(500);
                // A lock that a prepared transaction has would be waited for 500 times, were its error passed over.
                format!(
                    "do $$ begin for n in 1..500 loop begin insert into {table} (id, name) values ({first} + n, 'sub'); \
                     if n % 3 = 0 then raise exception 'void'; end if; exception when raise_exception then null; end; end loop; end $$"
                )
            }
            18 => format!("truncate {own}"),
            19 => {
                format!("select pg_logical_emit_message({}, 'walcast.broadcast', '{first}')", random.random_bool(0.7))
            }
            20 => format!("alter table {own} add column if not exists c{} int default 7", random.random_range(0..4)),
            21 => format!("alter table {own} drop column if exists c{}", random.random_range(0..4)),
            22 => format!(
                "alter table {own} replica identity {}",
                if random.random_bool(0.5) { "full" } else { "default" }
            ),
            _ => return self.end(random).await,
        };
        self.run(&sql).await;
    }

    async fn end(&mut self, random: &mut StdRng) {
        let sql = match random.random_range(0..6) {
            0 => "rollback".to_owned(),
            1 => {
                self.prepared.push(format!("p{}", self.next_id));
                format!("prepare transaction 'p{}'", self.next_id)
            }
            _ => "commit".to_owned(),
        };
        self.run(&sql).await;
        (self.savepoints, self.is_open) = (0, false);
        if random.random_bool(0.7) {
            self.end_prepared(random).await;
        }
    }

    async fn end_prepared(&mut self, random: &mut StdRng) {
        for name in std::mem::take(&mut self.prepared) {
            let verb = if random.random_bool(0.6) { "commit" } else { "rollback" };
            // It may not have come to that.
            let _ = self.client.batch_execute(&format!("{verb} prepared '{name}'")).await;
        }
    }
}

/// What nobody is told of, and nothing is to be kept of.
const NOTHING: &str = "} Nothing TrackedLog { changes: [], missed: {}, all_missed: false,";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_part_is_what_comes_at_the_commit() {
    let (mut random, seed) = super::random();
    let settings = vec!["max_prepared_transactions = 10".to_owned()];
    let cluster = Cluster::start(&ClusterOptions { settings, hba: None }).expect("a cluster");
    let database = prepared(&cluster, TABLES).await;
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let mut running = Vec::new();
    for (slot, in_progress) in [("parts", true), ("whole", false)] {
        let reading = Reading::new(&database, slot, in_progress, stop.clone()).await;
        let mut streams = reading.streams.subscribe();
        running.push(tokio::spawn(reading.run()));
        streams.wait_for(|streams| *streams == 1).await.expect("it streams");
    }
    let mut writers = [Writer::new(&database, 0).await, Writer::new(&database, 1).await];
    for step in 0..STEPS {
        let sql = match random.random_range(0..40) {
            0..5 => format!("insert into small values ({step}, 'small')"),
            5 => format!("comment on table small is '{step}'"),
            6 => "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name like '%_parts'"
                .to_owned(),
            other => {
                writers[other % 2].step(&mut random).await;
                continue;
            }
        };
        execute(&database.client, &sql).await;
    }
    for writer in &mut writers {
        if writer.is_open {
            writer.run("commit").await;
        }
        writer.end_prepared(&mut random).await;
    }
    execute(&database.client, "insert into small values (-1, 'done')").await;
    let (whole, whole_blocks) = running.pop().unwrap().await.unwrap();
    let (parts, blocks) = running.pop().unwrap().await.unwrap();
    println!("{} transactions, {blocks} blocks", whole.len());
    // Postgres tells of one that comes to nothing if it was told in part, and else keeps quiet about it.
    let is_something = |told: &String| !told.contains(NOTHING);
    let [parts, whole] = [parts, whole].map(|all| all.into_iter().filter(is_something).collect::<Vec<_>>());
    for (n, (parts, whole)) in parts.iter().zip(&whole).enumerate() {
        let header = whole.lines().next();
        let lines = parts.lines().map(Some).chain([None]).zip(whole.lines().map(Some).chain([None]));
        let differs = lines.into_iter().find(|(part, whole)| part != whole);
        assert!(differs.is_none(), "seed {seed}, transaction {n}, {header:?}: {differs:?}");
    }
    assert_eq!(parts.len(), whole.len(), "seed {seed}");
    assert!(blocks > 0 && whole_blocks == 0, "{blocks} and {whole_blocks}");
}
