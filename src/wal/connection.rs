//! A connection in replication mode: simple queries until START_REPLICATION, a stream of frames from then on.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Lsn;
use super::conninfo::Conninfo;
use super::cursor::Cursor;
use super::error::Error;
use super::frames::{Frame, FrameBuffer};
use super::history::History;
use super::login;
use super::server_error::ServerError;
use super::transport::Transport;

/// Between two statuses there are 39 bytes to write; a peer that does not take them is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A logged-in replication connection. No released client speaks CopyBoth, so this one is our own.
pub struct Connection {
    transport: Transport,
    frames: FrameBuffer,
    /// `server_version` as reported, e.g. `15.18 (Debian 15.18-0+deb12u1)`.
    server_version: String,
    process_id: i32,
}

/// The answer to IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    pub system_identifier: String,
    pub timeline: u32,
    /// How far the server's WAL is flushed.
    pub wal_end: Lsn,
}

/// A row of a simple query's answer: column names and text values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextRow(Vec<(String, Option<String>)>);

impl TextRow {
    /// The value of a column; None if it is NULL or the server does not have the column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == column).and_then(|(_, value)| value.as_deref())
    }
}

impl From<&tokio_postgres::SimpleQueryRow> for TextRow {
    fn from(row: &tokio_postgres::SimpleQueryRow) -> Self {
        let value = |position| row.try_get(position).ok().flatten().map(str::to_owned);
        let names = row.columns().iter().enumerate();
        TextRow(names.map(|(position, column)| (column.name().to_owned(), value(position))).collect())
    }
}

impl Connection {
    /// Connects and logs in. `lock_timeout` bounds what CREATE_REPLICATION_SLOT waits for on the server.
    pub async fn open(
        conninfo: &Conninfo,
        frame_bytes_max: usize,
        lock_timeout: Duration,
    ) -> Result<Connection, Error> {
        let opening = async {
            let transport = Transport::connect(conninfo).await?;
            let frames = FrameBuffer::new(frame_bytes_max);
            let mut connection = Connection { transport, frames, server_version: String::new(), process_id: 0 };
            login::log_in(&mut connection, conninfo, lock_timeout.as_millis()).await?;
            Ok(connection)
        };
        match tokio::time::timeout(conninfo.connect_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::ConnectTimeout { address: conninfo.address(), limit: conninfo.connect_timeout }),
        }
    }

    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// 15 of `15.18 (Debian)`, 18 of `18beta1`; 0 if it does not begin with a number.
    pub fn server_major(&self) -> u32 {
        let digits = self.server_version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().unwrap_or(0)
    }

    /// The walsender's pid, as `pg_stat_replication` shows it.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    pub(super) fn server_end_point(&self) -> Option<Vec<u8>> {
        self.transport.server_end_point()
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let writing = async {
            self.transport.write_all(bytes).await?;
            self.transport.flush().await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, writing).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Error::Silent(WRITE_TIMEOUT)),
        }
    }

    /// Reads from the socket once. Safe to cancel: what was read is in the buffer, and nothing else is.
    pub(super) async fn read(&mut self) -> Result<usize, Error> {
        match self.transport.read_buf(self.frames.room()).await {
            Ok(0) => Err(Error::Closed),
            Ok(count) => Ok(count),
            // rustls reports a peer that vanished without close_notify so; Postgres never sends one.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// The next frame among those already read.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        self.frames.next()
    }

    /// The next message outside the stream. Notices and parameters are seen to here.
    pub(super) async fn receive(&mut self) -> Result<(u8, Bytes), Error> {
        loop {
            match self.next_frame()? {
                None => {
                    self.read().await?;
                }
                Some(Frame::Oversized { tag, body_bytes, .. }) => {
                    return Err(Error::Protocol(format!("message {:?} of {body_bytes} bytes", char::from(tag))));
                }
                Some(Frame::Whole { tag: b'S', body }) => {
                    let mut cursor = Cursor::new(&body);
                    if cursor.text("parameter name")? == "server_version" {
                        self.server_version = cursor.text("parameter value")?.to_owned();
                    }
                }
                Some(Frame::Whole { tag: b'N', body }) => {
                    let notice = ServerError::parse(&body)?;
                    tracing::info!(severity = notice.severity, message = notice.message, "notice from Postgres");
                }
                Some(Frame::Whole { tag, body }) => return Ok((tag, body)),
            }
        }
    }

    /// After the login: until the server takes queries.
    pub(super) async fn until_ready(&mut self) -> Result<(), Error> {
        loop {
            match self.receive().await? {
                (b'Z', _) => return Ok(()),
                (b'K', body) => self.process_id = Cursor::new(&body).i32("process id")?,
                (b'E', body) => return Err(ServerError::parse(&body)?.into()),
                (tag, _) => return Err(Error::Protocol(format!("message {:?} after login", char::from(tag)))),
            }
        }
    }

    /// A replication command or a simple query; the rows of its only result.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>, Error> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out)?;
        self.write(&out).await?;
        let mut columns = Vec::new();
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            let (tag, body) = self.receive().await?;
            match tag {
                b'T' => columns = column_names(&body)?,
                b'D' => rows.push(text_row(&columns, &body)?),
                b'C' | b'I' => {}
                b'E' => {
                    let error = ServerError::parse(&body)?;
                    // After a FATAL nothing follows.
                    if error.severity == "FATAL" || error.severity == "PANIC" {
                        return Err(error.into());
                    }
                    failed = Some(error);
                }
                b'Z' => return failed.map_or(Ok(rows), |error| Err(error.into())),
                _ => return Err(Error::Protocol(format!("message {:?} in answer to a query", char::from(tag)))),
            }
        }
    }

    pub async fn identify_system(&mut self) -> Result<SystemIdentity, Error> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let value = |column| rows.first().and_then(|row| row.get(column));
        let identity = (|| {
            Some(SystemIdentity {
                system_identifier: value("systemid")?.to_owned(),
                timeline: value("timeline")?.parse().ok()?,
                wal_end: value("xlogpos")?.parse().ok()?,
            })
        })();
        identity.ok_or_else(|| Error::Protocol("an incomplete answer to IDENTIFY_SYSTEM".to_owned()))
    }

    /// The timelines that led to the present one.
    pub async fn history(&mut self, identity: &SystemIdentity) -> Result<History, Error> {
        // The first has no file.
        if identity.timeline <= 1 {
            return History::new(identity, None);
        }
        let file = match self.query(&format!("TIMELINE_HISTORY {}", identity.timeline)).await {
            Ok(rows) => rows.first().and_then(|row| row.get("content")).map(str::to_owned),
            Err(Error::Server(error)) if error.severity == "ERROR" => {
                tracing::warn!(
                    error = error.message,
                    timeline = identity.timeline,
                    "the timeline's history cannot be read: positions on earlier timelines count for nothing"
                );
                None
            }
            Err(error) => return Err(error),
        };
        History::new(identity, file.as_deref())
    }

    /// Switches to the stream. Postgres begins at `start` or at the slot's confirmed position, whichever is later.
    /// `with_messages`: logical messages too. `in_progress`: large transactions come in part before they end.
    pub async fn start_replication(
        &mut self,
        slot: &str,
        start: Lsn,
        publications: &[&str],
        with_messages: bool,
        in_progress: bool,
    ) -> Result<(), Error> {
        let sql = start_replication_command(slot, start, publications, with_messages, in_progress);
        let mut out = BytesMut::new();
        frontend::query(&sql, &mut out)?;
        self.write(&out).await?;
        match self.receive().await? {
            (b'W', _) => Ok(()),
            (b'E', body) => Err(ServerError::parse(&body)?.into()),
            (tag, _) => Err(Error::Protocol(format!("message {:?} in answer to START_REPLICATION", char::from(tag)))),
        }
    }

    /// Says goodbye. The socket closes with the drop.
    pub(super) async fn terminate(mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        // Whether it arrives or not, the socket is closed next.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.write(&out)).await;
    }
}

fn start_replication_command(
    slot: &str,
    start: Lsn,
    publications: &[&str],
    with_messages: bool,
    in_progress: bool,
) -> String {
    // A list of identifiers inside a string literal: quoted as the one, then as the other.
    let names: Vec<_> = publications.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let names = names.join(",").replace('\'', "''");
    let messages = if with_messages { ", messages 'true'" } else { "" };
    // What was sent at the commit all others would wait for.
    let streaming = if in_progress { ", streaming 'on'" } else { "" };
    format!(
        "START_REPLICATION SLOT \"{slot}\" LOGICAL {start} (proto_version '2'{streaming}, publication_names '{names}'{messages})"
    )
}

fn column_names(body: &[u8]) -> Result<Vec<String>, Error> {
    let mut cursor = Cursor::new(body);
    let count = cursor.count16("column count")?;
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        names.push(cursor.text("column name")?.to_owned());
        // Table OID, column number, type OID, type length, type modifier, format.
        cursor.take(18, "column description")?;
    }
    Ok(names)
}

fn text_row(columns: &[String], body: &[u8]) -> Result<TextRow, Error> {
    let mut cursor = Cursor::new(body);
    let count = cursor.count16("value count")?;
    let mut row = Vec::with_capacity(count);
    for position in 0..count {
        let value = match cursor.i32("value length")? {
            // -1: NULL.
            ..0 => None,
            len => Some(String::from_utf8_lossy(cursor.take(len as usize, "value")?).into_owned()),
        };
        row.push((columns.get(position).cloned().unwrap_or_default(), value));
    }
    Ok(TextRow(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publication_names_are_quoted_twice() {
        assert_eq!(
            start_replication_command("walcast", Lsn(0x16_B374_D848), &["it's", "a\"b"], false, true),
            r#"START_REPLICATION SLOT "walcast" LOGICAL 16/B374D848 (proto_version '2', streaming 'on', publication_names '"it''s","a""b"')"#
        );
    }
}
