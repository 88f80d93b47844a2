//! What one channel gets of a chunk, queued at once.
//!
//! Deliveries are worked on channel by channel. Channels that are alike (topic, serializer, ids, projection) get the same
//! frames one after the other, so the frames of the channel before are kept by their place in the run and built once;
//! and where a whole run is the same, it is joined to one piece of memory: one thing to queue, to write and to free
//! per socket, instead of three per change.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::pending::PendingChange;
use crate::channels::outbox::{Burst, ChannelOutbox, Pushed};
use crate::channels::phoenix::{Address, Serializer};
use crate::channels::system::{self, EventShape};
use crate::encode::RecordShape;

/// Runs up to this size are joined: more is copied for longer than it saves.
const JOINED_BYTES_MAX: usize = 64 << 10;

/// All that a frame depends on.
pub struct FrameOf<'a> {
    pub address: &'a Address,
    pub shape: EventShape,
    pub change: &'a Arc<PendingChange>,
    pub source: Source<'a>,
    pub ids: &'a SmallVec<[u32; 4]>,
    pub whole_old: bool,
}

/// What the data is made of.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    Row(&'a Arc<RecordShape>),
    Error(&'a Bytes),
}

/// The same, kept with the frame. What it holds keeps its address, so equal addresses are the same thing.
struct Key {
    change: Arc<PendingChange>,
    source: KeptSource,
    whole_old: bool,
    topic: Arc<str>,
    serializer: Serializer,
    shape: EventShape,
    ids: SmallVec<[u32; 4]>,
}

enum KeptSource {
    Row(Arc<RecordShape>),
    Error(Bytes),
}

impl Key {
    fn of(frame: &FrameOf<'_>) -> Key {
        Key {
            change: Arc::clone(frame.change),
            source: match frame.source {
                Source::Row(shape) => KeptSource::Row(Arc::clone(shape)),
                Source::Error(data) => KeptSource::Error(data.clone()),
            },
            whole_old: frame.whole_old,
            topic: Arc::clone(&frame.address.topic),
            serializer: frame.address.serializer,
            shape: frame.shape,
            ids: frame.ids.clone(),
        }
    }

    fn is_of(&self, frame: &FrameOf<'_>) -> bool {
        let same_source = match (&self.source, frame.source) {
            (KeptSource::Row(known), Source::Row(shape)) => Arc::ptr_eq(known, shape),
            (KeptSource::Error(known), Source::Error(data)) => known == data,
            _ => false,
        };
        Arc::ptr_eq(&self.change, frame.change)
            && same_source
            && self.whole_old == frame.whole_old
            && self.serializer == frame.address.serializer
            && self.shape == frame.shape
            && self.ids == *frame.ids
            // Subscribers share their topics: mostly there is nothing to compare.
            && (Arc::ptr_eq(&self.topic, &frame.address.topic) || self.topic == frame.address.topic)
    }
}

struct Framed {
    key: Key,
    pieces: SmallVec<[Bytes; 3]>,
}

/// The run of the channel in work, and what is left of the one before it.
#[derive(Default)]
pub struct Run {
    frames: Vec<Framed>,
    /// Of `frames`, those of the channel in work; the others are the previous channel's.
    len: usize,
    /// How many frames of this run are those of the one before.
    shared: usize,
    /// The length of the previous channel's run.
    previous: usize,
    /// The previous channel's run in one piece, once two have been alike.
    joined: Option<Bytes>,
}

impl Run {
    pub fn frames(&self) -> usize {
        self.len
    }

    /// Takes over the previous channel's frame at this place, if it is the same.
    pub fn push_known(&mut self, frame: &FrameOf<'_>) -> bool {
        let known = self.frames.get(self.len).is_some_and(|framed| framed.key.is_of(frame));
        if known {
            self.len += 1;
            self.shared += 1;
        }
        known
    }

    pub fn push_new(&mut self, frame: &FrameOf<'_>, data: &Bytes) {
        let pieces = system::postgres_changes_frame(frame.address, frame.shape, frame.ids, data);
        let framed = Framed { key: Key::of(frame), pieces };
        match self.frames.get_mut(self.len) {
            Some(place) => *place = framed,
            None => self.frames.push(framed),
        }
        self.len += 1;
        self.joined = None;
    }

    /// Queues the run.
    pub fn finish(&mut self, outbox: &ChannelOutbox, burst: &mut Burst) -> Pushed {
        let frames = &self.frames[..self.len];
        let is_shared = self.shared == self.len && self.previous == self.len;
        let bytes = || frames.iter().flat_map(|framed| &framed.pieces).map(Bytes::len).sum::<usize>();
        if is_shared && self.joined.is_none() && bytes() <= JOINED_BYTES_MAX {
            let joined: Vec<&[u8]> = frames.iter().flat_map(|framed| &framed.pieces).map(|piece| &piece[..]).collect();
            self.joined = Some(joined.concat().into());
        }
        let mut pushed = Pushed::Queued;
        match &self.joined {
            Some(joined) if is_shared => pushed = outbox.queue_joined(joined.clone(), self.len, burst),
            _ => {
                self.joined = None;
                for framed in frames {
                    pushed = outbox.queue_chunks(framed.pieces.iter().cloned(), burst);
                }
            }
        }
        self.previous = self.len;
        self.discard();
        pushed
    }

    /// Queues the run before again, for a channel to which all of it is the same. `None`: it is not in one piece.
    pub fn repeat(&self, outbox: &ChannelOutbox, burst: &mut Burst) -> Option<Pushed> {
        debug_assert_eq!(self.len, 0, "a run was not finished");
        let joined = self.joined.clone()?;
        Some(outbox.queue_joined(joined, self.previous, burst))
    }

    /// The channel is gone.
    pub fn discard(&mut self) {
        if self.previous != self.len {
            self.joined = None;
        }
        (self.len, self.shared) = (0, 0);
    }

    /// Nothing is kept from chunk to chunk: the frames hold their changes.
    pub fn forget(&mut self) {
        debug_assert_eq!(self.len, 0, "a run was not finished");
        self.frames.clear();
        (self.previous, self.joined) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::task::{Context, Waker};

    use super::super::pending::{ComputedRows, Ticket};
    use super::*;
    use crate::channels::outbox::{Config, Outbox, OutboxReader};
    use crate::routing::sample::{catalog, insert_of, relation_named};

    fn changes(count: usize) -> Vec<Arc<PendingChange>> {
        let relation = relation_named("plain");
        let change = || {
            let change = insert_of(&relation, &[]);
            Arc::new(PendingChange::new(change, Arc::new(Ticket), ComputedRows::default(), &Arc::default()))
        };
        (0..count).map(|_| change()).collect()
    }

    /// What is written to the socket, and in how many pieces.
    fn written(reader: &mut OutboxReader) -> (String, usize) {
        let _ = reader.poll_take(&mut Context::from_waker(Waker::noop()));
        let mut slices = [IoSlice::new(&[]); 64];
        let count = reader.slices(&mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        (String::from_utf8_lossy(&bytes).into_owned(), count)
    }

    #[test]
    fn runs_are_shared_where_they_are_equal_and_only_there() {
        let topics = ["a", "a", "a", "b", "a", "a"];
        let mut sockets = topics.map(|_| Outbox::new(Arc::new(Config::default()), Arc::default()));
        let record = Arc::new(RecordShape::new(&catalog(), &relation_named("plain"), &Default::default()));
        let three = changes(3);
        // Which of the changes each channel gets, and under which ids.
        let got: [(&[usize], u32); 6] =
            [(&[0, 1, 2], 7), (&[0, 1, 2], 7), (&[0, 2], 7), (&[0, 1, 2], 7), (&[0, 1, 2], 7), (&[0, 1, 2], 8)];
        let (mut run, mut burst) = (Run::default(), Burst::default());
        for (((outbox, _), topic), (changes, id)) in sockets.iter().zip(topics).zip(got) {
            let address = &Address { topic: topic.into(), join_ref: None, serializer: Serializer::V2 };
            let ids = SmallVec::from_slice(&[id]);
            for change in changes {
                let source = Source::Row(&record);
                let (shape, whole_old) = (EventShape::Standard, false);
                let frame = FrameOf { address, shape, change: &three[*change], source, ids: &ids, whole_old };
                if !run.push_known(&frame) {
                    run.push_new(&frame, &Bytes::from(format!("\"data {change}\"")));
                }
            }
            assert_eq!(run.frames(), changes.len());
            run.finish(&ChannelOutbox::new(outbox), &mut burst);
        }
        run.forget();
        drop(burst);
        for (((_, reader), topic), (changes, id)) in sockets.iter_mut().zip(topics).zip(got) {
            let (text, _) = written(reader);
            let payload = |change: &usize| {
                format!(r#"[null,null,"{topic}","postgres_changes",{{"data":"data {change}","ids":[{id}]}}]"#)
            };
            let frame = |change| {
                String::from_utf8_lossy(&crate::channels::frame::text(payload(change).as_bytes())).into_owned()
            };
            assert_eq!(text, changes.iter().map(frame).collect::<String>());
        }
        assert_eq!(written(&mut sockets[1].1).1, 1, "an equal run is one piece");
    }
}
