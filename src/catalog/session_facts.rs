//! What a session of the oracle's login says of the catalog: how names in function bodies resolve, and its settings.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Oid;
use crate::wal::Lsn;

/// Read anew after every change of the catalog; empty until then, so that policies which need it are asked of Postgres.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFacts {
    /// By function: the tree of a string body, as Postgres reads it when it is asked to store the body as a SQL-standard
    /// one. `Err`: Postgres refused, and why.
    pub bodies: HashMap<Oid, Result<Arc<str>, String>>,
    /// The roles that `bodies` hold for, and owners of SECURITY DEFINER functions besides. Another role may find other
    /// things under the same names: with it, no body is known.
    pub roles: HashSet<Oid>,
    /// By function and role: which of these find other things under a body's names, and the tree that holds for them.
    pub elsewhere: HashMap<(Oid, Oid), Result<Arc<str>, String>>,
    /// The session's TimeZone, DateStyle and IntervalStyle; empty where unknown.
    pub time_zone: String,
    pub date_style: String,
    pub interval_style: String,
    /// `server_encoding` is UTF8.
    pub is_utf8: bool,
}

impl SessionFacts {
    /// What the body of a function is for a role that runs it. `None`: it was not read.
    pub fn body(&self, function: Oid, role: Oid) -> Option<&Result<Arc<str>, String>> {
        self.elsewhere.get(&(function, role)).or_else(|| self.bodies.get(&function))
    }

    /// Whatever trees the function has, for whomever.
    pub fn trees(&self, function: Oid) -> impl Iterator<Item = &str> {
        let others = self.elsewhere.iter().filter(move |((of, _), _)| *of == function).map(|(_, body)| body);
        self.bodies.get(&function).into_iter().chain(others).filter_map(|body| body.as_deref().ok())
    }
}

/// Facts, and when they hold.
#[derive(Clone, Debug)]
pub struct SessionReading {
    /// The catalog that they were read for, by its version.
    pub version: u64,
    /// Everything that the reading saw was committed before: once the stream is here and has told of no change, nothing
    /// lies between the catalog and what names meant at the reading.
    pub lsn: Lsn,
    /// The [fingerprint](super::watcher::FINGERPRINT_SQL) of the catalogs when the reading began: a poll that finds the same
    /// one has found nothing that this reading does not know.
    pub fingerprint: Arc<str>,
    pub facts: Arc<SessionFacts>,
}
