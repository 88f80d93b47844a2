//! Rooms working together on a real Postgres, up to the whole relay as a spawned binary.

mod broadcast;
mod catalog;
mod chat;
mod chat_example;
mod chat_script;
mod check;
mod churn;
mod clients;
mod database_broadcast;
mod ddl_log;
mod delete_index;
mod delivery;
mod dropin;
mod explain;
mod floods;
mod followed;
mod function_bodies;
mod hard_frames;
mod hostile;
mod in_progress;
mod joins;
mod keys;
mod licences;
mod limits;
mod log_level;
mod meanings;
mod mistakes;
mod oracle;
mod oracle_columns;
mod oracle_merging;
mod oracle_policies;
mod original_wrong;
mod place;
mod policy_trees;
mod presence;
mod replay_messages;
mod replication;
mod replication_errors;
mod replication_login;
mod replication_shutdown;
mod rest;
mod rest_delivery;
mod resume;
mod setup;
mod slot_command;
mod slot_takeover;
mod tail;
mod tls;
mod topic_policies;
mod tracked;
mod tracked_live;
mod tracking;
mod walcast_send;
mod watcher;
mod websocket;

use crate::support::database::Database;

#[tokio::test]
async fn a_database_of_ones_own_has_logical_wal() {
    let database = Database::create().await;
    let row = database.client.query_one("show wal_level", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "logical");
}
