//! Tables that policies read, and what it takes for the stream to carry them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_postgres::Client;

use super::{Attempt, Config, OWN_PUBLICATION, Otherwise, Step, oracle_login};
use crate::authz::read_session_facts;
use crate::catalog::relation::quote_identifier;
use crate::catalog::{Catalog, Followed, LoadError, Oid, Relation, RelationKind, ReplicaIdentity, loader};
use crate::causes::with_causes;
use crate::wal::Conninfo;
use crate::wal::pgoutput::RelationId;

/// Schemas whose tables are in walcast's own publication for another reason than policies.
const OWN_SCHEMAS: [&str; 2] = ["walcast", "realtime"];

/// What is to be done, and what cannot be.
#[derive(Debug, Default)]
pub struct Tracking {
    pub steps: Vec<Step>,
    /// Titles with the reason, and the statement that mends it.
    pub left: Vec<(String, String)>,
}

/// Why a table that policies read is not followed, and the statement that mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub reason: String,
    pub statement: String,
}

/// The tables in the sub-queries of published tables' policies, of the functions those call and of those tables' own
/// policies, as far as their trees are known; without the published tables that are read by no other's. What private
/// channels are judged by counts as published.
pub fn tables_read(catalog: &Catalog) -> BTreeSet<RelationId> {
    let mut read = Reading { catalog, tables: BTreeSet::new(), seen: BTreeSet::new() };
    for relation in catalog.relations.values() {
        read.policies(relation);
    }
    if let Some(messages) = &catalog.messages {
        read.policies(&messages.read);
        read.trees_of(&messages.write);
    }
    read.tables
}

struct Reading<'a> {
    catalog: &'a Catalog,
    tables: BTreeSet<RelationId>,
    /// Functions and tables whose trees were looked at: no two have the same OID in one catalog's documents.
    seen: BTreeSet<(bool, Oid)>,
}

impl Reading<'_> {
    fn policies(&mut self, relation: &Relation) {
        if relation.row_security && self.seen.insert((false, relation.id.0)) {
            self.trees_of(relation);
        }
    }

    fn trees_of(&mut self, relation: &Relation) {
        use crate::catalog::PolicyCommand::{All, Select};
        let policies = relation.policies.iter().filter(|policy| matches!(policy.command, All | Select));
        policies.filter_map(|policy| policy.using_tree.as_deref()).for_each(|tree| self.tree(tree));
    }

    fn function(&mut self, oid: Oid) {
        let catalog = self.catalog;
        let Some(function) = catalog.functions.get(&oid) else { return };
        if !self.seen.insert((true, oid)) {
            return;
        }
        let stored = catalog.session.trees(oid).filter(|_| function.body.is_none());
        function.body.as_deref().into_iter().chain(stored).for_each(|tree| self.tree(tree));
    }

    /// Constants are numbers and other text stands behind backslashes, so that a field's name is a field's name.
    fn tree(&mut self, tree: &str) {
        let mut words = tree.split([' ', '\n', '(', ')', '{', '}']).filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            let (":relid" | ":funcid" | ":opfuncid") = word else { continue };
            let Some(oid) = words.next().and_then(|oid| oid.parse().ok()) else { continue };
            if word != ":relid" {
                self.function(oid);
            } else if let Some(relation) = self.catalog.any_relation(RelationId(oid)) {
                self.tables.insert(relation.id);
                self.policies(relation);
            }
        }
    }
}

/// What keeps a table from being followed; `None`: nothing does, or nothing but that setup has not been run.
pub fn obstacle(catalog: &Catalog, relation: &Relation) -> Option<Obstacle> {
    let table = relation.sql_name();
    let found = |reason: &str, statement: String| Some(Obstacle { reason: reason.to_owned(), statement });
    let asked = "rewrite the policies to read the tables behind it";
    match relation.followed {
        Followed::Whole => None,
        Followed::InPart if relation.kind == RelationKind::Partitioned || !catalog.relations.contains_key(&relation.id) => {
            found(
                "it is published under the name of the partitioned table above it, or some of its partitions only in part: \
                 the stream does not tell when one is emptied",
                "alter publication <yours> set (publish_via_partition_root = false);".into(),
            )
        }
        Followed::InPart => found(
            "your publication leaves out rows, columns or operations of it",
            "alter publication <yours> set (publish = 'insert, update, delete, truncate'); -- and no row filter or column \
             list for it; or take it out of yours, and run walcast setup"
                .into(),
        ),
        Followed::NoIdentity => {
            let statement = match (relation.kind, relation.primary_key.is_empty()) {
                (RelationKind::Partitioned, _) => format!("alter table {table} add primary key (<columns>); -- of each partition"),
                (_, true) => format!("alter table {table} add primary key (<columns>);"),
                (_, false) => format!("alter table {table} replica identity default;"),
            };
            found("it has no replica identity: published, Postgres would refuse UPDATE and DELETE on it", statement)
        }
        Followed::NotLogged if relation.kind == RelationKind::Other => found("it is no table", asked.into()),
        Followed::NotLogged => {
            found("it, or a partition of it, is not in the WAL", format!("alter table {table} set logged;"))
        }
        Followed::Inherited => found("other tables inherit from it", asked.into()),
        Followed::No => {
            let is_full = relation.replica_identity == ReplicaIdentity::Full || relation.kind == RelationKind::Partitioned;
            let is_generated = relation.columns.iter().any(|column| column.generated.is_some());
            if catalog.server_version >= 180_000 && is_full && is_generated {
                return found(
                    "it has generated columns and REPLICA IDENTITY FULL: published, Postgres would refuse UPDATE and DELETE \
                     on it",
                    format!("alter table {table} replica identity default;"),
                );
            }
            let in_yours = relation.leaves.iter().any(|leaf| catalog.relations.contains_key(leaf));
            if in_yours {
                return found(
                    "some of its partitions are in your publication, which publishing it whole would change",
                    format!("alter publication <yours> add table {table};"),
                );
            }
            None
        }
    }
}

/// The catalog, with the bodies of functions if the oracle's login is there. `false`: it is not.
pub async fn catalog_with_bodies(
    client: &mut Client,
    publications: &[String],
    conninfo: Option<&Conninfo>,
) -> Result<(Catalog, bool), LoadError> {
    let mut catalog = loader::load(client, publications, None).await?.catalog;
    let has_bodies = match conninfo {
        Some(conninfo) => read_bodies(client, &mut catalog, conninfo).await,
        None => false,
    };
    Ok((catalog, has_bodies))
}

/// Adds the bodies of functions as the oracle's login that `setup` left reads them. `false`: it could not.
pub async fn read_bodies(client: &Client, catalog: &mut Catalog, conninfo: &Conninfo) -> bool {
    match oracle_login(client).await {
        Ok(Some((login, password))) => read_bodies_as(&conninfo.with_user(&login, Some(&password)), catalog).await,
        _ => false,
    }
}

/// The same on this login.
pub async fn read_bodies_as(login: &Conninfo, catalog: &mut Catalog) -> bool {
    match read_session_facts(login, catalog).await {
        Ok((reading, _)) => {
            catalog.session = Arc::clone(&reading.facts);
            true
        }
        Err(error) => {
            tracing::warn!(error = %with_causes(&error), "bodies of functions that policies call could not be read");
            false
        }
    }
}

/// What walcast's own publication has, and what the stream's login may not read.
struct Present {
    /// By OID: the names of its tables, but for walcast's own.
    tables: BTreeMap<Oid, String>,
    /// Whether each table is published whole: with every operation, and leaf by leaf.
    is_whole: bool,
    /// Missing of the stream's login: SELECT on these tables, USAGE on their schemas.
    unreadable: BTreeSet<Oid>,
    unusable: BTreeSet<String>,
}

impl Present {
    async fn read(client: &Client, config: &Config, wanted: &[Oid]) -> Result<Option<Present>, tokio_postgres::Error> {
        let sql = "select not pubviaroot and pubinsert and pubupdate and pubdelete and pubtruncate
            from pg_catalog.pg_publication where pubname = $1";
        let Some(row) = client.query_opt(sql, &[&OWN_PUBLICATION]).await? else { return Ok(None) };
        let is_whole = row.get(0);
        let sql = "select c.oid, n.nspname::text, c.relname::text
            from pg_catalog.pg_publication p
            join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
            join pg_catalog.pg_class c on c.oid = r.prrelid
            join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            where p.pubname = $1 and n.nspname <> all ($2)";
        let rows = client.query(sql, &[&OWN_PUBLICATION, &OWN_SCHEMAS.as_slice()]).await?;
        let name =
            |row: &tokio_postgres::Row| format!("{}.{}", quote_identifier(row.get(1)), quote_identifier(row.get(2)));
        let tables = rows.iter().map(|row| (row.get(0), name(row))).collect();
        let sql = "select c.oid, n.nspname::text, has_table_privilege(r.oid, c.oid, 'select'), has_schema_privilege(r.oid, n.oid, 'usage')
            from pg_catalog.pg_class c
            join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            join pg_catalog.pg_roles r on r.rolname = $2
            where c.oid = any ($1)";
        let (mut unreadable, mut unusable) = (BTreeSet::new(), BTreeSet::new());
        for row in client.query(sql, &[&wanted, &config.stream_login]).await? {
            if !row.get::<_, bool>(2) {
                unreadable.insert(row.get(0));
            }
            if !row.get::<_, bool>(3) {
                unusable.insert(row.get(1));
            }
        }
        Ok(Some(Present { tables, is_whole, unreadable, unusable }))
    }
}

/// Puts the tables that policies read into walcast's own publication, and takes out those that none reads any more.
/// Nothing where the publication is not there: then there is a note about that already.
pub async fn track(client: &mut Client, config: &Config) -> Result<Tracking, LoadError> {
    let (catalog, has_bodies) = catalog_with_bodies(client, &config.publications, config.conninfo.as_ref()).await?;
    let wanted: Vec<&Arc<Relation>> = tables_read(&catalog).iter().filter_map(|id| catalog.any_relation(*id)).collect();
    let oids: Vec<Oid> = wanted.iter().map(|relation| relation.id.0).collect();
    let Some(present) = Present::read(client, config, &oids).await? else { return Ok(Tracking::default()) };
    Ok(plan(&catalog, config, &wanted, &present, has_bodies))
}

fn plan(
    catalog: &Catalog,
    config: &Config,
    wanted: &[&Arc<Relation>],
    present: &Present,
    has_bodies: bool,
) -> Tracking {
    let mut tracking = Tracking::default();
    let has_sources = catalog.functions.values().any(|function| function.language == "sql" && function.body.is_none());
    if !has_bodies && has_sources && config.conninfo.is_some() {
        let note = "Tables that they read are not known, and so not followed. Run setup again when the oracle's login can log in.";
        tracking.left.push(("The functions that policies call could not be read.".into(), note.into()));
    }
    let login = quote_identifier(&config.stream_login);
    if !present.is_whole {
        let sql = format!(
            "alter publication {OWN_PUBLICATION} set (publish = 'insert, update, delete, truncate', \
             publish_via_partition_root = false)"
        );
        let note = "The publication belongs to somebody else: tables that policies read are not followed.";
        tracking.steps.push(Step::optional("walcast's own publication: every operation, leaf by leaf.", sql, note));
    }
    for relation in wanted {
        let table = relation.sql_name();
        let is_present = present.tables.contains_key(&relation.id.0);
        if let Some(Obstacle { reason, statement }) = obstacle(catalog, relation)
            && !is_present
        {
            let title = format!("{table}, which policies read, is not followed.");
            tracking
                .left
                .push((title, format!("Of these policies Postgres is asked: {reason}. To mend it: {statement}")));
            continue;
        }
        if relation.followed != Followed::Whole && !is_present {
            let sql = format!("alter publication {OWN_PUBLICATION} add table {table}");
            let note = format!(
                "Of policies that read {table} Postgres is asked. Have the owner of both run: {sql}; (a superuser can)"
            );
            tracking.steps.push(Step::optional(format!("{table}, which policies read, is followed."), sql, note));
        }
        if present.unreadable.contains(&relation.id.0) {
            tracking.steps.push(grant(format!("grant select on {table} to {login}"), &table));
        }
    }
    for schema in &present.unusable {
        tracking.steps.push(grant(format!("grant usage on schema {} to {login}", quote_identifier(schema)), schema));
    }
    let is_wanted = |oid: Oid| wanted.iter().any(|relation| relation.id.0 == oid);
    // Functions that could not be read may read anything.
    for (_, table) in present.tables.iter().filter(|(oid, _)| has_bodies && !is_wanted(**oid)) {
        let sql = format!("alter publication {OWN_PUBLICATION} drop table only {table}");
        let note = format!("The stream goes on carrying {table}. Have its owner run: {sql};");
        tracking.steps.push(Step::optional(format!("{table} is read by no policy any more."), sql, note));
    }
    tracking
}

fn grant(sql: String, what: &str) -> Step {
    let note = format!("Of policies that read {what} Postgres is asked. Have its owner run: {sql};");
    Step {
        title: format!("The stream's login may read {what}."),
        attempts: vec![Attempt::plain(sql)],
        otherwise: Otherwise::Note(note),
    }
}
