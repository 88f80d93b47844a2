//! Liveness, and readiness apart from it: a process that runs may still have no database.

use std::sync::atomic::{AtomicBool, Ordering};

use hyper::StatusCode;

use super::answer::{self, Answer};

/// What the parts of the relay say of themselves.
#[derive(Debug, Default)]
pub struct Readiness {
    /// The ordinary connections are up.
    pub database: AtomicBool,
    /// The slot is streaming.
    pub replication: AtomicBool,
}

impl Readiness {
    pub fn is_ready(&self) -> bool {
        self.database.load(Ordering::Relaxed) && self.replication.load(Ordering::Relaxed)
    }
}

/// `GET /ready`: for load balancers, which should wait for the stream.
pub fn ready(readiness: &Readiness) -> Answer {
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (database, replication) =
        (readiness.database.load(Ordering::Relaxed), readiness.replication.load(Ordering::Relaxed));
    answer::json(
        status,
        format!(r#"{{"ready":{},"database":{database},"replication":{replication}}}"#, status.is_success()),
    )
}

/// `GET /api/tenants/:id/health`, which Supabase's compose file asks: always 200 (PROTOCOL 7.4).
pub fn tenant_health(readiness: &Readiness, connected: usize) -> Answer {
    let database = readiness.database.load(Ordering::Relaxed);
    let replication = readiness.replication.load(Ordering::Relaxed);
    let healthy = readiness.is_ready();
    let body = format!(
        r#"{{"data":{{"healthy":{healthy},"db_connected":{database},"replication_connected":{replication},"connected_cluster":{connected}}}}}"#
    );
    answer::json(StatusCode::OK, body)
}
