//! The task that keeps a stream running.
//!
//! ```text
//!            ┌────────── delay ◄──────────┐ transient
//!            ▼                            │
//!  Connecting: log in, check, slot ──► Streaming ──► stopped: confirm, CopyDone
//!            │                            │
//!            └──────────► fatal ◄─────────┘ stuck
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Lsn;
use super::acquire::{self, Terms};
use super::batch::{Batch, Started, StreamFrame};
use super::connection::Connection;
use super::conninfo::Conninfo;
use super::cursor::DecodeError;
use super::error::Error;
use super::history::History;
use super::metrics::WalMetrics;
use super::progress::Progress;
use super::publication;
use super::recovery::{Attempt, Backoff, Recovery, Verdict};
use super::slot::{SlotConfig, SlotMode};
use super::stream::{End, Signal, Sink, Stream, Timing};

/// What the stream is made of.
#[derive(Clone, Debug)]
pub struct Config {
    pub conninfo: Conninfo,
    pub slot: SlotConfig,
    /// The user's publication: what clients may follow.
    pub publication: String,
    /// Walcast's own (`walcast.ddl_log`, tracked tables); None: not set up.
    pub own_publication: Option<String>,
    /// A row or a logical message may have 1 GB; above this it is skipped unread and reported.
    pub frame_bytes_max: usize,
    /// Read, but not yet taken apart by dispatch. One frame larger than this may be in flight by itself.
    pub in_flight_bytes_max: usize,
    /// `wal_sender_timeout` is 60 s by default, and may be set down to a few.
    pub status_interval: Duration,
    /// A server that is silent for so long is taken for dead; it is asked to answer at half of it. Long, because a
    /// walsender that decodes a huge transaction of other tables says nothing meanwhile.
    pub receive_timeout: Duration,
    pub backoff: Backoff,
    /// At a stop, how long dispatch has to finish what it was given.
    pub drain_timeout: Duration,
    /// Large transactions come in part before they end; else at their commit, and others wait for them.
    pub in_progress: bool,
}

impl Config {
    pub fn new(conninfo: Conninfo, publication: &str) -> Config {
        Config {
            conninfo,
            slot: SlotConfig::default(),
            publication: publication.to_owned(),
            own_publication: None,
            frame_bytes_max: 256 << 20,
            in_flight_bytes_max: 16 << 20,
            status_interval: Duration::from_secs(1),
            receive_timeout: Duration::from_secs(300),
            backoff: Backoff::default(),
            drain_timeout: Duration::from_secs(5),
            in_progress: true,
        }
    }
}

/// What the reader is at, for `/ready` and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReaderState {
    Connecting,
    Streaming {
        generation: u64,
    },
    /// It failed and tries again.
    Waiting {
        error: String,
        delay: Duration,
    },
    Stopped,
}

/// What others do with the reader.
#[derive(Clone)]
pub struct Handle {
    progress: Arc<Progress>,
    state: watch::Receiver<ReaderState>,
    signals: mpsc::Sender<Signal>,
    metrics: Arc<WalMetrics>,
}

impl Handle {
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    pub fn state(&self) -> watch::Receiver<ReaderState> {
        self.state.clone()
    }

    /// An ordinary session was ended by 57P01 or an unexpected end of its socket: the server may be shutting down, and
    /// a slot that trails would hold it up for ever. The stream is closed and begun again when the server is back.
    pub fn notify_server_stopping(&self) {
        // Full: the reader has been told already.
        let _ = self.signals.try_send(Signal::ServerStopping);
    }

    /// Begins the stream again where dispatch is: walcast's own publication has been made, or mended, meanwhile.
    /// A publication that appears is not noticed by a stream that runs.
    pub fn reconnect(&self) {
        let _ = self.signals.try_send(Signal::Reconnect);
    }

    /// A frame could not be decoded. It is never passed over: the stream begins again at the last position handed
    /// over, and an error that recurs ends the reader with [`Error::Stuck`]. Dispatch must not hand over the
    /// transaction that the frame belongs to.
    pub fn undecodable(&self, wal_start: Lsn, error: DecodeError) {
        self.metrics.decode_errors.inc();
        let _ = self.signals.try_send(Signal::Undecodable(wal_start, error));
    }
}

/// What the walsender holds of transactions that have not ended, before it sends of the largest what it has: in one piece,
/// which others wait for. 16 MB are some fifty thousand rows, a fifth of a second. Less has a price on servers before 17:
/// of a transaction that is not sent in part (it is read again after a restart, or nothing is) each subtransaction beyond
/// this is written to a file of its own, and looked for among all: 60,000 of them took more than 100 s at 4 MB, and none
/// at 16 MB. The connection string's `options` win.
const DECODING_MEMORY: &str = "logical_decoding_work_mem";
const DECODING_MEMORY_MAX: &str = "16MB";

/// Few and far between: more than these at once say nothing new.
const SIGNALS_MAX: usize = 4;

/// The bytes in flight have a bound of their own; this one is against very many very small batches.
const BATCHES_MAX: usize = 256;

/// A stream that stood for so long without data was sound all the same.
const SOUND_AFTER: Duration = Duration::from_secs(10);

/// Owns the replication connection. Made by [`reader`], spent by [`Reader::run`].
pub struct Reader {
    config: Config,
    progress: Arc<Progress>,
    metrics: Arc<WalMetrics>,
    /// None once we were asked to stop.
    sink: Option<Sink>,
    signals: mpsc::Receiver<Signal>,
    state: watch::Sender<ReaderState>,
    recovery: Recovery,
    generation: u64,
    /// Of the last stream: what positions are compared within.
    history: Option<Arc<History>>,
    /// Of the last stream.
    walsender: Option<i32>,
    /// Where a slot stood that was dropped, until there is a stream that can tell of it.
    dropped_at: Option<Lsn>,
}

/// A reader, what others do with it, and where its frames come out.
pub fn reader(config: Config, metrics: Arc<WalMetrics>) -> (Reader, Handle, mpsc::Receiver<Batch>) {
    let (sender, receiver) = mpsc::channel(BATCHES_MAX);
    let (signal_sender, signals) = mpsc::channel(SIGNALS_MAX);
    let (state_sender, state) = watch::channel(ReaderState::Connecting);
    let progress = Arc::new(Progress::default());
    // Where what came in part is of no use the stream begins again, and a temporary slot would not have it any more.
    if !config.in_progress || config.slot.mode == SlotMode::Temporary {
        progress.take_whole();
    }
    let handle = Handle { progress: progress.clone(), state, signals: signal_sender, metrics: metrics.clone() };
    let reader = Reader {
        sink: Some(Sink::new(sender, config.in_flight_bytes_max)),
        recovery: Recovery::new(config.backoff),
        config,
        progress,
        metrics,
        signals,
        state: state_sender,
        generation: 0,
        history: None,
        walsender: None,
        dropped_at: None,
    };
    (reader, handle, receiver)
}

/// A connection on which everything is ready for START_REPLICATION.
struct Prepared {
    connection: Connection,
    started: Started,
    /// As it was asked for, whatever dispatch has said since.
    in_progress: bool,
}

impl Reader {
    /// Streams until stopped (`Ok`), or until something fails that trying again does not mend.
    ///
    /// After `stop` the channel is closed; dispatch finishes what is in it, and its last position is confirmed.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let result = self.keep_streaming(&stop).await;
        self.state.send_replace(ReaderState::Stopped);
        result
    }

    async fn keep_streaming(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        loop {
            self.state.send_replace(ReaderState::Connecting);
            match self.one_stream(stop).await {
                Ok(End::Stopped | End::ReceiverGone) => return Ok(()),
                Ok(End::TryBoth) => self.recovery.both_again(),
                Ok(End::TakeOtherwise) => {}
                Err((error, attempt)) => {
                    if attempt.streaming {
                        self.metrics.reconnects.inc();
                    }
                    let delay = self.judge(error, attempt)?;
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(delay) => {}
                    }
                }
            }
        }
    }

    /// Logs what is done about an error, and says how long to wait first.
    fn judge(&mut self, error: Error, attempt: Attempt) -> Result<Duration, Error> {
        let delay = match self.recovery.judge(error, attempt, rand::random()) {
            Verdict::GiveUp(error) => {
                tracing::error!(error = error.chain(), "replication cannot go on");
                return Err(error);
            }
            Verdict::Retry { error, delay } => {
                tracing::warn!(error = error.chain(), ?delay, "replication is interrupted");
                if self.recovery.recurs() && !self.progress.takes_whole() {
                    // What cannot be read may be of one that is going to be rolled back, and at a position that none ends
                    // with: there is nothing that could be skipped.
                    tracing::warn!(
                        "from here on large transactions are read at their commit, and others wait for them"
                    );
                    self.progress.take_whole();
                }
                self.state.send_replace(ReaderState::Waiting { error: error.chain(), delay });
                delay
            }
            Verdict::RetryAlone { error, delay, past } => {
                tracing::error!(
                    error = error.chain(),
                    publication = self.config.publication,
                    left_out = self.config.own_publication,
                    until = %past,
                    "the stream fails with walcast's own publication and is read without it until it has passed this \
                     position: policy changes are noticed by polling alone. If this repeats, run `walcast check`"
                );
                self.state.send_replace(ReaderState::Waiting { error: error.chain(), delay });
                delay
            }
        };
        Ok(delay)
    }

    /// From connecting to the end of the stream.
    async fn one_stream(&mut self, stop: &CancellationToken) -> Result<End, (Error, Attempt)> {
        let mut attempt = Attempt {
            streaming: false,
            progressed: false,
            own_publication: false,
            received: self.progress.received(),
            dispatched: self.progress.dispatched(),
        };
        // What was said of an earlier stream.
        while self.signals.try_recv().is_ok() {}
        let prepared = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(End::Stopped),
            prepared = Box::pin(self.prepare()) => prepared,
        };
        let Prepared { connection, started, in_progress } = prepared.map_err(|error| (error, attempt))?;
        attempt.streaming = true;
        attempt.own_publication = started.own_publication;
        let began = Instant::now();
        let timing = Timing {
            status_interval: self.config.status_interval,
            receive_timeout: self.config.receive_timeout,
            in_progress,
            try_both: self.recovery.alone_past().map(|past| (past, began + self.recovery.alone_for())),
        };
        let generation = started.generation;
        let mut stream = Stream::new(connection, started, self.progress.clone(), self.metrics.clone(), timing);
        let Some(sink) = &self.sink else { return Ok(End::Stopped) };
        self.metrics.streaming.set(1);
        self.state.send_replace(ReaderState::Streaming { generation });
        let ended = Box::pin(stream.run(sink, &mut self.signals, stop)).await;
        self.metrics.streaming.set(0);
        attempt.progressed = stream.progressed || began.elapsed() >= SOUND_AFTER;
        (attempt.received, attempt.dispatched) = (self.progress.received(), self.progress.dispatched());
        if let Ok(End::Stopped) = ended {
            // Dispatch sees the end of the channel behind the last batch.
            self.sink = None;
            stream.finish(self.config.drain_timeout).await;
            return Ok(End::Stopped);
        }
        let mut last = stream.close().await;
        last.push(StreamFrame::Disconnected);
        let told = tokio::select! {
            () = stop.cancelled() => false,
            told = sink.send_last(last) => told,
        };
        match ended {
            Ok(end) => Ok(end),
            Err(_) if !told => Ok(End::ReceiverGone),
            Err(error) => Err((error, attempt)),
        }
    }

    /// Logs in, checks what can be checked, makes sure of the slot and starts the stream.
    async fn prepare(&mut self) -> Result<Prepared, Error> {
        let Config { conninfo, slot, .. } = &self.config;
        // A little more than our own bound, which says who is waited for.
        let lock_timeout = slot.creation_timeout + Duration::from_secs(5);
        let mut connection = Connection::open(conninfo, self.config.frame_bytes_max, lock_timeout).await?;
        let server_major = connection.server_major();
        if server_major < SERVER_MAJOR_MIN {
            return Err(Error::ServerTooOld(connection.server_version().to_owned()));
        }
        let identity = connection.identify_system().await?;
        let history = Arc::new(connection.history(&identity).await?);
        let dispatched = self.progress.dispatched();
        if let Some(last) = self.history.as_deref() {
            // Not `dispatched` alone: what has been read is going to be handed over, and is acknowledged by those who have
            // it before it is decided for the others.
            check_history(&history, identity.wal_end, last, self.progress.received())?;
            if last.timeline != history.timeline {
                tracing::warn!(from = last.timeline, to = history.timeline, "the server is on a new timeline");
            }
        }
        check_wal_level(&mut connection).await?;
        let waiting = |error: &Error| {
            let waiting = ReaderState::Waiting { error: error.chain(), delay: Duration::ZERO };
            self.state.send_replace(waiting);
        };
        let terms = Terms {
            conninfo,
            config: slot,
            last_walsender: self.walsender,
            is_first: self.generation == 0,
            waiting: &waiting,
        };
        // Before anything else is looked at: it may take long.
        acquire::until_free(&mut connection, &terms).await?;
        let own = self.config.own_publication.as_deref();
        let has = publication::check(&mut connection, &self.config.publication, own).await?;
        let own = own.filter(|_| has.is_trusted() && self.recovery.alone_past().is_none());
        let broadcast_key = match own.is_some() && has.signs {
            true => publication::broadcast_key(&mut connection).await?,
            false => None,
        };
        let acquired = acquire::acquire(&mut connection, &terms, &mut self.dropped_at).await?;
        if acquired.dropped_at.is_some() {
            self.metrics.slot.recreated.inc();
        }
        let confirmed = acquired.position;
        let start = confirmed.max(dispatched);
        // What a process that has just begun is to get is what the slot has.
        let due = if dispatched == Lsn::ZERO { acquired.dropped_at } else { Some(dispatched) };
        let lost = due.filter(|due| confirmed > *due).map(|due| (due, confirmed));
        if let Some((from, to)) = lost {
            tracing::error!(%from, %to, slot = slot.name, "changes between these positions are lost: the slot begins after them");
        }
        let publications: Vec<&str> = [Some(self.config.publication.as_str()), own].into_iter().flatten().collect();
        let with_messages = broadcast_key.is_some();
        let in_progress = !self.progress.takes_whole();
        let options = self.config.conninfo.options.as_deref().unwrap_or_default();
        if in_progress && !options.contains(DECODING_MEMORY) {
            connection.query(&format!("set {DECODING_MEMORY} = '{DECODING_MEMORY_MAX}'")).await?;
        }
        connection.start_replication(&slot.name, start, &publications, with_messages, in_progress).await?;
        self.progress.begin(start);
        self.generation += 1;
        self.history = Some(Arc::clone(&history));
        self.walsender = Some(connection.process_id());
        tracing::info!(
            position = %start,
            generation = self.generation,
            slot = slot.name,
            ?publications,
            server = connection.server_version(),
            walsender = connection.process_id(),
            "streaming"
        );
        let started = Started {
            generation: self.generation,
            system_identifier: identity.system_identifier,
            timeline: identity.timeline,
            history,
            server_major,
            confirmed: start,
            wal_end: identity.wal_end,
            own_publication: own.is_some(),
            messages: has.messages.filter(|_| own.is_some()),
            broadcast_key,
            lost,
        };
        Ok(Prepared { connection, started, in_progress })
    }
}

/// `pgoutput` of 14 is the oldest that was tried.
const SERVER_MAJOR_MIN: u32 = 14;

/// Positions mean something in one history alone, and so does all that was learnt on the way to them: tables, policies,
/// who is whose member. In another one everything begins anew.
fn check_history(now: &History, wal_end: Lsn, last: &History, received: Lsn) -> Result<(), Error> {
    if now.system_identifier != last.system_identifier {
        let (expected, found) = (last.system_identifier.clone(), now.system_identifier.clone());
        return Err(Error::OtherCluster { expected, found });
    }
    if !now.covers(last.timeline, received) {
        let common = now.common(last.timeline, received).unwrap_or_default();
        return Err(Error::HistoryForked { timeline: now.timeline, common, received });
    }
    match wal_end < received {
        true => Err(Error::HistoryRewound { end: wal_end, received }),
        false => Ok(()),
    }
}

async fn check_wal_level(connection: &mut Connection) -> Result<(), Error> {
    let rows = connection.query("SHOW wal_level").await?;
    match rows.first().and_then(|row| row.get("wal_level")) {
        Some("logical") => Ok(()),
        other => Err(Error::WalLevel(other.unwrap_or_default().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_or_another_history_is_refused() {
        let history = |system_identifier: &str, timeline, switches: &[(u32, Lsn)]| History {
            system_identifier: system_identifier.to_owned(),
            timeline,
            switches: switches.to_vec(),
        };
        let last = history("7", 1, &[]);
        assert!(check_history(&last, Lsn(100), &last, Lsn(100)).is_ok());
        let rewound = check_history(&last, Lsn(100), &last, Lsn(101));
        assert!(matches!(rewound, Err(Error::HistoryRewound { .. })));
        let other = check_history(&history("8", 1, &[]), Lsn(100), &last, Lsn(1));
        assert!(matches!(other, Err(Error::OtherCluster { .. })));

        let promoted = history("7", 2, &[(1, Lsn(100))]);
        assert!(check_history(&promoted, Lsn(200), &last, Lsn(100)).is_ok());
        let forked = check_history(&promoted, Lsn(200), &last, Lsn(101));
        assert!(matches!(forked, Err(Error::HistoryForked { common: Lsn(100), timeline: 2, .. })), "{forked:?}");
        // The server cannot say how it came to where it is.
        let unknown = check_history(&history("7", 2, &[]), Lsn(200), &last, Lsn(50));
        assert!(matches!(unknown, Err(Error::HistoryForked { common: Lsn::ZERO, .. })), "{unknown:?}");
    }
}
