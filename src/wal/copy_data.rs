//! What flows inside the CopyBoth stream (manual: "Streaming Replication Protocol").

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};

use super::Lsn;
use super::cursor::{Cursor, DecodeError, Fault};

/// A message of the walsender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyData {
    XLogData { wal_start: Lsn, wal_end: Lsn, data: Bytes },
    KeepAlive { wal_end: Lsn, reply_requested: bool },
}

/// Tag, start, end, clock.
const XLOG_DATA_HEADER_BYTES: usize = 25;

impl CopyData {
    pub(super) fn parse(body: &Bytes) -> Result<CopyData, DecodeError> {
        let mut cursor = Cursor::new(body);
        match cursor.u8("replication message tag")? {
            b'w' => {
                let wal_start = Lsn(cursor.u64("WAL start")?);
                let wal_end = Lsn(cursor.u64("WAL end")?);
                cursor.u64("server clock")?;
                Ok(CopyData::XLogData { wal_start, wal_end, data: body.slice(XLOG_DATA_HEADER_BYTES..) })
            }
            b'k' => {
                let wal_end = Lsn(cursor.u64("WAL end")?);
                cursor.u64("server clock")?;
                Ok(CopyData::KeepAlive { wal_end, reply_requested: cursor.u8("reply request")? != 0 })
            }
            tag => Err(DecodeError { offset: 0, what: Fault::Unknown("replication message tag", tag) }),
        }
    }
}

/// A standby status update, framed as CopyData. `flushed` is what the slot is confirmed with.
pub(super) fn status_update(received: Lsn, flushed: Lsn, ask_for_reply: bool, out: &mut BytesMut) {
    out.put_u8(b'd');
    out.put_u32(4 + 34);
    out.put_u8(b'r');
    out.put_u64(received.0);
    out.put_u64(flushed.0);
    out.put_u64(flushed.0);
    out.put_i64(postgres_clock(SystemTime::now()));
    out.put_u8(u8::from(ask_for_reply));
}

/// Microseconds since 2000-01-01 00:00 UTC. Postgres shows it in `pg_stat_replication.reply_time`, nothing more.
fn postgres_clock(now: SystemTime) -> i64 {
    const UNIX_TO_POSTGRES_SECONDS: i64 = 946_684_800;
    let unix = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_micros()).unwrap_or(i64::MAX).saturating_sub(UNIX_TO_POSTGRES_SECONDS * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walsenders_messages_are_read_and_their_prefixes_refused() {
        let keepalive = [b"k".as_slice(), &5u64.to_be_bytes(), &[0; 8], &[1]].concat();
        let parsed = CopyData::parse(&keepalive.clone().into()).unwrap();
        assert_eq!(parsed, CopyData::KeepAlive { wal_end: Lsn(5), reply_requested: true });
        let data = [b"w".as_slice(), &3u64.to_be_bytes(), &4u64.to_be_bytes(), &[0; 8], b"B"].concat();
        let parsed = CopyData::parse(&data.clone().into()).unwrap();
        assert_eq!(parsed, CopyData::XLogData { wal_start: Lsn(3), wal_end: Lsn(4), data: Bytes::from_static(b"B") });
        for (message, header) in [(keepalive, 18), (data, XLOG_DATA_HEADER_BYTES)] {
            for end in 0..header {
                assert!(CopyData::parse(&Bytes::copy_from_slice(&message[..end])).is_err(), "{end}");
            }
        }
        assert!(CopyData::parse(&Bytes::from_static(b"x")).is_err());
    }

    #[test]
    fn a_status_is_39_bytes_and_asks_for_a_reply_in_the_last() {
        let mut out = BytesMut::new();
        status_update(Lsn(2), Lsn(1), true, &mut out);
        assert_eq!(out.len(), 39);
        assert_eq!((out[0], out[38]), (b'd', 1));
        assert_eq!(postgres_clock(UNIX_EPOCH), -946_684_800_000_000);
    }
}
