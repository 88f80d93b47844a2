//! One stream, from START_REPLICATION to its end: reads, hands over, reports its position.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::sync::mpsc::{self, Permit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Lsn;
use super::batch::{Batch, Started, StreamFrame};
use super::connection::Connection;
use super::copy_data::{CopyData, status_update};
use super::cursor::DecodeError;
use super::error::Error;
use super::frames::Frame;
use super::metrics::WalMetrics;
use super::pgoutput;
use super::progress::Progress;
use super::server_error::ServerError;
use super::stopping::StoppingWatch;

/// The budget of bytes in flight is counted in these, because a semaphore has 2^61 permits but gives 2^32 at once.
const BUDGET_UNIT_BYTES: usize = 1024;

/// A server that shuts down asks for a reply 25,000 times a second, as fast as it is answered. It gets 200.
const REPLY_PAUSE: Duration = Duration::from_millis(5);

/// The walsender answers CopyDone once what it had begun to send is out; until then the slot is in use.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// Word from outside to the stream that is running.
#[derive(Debug)]
pub(super) enum Signal {
    /// An ordinary session has seen Postgres going down.
    ServerStopping,
    /// Dispatch could not decode a frame.
    Undecodable(Lsn, DecodeError),
    /// What the stream is asked for has changed.
    Reconnect,
}

/// Why a stream ended without an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// We were asked to stop.
    Stopped,
    /// Dispatch is gone.
    ReceiverGone,
    /// It is time to try with both publications.
    TryBoth,
    /// Large transactions are to come at their commit alone, or in part again.
    TakeOtherwise,
}

/// Where frames go: bounded in batches and in bytes.
pub(super) struct Sink {
    pub(super) sender: mpsc::Sender<Batch>,
    budget: Arc<Semaphore>,
    budget_units: usize,
}

impl Sink {
    pub(super) fn new(sender: mpsc::Sender<Batch>, in_flight_bytes_max: usize) -> Self {
        let budget_units = (in_flight_bytes_max / BUDGET_UNIT_BYTES).clamp(1, u32::MAX as usize);
        Sink { sender, budget: Arc::new(Semaphore::new(budget_units)), budget_units }
    }

    /// Room for a batch. A batch larger than the whole budget takes all of it. Safe to cancel: only our place in the
    /// queue is lost, and nobody else is in it. None: the receiver is gone.
    async fn reserve(&self, bytes: usize) -> Option<(Permit<'_, Batch>, OwnedSemaphorePermit)> {
        let units = bytes.div_ceil(BUDGET_UNIT_BYTES).min(self.budget_units) as u32;
        let budget = tokio::select! {
            // Batches that lie in the channel of a receiver that is gone hold the budget for ever.
            () = self.sender.closed() => return None,
            budget = self.budget.clone().acquire_many_owned(units) => budget.ok()?,
        };
        Some((self.sender.reserve().await.ok()?, budget))
    }

    /// Hands over the last frames of a stream: at most what one read gave. False: the receiver is gone.
    pub(super) async fn send_last(&self, frames: Vec<StreamFrame>) -> bool {
        self.sender.send(Batch::of(frames)).await.is_ok()
    }
}

/// What a stream runs by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) status_interval: Duration,
    pub(super) receive_timeout: Duration,
    /// Large transactions come in part before they end.
    pub(super) in_progress: bool,
    /// When to stop and try both publications, once dispatch has passed the position.
    pub(super) try_both: Option<(Lsn, Instant)>,
}

/// A running stream. It owns the connection; nobody else writes to it.
pub(super) struct Stream {
    connection: Connection,
    progress: Arc<Progress>,
    metrics: Arc<WalMetrics>,
    timing: Timing,
    /// Read and not yet handed over.
    pending: Vec<StreamFrame>,
    pending_bytes: usize,
    /// The furthest position that this stream has named.
    received: Lsn,
    /// End of the last Commit among `pending`, and among what was handed over.
    pending_commit_end: Lsn,
    handed_over: Lsn,
    stopping: StoppingWatch,
    status_sent: Instant,
    reply_due: Option<Instant>,
    heard: Instant,
    /// What is being read is of a transaction in progress: its messages have an id more.
    in_block: bool,
    /// Anything but keepalives has come.
    pub(super) progressed: bool,
}

impl Stream {
    pub(super) fn new(
        connection: Connection,
        started: Started,
        progress: Arc<Progress>,
        metrics: Arc<WalMetrics>,
        timing: Timing,
    ) -> Self {
        let now = Instant::now();
        Stream {
            received: started.confirmed,
            pending: vec![StreamFrame::Started(started)],
            connection,
            progress,
            metrics,
            timing,
            pending_bytes: 0,
            pending_commit_end: Lsn::ZERO,
            handed_over: Lsn::ZERO,
            stopping: StoppingWatch::default(),
            status_sent: now,
            reply_due: None,
            heard: now,
            in_block: false,
            progressed: false,
        }
    }

    /// Runs until something ends it.
    ///
    /// While a batch waits for room, nothing is read: TCP tells the walsender. Its status is sent all the same, else
    /// it would be dropped at `wal_sender_timeout`. One task does both: a status is 39 bytes, and the walsender
    /// reads while it waits to write, so that the write never waits for our reading.
    pub(super) async fn run(
        &mut self,
        sink: &Sink,
        signals: &mut mpsc::Receiver<Signal>,
        stop: &CancellationToken,
    ) -> Result<End, Error> {
        self.send_status().await?;
        // The first frames may have come in one read with the answer to START_REPLICATION.
        self.take_frames().await?;
        loop {
            let status_due = self.status_sent + self.timing.status_interval;
            let due = self.reply_due.map_or(status_due, |reply| reply.min(status_due));
            // In this order: stopping, then what outsiders know, then the status, which must never starve; then what
            // was read before anything more is read. Every branch may be cancelled: see `reserve` and `read`.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(End::Stopped),
                Some(signal) = signals.recv() => return heed(signal),
                () = sleep_until(due) => {
                    if self.time_to_try_both() {
                        return Ok(End::TryBoth);
                    }
                    if self.timing.in_progress == self.progress.takes_whole() {
                        return Ok(End::TakeOtherwise);
                    }
                    self.send_status().await?;
                }
                room = sink.reserve(self.pending_bytes), if !self.pending.is_empty() => {
                    let Some((permit, budget)) = room else { return Ok(End::ReceiverGone) };
                    self.pending_bytes = 0;
                    self.handed_over = self.pending_commit_end;
                    permit.send(Batch::within(std::mem::take(&mut self.pending), budget));
                }
                read = self.connection.read(), if self.pending.is_empty() => {
                    self.metrics.bytes_read.inc_by(read? as u64);
                    self.heard = Instant::now();
                    self.take_frames().await?;
                }
            }
        }
    }

    fn time_to_try_both(&self) -> bool {
        let dispatched = self.progress.dispatched();
        self.timing.try_both.is_some_and(|(past, at)| dispatched > past && Instant::now() >= at)
    }

    /// Everything whole among what was read, into `pending`.
    async fn take_frames(&mut self) -> Result<(), Error> {
        while let Some(frame) = self.connection.next_frame()? {
            self.metrics.frames_read.inc();
            match frame {
                Frame::Whole { tag: b'd', body } => self.take_copy_data(&body).await?,
                Frame::Oversized { tag: b'd', head, body_bytes } => self.take_oversized(&head, body_bytes)?,
                Frame::Whole { tag: b'E', body } => return Err(ServerError::parse(&body)?.into()),
                // The server ends the stream (a shutdown that waited for us).
                Frame::Whole { tag: b'c' | b'C' | b'Z', .. } => return Err(Error::Closed),
                Frame::Whole { tag: b'N' | b'S', .. } => {}
                Frame::Whole { tag, .. } | Frame::Oversized { tag, .. } => {
                    return Err(Error::Protocol(format!("message {:?} in the stream", char::from(tag))));
                }
            }
        }
        Ok(())
    }

    async fn take_copy_data(&mut self, body: &Bytes) -> Result<(), Error> {
        match CopyData::parse(body)? {
            CopyData::XLogData { wal_start, wal_end, data } => {
                self.progressed = true;
                self.stopping.data();
                let mut position = wal_start.max(wal_end);
                match pgoutput::tag(&data) {
                    Some(b'S') => self.in_block = true,
                    Some(b'E') => self.in_block = false,
                    _ => {}
                }
                if let Some(end) = pgoutput::commit_end(&data) {
                    self.pending_commit_end = end;
                    position = position.max(end);
                }
                self.received_to(position);
                self.pending_bytes += data.len();
                self.pending.push(StreamFrame::Data { bytes: data, wal_start });
            }
            CopyData::KeepAlive { wal_end, reply_requested } => {
                let news = wal_end > self.received;
                self.received_to(wal_end);
                // Of several in a row the last says it all. One that says nothing new is needed as well: an earlier
                // one may have come while something was outstanding.
                match self.pending.last_mut() {
                    Some(StreamFrame::KeepAlive { wal_end: last }) => *last = (*last).max(wal_end),
                    _ if news || wal_end > self.progress.dispatched() => {
                        self.pending.push(StreamFrame::KeepAlive { wal_end });
                    }
                    _ => {}
                }
                if reply_requested {
                    self.reply(wal_end).await?;
                }
            }
        }
        Ok(())
    }

    /// A reply was asked for: it goes out at once, or shortly after the one before.
    async fn reply(&mut self, wal_end: Lsn) -> Result<(), Error> {
        let now = Instant::now();
        if self.stopping.asked(wal_end, self.progress.confirmable(), now) {
            return Err(Error::ServerStopping);
        }
        let due = self.status_sent + REPLY_PAUSE;
        if due <= now {
            return self.send_status().await;
        }
        self.reply_due.get_or_insert(due);
        Ok(())
    }

    /// A message above the limit: its header was kept.
    fn take_oversized(&mut self, head: &Bytes, body_bytes: u64) -> Result<(), Error> {
        let CopyData::XLogData { wal_start, data, .. } = CopyData::parse(head)? else {
            return Err(Error::Protocol(format!("a keepalive of {body_bytes} bytes")));
        };
        self.progressed = true;
        self.stopping.data();
        self.metrics.frames_skipped.inc();
        self.received_to(wal_start);
        let (subxid, relation) = match self.in_block {
            false => (None, pgoutput::relation_id(&data)),
            true => {
                let (subxid, tag, rest) = pgoutput::in_block(&data)?;
                (Some(subxid), pgoutput::relation_id(&[&[tag], rest].concat()))
            }
        };
        let tag = pgoutput::tag(&data);
        tracing::warn!(position = %wal_start, bytes = body_bytes, ?tag, ?relation, "a frame above the limit was skipped");
        self.pending.push(StreamFrame::SkippedFrame { wal_start, tag, relation, subxid, bytes: body_bytes });
        Ok(())
    }

    fn received_to(&mut self, position: Lsn) {
        self.received = self.received.max(position);
        self.progress.received_to(position);
    }

    async fn send_status(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let silent = now.duration_since(self.heard);
        // While dispatch holds us up nothing can be heard.
        let listening = self.pending.is_empty();
        if !listening {
            self.heard = now;
        } else if silent >= self.timing.receive_timeout {
            return Err(Error::Silent(silent));
        }
        // We report every second, so the server never has to ask; a dead one is found by asking it.
        let ask = listening && silent >= self.timing.receive_timeout / 2;
        let confirmed = self.progress.confirm();
        let mut out = BytesMut::with_capacity(39);
        status_update(self.received.max(confirmed), confirmed, ask, &mut out);
        self.connection.write(&out).await?;
        (self.status_sent, self.reply_due) = (now, None);
        self.metrics.position(self.progress.received(), confirmed, now.into_std());
        Ok(())
    }

    /// The orderly end: what dispatch has got so far is finished and confirmed, the slot is free afterwards.
    ///
    /// The caller has closed the channel, so that dispatch sees its end.
    pub(super) async fn finish(mut self, drain_timeout: Duration) {
        let drained = self.progress.until_dispatched(self.handed_over);
        if tokio::time::timeout(drain_timeout, drained).await.is_err() {
            let (dispatched, handed_over) = (self.progress.dispatched(), self.handed_over);
            tracing::warn!(%dispatched, %handed_over, "dispatch did not finish in time; the rest comes again");
        }
        let farewell = async {
            self.send_status().await?;
            let mut out = BytesMut::new();
            frontend::copy_done(&mut out);
            self.connection.write(&out).await?;
            // Until the server's CopyDone and CommandComplete the slot is in use.
            loop {
                while let Some(frame) = self.connection.next_frame()? {
                    if let Frame::Whole { tag: b'Z' | b'E', .. } = frame {
                        return Ok::<_, Error>(());
                    }
                }
                self.connection.read().await?;
            }
        };
        if !matches!(tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await, Ok(Ok(()))) {
            tracing::debug!("the stream was cut off rather than ended");
        }
        self.connection.terminate().await;
    }

    /// The end after an error or a change of mind: the socket is closed. What was read before it is still good, and
    /// must be handed over: else an error that comes in one read with sound transactions would hide them for ever.
    pub(super) async fn close(self) -> Vec<StreamFrame> {
        self.connection.terminate().await;
        self.pending
    }
}

fn heed(signal: Signal) -> Result<End, Error> {
    match signal {
        Signal::ServerStopping => Err(Error::ServerStopping),
        Signal::Undecodable(position, source) => Err(Error::Undecodable { position, source }),
        Signal::Reconnect => Ok(End::TryBoth),
    }
}
