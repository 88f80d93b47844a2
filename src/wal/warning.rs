//! What works, but not as its owner may expect.

use tokio_postgres::Client;

use super::error::Error;

/// A setting that costs something, and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The walsender sends what is flushed, and such commits are flushed by the walwriter in its own time.
    #[error(
        "synchronous_commit = off {scope}: changes committed so arrive about 200 ms late (half a second at worst), \
         because WAL is streamed once it is flushed. Set it on where latency matters"
    )]
    SynchronousCommitOff { scope: String },
}

/// Looks over an ordinary connection for what costs latency.
pub async fn look(client: &Client) -> Result<Vec<Warning>, Error> {
    // The server's own value rather than this session's; then what roles and databases have of their own.
    let rows = client
        .query(
            "SELECT 'in the server''s configuration' FROM pg_settings \
             WHERE name = 'synchronous_commit' AND reset_val = 'off' AND source NOT IN ('database', 'user', 'database user') \
             UNION ALL \
             SELECT concat_ws(' ', 'for', 'the role ' || r.rolname, 'the database ' || d.datname) \
             FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole \
             LEFT JOIN pg_database d ON d.oid = s.setdatabase \
             WHERE 'synchronous_commit=off' = ANY (s.setconfig) \
             AND (s.setdatabase = 0 OR d.datname = current_database())",
            &[],
        )
        .await?;
    rows.iter().map(|row| Ok(Warning::SynchronousCommitOff { scope: row.try_get(0)? })).collect()
}
