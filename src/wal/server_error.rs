//! An error as Postgres reports it.

use super::Lsn;
use super::cursor::{Cursor, DecodeError};

/// The fields of an ErrorResponse or NoticeResponse that somebody reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error(
    "Postgres: {message} (SQLSTATE {sqlstate}){}{}",
    detail.iter().map(|d| format!(" DETAIL: {d}")).collect::<String>(),
    hint.iter().map(|h| format!(" HINT: {h}")).collect::<String>()
)]
pub struct ServerError {
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Where in the server it happened; the walsender names the position there.
    pub context: Option<String>,
}

impl ServerError {
    /// Reads the body of an ErrorResponse.
    pub(super) fn parse(body: &[u8]) -> Result<ServerError, DecodeError> {
        let mut cursor = Cursor::new(body);
        let mut error = ServerError::default();
        loop {
            let field = cursor.u8("error field")?;
            if field == 0 {
                return Ok(error);
            }
            // Before the encoding is agreed on (a login that fails) the text may be in any.
            let text = String::from_utf8_lossy(cursor.cstr("error text")?).into_owned();
            match field {
                b'V' => error.severity = text,
                // The localised severity; `V` is always English (9.6 and newer).
                b'S' if error.severity.is_empty() => error.severity = text,
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'W' => error.context = Some(text),
                _ => {}
            }
        }
    }

    /// Whether the condition may pass by itself.
    pub fn is_transient(&self) -> bool {
        let class = self.sqlstate.get(..2).unwrap_or_default();
        match self.sqlstate.as_str() {
            // "All replication slots are in use" and the like: somebody has to change a setting.
            "53400" => false,
            // object_in_use, lock_not_available, query_canceled (our own bound, or an impatient DBA).
            "55006" | "55P03" | "57014" => true,
            // database_dropped.
            "57P04" => false,
            // Connection, rollback, resources, operator intervention, system error.
            _ => matches!(class, "08" | "40" | "53" | "57" | "58"),
        }
    }

    /// The position that the walsender was decoding: `... in the change callback, associated LSN 0/1549B58`.
    ///
    /// The words are localised, so the last thing that looks like a position is taken.
    pub fn associated_lsn(&self) -> Option<Lsn> {
        let context = self.context.as_deref()?;
        context.rsplit(|c: char| c.is_whitespace() || c == ',' || c == '.').find_map(|word| word.parse().ok())
    }
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        ServerError {
            severity: error.severity().to_owned(),
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
            context: error.where_().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walsenders_context_names_the_position() {
        let body = b"SERROR\0VERROR\0C42704\0Mpublication \"p\" does not exist\0\
                     Wslot \"s\", output plugin \"pgoutput\", in the change callback, associated LSN 0/1549B58\0\0";
        let error = ServerError::parse(body).unwrap();
        assert_eq!(error.associated_lsn(), Some(Lsn(0x0154_9B58)));
        assert_eq!(error.to_string(), "Postgres: publication \"p\" does not exist (SQLSTATE 42704)");
        for end in 0..body.len() {
            assert!(ServerError::parse(&body[..end]).is_err());
        }
    }

    #[test]
    fn a_server_that_stops_or_starts_is_waited_for_and_a_wrong_password_is_not() {
        let transient = |sqlstate: &str| ServerError { sqlstate: sqlstate.into(), ..Default::default() }.is_transient();
        for sqlstate in ["57P01", "57P02", "57P03", "53300", "08006", "55006"] {
            assert!(transient(sqlstate), "{sqlstate}");
        }
        for sqlstate in ["28P01", "28000", "3D000", "42501", "42704", "53400", "57P04", "", "x"] {
            assert!(!transient(sqlstate), "{sqlstate}");
        }
    }
}
