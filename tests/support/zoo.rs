//! The policy zoo of `tests/zoo` in a database: its tables, who looks at them, and what a real SELECT shows whom.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_postgres::{Client, SimpleQueryMessage};
use walcast::authz::{Identity, OracleConfig};
use walcast::catalog::{Catalog, Relation, quote_identifier};

use super::database::connect;
use super::policies::{Ground, Table, cluster, identity};

const AUTH: &str = include_str!("../../sql/migrations/0004_auth.sql");

pub struct Zoo {
    pub ground: Ground,
    pub tables: Vec<ZooTable>,
    /// The login that policies run on: questions and real SELECTs have the same `session_user`.
    client: Client,
}

pub struct ZooTable {
    pub table: Table,
    /// One condition per row of `table`, in its order.
    pub keys: Vec<String>,
    pub persons: Arc<Vec<Person>>,
    /// Why less than a fifth of the table's decisions are yes, or no.
    pub lopsided: Option<String>,
}

pub struct Person {
    pub label: String,
    pub identity: Identity,
}

impl ZooTable {
    pub fn name(&self) -> String {
        format!("{}.{}", self.table.relation.schema, self.table.relation.name)
    }

    /// Whether the person's role may name the table and read its key at all, which no policy says.
    pub fn is_granted(&self, person: &Person) -> bool {
        let Table { catalog, relation, .. } = &self.table;
        let role = catalog.roles.get(&person.identity.role).expect("a person's role");
        let readable = relation.selectable_columns(role, PG_READ_ALL_DATA);
        let mut key = relation.primary_key.iter();
        catalog.may_use_schema(role, &relation.schema) && key.all(|column| readable.contains(*column))
    }
}

const PG_READ_ALL_DATA: u32 = 6181;

/// The zoo's files in the order of their names, which is that of loading: name and text.
pub fn files() -> Vec<(String, String)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zoo");
    let entries = std::fs::read_dir(directory).expect("tests/zoo");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "sql")).collect();
    paths.sort();
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).expect("a readable file"))
    };
    paths.into_iter().map(read).collect()
}

impl Zoo {
    /// The files in a database of their own, and nothing asked of them yet.
    pub async fn ground() -> Ground {
        // Roles and memberships are the cluster's: two transactions that make the same one fail.
        static LOADING: Mutex<()> = Mutex::const_new(());
        let _one_at_a_time = LOADING.lock().await;
        let ground = Ground::bare(OracleConfig::default()).await;
        ground.execute(AUTH).await;
        ground.execute("create publication p for all tables").await;
        for (name, text) in files() {
            let loaded = ground.database.client.batch_execute(&text).await;
            loaded.unwrap_or_else(|err| panic!("{name}: {err:?}"));
        }
        let to_oracle = "do $$ declare r text; begin
            for r in select distinct oid::regrole from pg_roles where rolname ^@ 'zoo_' or rolname = 'supabase_auth_admin' loop
                execute 'grant ' || r || ' to oracle';
            end loop;
        end $$";
        ground.execute(to_oracle).await;
        ground
    }

    pub async fn load() -> Zoo {
        let ground = Zoo::ground().await;
        let client = connect(&cluster().url("oracle", &ground.database.name)).await;
        let mut zoo = Zoo { ground, tables: Vec::new(), client };
        zoo.find_tables().await;
        zoo
    }

    /// Tables with row-level security: those of a schema `zoo_x`, and `public.zoo_x_...` with the persons of `zoo_x`.
    async fn find_tables(&mut self) {
        let sql = "select n.nspname, c.relname, coalesce(obj_description(c.oid), ''),
                          case n.nspname when 'public' then substring(c.relname from '^zoo_[a-z]+') else n.nspname end
                   from pg_class c join pg_namespace n on n.oid = c.relnamespace
                   where c.relrowsecurity and c.relkind = 'r' and (n.nspname ^@ 'zoo_' or c.relname ^@ 'zoo_')
                   order by 4, 2";
        let found = self.ground.database.client.query(sql, &[]).await.expect("the zoo's tables");
        let mut persons: Vec<(String, Arc<Vec<Person>>)> = Vec::new();
        for row in &found {
            let zoo: &str = row.get(3);
            if persons.last().is_none_or(|(name, _)| name != zoo) {
                persons.push((zoo.to_owned(), Arc::new(self.persons(zoo).await)));
            }
        }
        let catalog = self.ground.catalog().await;
        for row in &found {
            let (schema, name, comment, zoo): (&str, &str, &str, &str) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let named = |relation: &&Arc<Relation>| relation.schema == schema && relation.name == name;
            let relation = Arc::clone(catalog.relations.values().find(named).expect("a published table"));
            let (_, persons) = persons.iter().find(|(name, _)| name == zoo).expect("persons");
            let keys = self.keys(&relation).await;
            let table = Table::read(&self.ground.database, &catalog, relation).await;
            assert_eq!(keys.len(), table.rows.len(), "{schema}.{name}");
            let lopsided = comment.strip_prefix("lopsided: ").map(str::to_owned);
            self.tables.push(ZooTable { table, keys, persons: Arc::clone(persons), lopsided });
        }
    }

    async fn persons(&self, zoo: &str) -> Vec<Person> {
        let client = &self.ground.database.client;
        let rows = client.query(&format!("select label, role, claims from {zoo}.persons order by 1"), &[]).await;
        let person =
            |row: tokio_postgres::Row| Person { label: row.get(0), identity: identity(row.get(1), row.get(2)) };
        rows.expect("persons").into_iter().map(person).collect()
    }

    /// In the order of `policies::images`.
    async fn keys(&self, relation: &Relation) -> Vec<String> {
        let names: Vec<String> =
            relation.primary_key.iter().map(|column| quote_identifier(&relation.column(*column).name)).collect();
        assert!(!names.is_empty(), "{} has no primary key", relation.sql_name());
        let equal = |name: &String| format!("'t.{} = ' || quote_literal(t.{name}::text)", name.replace('\'', "''"));
        let sql = format!(
            "select {} from {} as t order by t.{}, {}",
            names.iter().map(equal).collect::<Vec<_>>().join(" || ' and ' || "),
            relation.sql_name(),
            quote_identifier(&relation.columns[0].name),
            names.iter().map(|name| format!("t.{name}")).collect::<Vec<_>>().join(", ")
        );
        let rows = self.ground.database.client.query(&sql, &[]).await.expect("keys");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Which of the table's rows a SELECT by key shows the person, one at a time: an error shows nothing, and would
    /// take the other rows with it.
    pub async fn truth(&self, table: &ZooTable, person: &Person) -> Vec<bool> {
        let claims = person.identity.claims.replace('\'', "''");
        let role = quote_identifier(&person.identity.role);
        let settings =
            format!("begin; select set_config('request.jwt.claims', '{claims}', true); set local role {role}");
        let from = table.table.relation.sql_name();
        let mut shown = Vec::with_capacity(table.keys.len());
        for key in &table.keys {
            let sql = format!("{settings}; select 'shown' from {from} as t where {key}; rollback");
            match self.client.simple_query(&sql).await {
                Ok(messages) => shown.push(messages.iter().any(is_shown)),
                Err(error) => {
                    assert!(error.code().is_some(), "not an answer: {error:?}");
                    self.client.batch_execute("rollback").await.expect("rollback");
                    shown.push(false);
                }
            }
        }
        shown
    }

    /// Every table, person and row: what `decide` makes of the table's rows, against the truth.
    pub async fn compare(&self, decide: impl AsyncFn(&ZooTable, &Person) -> Vec<bool>) -> Vec<Tally> {
        let mut tallies = Vec::new();
        for table in &self.tables {
            let mut tally = Tally { shown: 0, asked: 0, wrong: Vec::new() };
            for person in table.persons.iter() {
                let truth = self.truth(table, person).await;
                let decided = decide(table, person).await;
                assert_eq!(decided.len(), truth.len(), "{}", table.name());
                for ((key, truth), decided) in table.keys.iter().zip(truth).zip(decided) {
                    tally.asked += 1;
                    tally.shown += usize::from(truth);
                    if truth != decided {
                        let said = if decided { "shown" } else { "hidden" };
                        tally.wrong.push(format!("{}, {}, {key}: wrongly {said}", table.name(), person.label));
                    }
                }
            }
            tallies.push(tally);
        }
        tallies
    }
}

/// The comparison of one table, in the order of `Zoo::tables`.
pub struct Tally {
    pub shown: usize,
    pub asked: usize,
    pub wrong: Vec<String>,
}

impl Tally {
    pub fn is_balanced(&self) -> bool {
        self.shown * 5 >= self.asked && (self.asked - self.shown) * 5 >= self.asked
    }
}

fn is_shown(message: &SimpleQueryMessage) -> bool {
    matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("shown"))
}

impl Table {
    async fn read(database: &super::database::Database, catalog: &Catalog, relation: Arc<Relation>) -> Table {
        let rows = super::policies::images(database, &relation).await;
        Table { catalog: catalog.clone(), relation, rows }
    }
}
