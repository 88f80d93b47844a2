//! Startup and authentication of a replication connection.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::frontend;

use super::connection::Connection;
use super::conninfo::{ChannelBinding, Conninfo};
use super::cursor::Cursor;
use super::error::Error;
use super::server_error::ServerError;

/// The settings under which the stream's text values are written. Whatever the role, the database or
/// `postgresql.conf` say: the same row gives the same bytes.
const PINNED: &[(&str, &str)] = &[
    ("replication", "database"),
    ("client_encoding", "UTF8"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    // Above 0 all mean the shortest text that reads back exactly.
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmlbinary", "base64"),
    ("lc_monetary", "C"),
    // `regclass` and its like are written with their schemas.
    ("search_path", ""),
    // What would be hidden by a policy is an error, not an absence.
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_read_only", "off"),
];

/// The same settings for an ordinary session, so that it writes values as the stream does.
pub(crate) fn output_settings_sql() -> String {
    let settings = PINNED.iter().filter(|(name, _)| !matches!(*name, "replication" | "client_encoding"));
    let statements: Vec<_> = settings.map(|(name, value)| format!("set {name} = '{value}'")).collect();
    statements.join("; ")
}

/// Logs in. Afterwards the connection takes queries.
pub(super) async fn log_in(
    connection: &mut Connection,
    conninfo: &Conninfo,
    lock_timeout_ms: u128,
) -> Result<(), Error> {
    let lock_timeout = lock_timeout_ms.to_string();
    let mut parameters = vec![("user", conninfo.user.as_str()), ("database", &conninfo.dbname)];
    parameters.push(("application_name", &conninfo.application_name));
    if let Some(options) = &conninfo.options {
        parameters.push(("options", options));
    }
    parameters.extend_from_slice(PINNED);
    parameters.push(("lock_timeout", &lock_timeout));
    let mut out = BytesMut::new();
    frontend::startup_message(parameters, &mut out)?;
    connection.write(&out).await?;
    authenticate(connection, conninfo).await.map_err(|error| refused(error, conninfo))?;
    connection.until_ready().await.map_err(|error| refused(error, conninfo))
}

/// Names what a refusal at login means.
fn refused(error: Error, conninfo: &Conninfo) -> Error {
    let Error::Server(server) = error else { return error };
    let names = |word: &str| server.message.contains(word);
    match server.sqlstate.as_str() {
        "42501" => Error::NoReplicationPrivilege { user: conninfo.user.clone() },
        // The setting's name is in the text in every language.
        "53300" if names("max_wal_senders") => Error::NoFreeSender(server.message.clone()),
        // PgBouncer: "unsupported startup parameter: replication". Supavisor and others speak likewise.
        "08P01" if names("startup parameter") || names("replication") => Error::Pooler(server.message.clone()),
        _ => Error::Server(server),
    }
}

async fn authenticate(connection: &mut Connection, conninfo: &Conninfo) -> Result<(), Error> {
    let bound = conninfo.channel_binding == ChannelBinding::Require;
    loop {
        let (tag, body) = connection.receive().await?;
        match tag {
            b'R' => {}
            b'E' => return Err(ServerError::parse(&body)?.into()),
            b'v' => continue, // NegotiateProtocolVersion: we ask for 3.0 and nothing else.
            b'N' => continue,
            _ => return Err(Error::Protocol(format!("message {:?} during login", char::from(tag)))),
        }
        let mut cursor = Cursor::new(&body);
        match cursor.i32("authentication request")? {
            // Reached only where SCRAM with channel binding did not run: see `scram`, which returns.
            0 | 3 | 5 if bound => return Err(Error::NoChannelBinding),
            0 => return Ok(()),
            3 => send_password(connection, password(conninfo)?.as_bytes()).await?,
            5 => {
                let salt = cursor.u32("MD5 salt")?.to_be_bytes();
                let hash = md5_hash(conninfo.user.as_bytes(), password(conninfo)?.as_bytes(), salt);
                send_password(connection, hash.as_bytes()).await?;
            }
            10 => return scram(connection, conninfo, cursor).await,
            2 => return Err(Error::Authentication("Kerberos V5")),
            7 => return Err(Error::Authentication("GSSAPI")),
            9 => return Err(Error::Authentication("SSPI")),
            _ => return Err(Error::Authentication("an unknown kind of")),
        }
    }
}

fn password(conninfo: &Conninfo) -> Result<&str, Error> {
    conninfo.password.as_ref().map(|password| password.expose()).ok_or(Error::PasswordMissing)
}

async fn send_password(connection: &mut Connection, password: &[u8]) -> Result<(), Error> {
    let mut out = BytesMut::new();
    frontend::password_message(password, &mut out)?;
    connection.write(&out).await
}

/// SCRAM-SHA-256, bound to the TLS session where both sides can.
async fn scram(connection: &mut Connection, conninfo: &Conninfo, mut offered: Cursor<'_>) -> Result<(), Error> {
    let password = password(conninfo)?;
    let (mut plain, mut plus) = (false, false);
    while offered.remaining() > 0 {
        match offered.text("SASL mechanism")? {
            "" => break,
            sasl::SCRAM_SHA_256 => plain = true,
            sasl::SCRAM_SHA_256_PLUS => plus = true,
            _ => {}
        }
    }
    let wanted = conninfo.channel_binding != ChannelBinding::Disable;
    let end_point = connection.server_end_point().filter(|_| wanted);
    let (mechanism, binding) = match end_point {
        Some(hash) if plus => (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash)),
        _ if conninfo.channel_binding == ChannelBinding::Require => return Err(Error::NoChannelBinding),
        // "y": we could have, the server did not offer it. It refuses if in truth it did (a downgrade).
        Some(_) if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        None if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        _ => return Err(Error::Authentication("an unknown SASL")),
    };
    let mut scram = ScramSha256::new(password.as_bytes(), binding);
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(mechanism, scram.message(), &mut out)?;
    connection.write(&out).await?;
    let first = sasl_message(connection, 11).await?;
    scram.update(&first).map_err(Error::Scram)?;
    out.clear();
    frontend::sasl_response(scram.message(), &mut out)?;
    connection.write(&out).await?;
    let last = sasl_message(connection, 12).await?;
    // The server proves that it knows the password, too. Only now is it believed.
    scram.finish(&last).map_err(Error::Scram)?;
    match connection.receive().await? {
        (b'R', body) if body[..] == [0; 4] => Ok(()),
        (b'E', body) => Err(ServerError::parse(&body)?.into()),
        (tag, _) => Err(Error::Protocol(format!("message {:?} after SCRAM", char::from(tag)))),
    }
}

async fn sasl_message(connection: &mut Connection, expected: i32) -> Result<Vec<u8>, Error> {
    let (tag, body) = connection.receive().await?;
    if tag == b'E' {
        return Err(ServerError::parse(&body)?.into());
    }
    let mut cursor = Cursor::new(&body);
    match (tag, cursor.i32("authentication request")?) {
        (b'R', kind) if kind == expected => Ok(cursor.rest().to_vec()),
        _ => Err(Error::Protocol(format!("message {:?} during SCRAM", char::from(tag)))),
    }
}
