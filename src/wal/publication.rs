//! The publications that the stream is asked for.

use tokio_postgres::Client;

use super::connection::Connection;
use super::error::Error;
use super::logical::BroadcastKey;
use super::pgoutput::RelationId;

/// What walcast has of its own in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// There is a publication `walcast`.
    pub published: bool,
    /// There is a table `walcast.ddl_log`.
    pub logged: bool,
    /// What of it belongs to somebody whom nobody has made responsible for this database: none of it is to be believed,
    /// nor called. See the query.
    pub strangers: Option<String>,
    /// The same of the schema `realtime` and of `realtime.messages`.
    pub realtime_strangers: Option<String>,
    /// `realtime.messages`, if it is there and no stranger's: what is inserted there is broadcast.
    pub messages: Option<RelationId>,
    /// There is a key that `walcast.send` signs with.
    pub signs: bool,
}

impl Own {
    const SQL: &str = include_str!("../../sql/own_publication.sql");

    pub async fn look(client: &Client) -> Result<Own, tokio_postgres::Error> {
        let row = client.query_one(Own::SQL, &[]).await?;
        Ok(Own {
            published: row.try_get(0)?,
            logged: row.try_get(1)?,
            strangers: row.try_get(2)?,
            realtime_strangers: row.try_get(3)?,
            messages: row.try_get::<_, Option<u32>>(4)?.map(RelationId),
            signs: row.try_get(5)?,
        })
    }

    pub fn is_trusted(&self) -> bool {
        self.published && self.strangers.is_none()
    }
}

/// What of walcast's own can be read, given that the user's publication exists.
///
/// Asked before every stream: `START_REPLICATION` takes any name, and fails at the first change.
pub(super) async fn check(
    connection: &mut Connection,
    publication: &str,
    own_publication: Option<&str>,
) -> Result<Own, Error> {
    let rows = connection.query("SELECT pubname FROM pg_catalog.pg_publication").await?;
    if !rows.iter().any(|row| row.get("pubname") == Some(publication)) {
        return Err(missing(publication));
    }
    let Some(name) = own_publication else { return Ok(Own::default()) };
    let rows = connection.query(Own::SQL).await?;
    let value = |column: &str| rows.first().and_then(|row| row.get(column));
    let own = Own {
        published: value("published") == Some("t"),
        logged: value("logged") == Some("t"),
        strangers: value("strangers").map(str::to_owned),
        realtime_strangers: value("realtime_strangers").map(str::to_owned),
        messages: value("messages").and_then(|oid| oid.parse().ok()).map(RelationId),
        signs: value("signs") == Some("t"),
    };
    if let Some(strangers) = &own.strangers {
        tracing::error!(
            strangers,
            "walcast's own publication is not read: it is not setup's. Policy changes are noticed by polling alone; \
             see walcast check"
        );
    } else if !own.published {
        tracing::warn!(
            publication = name,
            "walcast's own publication does not exist: policy changes are noticed by polling alone; \
             run `walcast setup`"
        );
    }
    if let Some(strangers) = &own.realtime_strangers {
        tracing::error!(strangers, "nothing is broadcast from realtime.messages: it is neither setup's nor Supabase's");
    }
    Ok(own)
}

/// The key that `walcast.send` signs with, as far as this login may read it.
pub(super) async fn broadcast_key(connection: &mut Connection) -> Result<Option<BroadcastKey>, Error> {
    let sql = "SELECT pg_catalog.has_table_privilege('walcast.broadcast_key', 'select') AS may";
    let rows = connection.query(sql).await?;
    if rows.first().and_then(|row| row.get("may")) != Some("t") {
        tracing::warn!(
            "this login may not read the key of walcast.send, whose broadcasts are refused: run `walcast setup`"
        );
        return Ok(None);
    }
    let rows = connection.query("SELECT pg_catalog.encode(key, 'hex') AS key FROM walcast.broadcast_key").await?;
    Ok(rows.first().and_then(|row| row.get("key")).and_then(BroadcastKey::from_hex))
}

fn missing(name: &str) -> Error {
    let quoted = quote_identifier(name);
    let statement = format!(
        "CREATE PUBLICATION {quoted}; then, for each table that clients may follow, \
         ALTER PUBLICATION {quoted} ADD TABLE <schema.table> (or choose another --publication)"
    );
    Error::NoPublication { name: name.to_owned(), statement }
}

/// As `quote_ident` does, but for key words, which no publication is called.
pub(super) fn quote_identifier(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    match name.as_bytes().first() {
        Some(first) if plain && !first.is_ascii_digit() => name.to_owned(),
        _ => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_the_statement_that_mends_it() {
        let text = missing("supabase_realtime").to_string();
        assert!(text.contains("CREATE PUBLICATION supabase_realtime;"), "{text}");
        assert!(missing("My \"Pub").to_string().contains(r#"CREATE PUBLICATION "My ""Pub";"#));
    }
}
