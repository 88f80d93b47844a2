//! What a session of the oracle's login says of the catalog: how names in function bodies resolve, and its settings.

use std::collections::HashMap;
use std::sync::Arc;

use super::Oid;

/// Read anew after every change of the catalog; empty until then, so that policies which need it are asked of Postgres.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFacts {
    /// By function: the tree of a string body, as Postgres reads it when it is asked to store the body as a SQL-standard
    /// one. `Err`: Postgres refused, and why.
    pub bodies: HashMap<Oid, Result<Arc<str>, String>>,
    /// The session's TimeZone, DateStyle and IntervalStyle; empty where unknown.
    pub time_zone: String,
    pub date_style: String,
    pub interval_style: String,
    /// `server_encoding` is UTF8.
    pub is_utf8: bool,
}
