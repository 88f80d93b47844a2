//! One table that is wanted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::authz::policy::Need;
use crate::authz::tracked::load::Storage;
use crate::authz::tracked::{Broken, Refused, Shape, StreamLayout, Table};
use crate::catalog::{Catalog, Relation, Snapshot};
use crate::change::TrackedChange;
use crate::wal::Lsn;
use crate::wal::pgoutput::{self, RelationId, StreamRelation};

/// Between two readings of a table that does not stay whole.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A wanted table: what serves now, and what is being read to take its place.
pub(super) struct Entry {
    pub needs: Vec<Need>,
    /// What the needs make of the catalog's table.
    pub wanted: Result<Arc<Shape>, Refused>,
    /// The table that this was made of.
    pub relation: Option<Arc<Relation>>,
    pub serving: Option<Serving>,
    pub reading: Option<Gathering>,
    /// When it is to be read (again).
    pub due: Option<Instant>,
    pause: Duration,
    served_since: Option<Instant>,
}

/// About the table in [`Tables`](crate::authz::tracked::Tables).
pub(super) struct Serving {
    pub shape: Arc<Shape>,
    pub needs: Vec<Need>,
    pub storage: Storage,
    /// The stream has not come as far as the reading: what the snapshot saw is in the table already, and decisions are
    /// exact from the position on.
    pub settling: Option<(Snapshot, Lsn)>,
    /// DDL was committed, and nobody has looked yet whether it has rewritten the table.
    pub suspended: bool,
    layouts: HashMap<RelationId, StreamLayout>,
}

/// A reading that is under way, and what the stream brings meanwhile.
pub(super) struct Gathering {
    pub number: u64,
    pub shape: Arc<Shape>,
    pub needs: Vec<Need>,
    /// Transactions are gathered from this one on; it sees those before it.
    pub since: u64,
    pub changes: Vec<(u32, RelationId, TrackedChange)>,
    pub bytes: usize,
    /// Transactions that it has to see, because what they did is not among the changes.
    pub missed: Vec<u32>,
    /// Transactions with DDL.
    pub ddl: Vec<u32>,
}

impl Entry {
    pub fn new() -> Entry {
        Entry {
            needs: Vec::new(),
            wanted: Err(Refused::Unknown),
            relation: None,
            serving: None,
            reading: None,
            due: None,
            pause: Duration::ZERO,
            served_since: None,
        }
    }

    /// Works out again what is wanted.
    pub fn reshape(&mut self, id: RelationId, catalog: &Catalog, own_publication: bool, now: Instant) {
        let relation = catalog.any_relation(id);
        let wanted = shape(catalog, id, &self.needs, own_publication);
        let is_too_large = self.wanted == Err(Refused::TooLarge) && self.relation.as_ref() == relation;
        let is_same = match (&wanted, &self.wanted) {
            (Ok(wanted), Ok(known)) => wanted == known,
            (Ok(_), Err(_)) => is_too_large,
            (wanted, known) => wanted == known,
        };
        self.relation = relation.cloned();
        if is_same {
            return;
        }
        if let Err(why) = &wanted {
            let name = relation.map_or_else(|| format!("{}", id.0), |relation| relation.sql_name());
            tracing::warn!(relation = name, %why, "policies that read this table are left to Postgres");
        }
        self.wanted = wanted;
        self.pause = Duration::ZERO;
        let Ok(wanted) = &self.wanted else {
            self.reading = None;
            self.due = None;
            return;
        };
        let serves = self.serving.as_ref().is_some_and(|serving| serving.shape.covers(wanted));
        let is_read = self.reading.as_ref().is_some_and(|reading| reading.shape.covers(wanted));
        if serves {
            self.reading = None;
            self.due = None;
        } else if !is_read {
            self.reading = None;
            self.due = Some(now);
        }
    }

    /// Whether the table that serves is still what the catalog says it is, and its changes still come.
    pub fn serves_truly(&self, id: RelationId, catalog: &Catalog, own_publication: bool) -> bool {
        self.wanted.is_ok()
            && self.serving.as_ref().is_some_and(|serving| {
                shape(catalog, id, &serving.needs, own_publication).is_ok_and(|shape| shape == serving.shape)
            })
    }

    /// It is to be read again, later each time that it does not last.
    pub fn read_again(&mut self, now: Instant) {
        self.reading = None;
        if self.served_since.take().is_some_and(|since| now.duration_since(since) > PAUSE_MAX) {
            self.pause = Duration::ZERO;
        }
        self.due = self.wanted.is_ok().then_some(now + self.pause);
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
    }

    pub fn serve(&mut self, serving: Serving, now: Instant) {
        self.serving = Some(serving);
        self.served_since = Some(now);
    }
}

fn shape(catalog: &Catalog, id: RelationId, needs: &[Need], own_publication: bool) -> Result<Arc<Shape>, Refused> {
    // What is in the user's publication is streamed without walcast's own.
    if !own_publication && catalog.relation(id).is_none() {
        return Err(Refused::NoOwnPublication);
    }
    let needs: Vec<&Need> = needs.iter().collect();
    Shape::of(catalog, id, &needs).map(Arc::new)
}

impl Serving {
    pub fn new(shape: Arc<Shape>, needs: Vec<Need>, storage: Storage, settling: (Snapshot, Lsn)) -> Serving {
        let (settling, layouts) = (Some(settling), HashMap::new());
        Serving { shape, needs, storage, settling, suspended: false, layouts }
    }

    pub fn is_hidden(&self) -> bool {
        self.settling.is_some() || self.suspended
    }

    /// Whether a transaction's changes are in the table since it was read.
    pub fn has_seen(&self, xid: u32) -> bool {
        self.settling.as_ref().is_some_and(|(snapshot, _)| snapshot.sees(xid))
    }

    pub fn apply(&mut self, table: &mut Table, relation: RelationId, change: &TrackedChange) -> Result<(), Broken> {
        match change {
            TrackedChange::Truncate(_) => table.truncate(relation),
            TrackedChange::Row(stream, frame) => {
                let change = pgoutput::decode(frame.clone()).map_err(|error| Broken::Frame(error.to_string()))?;
                table.apply(self.layout(stream)?, change)?;
            }
        }
        Ok(())
    }

    fn layout(&mut self, stream: &Arc<StreamRelation>) -> Result<&StreamLayout, Broken> {
        if !self.layouts.get(&stream.id).is_some_and(|layout| layout.is_of(stream)) {
            self.layouts.insert(stream.id, self.shape.layout(stream)?);
        }
        Ok(&self.layouts[&stream.id])
    }
}

impl Gathering {
    pub fn gather(&mut self, xid: u32, relation: RelationId, change: &TrackedChange) {
        self.bytes += change.bytes() + size_of::<(u32, RelationId)>();
        self.changes.push((xid, relation, change.clone()));
    }
}
