//! From the stream's frames to transactions.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Dispatch, Error, Phase, READ_AGAIN, Work};
use crate::causes::with_causes;
use crate::change::Transaction;
use crate::change::assembler::{DdlLog, Error as StreamFault};
use crate::channels::system;
use crate::dispatch::ring::Missing;
use crate::wal::Lsn;
use crate::wal::batch::{Started, StreamFrame};
use crate::wal::pgoutput::{Begin, RelationId};

impl Dispatch {
    /// Reads frames up to the next Commit, or a piece of what came before its own; `false`: there are none.
    pub(super) fn read(&mut self, backlog: &mut std::vec::IntoIter<StreamFrame>) -> Result<bool, Error> {
        if self.assembler.is_gathering() {
            let gathered = self.assembler.gather();
            if let Some(transaction) = self.or_whole(gathered)? {
                self.committed(transaction);
            }
            return Ok(true);
        }
        for frame in backlog.by_ref() {
            match frame {
                StreamFrame::Data { .. } | StreamFrame::KeepAlive { .. } | StreamFrame::SkippedFrame { .. }
                    if self.is_deaf => {}
                StreamFrame::Data { bytes, .. } => {
                    if let Some(transaction) = self.push(bytes)? {
                        self.committed(transaction);
                        return Ok(true);
                    }
                    if self.assembler.is_gathering() {
                        return Ok(true);
                    }
                }
                StreamFrame::KeepAlive { wal_end } => self.keepalive(wal_end),
                StreamFrame::Started(started) => {
                    self.started(started);
                    // Whoever waited for it has his turn, and the catalog may be waited for.
                    return Ok(true);
                }
                StreamFrame::Disconnected => {
                    self.assembler.reset();
                    self.replays.has_skipped = false;
                    self.broadcasts.disconnected();
                    self.silent_since.get_or_insert_with(Instant::now);
                }
                StreamFrame::SkippedFrame { wal_start, tag, relation, subxid, bytes } => {
                    self.skipped_frame(wal_start, tag, relation, subxid, bytes);
                }
            }
        }
        Ok(false)
    }

    fn push(&mut self, frame: Bytes) -> Result<Option<Transaction>, Error> {
        let last_commit = self.last_commit;
        let (subscribers, catalog, metrics) = (&self.subscribers, &self.catalog, &self.metrics);
        let broadcasts = &self.broadcasts;
        let keeps = self.replays.ring.is_on();
        let handed_over = |begin: &Begin| begin.final_lsn <= last_commit;
        // A table that the catalog does not know may be published by this very transaction.
        let wanted = |relation: RelationId, rows: u64| {
            metrics.changes_read.inc_by(rows);
            let wanted = subscribers.want(relation) || broadcasts.has(relation) || catalog.relation(relation).is_none();
            if !wanted {
                metrics.changes_without_subscriber.inc_by(rows);
            }
            wanted || keeps
        };
        let pushed = self.assembler.push(frame, handed_over, wanted);
        self.or_whole(pushed)
    }

    /// Where what came of transactions before their commit is of no use, they are asked for at their commit. If there is no
    /// room for that either, of which it is what somebody wants alone, there is nothing left to do.
    fn or_whole(&mut self, read: Result<Option<Transaction>, StreamFault>) -> Result<Option<Transaction>, Error> {
        let position = self.position;
        // Of a stream that had begun before that was asked for, perhaps.
        let is_early = !self.progress.takes_whole() || self.assembler.in_progress_bytes() > 0;
        match read {
            Err(fault @ (StreamFault::Spill(_) | StreamFault::TooLarge(_))) if is_early => {
                tracing::error!(
                    error = with_causes(&fault),
                    "no room for what large transactions have written so far: from \
                    here on they are read at their commit, and others wait for them"
                );
                self.progress.take_whole();
            }
            Err(fault @ StreamFault::Unclear(end_lsn)) => {
                tracing::info!(reason = %fault, "a large transaction is read once more, as of its commit");
                self.progress.take_whole_to(end_lsn);
            }
            read => return read.map_err(|source| Error::Stream { position, source }),
        }
        self.assembler.reset();
        self.is_deaf = true;
        Ok(None)
    }

    /// A new connection: what had begun comes again, whole; after a failover positions mean something else.
    fn started(&mut self, started: Started) {
        self.silent_since = None;
        self.is_deaf = false;
        self.assembler.started(started.own_publication);
        self.assembler.take_broadcasts(self.broadcasts.started(&started, &self.catalog));
        self.relations.clear();
        self.layouts.clear();
        let known = self.system_identifier.replace(started.system_identifier.clone());
        if known.is_some_and(|known| known != started.system_identifier) {
            tracing::warn!("the database has another system identifier: positions start anew");
            self.last_commit = Lsn::ZERO;
            self.doubt.forget();
            self.unseen.forget();
        }
        self.tracking.started(&started, &self.catalog, Instant::now());
        self.doubt.started(&started);
        self.resume_started(&started);
        if let Some((from, to)) = started.lost {
            tracing::error!(%from, %to, "changes between these positions are lost: the slot was made anew or moved on");
            let places = self.subscribers.places();
            let message = "Changes were lost: the replication slot had to be made anew";
            self.announce_gap(places, message, Missing::SlotLost);
            if let Some(loading) = self.load_catalog(None) {
                self.phase = Phase::Waiting(None, loading);
            }
        }
        for (subscribe, casts, number) in std::mem::take(&mut self.replays.before_history).into_values() {
            self.subscribe(subscribe, casts, number);
        }
        self.count_subscribers();
    }

    /// A message above `--wal-frame-max`. Logical messages and the like deliver nothing anyway.
    /// What is of a transaction in progress is told at its commit.
    fn skipped_frame(
        &mut self,
        wal_start: Lsn,
        tag: Option<u8>,
        relation: Option<RelationId>,
        subxid: Option<u32>,
        bytes: u64,
    ) {
        if !matches!(tag, None | Some(b'I' | b'U' | b'D')) {
            return;
        }
        tracing::error!(%wal_start, bytes, "a frame above --wal-frame-max was skipped: its change is delivered to nobody");
        match subxid {
            Some(subxid) => self.assembler.unread_in_block(subxid, relation),
            None if self.assembler.unread(relation) => self.lost(relation),
            None => {}
        }
    }

    /// A change was too large to be read.
    fn lost(&mut self, relation: Option<RelationId>) {
        let places =
            relation.map_or_else(|| self.subscribers.places(), |relation| self.subscribers.places_of(relation));
        let message = "A change was too large to be read: it is delivered to nobody";
        self.announce_gap(places, message, Missing::TooLarge);
        self.replays.has_skipped = true;
    }

    /// Where something had to be given up, people are told (DESIGN, promise 4).
    pub(super) fn announce_gap(&mut self, places: Vec<usize>, message: &str, missing: Missing) {
        for place in places {
            self.note_missing(place, missing);
            self.send_to(place, |s| system::postgres_changes_error(&s.address, message, Some(READ_AGAIN)));
        }
    }

    /// Everything before `wal_end` has been sent. With nothing under way it is dispatched, too: a quiet publication must
    /// not hold back the WAL of a busy database.
    fn keepalive(&mut self, wal_end: Lsn) {
        self.position = self.position.max(wal_end);
        if self.tickets.is_empty() && !self.assembler.is_open() {
            self.progress.dispatched_to(wal_end);
        }
        self.apply_due_updates(self.position);
    }

    fn committed(&mut self, mut transaction: Transaction) {
        self.metrics.transactions.inc();
        let header = transaction.header;
        // A state that was read before this commit is what it was committed under.
        self.apply_due_updates(self.position.max(header.commit_lsn));
        self.position = self.position.max(header.end_lsn);
        self.last_commit = self.last_commit.max(header.commit_lsn);
        for relation in std::mem::take(&mut transaction.lost) {
            self.lost(relation);
        }
        self.unseen.read(transaction.sequence, header.xid);
        let ticket = self.tickets.issue(header.end_lsn);
        let ddl_log = std::mem::take(&mut transaction.ddl_log);
        let has_ddl = ddl_log != DdlLog::Nothing;
        let mut work = Work { transaction, ticket, index: 0, is_kept: false, is_silent: false };
        self.keeps(&mut work);
        let catalog = Arc::clone(&self.catalog);
        let loading = self.apply_ddl(ddl_log, &header);
        self.began_with(catalog);
        if has_ddl {
            self.tracking.ddl(header.xid);
        }
        match loading {
            Some(loading) => self.phase = Phase::Waiting(Some(work), loading),
            None => self.begin_work(work),
        }
    }
}
