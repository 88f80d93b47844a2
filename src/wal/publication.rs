//! The publications that the stream is asked for.

use super::connection::Connection;
use super::error::Error;

/// Whether walcast's own publication can be read, given that the user's exists.
///
/// Asked before every stream: `START_REPLICATION` takes any name, and fails at the first change.
pub(super) async fn check(
    connection: &mut Connection,
    publication: &str,
    own_publication: Option<&str>,
) -> Result<bool, Error> {
    let rows = connection.query("SELECT pubname FROM pg_catalog.pg_publication").await?;
    let exists = |name: &str| rows.iter().any(|row| row.get("pubname") == Some(name));
    if !exists(publication) {
        return Err(missing(publication));
    }
    match own_publication {
        Some(own) if !exists(own) => {
            tracing::warn!(
                publication = own,
                "walcast's own publication does not exist: policy changes are noticed by polling alone; \
                 run `walcast setup`"
            );
            Ok(false)
        }
        own => Ok(own.is_some()),
    }
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
