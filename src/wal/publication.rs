//! The publications that the stream is asked for.

use tokio_postgres::Client;

use super::connection::Connection;
use super::error::Error;

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
}

impl Own {
    const SQL: &str = include_str!("../../sql/own_publication.sql");

    pub async fn look(client: &Client) -> Result<Own, tokio_postgres::Error> {
        let row = client.query_one(Own::SQL, &[]).await?;
        Ok(Own { published: row.try_get(0)?, logged: row.try_get(1)?, strangers: row.try_get(2)? })
    }

    pub fn is_trusted(&self) -> bool {
        self.published && self.strangers.is_none()
    }
}

/// Whether walcast's own publication can be read, given that the user's exists.
///
/// Asked before every stream: `START_REPLICATION` takes any name, and fails at the first change.
pub(super) async fn check(
    connection: &mut Connection,
    publication: &str,
    own_publication: Option<&str>,
) -> Result<bool, Error> {
    let rows = connection.query("SELECT pubname FROM pg_catalog.pg_publication").await?;
    if !rows.iter().any(|row| row.get("pubname") == Some(publication)) {
        return Err(missing(publication));
    }
    let Some(name) = own_publication else { return Ok(false) };
    let rows = connection.query(Own::SQL).await?;
    let value = |column: &str| rows.first().and_then(|row| row.get(column));
    let own = Own {
        published: value("published") == Some("t"),
        logged: value("logged") == Some("t"),
        strangers: value("strangers").map(str::to_owned),
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
    Ok(own.is_trusted())
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
