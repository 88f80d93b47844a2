//! Outboxes: what is on its way to one socket.
//!
//! Whoever has something for a socket pushes complete frames and never waits. The connection, the only writer of its
//! socket, takes all that is queued and writes it in one vectored write.
//!
//! Promises:
//! - Frames leave in the order in which they were pushed, whole, and nothing is left out in between: an outbox that
//!   cannot take a frame is closed, never skipped.
//! - A push wakes the connection at most once until it has taken what is queued. Who has more for it than one frame
//!   queues them and wakes it afterwards ([`Burst`]): that is one write instead of several.
//! - Bytes are counted from the push until the socket has taken them.
//!
//! ```text
//!            > bytes_max                > bytes_max for the grace, or > spill_bytes_max at once
//!   open ───────────────────► full ───────────────────────────────────────────────────────────► closed
//!     ▲                         │                                                                 ▲
//!     └──── <= bytes_max ───────┘          client, idle, shutdown ────────────────────────────────┘
//! ```
//!
//! The outbox has no clock: the connection, which has one, measures the grace.

mod of_channel;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use self::of_channel::ENDED;
pub use self::of_channel::{ChannelOutbox, Expulsion};
use super::close::CloseReason;
use super::metrics::Metrics;

#[derive(Clone, Debug)]
pub struct Config {
    /// Above this an outbox is full: its client has the grace to read on.
    pub bytes_max: usize,
    /// Above this its client is closed at once. A frame that comes to an empty outbox is always taken.
    pub spill_bytes_max: usize,
    /// How long an outbox may be full.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        // 1 MiB holds two thousand changes of 500 bytes, or the largest record (encode's limit); the spill has room for
        // eight of those. With the kernel's socket buffer in front, a client on a working network never gets there.
        Config { bytes_max: 1 << 20, spill_bytes_max: 8 << 20, grace: Duration::from_secs(5) }
    }
}

/// What became of a pushed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// Queued, but the client lags: whoever can should slow down.
    Full,
    /// The socket is closed or about to be, or the channel has ended; the frame was dropped.
    Closed,
}

/// The pushing end. A cheap handle; everybody who has something for the socket holds one.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

/// Frames that are queued together, for one connection or for many. When it is let go, at the latest by dropping it, the
/// connections are woken, each once, and the frames are counted: metrics that every thread writes to are dear per frame.
#[derive(Default)]
pub struct Burst {
    wakers: SmallVec<[Waker; 2]>,
    frames: u64,
    bytes: i64,
    metrics: Option<Arc<Metrics>>,
}

/// The connection's end. Dropping it closes the outbox.
pub struct OutboxReader {
    outbox: Outbox,
    /// Taken, and being written.
    writing: VecDeque<Chunk>,
    /// The first chunk of `writing` continues a frame of which the socket has taken a part.
    mid_frame: bool,
    nudged: bool,
}

struct Inner {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queued: VecDeque<Chunk>,
    /// Of `queued` and of what the reader has taken and not yet written.
    bytes: usize,
    waiting: Waiting,
    closed: Option<CloseReason>,
    /// The session has something to do.
    nudged: bool,
}

/// What the connection's task waits for.
#[derive(Default)]
enum Waiting {
    #[default]
    Nothing,
    /// A frame, or what `Trouble` is.
    Frames(Waker),
    /// That the outbox is full or closed: the socket takes nothing at present.
    Trouble(Waker),
}

struct Chunk {
    bytes: Bytes,
    ends_frame: bool,
}

/// A queue that a burst has grown is given back when it is empty again (24 bytes of deque stay).
const KEPT_CHUNKS_MAX: usize = 64;

impl Outbox {
    pub fn new(config: Arc<Config>, metrics: Arc<Metrics>) -> (Outbox, OutboxReader) {
        let outbox = Outbox(Arc::new(Inner { config, metrics, state: Mutex::default() }));
        let reader = OutboxReader { outbox: outbox.clone(), writing: VecDeque::new(), mid_frame: false, nudged: false };
        (outbox, reader)
    }

    /// Queues a frame that is in one piece.
    pub fn push(&self, frame: Bytes) -> Pushed {
        self.push_chunks([frame])
    }

    /// Queues a frame that is in pieces, header included. Empty pieces are left out.
    pub fn push_chunks(&self, frame: impl IntoIterator<Item = Bytes>) -> Pushed {
        self.queue_chunks(frame, &mut Burst::default())
    }

    /// Likewise, but leaves the waking to the caller, who has more for this connection or for others.
    pub fn queue_chunks(&self, frame: impl IntoIterator<Item = Bytes>, burst: &mut Burst) -> Pushed {
        self.queue(frame, 1, None, burst)
    }

    /// Queues several whole frames that are one piece of memory: they are taken, or dropped, together.
    pub fn queue_joined(&self, bytes: Bytes, frames: usize, burst: &mut Burst) -> Pushed {
        self.queue([bytes], frames, None, burst)
    }

    /// `channel`: the state of the channel that the frames are of.
    fn queue(
        &self,
        chunks: impl IntoIterator<Item = Bytes>,
        frames: usize,
        channel: Option<&AtomicU8>,
        burst: &mut Burst,
    ) -> Pushed {
        let chunks: SmallVec<[Bytes; 3]> = chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect();
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        let mut state = self.0.lock();
        let has_ended = channel.is_some_and(|state| state.load(Ordering::Relaxed) & ENDED != 0);
        if state.closed.is_some() || has_ended {
            return Pushed::Closed;
        }
        if state.bytes > 0 && state.bytes + bytes > self.0.config.spill_bytes_max {
            state.closed = Some(CloseReason::SlowConsumer);
            burst.wake_later(&mut state, Waiting::wakes_on_trouble);
            return Pushed::Closed;
        }
        let was_full = state.bytes > self.0.config.bytes_max;
        state.enqueue(chunks, bytes);
        burst.count(&self.0.metrics, frames, bytes);
        let is_full = state.bytes > self.0.config.bytes_max;
        if is_full && !was_full {
            burst.wake_later(&mut state, Waiting::wakes_on_trouble);
        } else {
            burst.wake_later(&mut state, Waiting::wakes_on_frames);
        }
        if is_full { Pushed::Full } else { Pushed::Queued }
    }

    /// Bytes that the socket has not taken yet.
    pub fn len_bytes(&self) -> usize {
        self.0.lock().bytes
    }

    pub fn is_full(&self) -> bool {
        self.0.lock().bytes > self.0.config.bytes_max
    }

    /// Asks the connection to say goodbye. Nothing is taken from here on. The first reason stays.
    pub fn close(&self, reason: CloseReason) {
        let mut state = self.0.lock();
        state.closed.get_or_insert(reason);
        // Dropped, and with it the connection woken, when the lock is let go: the woken task wants it.
        let mut burst = Burst::default();
        burst.wake_later(&mut state, Waiting::wakes_on_trouble);
        drop(state);
    }

    pub fn closed(&self) -> Option<CloseReason> {
        self.0.lock().closed
    }

    /// Has the connection look after its session, as if a deadline had come.
    fn nudge(&self, burst: &mut Burst) {
        let mut state = self.0.lock();
        state.nudged = true;
        burst.wake_later(&mut state, Waiting::wakes_on_trouble);
    }
}

impl OutboxReader {
    /// Takes all that is queued. Pending when there is nothing; the next push, or a close, wakes the task.
    pub fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.outbox.0.lock();
        self.nudged |= std::mem::take(&mut state.nudged);
        if state.queued.is_empty() {
            state.waiting = Waiting::Frames(context.waker().clone());
            return Poll::Pending;
        }
        state.waiting = Waiting::Nothing;
        if self.writing.is_empty() {
            std::mem::swap(&mut self.writing, &mut state.queued);
        } else {
            self.writing.append(&mut state.queued);
        }
        Poll::Ready(())
    }

    /// Whether the session is to look after its channels; taken notice of with what is queued.
    pub fn take_nudge(&mut self) -> bool {
        std::mem::take(&mut self.nudged)
    }

    /// Waits without being woken by every push: for when the socket takes nothing.
    pub fn wait_for_trouble(&mut self, context: &mut Context<'_>) {
        self.outbox.0.lock().waiting = Waiting::Trouble(context.waker().clone());
    }

    /// All that is to be written next, if it is one piece.
    pub fn single(&self) -> Option<&[u8]> {
        match self.writing.front() {
            Some(chunk) if self.writing.len() == 1 => Some(&chunk.bytes),
            _ => None,
        }
    }

    /// What is to be written next, as far as one vectored write takes it.
    pub fn slices<'a, const N: usize>(&'a self, slices: &mut [IoSlice<'a>; N]) -> usize {
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.writing) {
            *slice = IoSlice::new(&chunk.bytes);
            count += 1;
        }
        count
    }

    /// Says how much of it the socket took.
    pub fn advance(&mut self, mut written: usize) {
        self.outbox.0.metrics.bytes_out.inc_by(written as u64);
        self.outbox.0.release(&mut self.outbox.0.lock(), written);
        while let Some(chunk) = self.writing.front_mut() {
            if written < chunk.bytes.len() {
                self.mid_frame |= written > 0;
                chunk.bytes.advance(written);
                return;
            }
            written -= chunk.bytes.len();
            self.mid_frame = !chunk.ends_frame;
            self.writing.pop_front();
        }
        debug_assert_eq!(written, 0, "more was written than there was");
        if self.writing.capacity() > KEPT_CHUNKS_MAX {
            self.writing = VecDeque::new();
        }
    }

    /// All that was taken is written.
    pub fn is_empty(&self) -> bool {
        self.writing.is_empty()
    }

    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub fn is_full(&self) -> bool {
        self.outbox.is_full()
    }

    pub fn closed(&self) -> Option<CloseReason> {
        self.outbox.closed()
    }

    pub fn grace(&self) -> Duration {
        self.outbox.0.config.grace
    }

    /// Drops every frame of which nothing has been written. The one that the socket is in the middle of stays: the
    /// client could not read what follows it otherwise.
    pub fn discard(&mut self) {
        let inner = &self.outbox.0;
        let mut state = inner.lock();
        let queued = std::mem::take(&mut state.queued);
        self.writing.extend(queued);
        let kept = if self.mid_frame {
            self.writing.iter().position(|chunk| chunk.ends_frame).map_or(self.writing.len(), |end| end + 1)
        } else {
            0
        };
        let dropped = self.writing.split_off(kept);
        inner.release(&mut state, dropped.iter().map(|chunk| chunk.bytes.len()).sum());
        inner.metrics.outbox_frames_discarded.inc_by(dropped.iter().filter(|chunk| chunk.ends_frame).count() as u64);
    }

    /// Queues a frame after the outbox was closed: the goodbye.
    pub fn push_last(&mut self, frame: Bytes) {
        let inner = &self.outbox.0;
        let bytes = frame.len();
        inner.lock().enqueue(SmallVec::from_iter([frame]), bytes);
        Burst::default().count(&inner.metrics, 1, bytes);
    }
}

impl Drop for OutboxReader {
    fn drop(&mut self) {
        let inner = &self.outbox.0;
        let mut state = inner.lock();
        state.closed.get_or_insert(CloseReason::Client);
        state.waiting = Waiting::Nothing;
        state.queued = VecDeque::new();
        let rest = state.bytes;
        inner.release(&mut state, rest);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; were that to change, the queue would still be whole.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn release(&self, state: &mut State, bytes: usize) {
        debug_assert!(bytes <= state.bytes, "more bytes were released than were counted");
        state.bytes = state.bytes.saturating_sub(bytes);
        self.metrics.outbox_bytes.dec_by(bytes as i64);
    }
}

impl Waiting {
    fn wakes_on_frames(&self) -> bool {
        matches!(self, Waiting::Frames(_))
    }

    fn wakes_on_trouble(&self) -> bool {
        !matches!(self, Waiting::Nothing)
    }
}

impl State {
    fn enqueue(&mut self, chunks: SmallVec<[Bytes; 3]>, bytes: usize) {
        let last = chunks.len().saturating_sub(1);
        let chunks = chunks.into_iter().enumerate();
        self.queued.extend(chunks.map(|(index, bytes)| Chunk { bytes, ends_frame: index == last }));
        self.bytes += bytes;
    }
}

impl Burst {
    /// Takes over the waking of a connection that waits for this: nobody else does it until it has been here again.
    fn wake_later(&mut self, state: &mut State, wakes: impl FnOnce(&Waiting) -> bool) {
        if !wakes(&state.waiting) {
            return;
        }
        if let Waiting::Frames(waker) | Waiting::Trouble(waker) = std::mem::take(&mut state.waiting) {
            self.wakers.push(waker);
        }
    }

    fn count(&mut self, metrics: &Arc<Metrics>, frames: usize, bytes: usize) {
        self.metrics.get_or_insert_with(|| Arc::clone(metrics));
        self.frames += frames as u64;
        self.bytes += bytes as i64;
    }

    pub fn is_empty(&self) -> bool {
        self.frames == 0 && self.wakers.is_empty()
    }

    /// To be called without any lock: the woken tasks want theirs.
    pub fn let_go(&mut self) {
        if let Some(metrics) = &self.metrics
            && self.frames > 0
        {
            // Before they are written, so that the gauge does not fall below what there is.
            metrics.outbox_bytes.inc_by(std::mem::take(&mut self.bytes));
            metrics.frames_out.inc_by(std::mem::take(&mut self.frames));
        }
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests;
