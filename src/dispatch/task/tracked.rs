//! Tracked tables, at their places in the stream.

use futures_util::FutureExt;
use tokio::time::Instant;

use super::Dispatch;
use crate::authz::tracked::LoaderHandle;
use crate::change::assembler::Error as StreamFault;
use crate::change::{Row, Transaction};
use crate::dispatch::tracking::{Event, Since};
use crate::wal::pgoutput::{RelationId, Tuple};

impl Dispatch {
    /// Gives the task that reads tables; without it none are tracked.
    pub fn track_with(&mut self, loader: LoaderHandle) {
        self.tracking.set_loader(loader);
    }

    /// If plans were made, what all of them need from now on, in place of what they needed.
    pub(super) fn track_needs(&mut self) {
        if self.topics.take_news() {
            self.access.needs_changed();
        }
        let Some(mut needs) = self.access.take_needs() else { return };
        needs.extend(self.topics.needs());
        let filters = |relation| self.subscribers.filter_columns(relation);
        needs.extend(self.tracking.delete_needs(&self.catalog, filters));
        if needs.is_empty() && self.tracking.is_empty() {
            return;
        }
        self.tracking.want(&needs, &self.catalog, Instant::now());
        self.assembler.track(self.tracking.members());
    }

    /// Another catalog is in force.
    pub(super) fn track_catalog(&mut self) {
        if !self.tracking.is_empty() {
            self.tracking.catalog_changed(&self.catalog, Instant::now());
            self.assembler.track(self.tracking.members());
        }
    }

    pub(super) fn tracking_event(&mut self, event: Event) {
        let now = Instant::now();
        if let Event::Reported(report) = event {
            self.tracking.reported(report, now);
        }
        if self.tracking.is_due(now) {
            // In this order: what is gathered from the next transaction on must be gathered whole.
            self.assembler.track(self.tracking.members());
            let open = self.assembler.open_transaction().map(|(_, xid)| xid);
            let must_see = self.unseen.xids().chain(open).collect();
            self.tracking.start(Since { sequence: self.assembler.next_sequence(), must_see }, now);
        }
    }

    pub(super) fn take_tracking_event(&mut self) {
        if !self.tracking.is_empty()
            && let Some(event) = self.tracking.next().now_or_never()
        {
            self.tracking_event(event);
        }
    }

    pub(super) fn apply_tracked(&mut self, transaction: &mut Transaction) {
        if !self.tracking.is_empty() {
            let log = std::mem::take(&mut transaction.tracked);
            self.tracking.apply(&transaction.header, transaction.sequence, &log, Instant::now());
        }
    }

    /// More of a deleted row than the stream says, where the table is kept.
    pub(super) fn kept_row(&self, relation: RelationId, key: &Tuple) -> Result<Option<Row>, StreamFault> {
        if self.tracking.is_empty() {
            return Ok(None);
        }
        let kept = self.tracking.kept_row(self.relations.get(relation)?, key);
        Ok(kept.zip(self.catalog.relation(relation)).map(|(kept, relation)| kept.into_row(relation)))
    }

    pub(super) fn finish_tracked(&mut self) {
        if !self.tracking.is_empty() {
            self.tracking.finish_transaction(Instant::now());
        }
    }
}
