//! Open transactions of others that keep the slot where it is.
//!
//! A slot holds the WAL back to the first record of the oldest transaction that has not ended, confirmed or not, and its
//! `catalog_xmin` stays at that transaction's id. So whoever has a transaction open that is not younger than
//! `catalog_xmin` is a culprit; one that is younger will be, at the server's next look, and is not yet.

use std::fmt;

use super::connection::TextRow;

/// A transaction that has written something and not ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pin {
    /// None for a prepared transaction, which no process has.
    pub pid: Option<i32>,
    /// A prepared transaction's name.
    pub prepared: Option<String>,
    /// Who it is, what it does and since when.
    pub description: String,
    /// How long it has been open, where we may see that.
    pub seconds: f64,
    /// In transactions.
    pub xid_age: u64,
}

/// Locks show transaction ids to everybody, `pg_stat_activity` shows the rest to the privileged. A process has one
/// for each subtransaction, too: the oldest is the transaction's own.
pub(super) const OPEN_TRANSACTIONS: &str = "
    SELECT l.pid, NULL::text AS prepared, l.age AS xid_age, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.xact_start) AS seconds,
        pg_catalog.format('%s, %s%s%s', coalesce(a.usename::text, a.backend_type, 'a user that we may not see'),
            coalesce(nullif(a.application_name, ''), 'no application name'), ', ' || a.state,
            ', transaction open since ' || a.xact_start::timestamptz(0)) AS description
    FROM (SELECT pid, max(pg_catalog.age(transactionid)) AS age FROM pg_catalog.pg_locks
        WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted AND pid IS NOT NULL
        AND pid <> pg_catalog.pg_backend_pid() GROUP BY pid) l
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    UNION ALL
    SELECT NULL, gid, pg_catalog.age(transaction), pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - prepared),
        pg_catalog.format('%s, database %s, prepared at %s', owner, database, prepared::timestamptz(0))
    FROM pg_catalog.pg_prepared_xacts
    ORDER BY 3 DESC LIMIT 5";

/// Ordinary transactions are over by then.
const LONG_SECONDS: f64 = 10.0;

impl Pin {
    pub(super) fn from_row(row: &TextRow) -> Pin {
        Pin {
            pid: row.get("pid").and_then(|pid| pid.parse().ok()),
            prepared: row.get("prepared").map(str::to_owned),
            description: row.get("description").unwrap_or_default().to_owned(),
            seconds: row.get("seconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0),
            xid_age: row.get("xid_age").and_then(|age| age.parse().ok()).unwrap_or(0),
        }
    }

    /// Of the open transactions those that keep a slot with this `catalog_xmin` from moving on.
    pub(super) fn of_slot(open: &[Pin], catalog_xmin_age: u64) -> Vec<Pin> {
        open.iter().filter(|pin| catalog_xmin_age > 0 && pin.xid_age >= catalog_xmin_age).cloned().collect()
    }

    /// Of the open transactions those that the making of a new slot would wait for, for who knows how long.
    pub(super) fn in_the_way(open: &[Pin]) -> Vec<Pin> {
        open.iter().filter(|pin| pin.pid.is_none() || pin.seconds > LONG_SECONDS).cloned().collect()
    }

    /// All of them in one line; None: there are none.
    pub fn name_all(pins: &[Pin]) -> Option<String> {
        let names: Vec<_> = pins.iter().map(Pin::to_string).collect();
        (!names.is_empty()).then(|| names.join("; "))
    }

    /// The statement that ends it.
    pub fn remedy(&self) -> String {
        match (self.pid, &self.prepared) {
            (Some(pid), _) => format!("select pg_terminate_backend({pid});"),
            (None, name) => {
                let name = name.as_deref().unwrap_or_default().replace('\'', "''");
                format!("rollback prepared '{name}'; -- or commit prepared, in its own database")
            }
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.prepared) {
            (Some(pid), _) => write!(f, "process {pid} ({})", self.description),
            (None, name) => {
                let name = name.as_deref().unwrap_or("unknown");
                write!(f, "the prepared transaction {name:?} ({})", self.description)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, xid_age: u64, seconds: f64) -> Pin {
        Pin { pid: Some(pid), xid_age, seconds, description: "alice".to_owned(), ..Pin::default() }
    }

    #[test]
    fn only_who_is_not_younger_than_the_slot_pins_it() {
        let open = [process(1, 100, 5.0), process(2, 50, 5.0), process(3, 49, 500.0)];
        let pins: Vec<_> = Pin::of_slot(&open, 50).iter().map(|pin| pin.pid.unwrap()).collect();
        assert_eq!(pins, [1, 2]);
        assert!(Pin::of_slot(&open, 0).is_empty(), "a slot that holds nothing");
    }

    #[test]
    fn a_new_slot_would_wait_for_the_long_and_the_prepared() {
        let prepared = Pin { prepared: Some("it's".to_owned()), ..Pin::default() };
        assert_eq!(prepared.remedy().split(';').next(), Some("rollback prepared 'it''s'"));
        let open = [process(1, 100, 5.0), process(2, 50, 11.0), prepared];
        let names = Pin::name_all(&Pin::in_the_way(&open)).unwrap();
        assert_eq!(names, "process 2 (alice); the prepared transaction \"it's\" ()");
    }
}
