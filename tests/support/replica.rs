//! A consumer of the stream as dispatch is one: it skips what it has handed over, and keeps tables as the stream
//! says they are.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walcast::wal::pgoutput::{Datum, Message, OldTuple, RelationId, Tuple, decode, in_block};
use walcast::wal::{Batch, Config, Conninfo, Error, Handle, Lsn, Started, StreamFrame, WalMetrics, reader};

/// First column (the key) to all columns, as text.
pub type Table = BTreeMap<String, Vec<Option<String>>>;

pub struct Replica {
    pub handle: Handle,
    pub tables: HashMap<String, Table>,
    pub streams: Vec<Started>,
    pub skipped: Vec<StreamFrame>,
    /// End LSNs of the transactions that were applied, in order.
    pub commits: Vec<Lsn>,
    /// Whether transactions are handed over (and so confirmed) as they come.
    pub dispatches: bool,
    batches: mpsc::Receiver<Batch>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    relations: HashMap<RelationId, String>,
    /// The transaction that is being read.
    open: Option<Vec<Message>>,
    /// Those in progress: what they have, by subtransaction; and whose block is being read.
    in_progress: HashMap<u32, Vec<(u32, Message)>>,
    block: Option<u32>,
}

/// What a test's reader is configured with: its own slot, a short backoff.
pub fn config(url: &str, slot: &str) -> Config {
    let mut config = Config::new(Conninfo::parse(url).expect("a conninfo"), "app");
    config.slot.name = slot.to_owned();
    config
}

impl Replica {
    pub fn start(config: Config) -> Replica {
        let (reader, handle, batches) = reader(config, WalMetrics::default().into());
        let stop = CancellationToken::new();
        let task = tokio::spawn(reader.run(stop.clone()));
        Replica {
            handle,
            tables: HashMap::new(),
            streams: Vec::new(),
            skipped: Vec::new(),
            commits: Vec::new(),
            dispatches: true,
            batches,
            stop,
            task,
            relations: HashMap::new(),
            open: None,
            in_progress: HashMap::new(),
            block: None,
        }
    }

    /// Starts, and waits for the stream.
    pub async fn streaming(config: Config) -> Replica {
        let mut replica = Replica::start(config);
        replica.until(|replica| !replica.streams.is_empty()).await;
        replica
    }

    /// Takes frames until something is so.
    pub async fn until(&mut self, reached: impl Fn(&Replica) -> bool) {
        let began = Instant::now();
        while !reached(self) {
            assert!(began.elapsed() < Duration::from_secs(90), "never reached: {}", self.situation());
            assert!(self.take_batch().await, "the reader ended: {:?}", (&mut self.task).await);
        }
    }

    /// Takes frames until everything before a position was handed over.
    pub async fn until_position(&mut self, position: Lsn) {
        self.until(|replica| replica.handle.progress().dispatched() >= position).await;
    }

    fn situation(&self) -> String {
        let (state, progress) = (self.handle.state(), self.handle.progress());
        let state = state.borrow();
        format!("{state:?}, {progress:?}, streams {:?}, commits {:?}", self.streams, self.commits.last())
    }

    /// False: there are no more.
    async fn take_batch(&mut self) -> bool {
        let batch = tokio::time::timeout(Duration::from_secs(60), self.batches.recv()).await;
        let Ok(batch) = batch else { panic!("nothing within a minute: {}", self.situation()) };
        let Some(batch) = batch else { return false };
        batch.frames.into_iter().for_each(|frame| self.take(frame));
        true
    }

    fn take(&mut self, frame: StreamFrame) {
        match frame {
            StreamFrame::Started(started) => {
                self.forget();
                self.streams.push(started);
            }
            StreamFrame::Disconnected => self.forget(),
            StreamFrame::KeepAlive { wal_end } => {
                if self.open.is_none() && self.dispatches {
                    self.handle.progress().dispatched_to(wal_end);
                }
            }
            skipped @ StreamFrame::SkippedFrame { .. } => self.skipped.push(skipped),
            StreamFrame::Data { bytes, .. } => match self.block {
                Some(xid) if bytes[0] != b'E' => {
                    let (subxid, tag, rest) = in_block(&bytes).expect("a frame of a block");
                    let message = decode([&[tag], rest].concat().into()).expect("a frame");
                    self.in_progress.entry(xid).or_default().push((subxid, message));
                }
                _ => self.message(decode(bytes).expect("a frame")),
            },
        }
    }

    /// What had begun comes again.
    fn forget(&mut self) {
        (self.open, self.block) = (None, None);
        self.in_progress.clear();
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Begin(_) => {
                assert!(self.open.is_none(), "a transaction inside another");
                self.open = Some(Vec::new());
            }
            Message::StreamStart { xid, .. } => self.block = Some(xid),
            Message::StreamStop => self.block = None,
            Message::StreamAbort { xid, subxid } if xid == subxid => drop(self.in_progress.remove(&xid)),
            Message::StreamAbort { xid, subxid } => {
                self.in_progress.entry(xid).or_default().retain(|(of, _)| *of != subxid);
            }
            Message::StreamCommit { xid, commit } => {
                self.open = Some(Vec::new());
                let messages = self.in_progress.remove(&xid).expect("blocks before the commit");
                messages.into_iter().for_each(|(_, message)| self.message(message));
                self.message(Message::Commit(commit));
            }
            Message::Commit(commit) => {
                let changes = self.open.take().expect("a Begin before the Commit");
                if commit.end_lsn > self.handle.progress().dispatched() {
                    changes.into_iter().for_each(|change| self.apply(change));
                    self.commits.push(commit.end_lsn);
                    if self.dispatches {
                        self.handle.progress().dispatched_to(commit.end_lsn);
                    }
                }
            }
            Message::Relation(relation) => {
                self.relations.insert(relation.id, relation.name);
            }
            change => self.open.as_mut().expect("a change inside a transaction").push(change),
        }
    }

    fn table(&mut self, relation: RelationId) -> &mut Table {
        self.tables.entry(self.relations[&relation].clone()).or_default()
    }

    fn apply(&mut self, change: Message) {
        match change {
            Message::Insert { relation, new } => {
                let row = values(&new, None);
                let before = self.table(relation).insert(key(&row), row);
                assert_eq!(before, None, "inserted twice");
            }
            Message::Update { relation, old, new } => {
                let table = self.table(relation);
                let old = match old {
                    OldTuple::Absent => values(&new, None),
                    OldTuple::Key(tuple) | OldTuple::Full(tuple) => values(&tuple, None),
                };
                let before = table.remove(&key(&old)).expect("the row to update");
                let row = values(&new, Some(&before));
                table.insert(key(&row), row);
            }
            Message::Delete { relation, old: OldTuple::Key(old) | OldTuple::Full(old) } => {
                self.table(relation).remove(&key(&values(&old, None))).expect("the row to delete");
            }
            Message::Truncate { relations, .. } => relations.into_iter().for_each(|id| self.table(id).clear()),
            Message::Logical { .. } | Message::Type { .. } | Message::Origin => {}
            other => panic!("{other:?}"),
        }
    }

    /// Stops as the relay does: what has been read is still handed over, then the position is confirmed.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.stop.cancel();
        while self.take_batch().await {}
        self.task.await.expect("the reader does not panic")
    }

    /// Waits for the reader to give up.
    pub async fn failure(mut self) -> Error {
        while self.take_batch().await {}
        self.task.await.expect("the reader does not panic").expect_err("a failure")
    }
}

fn key(row: &[Option<String>]) -> String {
    row[0].clone().expect("a key")
}

fn values(tuple: &Tuple, before: Option<&Vec<Option<String>>>) -> Vec<Option<String>> {
    let value = |position| match tuple.get(position) {
        Datum::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Datum::UnchangedToast => before.and_then(|row| row[position].clone()),
        Datum::Null | Datum::Missing => None,
    };
    (0..tuple.fields.len()).map(value).collect()
}
