//! What a session and dispatch share about one channel that can be resumed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use super::{Ask, Claim};
use crate::wal::{Lsn, Position};

/// Made by the session at the join; dispatch says when the channel has been sent all that it was owed.
#[derive(Debug)]
pub struct Link {
    pub asks: Vec<Ask>,
    /// What is sent to the channel from now on is all that there is: positions can be acknowledged.
    is_live: AtomicBool,
    claims: OnceLock<Vec<Claim>>,
    /// Where the reply to the last heartbeat was written, if the channel was live then.
    replied_at: Mutex<Option<Position>>,
    /// The ping whose pong has not come, by its number, and what was written before it.
    pinged_at: Mutex<Option<(u64, Position)>>,
    /// What has been acknowledged, by its LSN: all of that transaction.
    acknowledged: AtomicU64,
    /// The commit LSN of the first change that waits for its turn, or for an answer; 0: nothing does.
    waits_from: AtomicU64,
    /// The commit LSN of the last change that was replayed, until the channel is live; 0: none.
    replayed: AtomicU64,
    /// The token is somebody else's by now: the keys are not theirs.
    is_revoked: AtomicBool,
}

impl Link {
    pub fn new(asks: Vec<Ask>) -> Link {
        Link {
            asks,
            is_live: AtomicBool::new(false),
            claims: OnceLock::new(),
            replied_at: Mutex::default(),
            pinged_at: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            waits_from: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            is_revoked: AtomicBool::new(false),
        }
    }

    /// Said by dispatch: before the transaction counts as routed where something begins to wait, and once everything
    /// before it is in the outbox where something has ended waiting.
    pub fn waits_from(&self, commit_lsn: Option<Lsn>) {
        self.waits_from.store(commit_lsn.map_or(0, |lsn| lsn.0), Ordering::Release);
    }

    /// What it missed has been queued up to a change, and it has been told of what is missing before that: whoever is cut
    /// off again and again goes on from there.
    pub fn replayed_to(&self, at: Position) {
        self.replayed.store(at.lsn.0, Ordering::Release);
    }

    /// Up to where the channel has been queued everything, given that as much has been `routed`. That is read first: what
    /// waits of it is known by then.
    fn queued(&self, routed: Position) -> Option<Position> {
        let queued = match (self.is_live(), self.replayed.load(Ordering::Acquire)) {
            (true, _) => routed,
            (false, 0) => return None,
            // Of that transaction more may come.
            (false, replayed) => Position::through(Lsn(replayed)),
        };
        match self.waits_from.load(Ordering::Acquire) {
            0 => Some(queued),
            waits => Some(queued.min(Position::through(Lsn(waits)))),
        }
    }

    /// Dispatch has looked up the keys.
    pub fn set_claims(&self, claims: Vec<Claim>) {
        let _ = self.claims.set(claims);
    }

    /// Everything before this moment has been queued for the channel.
    pub fn go_live(&self) {
        self.is_live.store(true, Ordering::Release);
    }

    pub fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Acquire)
    }

    /// Nothing is acknowledged any more.
    pub fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Relaxed);
    }

    /// A heartbeat has come: what was queued before the reply to the one before it has been handled. `routed`: read
    /// before the reply to this one is queued.
    pub fn heartbeat(&self, routed: Position) {
        let queued = self.queued(routed);
        let mut replied_at = self.replied_at.lock().expect("no panic while this lock is held");
        if let Some(handled) = replied_at.take() {
            self.acknowledge(handled);
        }
        *replied_at = queued;
    }

    /// The same for clients that wait for no reply, and take a pong for enough: all of the channel's keys say so. `true`:
    /// a ping is to be sent. One at a time, or those of a slow network would never be answered.
    pub fn ping(&self, number: u64, routed: Position) -> bool {
        let mut keys = self.asks.iter().filter(|ask| ask.key.is_some()).peekable();
        if keys.peek().is_none() || !keys.all(|ask| ask.by_pong) {
            return false;
        }
        let Some(queued) = self.queued(routed) else { return false };
        let mut pinged_at = self.pinged_at.lock().expect("no panic while this lock is held");
        pinged_at.is_none() && pinged_at.replace((number, queued)).is_none()
    }

    /// A pong has come for the ping with this number: of several pings a client may answer the last (RFC 6455, 5.5.3).
    pub fn pong(&self, number: u64) {
        let mut pinged_at = self.pinged_at.lock().expect("no panic while this lock is held");
        if let Some((_, written)) = pinged_at.take_if(|(pinged, _)| *pinged <= number) {
            self.acknowledge(written);
        }
    }

    /// Up to where everything has been handled.
    pub fn acknowledged(&self) -> Position {
        Position::end_of(Lsn(self.acknowledged.load(Ordering::Acquire)))
    }

    /// Everything up to the end of a transaction has been handled.
    pub fn acknowledge(&self, position: Position) {
        if self.is_revoked.load(Ordering::Relaxed) {
            return;
        }
        self.acknowledged.fetch_max(position.lsn.0, Ordering::AcqRel);
        self.claims.get().into_iter().flatten().for_each(|claim| claim.acknowledge(position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resume::{ResumeKey, Since};

    fn at(lsn: u64) -> Position {
        Position::end_of(Lsn(lsn))
    }

    fn link(by_pong: &[bool]) -> Link {
        let key = Some(Ok(ResumeKey([7; 32])));
        let ask = |by_pong: &bool| Ask { binding: 1, key, since: Since::Absent, by_pong: *by_pong };
        Link::new(by_pong.iter().map(ask).collect())
    }

    #[test]
    fn a_pong_stands_for_what_was_written_before_its_ping() {
        let link = link(&[true, true]);
        assert!(!link.ping(1, at(10)), "it is still being sent what it missed");
        link.go_live();
        assert!(link.ping(2, at(20)));
        assert!(!link.ping(3, at(30)), "one at a time");
        link.pong(1);
        assert_eq!(link.acknowledged(), at(0));
        link.pong(2);
        assert_eq!(link.acknowledged(), at(20));
        link.pong(9);
        assert_eq!(link.acknowledged(), at(20), "nobody asked");
        assert!(link.ping(10, at(40)));
        link.pong(11);
        assert_eq!(link.acknowledged(), at(40), "it has answered a later one");
    }

    #[test]
    fn what_waits_is_not_acknowledged_with_what_came_after_it() {
        let link = link(&[false]);
        link.go_live();
        link.waits_from(Some(Lsn(15)));
        link.heartbeat(at(20));
        link.waits_from(None);
        link.heartbeat(at(30));
        assert_eq!(link.acknowledged(), at(14), "as of the reply");
        link.waits_from(Some(Lsn(40)));
        link.heartbeat(at(31));
        assert_eq!(link.acknowledged(), at(30));
        link.heartbeat(at(50));
        assert_eq!(link.acknowledged(), at(31), "what has not been routed waits for nothing");
    }

    #[test]
    fn what_was_replayed_is_acknowledged_but_for_its_last_transaction() {
        let link = link(&[false]);
        let beat = || {
            link.heartbeat(at(90));
            link.acknowledged()
        };
        beat();
        assert_eq!(beat(), at(0), "nothing has been replayed");
        link.replayed_to(Position { lsn: Lsn(20), index: 3 });
        beat();
        assert_eq!(beat(), at(19));
        link.waits_from(Some(Lsn(30)));
        link.replayed_to(Position { lsn: Lsn(40), index: 0 });
        beat();
        assert_eq!(beat(), at(29), "a policy is being asked");
        link.waits_from(None);
        link.go_live();
        beat();
        assert_eq!(beat(), at(90));
    }

    #[test]
    fn a_pong_is_enough_where_all_keys_say_so_and_only_there() {
        for keys in [&[][..], &[false], &[true, false]] {
            let link = link(keys);
            link.go_live();
            assert!(!link.ping(2, at(20)), "{keys:?}");
            link.pong(2);
            assert_eq!(link.acknowledged(), at(0));
        }
    }
}
