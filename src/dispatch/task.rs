//! The task: sequences inputs, decides nothing.
//!
//! ```text
//!             ┌────────────── frames ──────────────┐
//!   Reading ──┴─ Commit ─► (catalog of the commit?) ─► Working ── last change ──► Reading
//!                               └─ Waiting for a catalog ─┘
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::FutureExt;
use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Config;
use super::access::AccessTable;
use super::delivery::{Chunk, Context};
use super::handle::{Command, Handle};
use super::hint;
use super::metrics::DispatchMetrics;
use super::pending::{ComputedRows, Delivery, Outcome, PendingChange, Ticket, Tickets};
use super::questions::{Answered, Questions};
use super::subscribers::{Bind, Subscriber, Subscribers};
use crate::authz::Oracle;
use crate::catalog::ddl_log::{self, DdlEvent};
use crate::catalog::watcher::{CatalogUpdate, WatcherHandle};
use crate::catalog::{Catalog, ColumnSet, Relation};
use crate::causes::with_causes;
use crate::change::assembler::Error as StreamFault;
use crate::change::{Assembler, Change, Layout, OldRow, Operation, Relations, Row, Transaction};
use crate::channels::outbox::Pushed;
use crate::channels::phoenix::Serializer;
use crate::channels::subscribe::{EventShapeKind, Subscribe, SubscriptionSink};
use crate::channels::system::{self, EventShape};
use crate::encode::{self, OldVisibility};
use crate::routing::{Casts, Matches};
use crate::wal::batch::{Batch, Started, StreamFrame};
use crate::wal::pgoutput::{self, Begin, Message, OldTuple, RelationId, StreamRelation};
use crate::wal::{Lsn, Progress};

/// What dispatch listens to.
pub struct Inputs {
    pub frames: mpsc::Receiver<Batch>,
    pub catalogs: mpsc::Receiver<CatalogUpdate>,
    pub commands: mpsc::UnboundedReceiver<Command>,
}

/// Why dispatch cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the replication stream cannot be understood at {position}")]
    Stream { position: Lsn, source: StreamFault },
}

/// A transaction whose changes are being routed.
struct Work {
    transaction: Transaction,
    ticket: Arc<Ticket>,
    index: u32,
}

enum Phase {
    /// Frames are read as they come.
    Reading,
    /// A DDL row said "something changed": the catalog as that transaction left it is being loaded.
    Waiting(Work, oneshot::Receiver<CatalogUpdate>),
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
    assembler: Assembler,
    relations: Relations,
    layouts: HashMap<RelationId, KnownLayout, RandomState>,
    phase: Phase,
    tickets: Tickets,
    questions: Questions,
    /// Catalog states that were polled, to be applied when the stream has come as far.
    updates: Vec<CatalogUpdate>,
    /// Transactions whose DDL was applied from the stream; a polled state that does not see them is older.
    ddl_xids: Vec<u32>,
    /// Everything committed before it has been read.
    position: Lsn,
    /// The same, for joins that wait until the stream has come as far as the database.
    announced: watch::Sender<Lsn>,
    /// The last transaction handed over: after a reconnect the stream starts before it.
    last_commit: Lsn,
    system_identifier: Option<String>,
    budget: Arc<AtomicUsize>,
    /// Most of the outboxes written to were full: the stream is left alone until then.
    paused_until: Option<Instant>,
    frames: FrameCache,
    /// Reused from change to change.
    buffer: Vec<u8>,
}

struct KnownLayout {
    stream: Arc<StreamRelation>,
    layout: Arc<Layout>,
    columns_asked: ColumnSet,
}

/// Deliveries after which a chunk is closed, however few its changes: one change may be for ten thousand people.
const CHUNK_DELIVERIES_MAX: usize = 4096;
/// How long the stream is left alone when the outboxes are full. They drain in the meantime or their clients are closed.
const PAUSE: Duration = Duration::from_millis(20);

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
        let dispatch = Dispatch {
            assembler: Assembler::new(config.transaction),
            config,
            metrics,
            progress,
            handle: handle.clone(),
            watcher,
            catalog,
            subscribers: Subscribers::default(),
            access: AccessTable::default(),
            relations: Relations::default(),
            layouts: HashMap::default(),
            phase: Phase::Reading,
            tickets: Tickets::default(),
            questions: Questions::new(oracle.clone()),
            updates: Vec::new(),
            ddl_xids: Vec::new(),
            position: Lsn::ZERO,
            announced: position,
            last_commit: Lsn::ZERO,
            system_identifier: None,
            budget: Arc::default(),
            paused_until: None,
            frames: FrameCache::default(),
            buffer: Vec::new(),
        };
        (dispatch, receiver, handle)
    }

    /// Runs until the reader has ended and what it had read is delivered, or until `abandon`. Order of the inputs:
    /// answers, commands, catalogs, then the stream: what frees memory and what people wait for comes before what makes
    /// more of both.
    pub async fn run(mut self, mut inputs: Inputs, abandon: CancellationToken) -> Result<(), Error> {
        let mut ended = false;
        let mut backlog: std::vec::IntoIter<StreamFrame> = Vec::new().into_iter();
        let mut matches = Matches::default();
        loop {
            self.settle();
            let may_advance = self.may_advance();
            if may_advance && matches!(self.phase, Phase::Working(_)) {
                self.work(&mut matches)?;
                self.take_waiting(&mut inputs);
                // A long transaction must not keep its worker thread to itself.
                tokio::task::yield_now().await;
                continue;
            }
            if may_advance && matches!(self.phase, Phase::Reading) && self.read(&mut backlog)? {
                continue;
            }
            if ended && self.tickets.is_empty() && matches!(self.phase, Phase::Reading) {
                return Ok(());
            }
            let reading = !ended && may_advance && matches!(self.phase, Phase::Reading);
            let pause = self.paused_until.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = abandon.cancelled() => return Ok(()),
                answered = self.questions.next() => self.answered(answered),
                Some(command) = inputs.commands.recv() => self.command(command),
                Some(update) = inputs.catalogs.recv() => self.polled(update),
                update = wait_for_catalog(&mut self.phase) => self.catalog_arrived(update),
                () = sleep_until(pause), if self.paused_until.is_some() => self.paused_until = None,
                batch = inputs.frames.recv(), if reading => match batch {
                    Some(batch) => backlog = batch.frames.into_iter(),
                    None => ended = true,
                },
            }
        }
    }

    /// Takes what lies ready, without waiting, between two chunks of a long transaction.
    fn take_waiting(&mut self, inputs: &mut Inputs) {
        while let Ok(command) = inputs.commands.try_recv() {
            self.command(command);
        }
        while let Ok(update) = inputs.catalogs.try_recv() {
            self.polled(update);
        }
        while let Some(answered) = self.questions.next().now_or_never() {
            self.answered(answered);
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
            self.progress.dispatched_to(end_lsn);
        }
        if *self.announced.borrow() < self.position && matches!(self.phase, Phase::Reading) {
            self.announced.send_replace(self.position);
        }
        self.metrics.pending_bytes.set(self.budget.load(Ordering::Relaxed) as i64);
    }

    /// Reads frames up to the next Commit; `false`: there are none.
    fn read(&mut self, backlog: &mut std::vec::IntoIter<StreamFrame>) -> Result<bool, Error> {
        for frame in backlog.by_ref() {
            match frame {
                StreamFrame::Data { bytes, .. } => {
                    if let Some(transaction) = self.push(bytes)? {
                        self.committed(transaction);
                        return Ok(true);
                    }
                }
                StreamFrame::KeepAlive { wal_end } => self.keepalive(wal_end),
                StreamFrame::Started(started) => self.started(started),
                StreamFrame::Disconnected => self.assembler.reset(),
                StreamFrame::SkippedFrame { wal_start, bytes, .. } => {
                    tracing::error!(%wal_start, bytes, "a frame above --wal-frame-max was skipped: its change is delivered to nobody");
                    self.announce_gap("A change was too large to be read: it is delivered to nobody");
                }
            }
        }
        Ok(false)
    }

    fn push(&mut self, frame: Bytes) -> Result<Option<Transaction>, Error> {
        let last_commit = self.last_commit;
        let (index, catalog, metrics) = (&self.subscribers.index, &self.catalog, &self.metrics);
        let handed_over = |begin: &Begin| begin.final_lsn <= last_commit;
        // A table that the catalog does not know may be published by this very transaction.
        let wanted = |relation: RelationId| {
            metrics.changes_read.inc();
            let wanted = index.has_relation(relation) || catalog.relation(relation).is_none();
            if !wanted {
                metrics.changes_without_subscriber.inc();
            }
            wanted
        };
        let position = self.position;
        self.assembler.push(frame, handed_over, wanted).map_err(|source| Error::Stream { position, source })
    }

    /// A new connection: what had begun comes again, whole; after a failover positions mean something else.
    fn started(&mut self, started: Started) {
        self.assembler.reset();
        self.relations.clear();
        self.layouts.clear();
        let known = self.system_identifier.replace(started.system_identifier.clone());
        if known.is_some_and(|known| known != started.system_identifier) {
            tracing::warn!("the database has another system identifier: positions start anew");
            self.last_commit = Lsn::ZERO;
        }
        if let Some((from, to)) = started.lost {
            tracing::error!(%from, %to, "changes between these positions are lost: the slot was made anew or moved on");
            self.announce_gap("Changes were lost: the replication slot had to be made anew");
        }
    }

    /// Where something had to be given up, everybody is told (DESIGN, promise 4).
    fn announce_gap(&mut self, message: &str) {
        let hint = "Read what you show from the database again";
        for place in self.subscribers.places() {
            self.send_to(place, |s| system::postgres_changes_error(&s.address, message, Some(hint)));
        }
    }

    /// Everything before `wal_end` has been sent. With nothing under way it is dispatched, too: a quiet publication must
    /// not hold back the WAL of a busy database.
    fn keepalive(&mut self, wal_end: Lsn) {
        self.position = self.position.max(wal_end);
        if self.tickets.is_empty() && !self.assembler.is_open() {
            self.progress.dispatched_to(wal_end);
        }
        self.apply_due_updates();
    }

    fn committed(&mut self, mut transaction: Transaction) {
        self.metrics.transactions.inc();
        let header = transaction.header;
        // States polled before this commit describe what it was committed under, or what came later in the stream.
        self.apply_due_updates();
        self.position = self.position.max(header.end_lsn);
        self.last_commit = self.last_commit.max(header.commit_lsn);
        let ticket = self.tickets.issue(header.end_lsn);
        let ddl_log = std::mem::take(&mut transaction.ddl_log);
        let work = Work { transaction, ticket, index: 0 };
        self.phase = match self.apply_ddl(&ddl_log, header.xid) {
            Some(loading) => Phase::Waiting(work, loading),
            None => Phase::Working(work),
        };
    }

    /// Applies the rows of `walcast.ddl_log`: the state as the commit leaves it. `Some`: it must be loaded first.
    fn apply_ddl(
        &mut self,
        rows: &[(Arc<StreamRelation>, Bytes)],
        xid: u32,
    ) -> Option<oneshot::Receiver<CatalogUpdate>> {
        // Of several events in one transaction the last one counts.
        let mut last = None;
        for (relation, frame) in rows {
            let new = match pgoutput::decode(frame.clone()) {
                Ok(Message::Insert { new, .. } | Message::Update { new, .. }) => new,
                _ => continue,
            };
            last = Some(ddl_log::parse(relation, &new, &self.config.publications));
        }
        let state = match last? {
            Ok(DdlEvent::State { state, .. }) => state,
            Ok(DdlEvent::Reload { reason, .. }) => {
                tracing::info!(
                    ?reason,
                    "a change of the catalog is loaded, because its log row does not say what it was"
                );
                return self.load_catalog(xid);
            }
            Err(error) => {
                tracing::warn!(%error, "a row of walcast.ddl_log could not be read; the catalog is loaded instead");
                return self.load_catalog(xid);
            }
        };
        if !state.has_texts()
            && let Some(watcher) = &self.watcher
        {
            watcher.refresh_soon();
        }
        match Catalog::from_state(*state, Arc::clone(&self.catalog.roles), 0) {
            Ok(catalog) => {
                self.ddl_xids.push(xid);
                self.apply(catalog);
                None
            }
            Err(error) => {
                tracing::warn!(%error, "a state in walcast.ddl_log could not be read; the catalog is loaded instead");
                self.load_catalog(xid)
            }
        }
    }

    fn load_catalog(&self, xid: u32) -> Option<oneshot::Receiver<CatalogUpdate>> {
        self.watcher.as_ref().map(|watcher| watcher.refresh(Some(xid)))
    }

    fn catalog_arrived(&mut self, update: Option<CatalogUpdate>) {
        let Phase::Waiting(work, _) = std::mem::replace(&mut self.phase, Phase::Reading) else { return };
        match update {
            Some(update) => {
                self.ddl_xids.push(work.transaction.header.xid);
                self.apply(update.catalog);
                self.phase = Phase::Working(work);
            }
            None => {
                // The watcher is between two connections: it answers when it is back. Nothing is judged meanwhile.
                let watcher = self.watcher.as_ref().expect("only a watcher is waited for");
                let loading = watcher.refresh(Some(work.transaction.header.xid));
                self.phase = Phase::Waiting(work, loading);
            }
        }
    }

    /// A polled state waits until the stream has come as far. Roles are in no stream: they hold at once.
    fn polled(&mut self, update: CatalogUpdate) {
        let mut catalog = Catalog::clone(&self.catalog);
        catalog.roles = Arc::clone(&update.catalog.roles);
        self.apply(catalog);
        self.updates.push(update);
        self.apply_due_updates();
    }

    fn apply_due_updates(&mut self) {
        while self.updates.first().is_some_and(|update| update.flush_lsn <= self.position) {
            let update = self.updates.remove(0);
            self.ddl_xids.retain(|xid| !update.snapshot.sees(*xid));
            if self.ddl_xids.is_empty() {
                self.apply(update.catalog);
            } else if let Some(watcher) = &self.watcher {
                // It is older than what the stream has told: have it loaded again.
                watcher.refresh_soon();
            }
        }
    }

    /// From here on changes are judged by this state.
    fn apply(&mut self, mut catalog: Catalog) {
        catalog.share_with(&self.catalog);
        catalog.version = self.catalog.version + 1;
        let previous = std::mem::replace(&mut self.catalog, Arc::new(catalog));
        self.access.clear();
        self.layouts.clear();
        self.handle.catalog.store(Arc::clone(&self.catalog));
        self.metrics.catalog_version.set(self.catalog.version as i64);
        let membership = membership_differs(&previous, &self.catalog);
        if membership || binding_differs(&previous, &self.catalog) {
            self.rebind_all(membership);
        }
    }

    /// Binds every channel to the new catalog. After a change of the publication's tables every channel is told so, once
    /// per binding (PROTOCOL 4.9).
    fn rebind_all(&mut self, tell: bool) {
        for place in self.subscribers.places() {
            match self.subscribers.bind(place, &self.catalog) {
                Bind::Ready(bound) => {
                    self.subscribers.replace(place, bound, self.assembler.next_sequence());
                    if tell {
                        for _ in 0..self.subscribers.bindings(place) {
                            self.send_to(place, |subscriber| system::subscribed(&subscriber.address, None));
                        }
                    }
                }
                Bind::NeedsCasts => {
                    let again = self.subscribers.subscribe_again(place);
                    self.subscribers.unbind(place);
                    self.handle.subscribe(again);
                }
                Bind::Refused { message, unmatched } => {
                    self.subscribers.unbind(place);
                    let hint = unmatched.and_then(|binding| hint::not_published(&binding, &self.config));
                    self.send_to(place, |s| system::postgres_changes_error(&s.address, &message, hint.as_deref()));
                }
            }
        }
        self.metrics.subscriptions.set(self.subscribers.subscriptions() as i64);
    }

    fn send_to(&mut self, place: usize, frame: impl FnOnce(&Subscriber) -> Bytes) {
        if let Some(subscriber) = self.subscribers.get(place) {
            subscriber.outbox.push(frame(subscriber));
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Subscribe { subscribe, casts, number } => self.subscribe(*subscribe, casts, number),
            Command::Unsubscribe(channel) => self.subscribers.remove(channel),
        }
        self.metrics.subscribers.set(self.subscribers.len() as i64);
        self.metrics.subscriptions.set(self.subscribers.subscriptions() as i64);
    }

    /// Active from the next transaction to begin; only then the reply leaves, and after it the `system` message.
    fn subscribe(&mut self, mut subscribe: Subscribe, casts: Arc<Casts>, number: u64) {
        if !subscribe.alive.load(Ordering::Relaxed) {
            return;
        }
        let on_active = std::mem::take(&mut subscribe.on_active);
        let Some(place) = self.subscribers.insert(subscribe, casts, number, &mut self.access) else { return };
        let bound = self.subscribers.bind(place, &self.catalog);
        let mut hint = None;
        let message = match bound {
            Bind::Ready(bound) => {
                if let Some(subscriber) = self.subscribers.get(place) {
                    let (role, name) = (subscriber.role, &subscriber.identity.role);
                    let access = &mut self.access;
                    hint = hint::not_delivered(&bound, role, name, &self.config, &self.catalog, access);
                }
                self.subscribers.replace(place, bound, self.assembler.next_sequence());
                None
            }
            Bind::NeedsCasts => {
                self.subscribers.unbind(place);
                Some(
                    "Unable to subscribe to changes with given parameters: the table changed meanwhile; join again"
                        .to_owned(),
                )
            }
            Bind::Refused { message, unmatched } => {
                self.subscribers.unbind(place);
                hint = unmatched.and_then(|binding| hint::not_published(&binding, &self.config));
                Some(message)
            }
        };
        let Some(subscriber) = self.subscribers.get(place) else { return };
        for frame in on_active {
            subscriber.outbox.push(frame);
        }
        let system = match message {
            None => system::subscribed(&subscriber.address, hint.as_deref()),
            Some(message) => system::postgres_changes_error(&subscriber.address, &message, hint.as_deref()),
        };
        subscriber.outbox.push(system);
    }

    /// Routes the next changes of the transaction in work.
    fn work(&mut self, matches: &mut Matches) -> Result<(), Error> {
        let Phase::Working(mut work) = std::mem::replace(&mut self.phase, Phase::Reading) else { return Ok(()) };
        let mut chunk = Chunk::default();
        let mut finished = false;
        for _ in 0..self.config.chunk_changes {
            let position = work.transaction.header.commit_lsn;
            let fault = |source| Error::Stream { position, source };
            let Some(message) = work.transaction.next_message().map_err(fault)? else {
                finished = true;
                break;
            };
            self.route(message, &mut work, &mut chunk, matches).map_err(fault)?;
            if chunk.deliveries.len() >= CHUNK_DELIVERIES_MAX {
                break;
            }
        }
        self.flush(chunk);
        if !finished {
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
            index,
            commit_timestamp: work.transaction.header.commit_timestamp,
        };
        let context = Context {
            catalog: &self.catalog,
            config: &self.config,
            subscribers: &self.subscribers,
            budget: &self.budget,
            columns_asked: &known.columns_asked,
            xid: work.transaction.header.xid,
            sequence: work.transaction.sequence,
        };
        if chunk.add(change, &work.ticket, matches, &mut self.access, &context) {
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
        let layout = Arc::new(Layout::new(Arc::clone(relation), stream));
        let columns_asked = encode::columns_only_postgres_encodes(&self.catalog, relation, &layout);
        self.layouts.insert(id, KnownLayout { stream: Arc::clone(stream), layout, columns_asked });
        Ok(true)
    }

    /// Puts the chunk's questions, and its deliveries into their channels' order.
    fn flush(&mut self, mut chunk: Chunk) {
        chunk.finish();
        for (asked, question) in chunk.ready {
            self.questions.put(asked, question);
        }
        let mut pressure = Pressure::default();
        for (place, ids, pending, data) in chunk.error_rows {
            let Some(subscriber) = self.subscribers.get(place) else { continue };
            let shape = event_shape(subscriber.shape, pending.change.operation);
            let frame = system::postgres_changes_frame(&subscriber.address, shape, &ids, &data);
            pressure.note(subscriber.outbox.push_chunks(frame));
            self.metrics.events_delivered.inc();
        }
        for (place, relation, why) in chunk.undecidable {
            tracing::warn!(relation = %relation.sql_name(), why, "an event is not shown");
            self.tell_undecided(place, &relation);
        }
        for (place, delivery) in chunk.deliveries {
            self.offer(place, delivery, &mut pressure);
        }
        if pressure.is_high() {
            self.paused_until = Some(Instant::now() + PAUSE);
        }
    }

    /// Delivers at once where nothing of the channel waits before it; else it waits its turn.
    fn offer(&mut self, place: usize, delivery: Delivery, pressure: &mut Pressure) {
        let Some(subscriber) = self.subscribers.get_mut(place) else { return };
        if subscriber.queue.is_empty() {
            match delivery.outcome() {
                Outcome::Wait => {}
                outcome => return self.perform(place, &delivery, outcome, pressure),
            }
        }
        for asked in delivery.undecided() {
            asked.wait(place);
        }
        subscriber.queue.push_back(delivery);
    }

    fn answered(&mut self, answered: Answered) {
        self.questions.settle(&answered);
        let Answered { asked, relation, answer, .. } = answered;
        if let Err(error) = &answer {
            tracing::warn!(relation = %relation.sql_name(), %error, "a question to Postgres has no answer: denied");
        }
        let mut pressure = Pressure::default();
        for place in asked.settle(answer) {
            self.drain(place, &mut pressure);
        }
        if pressure.is_high() {
            self.paused_until = Some(Instant::now() + PAUSE);
        }
    }

    /// Delivers what is decided at the head of a channel's queue.
    fn drain(&mut self, place: usize, pressure: &mut Pressure) {
        while let Some(subscriber) = self.subscribers.get_mut(place) {
            let Some(delivery) = subscriber.queue.front() else { return };
            let outcome = delivery.outcome();
            if outcome == Outcome::Wait {
                return;
            }
            let Some(delivery) = subscriber.queue.pop_front() else { return };
            self.perform(place, &delivery, outcome, pressure);
        }
    }

    fn perform(&mut self, place: usize, delivery: &Delivery, outcome: Outcome, pressure: &mut Pressure) {
        let (ids, whole_old) = match outcome {
            Outcome::Wait | Outcome::Drop => return,
            Outcome::Fail => {
                self.metrics.events_undecided.inc();
                return self.tell_undecided(place, &Arc::clone(&delivery.change.change.relation));
            }
            Outcome::Deliver { ids, whole_old } => (ids, whole_old),
        };
        let Some(data) = self.data(&delivery.change, delivery, whole_old) else { return };
        let Some(subscriber) = self.subscribers.get(place) else { return };
        if !subscriber.is_alive() {
            return;
        }
        let frame = self.frames.frame(subscriber, delivery.change.change.operation, &ids, &data);
        pressure.note(subscriber.outbox.push_chunks(frame));
        self.metrics.events_delivered.inc();
    }

    fn data(&mut self, pending: &PendingChange, delivery: &Delivery, whole_old: bool) -> Option<Bytes> {
        let (limits, buffer, metrics) = (&self.config.limits, &mut self.buffer, &self.metrics);
        pending.data(&delivery.shape, whole_old, || {
            let computed = pending.computed.as_ref().and_then(ComputedRows::values);
            let old = if whole_old { OldVisibility::Whole } else { OldVisibility::KeyOnly };
            let data = encode::change_data(&delivery.shape, &pending.change, old, limits, computed.as_ref(), buffer);
            data.inspect_err(|error| {
                metrics.encode_errors.inc();
                let relation = pending.change.relation.sql_name();
                tracing::error!(relation, error = %with_causes(error), "a change is delivered to nobody");
            })
            .ok()
        })
    }

    /// Tells a client, once per table and subscription, that a policy could not be evaluated.
    fn tell_undecided(&mut self, place: usize, relation: &Relation) {
        let Some(subscriber) = self.subscribers.get_mut(place) else { return };
        if subscriber.told.contains(&relation.id) {
            return;
        }
        subscriber.told.push(relation.id);
        let message = format!(
            "Row-level security of {}.{} could not be evaluated for you: its events are not shown",
            relation.schema, relation.name
        );
        let hint = "The server's log has the error; SELECT from the table with the same token to see it";
        let frame = system::postgres_changes_error(&subscriber.address, &message, Some(hint));
        subscriber.outbox.push(frame);
    }
}

/// Whether the publication has other tables now (PROTOCOL 4.9 compares schema, name and OID).
fn membership_differs(before: &Catalog, after: &Catalog) -> bool {
    let names = |catalog: &Catalog| {
        let name = |relation: &Arc<Relation>| (relation.id, relation.schema.clone(), relation.name.clone());
        catalog.relations.values().map(name).collect::<HashSet<_>>()
    };
    names(before) != names(after)
}

/// Whether binding a filter could come out otherwise: columns, types, keys, grants or roles changed.
fn binding_differs(before: &Catalog, after: &Catalog) -> bool {
    let same = |(id, relation): (&RelationId, &Arc<Relation>)| {
        before.relation(*id).is_some_and(|earlier| {
            Arc::ptr_eq(earlier, relation)
                || (earlier.columns == relation.columns
                    && earlier.primary_key == relation.primary_key
                    && earlier.acl == relation.acl)
        })
    };
    !Arc::ptr_eq(&before.roles, &after.roles) || before.types != after.types || !after.relations.iter().all(same)
}

async fn wait_for_catalog(phase: &mut Phase) -> Option<CatalogUpdate> {
    match phase {
        Phase::Waiting(_, loading) => loading.await.ok(),
        _ => std::future::pending().await,
    }
}

fn event_shape(kind: EventShapeKind, operation: Operation) -> EventShape {
    match kind {
        EventShapeKind::Standard => EventShape::Standard,
        EventShapeKind::Legacy => EventShape::Legacy(operation),
    }
}

/// How full the outboxes are that a chunk was written to.
#[derive(Default)]
struct Pressure {
    pushed: usize,
    full: usize,
}

impl Pressure {
    fn note(&mut self, pushed: Pushed) {
        self.pushed += 1;
        self.full += usize::from(pushed == Pushed::Full);
    }

    /// Decoding outruns any socket: when most are full it is the stream that is too fast, not a client too slow.
    fn is_high(&self) -> bool {
        self.full * 2 > self.pushed
    }
}

/// The frame written last: channels with equal topic, ids and serializer share one.
#[derive(Default)]
struct FrameCache {
    key: Option<FrameKey>,
    frame: SmallVec<[Bytes; 3]>,
}

#[derive(PartialEq)]
struct FrameKey {
    topic: Arc<str>,
    serializer: Serializer,
    shape: EventShape,
    ids: SmallVec<[u32; 4]>,
    /// The address of the shared data: it lives as long as the cached frame's change is delivered.
    data: usize,
}

impl FrameCache {
    fn frame(
        &mut self,
        subscriber: &Subscriber,
        operation: Operation,
        ids: &SmallVec<[u32; 4]>,
        data: &Bytes,
    ) -> SmallVec<[Bytes; 3]> {
        let address = &subscriber.address;
        let known = self.key.as_ref().is_some_and(|key| {
            key.data == data.as_ptr() as usize
                && key.ids == *ids
                && key.serializer == address.serializer
                && key.shape == event_shape(subscriber.shape, operation)
                && *key.topic == *address.topic
        });
        if !known {
            self.frame = system::postgres_changes_frame(address, event_shape(subscriber.shape, operation), ids, data);
            self.key = Some(FrameKey {
                topic: Arc::clone(&address.topic),
                serializer: address.serializer,
                shape: event_shape(subscriber.shape, operation),
                ids: ids.clone(),
                data: data.as_ptr() as usize,
            });
        }
        self.frame.clone()
    }
}
