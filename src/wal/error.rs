//! What can go wrong between walcast and the replication stream, each text with the remedy in it.

use std::io;
use std::time::Duration;

use super::Lsn;
use super::conninfo::ConninfoError;
use super::cursor::DecodeError;
use super::server_error::ServerError;
use super::slot_making::Holder;
use super::tls::TlsError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Conninfo(#[from] ConninfoError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot connect to Postgres at {address}")]
    Connect { address: String, source: io::Error },
    #[error("Postgres at {address} did not complete the login within {limit:?}")]
    ConnectTimeout { address: String, limit: Duration },
    #[error("the connection to Postgres failed")]
    Io(#[from] io::Error),
    #[error("Postgres closed the connection")]
    Closed,
    #[error("nothing heard from Postgres for {0:?}, although it was asked to answer")]
    Silent(Duration),
    #[error("Postgres is shutting down")]
    ServerStopping,
    #[error("Postgres answered something that the protocol does not allow here: {0}")]
    Protocol(String),
    #[error("Postgres sent a malformed message")]
    Malformed(#[from] DecodeError),
    #[error(transparent)]
    Server(Box<ServerError>),
    #[error("an SQL statement failed")]
    Sql(#[from] tokio_postgres::Error),

    #[error("Postgres asks for {0} authentication, which walcast does not speak (use scram-sha-256 in pg_hba.conf)")]
    Authentication(&'static str),
    #[error("Postgres asks for a password, and the connection string has none")]
    PasswordMissing,
    #[error("SCRAM authentication failed")]
    Scram(#[source] io::Error),
    #[error("channel_binding=require, but the login offers none (it needs TLS and scram-sha-256)")]
    NoChannelBinding,
    #[error("the login {user} may not replicate: as a superuser, ALTER ROLE \"{user}\" REPLICATION")]
    NoReplicationPrivilege { user: String },
    #[error(
        "what answers is a connection pooler, not Postgres ({0}): point --database-url at the server's own port (usually 5432)"
    )]
    Pooler(String),
    #[error("no walsender is free: raise max_wal_senders, or stop a consumer that is no longer needed ({0})")]
    NoFreeSender(String),
    #[error("Postgres {0} is too old: walcast needs 14 or newer")]
    ServerTooOld(String),
    #[error("wal_level is {0:?}: set wal_level = logical in postgresql.conf and restart Postgres")]
    WalLevel(String),

    #[error(
        "no replication slot is free: raise max_replication_slots, or drop a slot that is no longer needed (SELECT * FROM pg_replication_slots)"
    )]
    NoFreeSlot,
    #[error("{0:?} is not a slot name: use lower-case letters, digits and underscores, at most 63")]
    SlotName(String),
    #[error("no transaction ends after {0} in what the slot has: is it the position that walcast named?")]
    NothingAfter(Lsn),
    #[error("there is no replication slot {0:?}")]
    SlotMissing(String),
    #[error(
        "the slot {slot:?} is in use by process {pid}: another walcast? Stop it, or SELECT pg_terminate_backend({pid}), or choose another --slot"
    )]
    SlotInUse { slot: String, pid: i32 },
    #[error(
        "the slot {slot:?} is lost ({reason}): Postgres removed WAL it needed. Changes since {confirmed} cannot be had; `walcast slot drop`, then start again (and see max_slot_wal_keep_size)"
    )]
    SlotLost { slot: String, reason: String, confirmed: Lsn },
    #[error(
        "the server is a standby: walcast reads from the primary, and waits until this one is promoted, or --database-url leads to another"
    )]
    Standby,
    #[error("the slot {slot:?} belongs to the plugin {plugin:?}, not to pgoutput: choose another --slot")]
    SlotOfAnotherPlugin { slot: String, plugin: String },
    #[error("the slot {slot:?} belongs to the database {database:?}: choose another --slot")]
    SlotOfAnotherDatabase { slot: String, database: String },
    #[error(
        "the slot {slot:?} is permanent, but a temporary one was asked for: choose another --slot, or `walcast slot drop`"
    )]
    SlotIsPermanent { slot: String },
    #[error(
        "creating the slot {slot:?} waits for open transactions; gave up after {limit:?}. Held up by: {}",
        held_up_by(holders)
    )]
    SlotCreationHeldUp { slot: String, limit: Duration, holders: Vec<Holder> },
    #[error("the publication {name:?} does not exist: {statement}")]
    NoPublication { name: String, statement: String },

    #[error(
        "the server has the system identifier {found}, before it was {expected}: another cluster answers now, and everything begins anew there"
    )]
    OtherCluster { expected: String, found: String },
    #[error(
        "the server's WAL ends at {end}, before {received} which was read already: it was restored from a backup, and everything begins anew at the slot's position"
    )]
    HistoryRewound { end: Lsn, received: Lsn },
    #[error(
        "the server is on timeline {timeline}, which left the one before at {common}, before {received} which was read already: a standby that lagged took over. Everything begins anew at the slot's position"
    )]
    HistoryForked { timeline: u32, common: Lsn, received: Lsn },
    #[error("a frame near {position} cannot be decoded")]
    Undecodable { position: Lsn, source: DecodeError },
    #[error(
        "the stream fails again and again at {position} ({attempts} times): mend the cause, or leave the position with `walcast slot skip --past {position}`, which gives that transaction up"
    )]
    Stuck { position: Lsn, attempts: u32, source: Box<Error> },
}

fn held_up_by(holders: &[Holder]) -> String {
    match holders {
        [] => "unknown".to_owned(),
        some => some.iter().map(Holder::to_string).collect::<Vec<_>>().join("; "),
    }
}

impl Error {
    /// Whether trying again may help without anybody doing anything. The one place that decides it.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Connect { .. }
            | Error::ConnectTimeout { .. }
            | Error::Io(_)
            | Error::Closed
            | Error::Silent(_)
            | Error::ServerStopping
            | Error::NoFreeSender(_)
            // The old session of our own may live until wal_sender_timeout; the old relay of a rolling deploy, too.
            | Error::SlotInUse { .. }
            | Error::SlotCreationHeldUp { .. }
            // In the midst of a failover.
            | Error::Standby
            // Retried from the last position handed over; one that recurs there becomes `Stuck`.
            | Error::Malformed(_)
            | Error::Undecodable { .. } => true,
            Error::Server(error) => error.is_transient(),
            Error::Sql(error) => match error.as_db_error() {
                Some(db) => ServerError::from(db).is_transient(),
                None => error.is_closed() || std::error::Error::source(error).is_some_and(|s| s.is::<io::Error>()),
            },
            Error::Conninfo(_)
            | Error::Tls(_)
            | Error::Protocol(_)
            | Error::Authentication(_)
            | Error::PasswordMissing
            | Error::Scram(_)
            | Error::NoChannelBinding
            | Error::NoReplicationPrivilege { .. }
            | Error::Pooler(_)
            | Error::ServerTooOld(_)
            | Error::WalLevel(_)
            | Error::NoFreeSlot
            | Error::SlotName(_)
            | Error::SlotMissing(_)
            | Error::NothingAfter(_)
            | Error::SlotLost { .. }
            | Error::SlotOfAnotherPlugin { .. }
            | Error::SlotOfAnotherDatabase { .. }
            | Error::SlotIsPermanent { .. }
            | Error::NoPublication { .. }
            | Error::OtherCluster { .. }
            | Error::HistoryRewound { .. }
            | Error::HistoryForked { .. }
            | Error::Stuck { .. } => false,
        }
    }

    /// Whether what is known of the database is of another history: nothing of it may be used, and beginning anew helps.
    pub fn is_of_another_history(&self) -> bool {
        matches!(self, Error::OtherCluster { .. } | Error::HistoryRewound { .. } | Error::HistoryForked { .. })
    }

    /// Postgres' own error code, where Postgres said it.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Server(error) => Some(&error.sqlstate),
            Error::Sql(error) => error.code().map(|code| code.code()),
            _ => None,
        }
    }

    /// An error and its causes in one line, for logs.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Self {
        Error::Server(Box::new(error))
    }
}
