//! walcast relays Postgres changes to the people allowed to see them.
//!
//! The rooms, in the order in which the data walks through them. A room knows only the rooms above it.
//!
//! | room | given | gives |
//! |---|---|---|
//! | [`wal`] | a replication connection | raw `pgoutput` frames, and the one place that confirms the slot |
//! | [`catalog`] | an ordinary connection, `walcast.ddl_log` rows | immutable [`catalog::Catalog`] snapshots |
//! | [`change`] | frames and a catalog | [`change::Transaction`]s of [`change::Change`]s |
//! | [`routing`] | a change | the subscriptions that it matches; knows no people |
//! | [`authz`] | an identity and row images | allowed or denied; knows no subscriptions |
//! | [`encode`] | a change and a projection | the JSON bytes of it |
//! | [`resume`] | heartbeats | up to where each resuming client has handled what it was sent |
//! | [`channels`] | client frames | Phoenix sessions without I/O, and outboxes |
//! | [`dispatch`] | all of the above | match, authorize, encode, deliver, confirm |
//! | [`server`] | sockets | WebSockets, health, metrics |
//! | [`replayer`] | an ordinary connection | what was broadcast from the database before |
//! | [`check`] | a conninfo | what works, what does not, and the statement that mends it |
//! | [`explain`] | a row and a person | each gate's verdict on showing it |
//! | [`setup`] | an administrator's connection | what walcast needs in a database, and its removal |
//!
//! [`relay`] is the composition root: the only file that wires tasks together.

pub mod authz;
pub mod catalog;
pub mod causes;
pub mod change;
pub mod channels;
pub mod check;
pub mod cli;
pub mod config;
pub mod demo;
pub mod dispatch;
pub mod encode;
pub mod explain;
pub mod relay;
pub mod replayer;
pub mod resume;
pub mod routing;
pub mod serve;
pub mod server;
pub mod setup;
pub mod shutdown;
pub mod slot_command;
pub mod tail;
pub mod upkeep;
pub mod wal;
