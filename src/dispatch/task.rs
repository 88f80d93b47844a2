//! The task: sequences inputs, decides nothing.
//!
//! ```text
//!             ┌────────────── frames ──────────────┐
//!   Reading ──┴─ Commit ─► (catalog of the commit?) ─► Working ── last change ──► Reading
//!                               └─ Waiting for a catalog ─┘
//! ```

mod broadcasting;
mod catalogs;
mod delivering;
mod doubting;
mod noting;
mod resuming;
mod subscribing;
mod tracked;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Config;
use super::access::AccessTable;
use super::broadcasts::Broadcasts;
use super::delivery::{Chunk, Context};
use super::facts::Facts;
use super::handle::{Command, Handle};
use super::judging::Before;
use super::metrics::DispatchMetrics;
use super::pending::{Ticket, Tickets};
use super::pressure::Pressure;
use super::questions::Questions;
use super::replays::{RETRY, Replays};
use super::ring::Missing;
use super::run::Run;
use super::subscribers::Subscribers;
use super::topics::Topics;
use super::tracking::Tracking;
use super::unseen::{Release, Unseen};
use super::updates::Updates;
use crate::authz::Oracle;
use crate::catalog::watcher::{CatalogUpdate, WatcherHandle};
use crate::catalog::{Altered, Catalog, ColumnSet, Relation, SessionReading};
use crate::causes::with_causes;
use crate::change::assembler::{DdlLog, Error as StreamFault, Step};
use crate::change::{Assembler, Change, Layout, OldRow, Operation, Relations, Row, Transaction};
use crate::channels::outbox::Burst;
use crate::channels::subscribe::ChannelId;
use crate::channels::system;
use crate::encode;
use crate::routing::Matches;
use crate::wal::batch::{Batch, Started, StreamFrame};
use crate::wal::pgoutput::{Begin, Message, OldTuple, RelationId, StreamRelation};
use crate::wal::{Lsn, Position, Progress};

/// What dispatch listens to.
pub struct Inputs {
    pub frames: mpsc::Receiver<Batch>,
    pub catalogs: mpsc::Receiver<CatalogUpdate>,
    pub readings: mpsc::Receiver<SessionReading>,
    pub commands: mpsc::UnboundedReceiver<Command>,
}

/// Why dispatch cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the replication stream cannot be understood at {position}")]
    Stream { position: Lsn, source: StreamFault },
    #[error("nobody loads the catalog any more")]
    NoCatalog,
}

/// A transaction whose changes are being routed.
struct Work {
    transaction: Transaction,
    ticket: Arc<Ticket>,
    index: u32,
    /// Its changes are kept for those who come back.
    is_kept: bool,
    /// They were handed over before this process began: nobody else gets them.
    is_silent: bool,
}

enum Phase {
    /// Frames are read as they come.
    Reading,
    /// A DDL row said "something changed": the catalog as that transaction left it is being loaded. Or changes were lost,
    /// and DDL may be among them.
    Waiting(Option<Work>, oneshot::Receiver<CatalogUpdate>),
    Working(Work),
}

/// The one owner of the subscription index.
pub struct Dispatch {
    config: Config,
    metrics: Arc<DispatchMetrics>,
    progress: Arc<Progress>,
    handle: Handle,
    watcher: Option<WatcherHandle>,
    catalog: Arc<Catalog>,
    subscribers: Subscribers,
    access: AccessTable,
    before: Option<Before>,
    assembler: Assembler,
    relations: Relations,
    layouts: HashMap<RelationId, KnownLayout, RandomState>,
    phase: Phase,
    tickets: Tickets,
    questions: Questions,
    unseen: Unseen,
    updates: Updates,
    tracking: Tracking,
    broadcasts: Broadcasts,
    topics: Topics,
    replays: Replays,
    /// Something of this stream had to be given up: nothing more of it counts, and all of it comes again in the next.
    is_deaf: bool,
    /// Since when there is no stream: what is known here is as old.
    silent_since: Option<Instant>,
    facts: Facts,
    /// For whoever reads what a session says of it: the catalog without that.
    catalogs: watch::Sender<Arc<Catalog>>,
    /// Everything committed before it has been read.
    position: Lsn,
    /// The same, for joins that wait until the stream has come as far as the database.
    announced: watch::Sender<Lsn>,
    /// The last transaction handed over: after a reconnect the stream starts before it.
    last_commit: Lsn,
    system_identifier: Option<String>,
    budget: Arc<AtomicUsize>,
    pressure: Pressure,
    /// Most of the outboxes written to were full: the stream is left alone until then.
    paused_until: Option<Instant>,
    /// What goes to one channel next, and the frames that others may share.
    run: Run,
    /// What is in outboxes whose connections do not know yet; the first of it since then.
    burst: Burst,
    burst_since: Instant,
    /// Reused from change to change.
    buffer: Vec<u8>,
    /// When rows above `--record-max` were last spoken of.
    told_of_cuts: Option<Instant>,
    altered: Altered,
    /// Tables of which changes were left out because of that, and how many channels had been bound when it was last told.
    left_out: HashMap<RelationId, u64>,
    bound_count: u64,
}

struct KnownLayout {
    stream: Arc<StreamRelation>,
    layout: Arc<Layout>,
    columns_asked: ColumnSet,
}

/// Deliveries after which a chunk is closed, however few its changes: one change may be for ten thousand people.
const CHUNK_DELIVERIES_MAX: usize = 16384;
/// Bytes of rows after which it is closed: an outbox that is not full before a chunk must not be past its spill after it.
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Commands in a row, before something else gets a turn. Each takes a few microseconds, and clients can send many.
const COMMANDS_MAX: usize = 256;
/// The remedy where changes were missed.
const READ_AGAIN: &str = "Read what you show from the database again";
/// How long the stream is left alone when the outboxes are full. They drain in the meantime or their clients are closed.
const PAUSE: Duration = Duration::from_millis(20);
/// How long work may go on without letting others have the thread.
const UNYIELDING_MAX: Duration = Duration::from_micros(200);
/// Frames for one socket that are queued within this time leave in one write. Only work holds back the waking, never
/// waiting: with nothing left to route everybody is woken. Ten changes for a thousand sockets take some 2 ms to queue.
const BURST_HELD_MAX: Duration = Duration::from_millis(4);

impl Dispatch {
    /// The task's state, its command channel's receiving end, and the handle that connections are given.
    pub fn new(
        config: Config,
        metrics: Arc<DispatchMetrics>,
        oracle: Oracle,
        progress: Arc<Progress>,
        watcher: Option<WatcherHandle>,
        catalog: Arc<Catalog>,
        tracker: TaskTracker,
    ) -> (Dispatch, mpsc::UnboundedReceiver<Command>, Handle) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let position = watch::Sender::new(Lsn::ZERO);
        let handle = Handle {
            commands,
            catalog: Arc::new(ArcSwap::from(Arc::clone(&catalog))),
            oracle: oracle.clone(),
            watcher: watcher.clone(),
            position: position.subscribe(),
            tracker,
            no_casts: Arc::default(),
            numbers: Arc::default(),
        };
        let mut dispatch = Dispatch {
            assembler: Assembler::new(config.transaction, metrics.spill.clone()),
            tracking: Tracking::new(config.tracking.clone(), metrics.tracking.clone(), None),
            broadcasts: Broadcasts::new(metrics.broadcasts.clone()),
            topics: Topics::default(),
            replays: Replays::disabled(),
            silent_since: Some(Instant::now()),
            is_deaf: false,
            config,
            metrics,
            progress,
            facts: Facts::new(catalog.version),
            catalogs: watch::Sender::new(Arc::clone(&catalog)),
            handle: handle.clone(),
            unseen: Unseen::new(watcher.clone()),
            watcher,
            catalog,
            subscribers: Subscribers::default(),
            access: AccessTable::default(),
            before: None,
            relations: Relations::default(),
            layouts: HashMap::default(),
            phase: Phase::Reading,
            tickets: Tickets::default(),
            questions: Questions::new(oracle.clone()),
            updates: Updates::default(),
            position: Lsn::ZERO,
            announced: position,
            last_commit: Lsn::ZERO,
            system_identifier: None,
            budget: Arc::default(),
            pressure: Pressure::default(),
            paused_until: None,
            run: Run::default(),
            burst: Burst::default(),
            burst_since: Instant::now(),
            buffer: Vec::new(),
            told_of_cuts: None,
            altered: Altered::default(),
            left_out: HashMap::new(),
            bound_count: 0,
        };
        dispatch.topics.catalog_changed(&dispatch.catalog);
        (dispatch, receiver, handle)
    }

    /// Gives whom policies of private channels are asked that are not decided here. Its sessions have settings that are
    /// absent from others, so it is asked nothing else.
    pub fn judge_topics_with(&mut self, oracle: Oracle, timeout: Duration) {
        self.topics.ask_with(oracle, timeout);
    }

    /// The catalogs as they come into force.
    pub fn catalogs(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalogs.subscribe()
    }

    /// Runs until the reader has ended and what it had read is delivered, or until `abandon`. Order of the inputs:
    /// answers, commands, catalogs, then the stream: what frees memory and what people wait for comes before what makes
    /// more of both.
    pub async fn run(mut self, mut inputs: Inputs, abandon: CancellationToken) -> Result<(), Error> {
        let mut ended = false;
        let mut backlog: std::vec::IntoIter<StreamFrame> = Vec::new().into_iter();
        let mut matches = Matches::default();
        let mut commands = 0;
        let mut yielded = Instant::now();
        loop {
            self.settle();
            let may_advance = self.may_advance();
            let replayed = may_advance && self.replay(&mut matches);
            if may_advance && matches!(self.phase, Phase::Working(_)) {
                self.work(&mut matches)?;
                self.take_waiting(&mut inputs);
                if self.burst_since.elapsed() > BURST_HELD_MAX {
                    self.burst.let_go();
                }
                // A long transaction must not keep its worker thread to itself. A yield looks at every socket of the
                // process, which is more than a small transaction costs.
                if yielded.elapsed() > UNYIELDING_MAX {
                    tokio::task::yield_now().await;
                    yielded = Instant::now();
                }
                continue;
            }
            if may_advance && matches!(self.phase, Phase::Reading) && self.read(&mut backlog)? {
                if self.assembler.is_gathering() {
                    self.take_waiting(&mut inputs);
                    tokio::task::yield_now().await;
                }
                continue;
            }
            if replayed {
                self.take_waiting(&mut inputs);
                tokio::task::yield_now().await;
                continue;
            }
            self.burst.let_go();
            if ended && self.tickets.is_empty() && matches!(self.phase, Phase::Reading) {
                return Ok(());
            }
            let reading = !ended && may_advance && matches!(self.phase, Phase::Reading);
            let pause = self.paused_until.unwrap_or_else(Instant::now);
            // What was due has just been seen to; what could not be done is tried again, and must not keep out the stream.
            let deadline = self.replays.next_deadline().map(|at| at.max(Instant::now() + RETRY));
            tokio::select! {
                biased;
                () = abandon.cancelled() => return Ok(()),
                answered = self.questions.next() => self.answered(answered),
                released = self.unseen.next() => self.released(released),
                event = self.tracking.next() => self.tracking_event(event),
                answered = self.broadcasts.next() => self.broadcast_answered(answered),
                Some(command) = inputs.commands.recv(), if commands < COMMANDS_MAX => {
                    commands += 1;
                    self.command(command);
                    continue;
                }
                Some(update) = inputs.catalogs.recv() => self.polled(update),
                Some(reading) = inputs.readings.recv() => self.session_read(reading),
                update = wait_for_catalog(&mut self.phase) => self.catalog_arrived(update)?,
                () = sleep_until(pause), if self.paused_until.is_some() => self.paused_until = None,
                () = sleep_until(deadline.unwrap_or(pause)), if deadline.is_some() => {}
                batch = inputs.frames.recv(), if reading => match batch {
                    Some(batch) => backlog = batch.frames.into_iter(),
                    None => ended = true,
                },
                // Nobody else had anything.
                () = tokio::task::yield_now(), if commands >= COMMANDS_MAX => {}
            }
            commands = 0;
        }
    }

    /// Takes what lies ready, without waiting, between two chunks of a long transaction.
    fn take_waiting(&mut self, inputs: &mut Inputs) {
        for _ in 0..COMMANDS_MAX {
            let Ok(command) = inputs.commands.try_recv() else { break };
            self.command(command);
        }
        while let Ok(update) = inputs.catalogs.try_recv() {
            self.polled(update);
        }
        while let Ok(reading) = inputs.readings.try_recv() {
            self.session_read(reading);
        }
        while let Some(answered) = self.questions.next().now_or_never() {
            self.answered(answered);
        }
        if let Some(released) = self.unseen.next().now_or_never() {
            self.released(released);
        }
        self.take_tracking_event();
        self.take_broadcast_answers();
    }

    fn released(&mut self, released: Vec<(ChannelId, Release)>) {
        for (channel, why) in released {
            self.release(channel, why);
        }
    }

    fn may_advance(&self) -> bool {
        self.paused_until.is_none()
            && self.questions.has_room()
            && self.budget.load(Ordering::Relaxed) < self.config.pending_bytes_max
    }

    /// Confirms what nothing waits for any more.
    fn settle(&mut self) {
        if let Some(end_lsn) = self.tickets.settle() {
            self.resume_settled(end_lsn);
            self.progress.dispatched_to(end_lsn);
        }
        self.hold();
        if *self.announced.borrow() < self.position && matches!(self.phase, Phase::Reading) {
            self.announced.send_replace(self.position);
        }
        self.metrics.pending_bytes.set(self.budget.load(Ordering::Relaxed) as i64);
        self.metrics.in_progress_bytes.set(self.assembler.in_progress_bytes() as i64);
        self.track_needs();
        if !self.tracking.is_empty() {
            if matches!(self.phase, Phase::Reading) {
                self.tracking.settle(self.position);
            }
            self.metrics.tracking.serving.set(self.tracking.tables().serving() as i64);
        }
    }

    /// Reads frames up to the next Commit, or a piece of what came before its own; `false`: there are none.
    fn read(&mut self, backlog: &mut std::vec::IntoIter<StreamFrame>) -> Result<bool, Error> {
        if self.assembler.is_gathering() {
            let gathered = self.assembler.gather();
            if let Some(transaction) = self.or_whole(gathered)? {
                self.committed(transaction);
            }
            return Ok(true);
        }
        for frame in backlog.by_ref() {
            match frame {
                StreamFrame::Data { .. } | StreamFrame::KeepAlive { .. } | StreamFrame::SkippedFrame { .. }
                    if self.is_deaf => {}
                StreamFrame::Data { bytes, .. } => {
                    if let Some(transaction) = self.push(bytes)? {
                        self.committed(transaction);
                        return Ok(true);
                    }
                    if self.assembler.is_gathering() {
                        return Ok(true);
                    }
                }
                StreamFrame::KeepAlive { wal_end } => self.keepalive(wal_end),
                StreamFrame::Started(started) => {
                    self.started(started);
                    if matches!(self.phase, Phase::Waiting(..)) {
                        return Ok(true);
                    }
                }
                StreamFrame::Disconnected => {
                    self.assembler.reset();
                    self.replays.has_skipped = false;
                    self.broadcasts.disconnected();
                    self.silent_since.get_or_insert_with(Instant::now);
                }
                StreamFrame::SkippedFrame { wal_start, tag, relation, subxid, bytes } => {
                    self.skipped_frame(wal_start, tag, relation, subxid, bytes);
                }
            }
        }
        Ok(false)
    }

    fn push(&mut self, frame: Bytes) -> Result<Option<Transaction>, Error> {
        let last_commit = self.last_commit;
        let (subscribers, catalog, metrics) = (&self.subscribers, &self.catalog, &self.metrics);
        let broadcasts = &self.broadcasts;
        let keeps = self.replays.ring.is_on();
        let handed_over = |begin: &Begin| begin.final_lsn <= last_commit;
        // A table that the catalog does not know may be published by this very transaction.
        let wanted = |relation: RelationId, rows: u64| {
            metrics.changes_read.inc_by(rows);
            let wanted = subscribers.want(relation) || broadcasts.has(relation) || catalog.relation(relation).is_none();
            if !wanted {
                metrics.changes_without_subscriber.inc_by(rows);
            }
            wanted || keeps
        };
        let pushed = self.assembler.push(frame, handed_over, wanted);
        self.or_whole(pushed)
    }

    /// Where what came of transactions before their commit is of no use, they are asked for at their commit. If there is no
    /// room for that either, of which it is what somebody wants alone, there is nothing left to do.
    fn or_whole(&mut self, read: Result<Option<Transaction>, StreamFault>) -> Result<Option<Transaction>, Error> {
        let position = self.position;
        match read {
            Err(fault @ (StreamFault::Spill(_) | StreamFault::TooLarge(_))) if !self.progress.takes_whole() => {
                tracing::error!(
                    error = with_causes(&fault),
                    "no room for what large transactions have written so far: from \
                    here on they are read at their commit, and others wait for them"
                );
                self.progress.take_whole();
            }
            Err(fault @ StreamFault::Unclear(end_lsn)) => {
                tracing::info!(reason = %fault, "a large transaction is read once more, as of its commit");
                self.progress.take_whole_to(end_lsn);
            }
            read => return read.map_err(|source| Error::Stream { position, source }),
        }
        self.assembler.reset();
        self.is_deaf = true;
        Ok(None)
    }

    /// A new connection: what had begun comes again, whole; after a failover positions mean something else.
    fn started(&mut self, started: Started) {
        self.silent_since = None;
        self.is_deaf = false;
        self.assembler.started(started.own_publication);
        self.assembler.take_broadcasts(self.broadcasts.started(&started, &self.catalog));
        self.relations.clear();
        self.layouts.clear();
        let known = self.system_identifier.replace(started.system_identifier.clone());
        if known.is_some_and(|known| known != started.system_identifier) {
            tracing::warn!("the database has another system identifier: positions start anew");
            self.last_commit = Lsn::ZERO;
            self.altered = Altered::default();
            self.unseen.forget();
        }
        self.tracking.started(&started, &self.catalog, Instant::now());
        self.resume_started(&started);
        if let Some((from, to)) = started.lost {
            tracing::error!(%from, %to, "changes between these positions are lost: the slot was made anew or moved on");
            let places = self.subscribers.places();
            let message = "Changes were lost: the replication slot had to be made anew";
            self.announce_gap(places, message, Missing::SlotLost);
            if let Some(loading) = self.load_catalog(None) {
                self.phase = Phase::Waiting(None, loading);
            }
        }
    }

    /// A message above `--wal-frame-max`. Logical messages and the like deliver nothing anyway.
    /// What is of a transaction in progress is told at its commit.
    fn skipped_frame(
        &mut self,
        wal_start: Lsn,
        tag: Option<u8>,
        relation: Option<RelationId>,
        subxid: Option<u32>,
        bytes: u64,
    ) {
        if !matches!(tag, None | Some(b'I' | b'U' | b'D')) {
            return;
        }
        tracing::error!(%wal_start, bytes, "a frame above --wal-frame-max was skipped: its change is delivered to nobody");
        match subxid {
            Some(subxid) => self.assembler.unread_in_block(subxid, relation),
            None if self.assembler.unread(relation) => self.lost(relation),
            None => {}
        }
    }

    /// A change was too large to be read.
    fn lost(&mut self, relation: Option<RelationId>) {
        let places =
            relation.map_or_else(|| self.subscribers.places(), |relation| self.subscribers.places_of(relation));
        let message = "A change was too large to be read: it is delivered to nobody";
        self.announce_gap(places, message, Missing::TooLarge);
        self.replays.has_skipped = true;
    }

    /// Where something had to be given up, people are told (DESIGN, promise 4).
    fn announce_gap(&mut self, places: Vec<usize>, message: &str, missing: Missing) {
        for place in places {
            self.note_missing(place, missing);
            self.send_to(place, |s| system::postgres_changes_error(&s.address, message, Some(READ_AGAIN)));
        }
    }

    /// Everything before `wal_end` has been sent. With nothing under way it is dispatched, too: a quiet publication must
    /// not hold back the WAL of a busy database.
    fn keepalive(&mut self, wal_end: Lsn) {
        self.position = self.position.max(wal_end);
        if self.tickets.is_empty() && !self.assembler.is_open() {
            self.progress.dispatched_to(wal_end);
        }
        self.apply_due_updates(self.position);
    }

    fn committed(&mut self, mut transaction: Transaction) {
        self.metrics.transactions.inc();
        let header = transaction.header;
        // A state that was read before this commit is what it was committed under.
        self.apply_due_updates(self.position.max(header.commit_lsn));
        self.position = self.position.max(header.end_lsn);
        self.last_commit = self.last_commit.max(header.commit_lsn);
        for relation in std::mem::take(&mut transaction.lost) {
            self.lost(relation);
        }
        self.unseen.read(transaction.sequence, header.xid);
        let ticket = self.tickets.issue(header.end_lsn);
        let ddl_log = std::mem::take(&mut transaction.ddl_log);
        let has_ddl = ddl_log != DdlLog::Nothing;
        let mut work = Work { transaction, ticket, index: 0, is_kept: false, is_silent: false };
        self.keeps(&mut work);
        let catalog = Arc::clone(&self.catalog);
        let loading = self.apply_ddl(ddl_log, &header);
        self.began_with(catalog);
        if has_ddl {
            self.tracking.ddl(header.xid);
        }
        match loading {
            Some(loading) => self.phase = Phase::Waiting(Some(work), loading),
            None => self.begin_work(work),
        }
    }

    /// The catalog of the commit is in force; with the tracked tables as it leaves them its changes can be judged.
    fn begin_work(&mut self, mut work: Work) {
        self.apply_tracked(&mut work.transaction);
        self.phase = Phase::Working(work);
    }

    /// Routes the next changes of the transaction in work.
    fn work(&mut self, matches: &mut Matches) -> Result<(), Error> {
        let Phase::Working(mut work) = std::mem::replace(&mut self.phase, Phase::Reading) else { return Ok(()) };
        let mut chunk = Chunk::default();
        let mut finished = false;
        for _ in 0..self.config.chunk_changes {
            let position = work.transaction.header.commit_lsn;
            let fault = |source| Error::Stream { position, source };
            match work.transaction.step().map_err(fault)? {
                Step::Message(message) => self.route(message, &mut work, &mut chunk, matches).map_err(fault)?,
                Step::Later => break,
                Step::End => {
                    finished = true;
                    break;
                }
            }
            let deliveries = chunk.delivery_count() + chunk.broadcasts;
            if deliveries >= CHUNK_DELIVERIES_MAX || chunk.bytes >= CHUNK_BYTES_MAX {
                break;
            }
        }
        self.flush(chunk);
        if finished {
            self.replays.worked = Position::end_of(work.transaction.header.commit_lsn);
            self.finish_tracked();
            if self.before.take().is_some() {
                self.layouts.clear();
            }
        } else {
            self.phase = Phase::Working(work);
        }
        Ok(())
    }

    fn route(
        &mut self,
        message: Message,
        work: &mut Work,
        chunk: &mut Chunk,
        matches: &mut Matches,
    ) -> Result<(), StreamFault> {
        let (relation, operation, new, old) = match message {
            Message::Relation(relation) => {
                self.layouts.remove(&relation.id);
                self.relations.insert(relation);
                return Ok(());
            }
            Message::Insert { relation, new } if self.broadcasts.has(relation) && !work.is_silent => {
                chunk.broadcasts += self.broadcast_row(relation, &new, &work.ticket)?;
                // Also a change of a table, where the user's publication has it.
                (relation, Operation::Insert, Some(new), OldTuple::Absent)
            }
            Message::Logical { .. } if work.is_silent => return Ok(()),
            Message::Logical { content, .. } => {
                chunk.broadcasts += self.broadcast_sent(&content, work);
                return Ok(());
            }
            Message::Insert { relation, new } => (relation, Operation::Insert, Some(new), OldTuple::Absent),
            Message::Update { relation, old, new } => (relation, Operation::Update, Some(new), old),
            Message::Delete { relation, old } => (relation, Operation::Delete, None, old),
            _ => return Ok(()),
        };
        let index = work.index;
        work.index += 1;
        if !self.know_layout(relation)? {
            return Ok(());
        }
        if self.is_doubtful(relation, work.transaction.header.commit_lsn) {
            self.leave_out(relation, work);
            return Ok(());
        }
        let kept = match (&operation, &old) {
            (Operation::Delete, OldTuple::Key(key)) => self.kept_row(relation, key)?,
            _ => None,
        };
        let known = &self.layouts[&relation];
        if !is_published(&known.layout.relation, operation) {
            return Ok(());
        }
        if work.is_kept {
            let (stream, relation) = (Arc::clone(&known.stream), Arc::clone(&known.layout.relation));
            self.keep(work, (operation, new.as_ref(), &old), (&stream, &relation, kept.as_ref()));
        }
        self.replays.worked = Position { lsn: work.transaction.header.commit_lsn, index };
        if work.is_silent {
            return Ok(());
        }
        let known = &self.layouts[&relation];
        let row = |tuple, key_only| Row { layout: Arc::clone(&known.layout), tuple, key_only };
        let change = Change {
            relation: Arc::clone(&known.layout.relation),
            operation,
            new: new.map(|tuple| row(tuple, false)),
            old: match old {
                OldTuple::Absent => OldRow::Absent,
                OldTuple::Key(tuple) => OldRow::Key(row(tuple, true)),
                OldTuple::Full(tuple) => OldRow::Full(row(tuple, false)),
            },
            kept,
            commit_lsn: work.transaction.header.commit_lsn,
            index,
            commit_timestamp: work.transaction.header.commit_timestamp,
        };
        let context = Context {
            catalog: &self.catalog,
            config: &self.config,
            subscribers: &self.subscribers,
            budget: &self.budget,
            columns_asked: &known.columns_asked,
            tables: self.tracking.tables(),
            xid: work.transaction.header.xid,
            sequence: work.transaction.sequence,
            replayed: None,
        };
        if chunk.add(change, &work.ticket, matches, &mut self.access, self.before.as_mut(), &context) {
            self.metrics.changes_matched.inc();
        }
        Ok(())
    }

    /// Makes sure of the layout of a relation's rows; `false`: the catalog does not have the table (it left the
    /// publication, or was dropped, by the end of this transaction), so nobody may see it.
    fn know_layout(&mut self, id: RelationId) -> Result<bool, StreamFault> {
        let stream = self.relations.get(id)?;
        if self.layouts.get(&id).is_some_and(|known| Arc::ptr_eq(&known.stream, stream)) {
            return Ok(true);
        }
        let Some(relation) = self.catalog.relation(id) else { return Ok(false) };
        let mut layout = Layout::new(Arc::clone(relation), stream);
        if let Some(earlier) = self.before.as_ref().and_then(|before| before.catalog.relation(id)) {
            // A row of this transaction may be from before its DDL, which the stream does not say.
            layout.forget(|column| earlier.columns.iter().any(|known| known.name == column.name && !known.is(column)));
        }
        let layout = Arc::new(layout);
        let columns_asked = encode::columns_only_postgres_encodes(&self.catalog, relation, &layout);
        self.layouts.insert(id, KnownLayout { stream: Arc::clone(stream), layout, columns_asked });
        Ok(true)
    }
}

/// Whether the user's publication has the operation. Where a table is in walcast's own as well, the stream has more.
fn is_published(relation: &Relation, operation: Operation) -> bool {
    match operation {
        Operation::Insert => relation.publish.insert,
        Operation::Update => relation.publish.update,
        Operation::Delete => relation.publish.delete,
    }
}

async fn wait_for_catalog(phase: &mut Phase) -> Option<CatalogUpdate> {
    match phase {
        Phase::Waiting(_, loading) => loading.await.ok(),
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod resuming_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod waiting_tests;
