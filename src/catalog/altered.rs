//! Tables whose columns were altered at a time that the slot may still tell of.
//!
//! At its start the relay reads the catalog as it is, and then the stream from where the slot is, which is earlier. What a
//! table's columns were in between the stream does not say: names and types pass from one column to another.

use std::collections::HashMap;

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use crate::wal::Lsn;
use crate::wal::pgoutput::RelationId;

/// A row of `pg_attribute` is written by whoever adds, drops, renames or retypes the column. Such a transaction and one
/// that writes to the table exclude each other until their ends. Whatever is older than the slot's `catalog_xmin` had ended
/// where the slot begins, so before all that is going to be read. Half of all xids ago and older, `age` is negative. Before
/// Postgres 18 the stream has no generated columns, and none becomes one.
const ALTERED: &str = "
    select a.attrelid, a.attnum
    from pg_catalog.pg_attribute a
    join pg_catalog.pg_replication_slots s on s.slot_name = $1::text and s.database = current_database()
    where a.attrelid = any ($2::oid[]) and a.attnum > 0 and pg_catalog.age(a.xmin) between 0 and pg_catalog.age(s.catalog_xmin)
      and (a.attgenerated = '' or current_setting('server_version_num')::int >= 180000)
    order by a.attnum";
const NOW: &str =
    "select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end";

#[derive(Clone, Debug, Default)]
pub struct Altered {
    /// The numbers of such columns, in order, with those that were dropped. Others have the name and the type that they had.
    columns: HashMap<RelationId, Vec<i16>>,
    /// For transactions that are committed from here on the catalog holds that was read at the start, or a later one.
    until: Lsn,
}

impl Altered {
    /// To be asked when the catalog has been read.
    pub async fn since(
        client: &Client,
        slot: &str,
        relations: impl Iterator<Item = RelationId>,
    ) -> Result<Altered, tokio_postgres::Error> {
        let ids: Vec<u32> = relations.map(|id| id.0).collect();
        let rows = client.query(ALTERED, &[&slot, &ids]).await?;
        let mut columns: HashMap<RelationId, Vec<i16>> = HashMap::new();
        for row in &rows {
            columns.entry(RelationId(row.try_get(0)?)).or_default().push(row.try_get(1)?);
        }
        let now: Option<PgLsn> = client.query_one(NOW, &[]).await?.try_get(0)?;
        Ok(Altered { columns, until: now.map_or(Lsn(u64::MAX), |now| Lsn(now.into())) })
    }

    #[cfg(test)]
    pub fn by_hand(relation: RelationId, columns: &[i16], until: Lsn) -> Altered {
        Altered { columns: HashMap::from([(relation, columns.to_vec())]), until }
    }

    /// The numbers, in order, of the columns whose names may have been others' in a transaction that is committed there.
    pub fn columns(&self, relation: RelationId, commit_lsn: Lsn) -> &[i16] {
        let columns = self.columns.get(&relation).filter(|_| commit_lsn < self.until);
        columns.map_or(&[], Vec::as_slice)
    }

    /// The stream has told the catalog's state as of a transaction that ends there.
    pub fn told(&mut self, end_lsn: Lsn) {
        self.until = self.until.min(end_lsn);
    }
}
