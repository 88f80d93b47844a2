//! The row in question, as the stream would carry it.

use std::sync::Arc;

use serde_json::Value;
use tokio_postgres::Client;

use super::{Case, Error};
use crate::catalog::{ColumnIndex, Relation, quote_identifier};
use crate::change::{Layout, Row};
use crate::wal::pgoutput::Tuple;

/// Reads the row of the key; `None`: there is none.
pub(super) async fn read(client: &Client, case: &Case<'_>) -> Result<Option<Row>, Error> {
    let relation = case.relation;
    let key = key(relation, &case.question.key).map_err(|why| Error::Key(case.question.key.clone(), why))?;
    // The settings that the stream pins; row_security off fails instead of hiding.
    client
        .batch_execute(
            "set row_security = off; set timezone = 'UTC'; set datestyle = 'ISO'; set intervalstyle = 'postgres'; \
             set extra_float_digits = 3; set bytea_output = 'hex'; set lc_monetary = 'C'; set search_path = ''",
        )
        .await?;
    let name = |column: ColumnIndex| quote_identifier(&relation.column(column).name);
    let columns: Vec<String> = relation.indices().map(|column| format!("t.{}::text", name(column))).collect();
    // Compared as text is written: the type's own input reads what the user typed.
    let conditions: Vec<String> = (1..)
        .zip(&key)
        .map(|(n, (column, _))| format!("t.{} = ${n}::text::{}", name(*column), type_of(case, *column)))
        .collect();
    let sql = format!(
        "select {} from {} as t where {} limit 1",
        columns.join(", "),
        relation.sql_name(),
        conditions.join(" and ")
    );
    let values: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = key.iter().map(|(_, value)| value as _).collect();
    let row = client.query_opt(&sql, &values).await?;
    Ok(row.map(|row| {
        let values: Vec<Option<&str>> = (0..row.len()).map(|place| row.get(place)).collect();
        let layout = Arc::new(Layout::identity(Arc::clone(relation)));
        let tuple = Tuple::from_values(values.iter().map(|value| value.map(str::as_bytes)));
        Row { layout, tuple, key_only: false }
    }))
}

fn type_of(case: &Case<'_>, column: ColumnIndex) -> String {
    let oid = case.relation.column(column).type_oid;
    case.catalog.types.get(&oid).map_or_else(|| "text".to_owned(), |known| known.sql_name.clone())
}

/// The columns of a key and their texts.
fn key(relation: &Relation, text: &str) -> Result<Vec<(ColumnIndex, String)>, String> {
    let written = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Ok(Value::Object(columns)) = serde_json::from_str(text) {
        let column = |(name, value): (&String, &Value)| {
            let column = relation.column_named(name).ok_or_else(|| format!("the table has no column {name:?}"))?;
            Ok((column, written(value)))
        };
        let key: Vec<_> = columns.iter().map(column).collect::<Result<_, String>>()?;
        return if key.is_empty() { Err("no column is named".to_owned()) } else { Ok(key) };
    }
    match relation.primary_key[..] {
        [column] => Ok(vec![(column, text.to_owned())]),
        [] => Err("the table has no primary key: name columns, e.g. {\"id\": 1}".to_owned()),
        _ => Err("the primary key has several columns: name them, e.g. {\"a\": 1, \"b\": 2}".to_owned()),
    }
}
