//! Tables with policies, and the oracle that judges their rows: on a cluster of its own, since roles are global.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::{CancellationToken, DropGuard};
use walcast::authz::oracle::{Connect, PlainConnect};
use walcast::authz::{
    Answer, Asked, AuthzMetrics, Identity, Oracle, OracleConfig, OracleError, Plan, Question, RowText, Verdict, plan,
    row_text,
};
use walcast::catalog::{Catalog, Relation, loader};
use walcast::change::{Layout, Row};
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::wal::pgoutput::Tuple;

use super::database::{Database, connect};

/// `oracle` is the login that policies run on; `editor` inherits `authenticated`, `guest` is a member without
/// inheritance, `owner` owns tables where a test says so.
const ROLES: &str = "
create role anon nologin;
create role authenticated nologin;
create role editor nologin inherit in role authenticated;
create role guest nologin noinherit in role authenticated;
create role owner nologin;
create role heir nologin inherit in role owner;
create role service_role nologin bypassrls;
create role nobody_of_ours nologin;
create role oracle login noinherit in role anon, authenticated, editor, guest, owner, heir;
";

/// As `walcast setup --with-auth` has them.
const AUTH: &str = "
create schema auth;
grant usage on schema auth to public;
create function auth.uid() returns uuid language sql stable as
  $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
create function auth.role() returns text language sql stable as
  $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' $$;
create function auth.jwt() returns jsonb language sql stable as
  $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
";

pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(own_cluster)
}

/// The same for one test alone. What one database's DDL makes a session forget goes through a queue that the whole cluster
/// has in common; where it overflows, sessions forget everything, and wait for locks that they would not have needed.
pub fn own_cluster() -> Cluster {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres");
    let url = cluster.url("postgres", "postgres");
    // Tests come to this from their own runtimes.
    let made = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { connect(&url).await.batch_execute(ROLES).await.expect("roles") });
    });
    made.join().expect("roles are made");
    cluster
}

pub struct Ground {
    pub database: Database,
    pub oracle: Oracle,
    pub metrics: Arc<AuthzMetrics>,
    _sessions: DropGuard,
}

impl Ground {
    /// A database with these tables in a publication, and an oracle for it.
    pub async fn new(sql: &str) -> Ground {
        Ground::with(sql, OracleConfig::default()).await
    }

    pub async fn with(sql: &str, config: OracleConfig) -> Ground {
        let ground = Ground::bare(config).await;
        ground.furnish(sql).await;
        ground
    }

    /// The same in an [`own_cluster`].
    pub async fn in_cluster(cluster: &Cluster, sql: &str, config: OracleConfig) -> Ground {
        let ground = Ground::bare_in(cluster, config).await;
        ground.furnish(sql).await;
        ground
    }

    async fn furnish(&self, sql: &str) {
        self.execute(AUTH).await;
        self.execute("create publication p for all tables").await;
        self.execute(sql).await;
        self.execute("grant select on all tables in schema public to anon, authenticated, owner").await;
    }

    /// An empty database; what the oracle is asked about comes later, and the publication must be `p`.
    pub async fn bare(config: OracleConfig) -> Ground {
        Ground::bare_in(cluster(), config).await
    }

    async fn bare_in(cluster: &Cluster, config: OracleConfig) -> Ground {
        let database = Database::create_in(cluster).await;
        let (oracle, metrics, guard) = oracle_by(plainly_in(cluster, &database.name, "oracle"), config);
        Ground { database, oracle, metrics, _sessions: guard }
    }

    pub async fn execute(&self, sql: &str) {
        self.database.client.batch_execute(sql).await.unwrap_or_else(|err| panic!("{sql}: {err:?}"));
    }

    pub async fn catalog(&self) -> Catalog {
        let mut client = connect(&self.database.url).await;
        loader::load(&mut client, &["p".to_owned()], None).await.expect("catalog").catalog
    }

    pub async fn table(&self, name: &str) -> Table {
        self.table_of(&self.catalog().await, name).await
    }

    pub async fn table_of(&self, catalog: &Catalog, name: &str) -> Table {
        let found = catalog.relations.values().find(|relation| relation.name == name);
        let relation = Arc::clone(found.unwrap_or_else(|| panic!("no table {name}")));
        let rows = images(&self.database, &relation).await;
        Table { catalog: catalog.clone(), relation, rows }
    }

    /// The oracle's answer to the table's policies, or what the plan says without it.
    pub async fn judge(&self, table: &Table, who: &Identity) -> Result<Vec<Verdict>, OracleError> {
        match table.question(who, table.texts()) {
            Err(verdict) => Ok(vec![verdict; table.rows.len()]),
            Ok(question) => self.verdicts(question).await,
        }
    }

    pub async fn verdicts(&self, question: Question) -> Result<Vec<Verdict>, OracleError> {
        match self.oracle.ask(question).await.expect("an answer or an error")? {
            Answer::Verdicts(verdicts) => Ok(verdicts),
            Answer::Json(_) => panic!("JSON was not asked for"),
        }
    }
}

/// An oracle with a login of the test's choice.
pub fn oracle_of(database: &str, login: &str, config: OracleConfig) -> (Oracle, Arc<AuthzMetrics>, DropGuard) {
    oracle_by(plainly(database, login), config)
}

pub fn plainly(database: &str, login: &str) -> Arc<PlainConnect> {
    plainly_in(cluster(), database, login)
}

fn plainly_in(cluster: &Cluster, database: &str, login: &str) -> Arc<PlainConnect> {
    Arc::new(PlainConnect(cluster.url(login, database).parse().expect("a conninfo")))
}

/// An oracle that reaches Postgres as the test says.
pub fn oracle_by(connect: Arc<dyn Connect>, config: OracleConfig) -> (Oracle, Arc<AuthzMetrics>, DropGuard) {
    let metrics = Arc::new(AuthzMetrics::default());
    let (oracle, task) = Oracle::new(&config, connect, Arc::clone(&metrics));
    let shutdown = CancellationToken::new();
    tokio::spawn(task.run(shutdown.clone()));
    (oracle, metrics, shutdown.drop_guard())
}

/// A table as the catalog has it, and all its rows as images.
pub struct Table {
    pub catalog: Catalog,
    pub relation: Arc<Relation>,
    pub rows: Vec<Row>,
}

impl Table {
    pub fn texts(&self) -> Vec<RowText> {
        self.rows.iter().map(|row| row_text(row, None)).collect()
    }

    pub fn plan(&self, role: &str) -> Plan {
        plan(&self.catalog, &self.relation, self.catalog.roles.get(role).expect("a role"))
    }

    /// The question of the policies for these rows; the verdict where nothing is to be asked.
    pub fn question(&self, who: &Identity, rows: Vec<RowText>) -> Result<Question, Verdict> {
        let plan = self.plan(&who.role);
        let Some(plan) = plan.oracle().cloned() else {
            return Err(if plan == Plan::Open { Verdict::Allowed } else { Verdict::Denied });
        };
        let asked = Asked::Policy { plan, identity: Arc::new(who.clone()) };
        Ok(Question { xid: None, relation: Arc::clone(&self.relation), asked, rows })
    }
}

pub fn identity(role: &str, claims: &str) -> Identity {
    Identity { role: role.to_owned(), claims: claims.into() }
}

/// Every row of the table, in the order of its first column and then its key, as the stream would carry it.
pub async fn images(database: &Database, relation: &Arc<Relation>) -> Vec<Row> {
    let quote = walcast::catalog::relation::quote_identifier;
    // Generated columns are not in the stream before 18.
    let columns: Vec<_> = relation.indices().filter(|c| relation.column(*c).generated.is_none()).collect();
    let list: Vec<_> = columns.iter().map(|c| format!("{}::text", quote(&relation.column(*c).name))).collect();
    let client = connect(&database.url).await;
    let pinned = "set timezone = 'UTC'; set datestyle = 'ISO'; set extra_float_digits = 3; set bytea_output = 'hex'; \
                  set intervalstyle = 'postgres'; set lc_monetary = 'C'; set search_path = ''";
    client.batch_execute(pinned).await.expect("settings");
    let first = std::iter::once(&relation.columns[0]);
    let key = relation.primary_key.iter().map(|column| relation.column(*column));
    let order: Vec<_> = first.chain(key).map(|column| format!("t.{}", quote(&column.name))).collect();
    let sql = format!("select {} from {} as t order by {}", list.join(", "), relation.sql_name(), order.join(", "));
    let mut positions = vec![None; relation.columns.len()];
    for (position, column) in columns.iter().enumerate() {
        positions[usize::from(column.0)] = Some(position as u16);
    }
    let is_key = relation.indices().map(|column| relation.identity_key.contains(&column)).collect();
    let layout = Arc::new(Layout { relation: Arc::clone(relation), positions: positions.into(), is_key });
    let rows = client.query(&sql, &[]).await.expect("rows");
    let image = |row: &tokio_postgres::Row| {
        let values: Vec<Option<&str>> = (0..row.len()).map(|n| row.get(n)).collect();
        let tuple = Tuple::from_values(values.iter().map(|value| value.map(str::as_bytes)));
        Row { layout: Arc::clone(&layout), tuple, key_only: false }
    };
    rows.iter().map(image).collect()
}
