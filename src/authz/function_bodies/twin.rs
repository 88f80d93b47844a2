//! One function's twin, made and rolled back.

use std::collections::{HashMap, HashSet};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Transaction};

use super::source::Source;
use crate::catalog::relation::quote_identifier;
use crate::catalog::{Function, Oid};

/// A function as the database has it now.
pub(super) struct Signature {
    arguments: String,
    result: String,
    pub(super) source: String,
}

impl Signature {
    /// Under a search_path of `pg_catalog`, so that every other type is printed with its schema.
    pub(super) async fn read(transaction: &Transaction<'_>, oids: &[Oid]) -> Result<HashMap<Oid, Signature>, Error> {
        let sql = "select oid, pg_get_function_identity_arguments(oid), coalesce(pg_get_function_result(oid), ''), prosrc \
                   from pg_proc where oid = any ($1) and prokind = 'f'";
        let rows = transaction.query(sql, &[&oids]).await?;
        let signature = |row: &tokio_postgres::Row| {
            (row.get(0), Signature { arguments: row.get(1), result: row.get(2), source: row.get(3) })
        };
        Ok(rows.iter().map(signature).collect())
    }
}

/// Why there is no tree.
pub(super) enum Failure {
    Session(Error),
    /// Postgres does not take it, or it would not mean the same.
    Refused(String),
    /// A lock, a timeout, a change: it may be different next time.
    InTheWay(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let Some(db) = error.as_db_error() else { return Failure::Session(error) };
        let passes = [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED, SqlState::T_R_DEADLOCK_DETECTED]
            .contains(db.code());
        let message = db.message().to_owned();
        if passes { Failure::InTheWay(message) } else { Failure::Refused(message) }
    }
}

/// The tree, and whether the twin has the types that the function has: their names were read under its search_path.
const TREE: &str = "
select t.oid, t.prosqlbody::text,
       t.proargtypes = f.proargtypes and t.prorettype = f.prorettype and t.proretset = f.proretset
  from pg_proc f
  join pg_proc t on t.pronamespace = pg_my_temp_schema() and t.proname = f.proname
 where f.oid = $1";

/// Of the roles $2, those under which a name of the twin $3 might be something else or nothing: which look through other
/// schemas than this role along the search_path $1, or may not use one that the body needs.
const DIFFERS: &str = "
with path(role, schemas) as (
    select r.oid, array(
        select n.oid
        from unnest($1::text[]) with ordinality s(name, place)
        join pg_namespace n on n.nspname = case s.name when '$user' then r.rolname::text else s.name end
        where has_schema_privilege(r.oid, n.oid, 'usage')
        order by s.place
    )
    from pg_roles r
    where r.oid = any ($2) or r.rolname = current_user
),
needed(schema) as (
    select coalesce(c.relnamespace, p.pronamespace, t.typnamespace, o.oprnamespace, l.collnamespace)
    from pg_depend d
    left join pg_class c on d.refclassid = 'pg_class'::regclass and c.oid = d.refobjid
    left join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
    left join pg_type t on d.refclassid = 'pg_type'::regclass and t.oid = d.refobjid
    left join pg_operator o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid
    left join pg_collation l on d.refclassid = 'pg_collation'::regclass and l.oid = d.refobjid
    where d.classid = 'pg_proc'::regclass and d.objid = $3
)
select wanted.oid, r.rolname::text,
       (select min(n.nspname::text) from needed join pg_namespace n on n.oid = needed.schema
         where not has_schema_privilege(wanted.oid, needed.schema, 'usage'))
  from unnest($2::oid[]) wanted(oid)
  left join pg_roles r on r.oid = wanted.oid
  left join path on path.role = wanted.oid
 where path.role is null
    or path.schemas is distinct from (
        select mine.schemas from path mine join pg_roles me on me.oid = mine.role where me.rolname = current_user)
    or exists (select from needed where not has_schema_privilege(wanted.oid, needed.schema, 'usage'))";

/// A function's tree.
pub(super) struct Twin {
    pub(super) tree: String,
    /// Of those who may run the function, those for whom its names may mean something else, and why.
    pub(super) elsewhere: Vec<(Oid, String)>,
}

impl Twin {
    pub(super) fn holds_for(&self, role: Oid) -> bool {
        self.elsewhere.iter().all(|(other, _)| *other != role)
    }
}

pub(super) struct Parser<'a> {
    pub(super) client: &'a mut Client,
}

impl Parser<'_> {
    /// Everything that has others' text in it goes over the extended protocol: there a request is one statement, and a
    /// body that ends its own block to begin another command is a syntax error.
    pub(super) async fn parse(
        &mut self,
        function: &Function,
        source: &Source,
        signature: &Signature,
        identity: Option<&str>,
        runs_as: &[Oid],
    ) -> Result<Twin, Failure> {
        let transaction = self.client.build_transaction().read_only(false).start().await?;
        let parsed = parse(&transaction, function, source, signature, identity, runs_as).await;
        transaction.rollback().await?;
        parsed
    }
}

async fn parse(
    transaction: &Transaction<'_>,
    function: &Function,
    source: &Source,
    signature: &Signature,
    identity: Option<&str>,
    runs_as: &[Oid],
) -> Result<Twin, Failure> {
    const SET: &str = "select pg_catalog.set_config($1, $2, true)";
    if let Some(role) = identity {
        transaction.execute(SET, &[&"role", &role]).await?;
    }
    for setting in &function.settings {
        let Some((name, value)) = setting.split_once('=') else {
            return Err(Failure::Refused(format!("its setting {setting:?} cannot be read")));
        };
        if ["role", "session_authorization"].contains(&name.to_ascii_lowercase().as_str()) {
            return Err(Failure::Refused(format!("it sets {name}")));
        }
        transaction.execute(SET, &[&name, &value]).await?;
    }
    let path = transaction.query_one("select pg_catalog.current_setting('search_path')", &[]).await?;
    let Some(path) = identifiers(path.get(0)) else {
        return Err(Failure::Refused("its search_path cannot be read".into()));
    };
    // The name is the function's own: a body may say name.argument.
    let create = format!(
        "CREATE FUNCTION pg_temp.{}({}) RETURNS {} LANGUAGE sql {}",
        quote_identifier(&function.name),
        signature.arguments,
        signature.result,
        source.body()
    );
    transaction.execute(&create, &[]).await?;
    transaction.execute(SET, &[&"search_path", &"pg_catalog, pg_temp"]).await?;
    let row = transaction.query_one(TREE, &[&function.oid]).await?;
    let (twin, tree, same_types): (Oid, Option<String>, bool) = (row.get(0), row.get(1), row.get(2));
    if !same_types {
        return Err(Failure::Refused("its types' names mean others under its search_path".into()));
    }
    let tree = tree.ok_or_else(|| Failure::Refused("it has no statement".into()))?;
    let mut elsewhere = Vec::new();
    for row in transaction.query(DIFFERS, &[&path, &runs_as, &twin]).await? {
        let (oid, role): (Oid, Option<String>) = (row.get(0), row.get(1));
        let role = role.unwrap_or_else(|| format!("role {oid}"));
        let why = match row.get::<_, Option<String>>(2) {
            Some(schema) => format!("{role} runs it and may not use the schema {schema}"),
            None => format!("{role} runs it and looks for its names in other schemas"),
        };
        elsewhere.push((oid, why));
    }
    // For nobody at all it is of no use.
    if elsewhere.len() >= runs_as.iter().collect::<HashSet<_>>().len()
        && let Some((_, why)) = elsewhere.pop()
    {
        return Err(Failure::Refused(why));
    }
    Ok(Twin { tree, elsewhere })
}

/// The names in a search_path, as `SplitIdentifierString` takes them.
fn identifiers(list: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let name;
        if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut unquoted = String::new();
            loop {
                let (part, after) = quoted.split_once('"')?;
                unquoted.push_str(part);
                match after.strip_prefix('"') {
                    Some(after) => {
                        unquoted.push('"');
                        quoted = after;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
            name = unquoted;
        } else {
            let end = rest.find([',', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
            name = rest[..end].to_ascii_lowercase();
            rest = &rest[end..];
        }
        names.push(name);
        rest = rest.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_path_is_split_as_postgres_splits_it() {
        let split = |list: &str| identifiers(list);
        assert_eq!(split(r#""$user", public"#).unwrap(), ["$user", "public"]);
        assert_eq!(split(r#"A,"A","a ""b""", c "#).unwrap(), ["a", "A", "a \"b\"", "c"]);
        assert_eq!(split(r#""""#).unwrap(), [""]);
        assert!(split("").unwrap().is_empty());
        assert_eq!(split("\"a"), None);
        assert_eq!(split("a b"), None);
    }
}
