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
mod reading;
mod replaying;
mod resuming;
mod routing;
mod subscribing;
mod tracked;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::delivering::Encoding;
use self::doubting::Doubt;
use self::routing::KnownLayout;
use super::Config;
use super::access::AccessTable;
use super::broadcasts::Broadcasts;
use super::delivery::Chunk;
use super::facts::Facts;
use super::handle::{Command, Handle};
use super::judging::Before;
use super::metrics::DispatchMetrics;
use super::pending::{Ticket, Tickets};
use super::pressure::Pressure;
use super::questions::Questions;
use super::replays::{RETRY, Replays};
use super::run::Run;
use super::subscribers::Subscribers;
use super::topics::Topics;
use super::tracking::Tracking;
use super::unseen::{Release, Unseen};
use super::updates::Updates;
use crate::authz::Oracle;
use crate::catalog::watcher::{CatalogUpdate, WatcherHandle};
use crate::catalog::{Catalog, SessionReading};
use crate::change::assembler::{Error as StreamFault, Step};
use crate::change::{Assembler, Relations, Transaction};
use crate::channels::outbox::Burst;
use crate::channels::subscribe::ChannelId;
use crate::routing::Matches;
use crate::wal::batch::{Batch, StreamFrame};
use crate::wal::pgoutput::RelationId;
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
    encoding: Encoding,
    doubt: Doubt,
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
            encoding: Encoding::default(),
            doubt: Doubt::default(),
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
            self.replays.ledger.routed_to(work.transaction.header.end_lsn);
            self.finish_tracked();
            if self.before.take().is_some() {
                self.layouts.clear();
            }
        } else {
            self.phase = Phase::Working(work);
        }
        Ok(())
    }
}

async fn wait_for_catalog(phase: &mut Phase) -> Option<CatalogUpdate> {
    match phase {
        Phase::Waiting(_, loading) => loading.await.ok(),
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod doubting_tests;
#[cfg(test)]
mod house;
#[cfg(test)]
mod resuming_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod waiting_tests;
