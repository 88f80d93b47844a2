//! Looks at where tables lie: DDL may have rewritten one, and then nothing of that is in the stream.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Tracking;
use crate::authz::tracked::Broken;
use crate::authz::tracked::load::{LoadError, Storage};
use crate::authz::tracked::loader::Request;
use crate::causes::with_causes;
use crate::wal::pgoutput::RelationId;

/// How often is looked whether a table was rewritten, for what no event trigger sees.
pub(super) const STORAGE_INTERVAL: Duration = Duration::from_secs(1);

/// A look at where tables lie.
pub(super) struct Look {
    number: u64,
    relations: Vec<RelationId>,
    must_see: Vec<u32>,
}

impl Tracking {
    /// A transaction with DDL: it may have rewritten tables, and then nothing of that is in the stream. Until somebody
    /// has looked nothing is decided by them.
    pub fn ddl(&mut self, xid: u32) {
        if self.entries.is_empty() {
            return;
        }
        for (id, entry) in &mut self.entries {
            if let Some(serving) = &mut entry.serving {
                serving.suspended = true;
                self.tables.hide(*id, true);
            }
            if let Some(reading) = &mut entry.reading {
                reading.ddl.push(xid);
            }
        }
        self.look(&[xid]);
    }

    pub(super) fn look(&mut self, must_see: &[u32]) {
        let Some(loader) = &self.loader else { return };
        // Also where nothing is left to look at: what stays due keeps dispatch from everything else.
        self.next_look = None;
        let serving = self.entries.iter().filter(|(_, entry)| entry.serving.is_some());
        let relations: Vec<_> = serving.map(|(id, _)| *id).collect();
        if relations.is_empty() {
            self.look = None;
            return;
        }
        // The one that is under way may not see this, and what it had to see this one has to see, too.
        let mut all = self.look.take().map(|look| look.must_see).unwrap_or_default();
        all.extend(must_see);
        self.number += 1;
        let number = self.number;
        loader.ask(Request::Storage { number, relations: relations.clone(), must_see: all.clone() });
        self.look = Some(Look { number, relations, must_see: all });
    }

    pub(super) fn looked(
        &mut self,
        number: u64,
        storage: Result<HashMap<RelationId, Storage>, LoadError>,
        now: Instant,
    ) {
        let Some(look) = self.look.take_if(|look| look.number == number) else {
            return; // A later one is under way.
        };
        self.next_look = Some(now + STORAGE_INTERVAL);
        let storage = match storage {
            Ok(storage) => storage,
            Err(error) => {
                tracing::warn!(error = %with_causes(&error), "nobody knows whether tracked tables were rewritten; looking again");
                self.look = Some(look); // What it had to see the next one has to see.
                return;
            }
        };
        let mut rewritten = Vec::new();
        for (id, entry) in &mut self.entries {
            let Some(serving) = entry.serving.as_mut().filter(|_| look.relations.contains(id)) else { continue };
            if storage.get(id) == Some(&serving.storage) {
                serving.suspended = false;
                self.tables.hide(*id, serving.is_hidden());
            } else {
                rewritten.push(*id);
            }
        }
        for id in rewritten {
            self.broken(id, &Broken::Rewritten, now);
        }
    }
}
