//! When to leave the stream alone because the sockets do not keep up.

use crate::channels::outbox::Pushed;

/// How full the outboxes were that were written to last.
///
/// Decoding outruns any socket: when most outboxes are full, it is the stream that is too fast and not a client that is
/// too slow. It is judged over many pushes. A chunk may well write to one client alone, and if that one does not read,
/// nobody should wait for it.
#[derive(Debug, Default)]
pub struct Pressure {
    pushed: usize,
    full: usize,
}

/// With 500 bytes to an event, a sixteenth of an outbox.
const PUSHES_MIN: usize = 128;
/// Where events are large, fewer of them: they would fill an outbox' spill before that.
const BYTES_MIN: usize = 256 << 10;

impl Pressure {
    /// What became of so many frames that were pushed to one outbox together.
    pub fn note(&mut self, pushed: Pushed, frames: usize) {
        self.pushed += frames;
        self.full += frames * usize::from(pushed == Pushed::Full);
    }

    /// After a chunk, with the bytes of its rows: whether to pause.
    pub fn judge(&mut self, chunk_bytes: usize) -> bool {
        if self.pushed < PUSHES_MIN && chunk_bytes < BYTES_MIN {
            return false;
        }
        let Pressure { pushed, full } = std::mem::take(self);
        full * 2 > pushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often there is a pause in so many chunks, each of which makes these pushes.
    fn pauses(chunks: usize, pushes: &[Pushed], bytes: usize) -> usize {
        let mut pressure = Pressure::default();
        let chunk = |_: &usize| {
            pushes.iter().for_each(|pushed| pressure.note(*pushed, 1));
            pressure.judge(bytes)
        };
        (0..chunks).filter(chunk).count()
    }

    #[test]
    fn one_slow_client_among_others_is_not_waited_for() {
        assert_eq!(pauses(1000, &[Pushed::Full, Pushed::Queued], 500), 0);
        assert_eq!(pauses(1000, &[Pushed::Closed, Pushed::Queued], 500), 0);
    }

    #[test]
    fn a_slow_client_alone_costs_a_pause_now_and_then() {
        assert_eq!(pauses(1280, &[Pushed::Full], 500), 10);
    }

    #[test]
    fn most_being_full_pauses_at_once_where_much_is_written() {
        assert_eq!(pauses(1, &[Pushed::Full, Pushed::Full, Pushed::Queued], BYTES_MIN), 1);
        assert_eq!(pauses(1, &[Pushed::Full; 200], 500), 1);
    }
}
