//! What is on its way to one channel of a socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;

use super::{Burst, Outbox, Pushed};

/// The pushing end for one channel: cheap to clone, one flag for all of them.
///
/// Promise: once [`ChannelOutbox::end`] has returned, nothing of the channel is queued, so that the `phx_close` pushed
/// after it is the last that the client gets of it. Whoever looked a moment before is no exception: the flag is set, and
/// looked at, under the lock of the queue.
#[derive(Clone)]
pub struct ChannelOutbox {
    outbox: Outbox,
    state: Arc<AtomicU8>,
}

pub(super) const ENDED: u8 = 1;

/// Why a channel is to be closed by its session, as somebody else found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Expulsion {
    TooManyMessages = 2,
    TooManyPresenceEvents = 4,
    /// More came while a replay was waited for than is held.
    ReplayOverrun = 8,
}

impl ChannelOutbox {
    pub fn new(outbox: &Outbox) -> ChannelOutbox {
        ChannelOutbox { outbox: outbox.clone(), state: Arc::default() }
    }

    pub fn end(&self) {
        let _queue = self.outbox.0.lock();
        self.state.fetch_or(ENDED, Ordering::Relaxed);
    }

    /// For those who would work in vain; pushing looks again.
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) & ENDED == 0
    }

    /// Tells the channel's session to close it. What is pushed until it does is still delivered.
    pub fn expel(&self, why: Expulsion, burst: &mut Burst) {
        if self.state.fetch_or(why as u8, Ordering::Relaxed) == 0 {
            self.outbox.nudge(burst);
        }
    }

    /// Whether it was told so; of several reasons the first in the order of their numbers.
    pub fn expulsion(&self) -> Option<Expulsion> {
        let state = self.state.load(Ordering::Relaxed);
        [Expulsion::TooManyMessages, Expulsion::TooManyPresenceEvents, Expulsion::ReplayOverrun]
            .into_iter()
            .find(|why| state & *why as u8 != 0)
    }

    /// What all channels of the socket push to.
    pub fn of_socket(&self) -> &Outbox {
        &self.outbox
    }

    /// As [`Outbox::push`].
    pub fn push(&self, frame: Bytes) -> Pushed {
        self.queue_chunks([frame], &mut Burst::default())
    }

    /// As [`Outbox::queue_chunks`].
    pub fn queue_chunks(&self, frame: impl IntoIterator<Item = Bytes>, burst: &mut Burst) -> Pushed {
        self.outbox.queue(frame, 1, Some(&self.state), burst)
    }

    /// As [`Outbox::queue_joined`].
    pub fn queue_joined(&self, bytes: Bytes, frames: usize, burst: &mut Burst) -> Pushed {
        self.outbox.queue([bytes], frames, Some(&self.state), burst)
    }
}
