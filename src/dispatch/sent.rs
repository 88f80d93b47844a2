//! What one resumable channel has been sent, or would have been: decided as of each change's commit.
//!
//! While its socket is gone a channel stays subscribed for as long as changes are kept, and what is decided for it is noted
//! here instead of being sent. Whoever comes back is sent that, whatever policies and memberships say by then.

use std::collections::VecDeque;

use prometheus_client::metrics::gauge::Gauge;
use smallvec::SmallVec;

use crate::wal::Position;

/// One change that a channel was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub position: Position,
    /// By their places among the channel's bindings.
    pub bindings: u32,
    pub whole_old: bool,
    /// Without its row (PROTOCOL 4.4).
    pub is_error: bool,
}

/// Channels with more bindings are judged anew when they come back.
pub const BINDINGS_MAX: usize = 32;
/// Entries of one channel: a client that acknowledges nothing is judged anew as well.
const ENTRIES_MAX: usize = 1 << 16;
/// How often acknowledged entries are looked for.
const PRUNE_EVERY: usize = 256;

#[derive(Clone, Debug)]
pub struct SentLog {
    entries: VecDeque<Sent>,
    /// Of the first so many it is known that they have been queued for the present socket.
    sent: usize,
    /// Everything after it is here.
    from: Position,
    /// The ids that the client knows the bindings by.
    bindings: SmallVec<[u32; 2]>,
    counted: Counted,
}

/// What one log adds to the bytes of all, taken back when it is dropped.
#[derive(Debug)]
struct Counted {
    all: Gauge,
    bytes: i64,
}

impl Counted {
    fn set(&mut self, bytes: i64) {
        self.all.inc_by(bytes - self.bytes);
        self.bytes = bytes;
    }
}

impl Clone for Counted {
    fn clone(&self) -> Counted {
        self.all.inc_by(self.bytes);
        Counted { all: self.all.clone(), bytes: self.bytes }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.all.dec_by(self.bytes);
    }
}

impl SentLog {
    /// `None`: there are too many bindings. `all`: the bytes of all logs.
    pub fn new(from: Position, bindings: impl IntoIterator<Item = u32>, all: &Gauge) -> Option<SentLog> {
        let bindings: SmallVec<[u32; 2]> = bindings.into_iter().collect();
        let counted = Counted { all: all.clone(), bytes: 0 };
        let log = SentLog { entries: VecDeque::new(), sent: 0, from, bindings, counted };
        (log.bindings.len() <= BINDINGS_MAX).then_some(log)
    }

    pub fn from(&self) -> Position {
        self.from
    }

    pub fn bindings(&self) -> &[u32] {
        &self.bindings
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// `false`: there are too many. `is_sent`: it is queued for the socket at the same time. `acknowledged`: what need not be
    /// kept any longer.
    pub fn note(
        &mut self,
        position: Position,
        ids: impl IntoIterator<Item = u32>,
        (whole_old, is_error): (bool, bool),
        is_sent: bool,
        acknowledged: Position,
    ) -> bool {
        let place = |id: u32| self.bindings.iter().position(|known| *known == id);
        let bindings = ids.into_iter().filter_map(place).fold(0, |mask, place| mask | 1 << place);
        self.entries.push_back(Sent { position, bindings, whole_old, is_error });
        if is_sent {
            self.sent = self.entries.len();
        }
        if self.entries.len().is_multiple_of(PRUNE_EVERY) {
            self.forget(acknowledged);
            self.counted.set((self.entries.capacity() * size_of::<Sent>()) as i64);
        }
        self.entries.len() <= ENTRIES_MAX
    }

    /// What the client surely has.
    pub fn forget(&mut self, acknowledged: Position) {
        while self.entries.front().is_some_and(|entry| entry.position <= acknowledged) && self.sent > 0 {
            self.entries.pop_front();
            self.sent -= 1;
        }
        self.from = self.from.max(acknowledged);
        if self.entries.is_empty() {
            self.entries.shrink_to(PRUNE_EVERY);
        }
    }

    /// Another socket: nothing has been queued for it.
    pub fn begin_again(&mut self) {
        self.sent = 0;
    }

    /// The next that is to be sent.
    pub fn next(&mut self) -> Option<Sent> {
        let next = self.entries.get(self.sent).copied()?;
        self.sent += 1;
        Some(next)
    }

    /// What comes after it has not been sent.
    pub fn last_sent(&self) -> Position {
        let last = self.sent.checked_sub(1).and_then(|last| self.entries.get(last));
        last.map_or(self.from, |entry| entry.position)
    }

    pub fn is_drained(&self) -> bool {
        self.sent == self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::Lsn;

    fn at(lsn: u64) -> Position {
        Position { lsn: Lsn(lsn), index: 0 }
    }

    fn noted(log: &mut SentLog, lsn: u64, ids: &[u32], is_sent: bool) {
        assert!(log.note(at(lsn), ids.iter().copied(), (false, false), is_sent, at(0)));
    }

    #[test]
    fn what_was_sent_stays_until_it_is_acknowledged() {
        let mut log = SentLog::new(at(1), [7, 9], &Gauge::default()).unwrap();
        noted(&mut log, 10, &[7], true);
        noted(&mut log, 20, &[9, 7], true);
        assert!(log.is_drained());
        log.forget(at(10));
        assert_eq!((log.len(), log.from()), (1, at(10)));
        log.begin_again();
        noted(&mut log, 30, &[9], false);
        let masks: Vec<_> = std::iter::from_fn(|| log.next()).map(|sent| (sent.position, sent.bindings)).collect();
        assert_eq!(masks, [(at(20), 0b11), (at(30), 0b10)]);
        assert!(log.is_drained());
    }

    #[test]
    fn nothing_that_was_not_sent_is_forgotten() {
        let mut log = SentLog::new(at(1), [7], &Gauge::default()).unwrap();
        noted(&mut log, 10, &[7], false);
        log.forget(at(10));
        assert_eq!(log.len(), 1);
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        assert!(SentLog::new(at(1), 0..33, &Gauge::default()).is_none());
        let mut log = SentLog::new(at(1), [7], &Gauge::default()).unwrap();
        let kept = (1..).take_while(|lsn| log.note(at(*lsn), [7], (false, false), false, at(0))).count();
        assert_eq!(kept, ENTRIES_MAX);
        let all = log.counted.all.clone();
        let copy = log.clone();
        assert_eq!(all.get(), 2 * log.counted.bytes);
        drop((log, copy));
        assert_eq!(all.get(), 0);
    }
}
