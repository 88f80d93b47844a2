//! The types of a database as the catalog room describes them, read by the tests' own query.

use std::sync::Arc;

use tokio_postgres::Client;
use walcast::catalog::{Catalog, PgType, TypeKind};

const TYPES: &str = "
select t.oid, n.nspname::text, t.typname::text, t.oid::regtype::text, t.typtype::text, t.typbasetype,
       case when t.typsubscript = 'array_subscript_handler'::regproc then t.typelem else 0 end,
       coalesce((select e.typdelim::text from pg_type e where e.oid = t.typelem), ','),
       array(select enumlabel::text from pg_enum where enumtypid = t.oid order by enumsortorder),
       array(select attname::text from pg_attribute
             where attrelid = t.typrelid and attnum > 0 and not attisdropped order by attnum),
       array(select atttypid from pg_attribute
             where attrelid = t.typrelid and attnum > 0 and not attisdropped order by attnum),
       exists (select from pg_cast where castsource = t.oid and casttarget = 'json'::regtype and castmethod = 'f'
               and t.oid >= 16384)
from pg_type t join pg_namespace n on n.oid = t.typnamespace";

pub(super) async fn load(client: &Client) -> Catalog {
    let mut catalog = Catalog::default();
    for row in client.query(TYPES, &[]).await.expect("pg_type") {
        let (base, element): (u32, u32) = (row.get(5), row.get(6));
        let kind = match row.get::<_, &str>(4) {
            "b" if element != 0 => TypeKind::Array { element, delimiter: row.get::<_, &str>(7).as_bytes()[0] },
            "b" => TypeKind::Base,
            "e" => TypeKind::Enum { labels: row.get(8), label_oids: Vec::new() },
            "d" => TypeKind::Domain { base },
            "c" => {
                let (names, types): (Vec<String>, Vec<u32>) = (row.get(9), row.get(10));
                TypeKind::Composite { attributes: names.into_iter().zip(types).collect() }
            }
            "r" => TypeKind::Range,
            "m" => TypeKind::Multirange,
            _ => TypeKind::Pseudo,
        };
        let pg_type = PgType {
            oid: row.get(0),
            schema: row.get(1),
            name: row.get(2),
            sql_name: row.get(3),
            kind,
            has_json_cast: row.get(11),
        };
        catalog.types.insert(pg_type.oid, Arc::new(pg_type));
    }
    catalog
}
