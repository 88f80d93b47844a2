//! Transactions of the stream, applied to what is kept: before anything of them is judged.

use tokio::time::Instant;

use super::Tracking;
use crate::authz::tracked::Broken;
use crate::change::{TrackedChange, TrackedLog, TransactionHeader};
use crate::wal::Lsn;
use crate::wal::pgoutput::RelationId;

impl Tracking {
    /// At a Commit, when its catalog is in force, and before anything of it is judged.
    pub fn apply(&mut self, header: &TransactionHeader, sequence: u64, log: &TrackedLog, now: Instant) {
        if self.entries.is_empty() {
            return;
        }
        self.in_work = true;
        self.settle(header.commit_lsn);
        if log.is_empty() {
            return;
        }
        let missed = self.members.iter().filter(|(member, _)| log.all_missed || log.missed.contains(member));
        let mut missed: Vec<_> = missed.map(|(_, id)| *id).collect();
        missed.sort_unstable();
        missed.dedup();
        for id in missed {
            let why = if log.all_missed { Broken::Unread } else { Broken::TooManyChanges };
            self.missed(id, header.xid, sequence, &why, now);
        }
        for change in &log.changes {
            for relation in change.relations() {
                if let Some(id) = self.members.get(relation).copied() {
                    self.apply_to(id, *relation, header.xid, sequence, change, now);
                }
            }
        }
        self.bound();
    }

    /// Shows the tables whose reading the stream has come up with: everything committed before `position` has been
    /// applied, and nothing at or after it. Private channels are asked about on a quiet database too.
    pub fn settle(&mut self, position: Lsn) {
        for (id, entry) in &mut self.entries {
            if let Some(serving) = &mut entry.serving
                && serving.settling.as_ref().is_some_and(|(_, exact_from)| *exact_from <= position)
            {
                serving.settling = None;
                self.tables.hide(*id, serving.is_hidden());
            }
        }
    }

    fn missed(&mut self, id: RelationId, xid: u32, sequence: u64, why: &Broken, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let Some(reading) = &mut entry.reading
            && sequence >= reading.since
        {
            reading.missed.push(xid);
        }
        if entry.serving.as_ref().is_some_and(|serving| !serving.has_seen(xid)) {
            self.broken(id, why, now);
        }
    }

    fn apply_to(
        &mut self,
        id: RelationId,
        relation: RelationId,
        xid: u32,
        sequence: u64,
        change: &TrackedChange,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let Some(reading) = &mut entry.reading
            && sequence >= reading.since
        {
            reading.gather(xid, relation, change);
        }
        let Some(serving) = entry.serving.as_mut().filter(|serving| !serving.has_seen(xid)) else { return };
        let Some(table) = self.tables.get_mut(id) else { return };
        if !self.touched.contains(&id) {
            self.touched.push(id);
        }
        if let Err(why) = serving.apply(table, relation, change) {
            self.broken(id, &why, now);
        }
    }

    /// The last change of the transaction has been judged.
    pub fn finish_transaction(&mut self, now: Instant) {
        if !self.in_work {
            return;
        }
        self.in_work = false;
        for id in std::mem::take(&mut self.touched) {
            if let Some(table) = self.tables.get_mut(id) {
                table.finish();
                self.metrics.set(table.shape().sql_name(), table.rows(), table.memory_bytes());
            }
        }
        for (number, reading) in std::mem::take(&mut self.arrived) {
            self.install(number, reading, now);
        }
    }
}
