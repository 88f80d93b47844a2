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
    /// What has been acknowledged, by its LSN: all of that transaction.
    acknowledged: AtomicU64,
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
            acknowledged: AtomicU64::new(0),
            is_revoked: AtomicBool::new(false),
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

    /// A heartbeat has come: what was queued before the reply to the one before it has been handled. `handed_over`: read
    /// before the reply to this one is queued.
    pub fn heartbeat(&self, handed_over: Position) {
        let is_live = self.is_live();
        let mut replied_at = self.replied_at.lock().expect("no panic while this lock is held");
        if let Some(handled) = replied_at.take() {
            self.acknowledge(handled);
        }
        *replied_at = is_live.then_some(handed_over);
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
