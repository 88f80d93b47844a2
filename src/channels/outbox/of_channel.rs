//! What is on its way to one channel of a socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    open: Arc<AtomicBool>,
}

impl ChannelOutbox {
    pub fn new(outbox: &Outbox) -> ChannelOutbox {
        ChannelOutbox { outbox: outbox.clone(), open: Arc::new(AtomicBool::new(true)) }
    }

    pub fn end(&self) {
        let _queue = self.outbox.0.lock();
        self.open.store(false, Ordering::Relaxed);
    }

    /// For those who would work in vain; pushing looks again.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
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
        self.outbox.queue(frame, 1, Some(&self.open), burst)
    }

    /// As [`Outbox::queue_joined`].
    pub fn queue_joined(&self, bytes: Bytes, frames: usize, burst: &mut Burst) -> Pushed {
        self.outbox.queue([bytes], frames, Some(&self.open), burst)
    }
}
