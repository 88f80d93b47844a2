//! One history: a database with a random schema, a relay, people, and transactions one at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::Client as Postgres;
use walcast::demo::postgres::Cluster;

use super::audience::Audience;
use super::ddl::{Ddl, ROLES_AS_MADE, Roles};
use super::grammar::{FUNCTIONS, function};
use super::history::{Taken, Transaction, write};
use super::judge::{Committed, Rows};
use super::persons::{self, Person, user_ids};
use super::phases::compiled;
use super::policies;
use super::tables::{INNER, Table, fill_inner};
use super::tally::{Deciders, Era, Tally};
use super::truth::{AS_ASKED, BY_HALVES, Columns, Keys, Truth, by_plan};
use crate::support::database::{Database, connect};
use crate::support::relay::{self, Relay};
use crate::support::scene::execute;

pub(super) struct World {
    pub rng: StdRng,
    pub database: Database,
    pub relay: Relay,
    pub persons: Vec<Person>,
    pub tables: Vec<Table>,
    pub truth: Truth,
    pub audience: Audience,
    /// Its commits wait for the standby.
    pub late_writer: Arc<Postgres>,
    pub roles: Roles,
    pub deciders: Deciders,
    pub label: String,
    pub compiled: Compiled,
    /// Postgres was asked about a row, once.
    pub asks_postgres: bool,
    /// For a while there is no DDL.
    pub is_quiet: bool,
    ddl: Ddl,
    users: Vec<String>,
    columns: Columns,
    mark: i64,
}

/// Tables, by number, and roles.
pub(super) type Compiled = Arc<HashSet<(usize, &'static str)>>;

/// Row changes under random policies: one transaction in so many has DDL in it.
const DDL_ONE_IN: u32 = 7;

impl World {
    pub(super) async fn new(cluster: &Cluster, mut rng: StdRng, label: String, tally: &mut Tally) -> World {
        let database = Database::create_in(cluster).await;
        let (url, users) = (database.url.clone(), user_ids());
        execute(&database.client, ROLES_AS_MADE).await;
        relay::set_up(&url).await;
        let persons = persons::choose(&mut rng);
        let mut tables: Vec<Table> = (1..=rng.random_range(2..=4)).map(|n| Table::random(&mut rng, n)).collect();
        let mut leading = Table::random(&mut rng, tables.len() + 1);
        leading.leads = true;
        tables.push(leading);
        let sql = schema(&mut rng, &mut tables, &users);
        execute(&database.client, &sql).await;
        let truth = Truth::new(&url).await;
        for table in &mut tables {
            table.policies = policies::choose(&mut rng, &truth, &persons, table).await;
            for policy in &table.policies {
                execute(&database.client, &policy.create(&table.name)).await;
            }
            table.era = tally.eras.len();
            tally.eras.push(Era::new(table));
        }
        // What policies read is followed only once setup has seen it.
        relay::set_up(&url).await;
        execute(&database.client, &format!("alter role walcast_oracle in database {} {AS_ASKED}", database.name)).await;
        let relay = relay::start(&url, &["--deletes", "authorized"]).await;
        let audience = Audience::join(&relay, &persons, &tables).await;
        let late_writer = Arc::new(connect(&url).await);
        execute(&late_writer, "set synchronous_commit = on; set client_min_messages = error").await;
        execute(&database.client, "set client_min_messages = error").await;
        let columns = truth.columns(&persons, &tables).await;
        let compiled = compiled(&url, &persons, &tables).await;
        tally.histories += 1;
        World {
            rng,
            database,
            relay,
            persons,
            tables,
            truth,
            audience,
            late_writer,
            roles: Roles::default(),
            deciders: Deciders::default(),
            label,
            compiled,
            asks_postgres: false,
            is_quiet: false,
            ddl: Ddl::default(),
            users,
            columns,
            mark: 0,
        }
    }

    /// A transaction to be; `taken` are rows that it leaves alone.
    pub(super) async fn draft(&mut self, taken: &mut Taken, tally: &mut Tally) -> Transaction {
        let lopsided = self.tables.iter().position(|table| tally.eras[table.era].is_lopsided());
        let with_ddl = !self.is_quiet && (self.rng.random_ratio(1, DDL_ONE_IN) || lopsided.is_some());
        let first = with_ddl && self.rng.random_bool(0.5);
        let ddl = if first { Some(self.ddl(lopsided, tally).await) } else { None };
        let mut transaction = if with_ddl && self.rng.random_bool(0.3) {
            Transaction::default()
        } else {
            write(&mut self.rng, &mut self.tables, &self.users, taken)
        };
        if let Some(sql) = ddl {
            transaction.statements.insert(0, sql);
        } else if with_ddl {
            let sql = self.ddl(lopsided, tally).await;
            // Rows written before it do not have a column that is added.
            let at = if sql.contains("add column") { 0 } else { transaction.statements.len() };
            transaction.statements.insert(at, sql);
        }
        transaction.moves_the_ground |= with_ddl;
        transaction.has_ddl = with_ddl;
        // As the commit leaves them.
        for change in &mut transaction.changes {
            change.era = self.tables[change.table].era;
        }
        transaction
    }

    async fn ddl(&mut self, lopsided: Option<usize>, tally: &mut Tally) -> String {
        let World { ddl, rng, truth, persons, tables, .. } = self;
        let statement = ddl.choose(rng, truth, persons, tables, lopsided).await;
        *tally.ddl.entry(statement.what).or_default() += 1;
        self.begin_eras(&statement.touched, tally);
        statement.sql
    }

    fn begin_eras(&mut self, touched: &[usize], tally: &mut Tally) {
        for number in touched {
            self.tables[*number].era = tally.eras.len();
            tally.eras.push(Era::new(&self.tables[*number]));
        }
    }

    /// Grants and security as they were at the start.
    pub(super) fn put_all_back(&mut self, tally: &mut Tally) -> Vec<String> {
        let statements = self.ddl.put_all_back(&mut self.tables);
        statements.iter().for_each(|statement| self.begin_eras(&statement.touched, tally));
        statements.into_iter().map(|statement| statement.sql).collect()
    }

    /// Runs it with `run`, a mark at its end, and asks before and after.
    pub(super) async fn commit(
        &mut self,
        transaction: Transaction,
        run: impl AsyncFnOnce(&World, String),
    ) -> Committed {
        self.mark += 1;
        let (old, new) = (old_keys(&transaction), new_keys(&transaction));
        let before = self.truth.shown(&self.persons, &self.tables, &old).await;
        let matching_before = self.matching(&old).await;
        let mut sql = String::from("begin");
        for statement in &transaction.statements {
            sql += "; ";
            sql += statement;
        }
        sql += &format!("; insert into marks values ({}); commit", self.mark);
        run(self, sql).await;
        let after = self.truth.shown(&self.persons, &self.tables, &new).await;
        let mut matching_after = self.matching(&new).await;
        let matching = matching_before
            .into_iter()
            .map(|(filter, old)| (filter, (old, matching_after.remove(filter).expect("the same filters"))))
            .collect();
        if transaction.may_change_plans() {
            self.columns = self.truth.columns(&self.persons, &self.tables).await;
        }
        let columns = Arc::clone(&self.columns);
        Committed {
            transaction,
            mark: self.mark,
            before,
            after,
            matching,
            columns,
            later: Vec::new(),
            is_followed: self.asks_postgres,
            ddl_follows: false,
        }
    }

    async fn matching(&self, keys: &Keys) -> HashMap<&'static str, Rows> {
        let filters: HashSet<&str> =
            self.persons.iter().filter_map(|person| Some(person.filter.as_ref()?.sql)).collect();
        let mut matching = HashMap::new();
        for filter in filters {
            let rows = match keys.is_empty() {
                true => Rows::new(),
                false => self.truth.matching(&self.tables, keys, filter).await,
            };
            matching.insert(filter, rows);
        }
        matching
    }

    /// How decisions were come by since the last call.
    pub(super) async fn deciders(&mut self, mode: &'static str, tally: &mut Tally) -> Deciders {
        let now = self.read_deciders().await;
        let since = now.since(self.deciders);
        self.deciders = now;
        tally.add_deciders(mode, since);
        since
    }

    pub(super) async fn read_deciders(&self) -> Deciders {
        let (_, body) = self.relay.get("/metrics").await.expect("the relay answers");
        let sample = |name: &str| {
            let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("there is no metric {name}"))
        };
        Deciders {
            here: sample("walcast_decisions_total"),
            left_open: sample("walcast_decisions_left_open_total"),
            not_compiled: sample("walcast_decisions_not_compiled_total"),
            undecided: sample("walcast_events_undecided_total"),
        }
    }
}

fn schema(rng: &mut StdRng, tables: &mut [Table], users: &[String]) -> String {
    let mut sql = String::from(INNER);
    sql += "alter publication supabase_realtime add table marks, probes;";
    sql += BY_HALVES;
    // Who may not use the schema of a policy's function is shown rows by a SELECT, which looks no names up any more, but
    // not by a question to Postgres, which does.
    sql += "grant usage on schema auth to guest;";
    // Without, Postgres is asked for that role, and fails.
    if rng.random_bool(0.8) {
        sql += "grant select on orgs, members, rooms, blocks to anon;";
    }
    for name in FUNCTIONS {
        sql += &format!("{};", function(rng, name));
    }
    // Inner tables with policies of their own; that of the members is sometimes switched on.
    let own = if rng.random_bool(0.3) { "true" } else { "member = auth.uid() or rank = 'owner'" };
    sql += &format!("create policy own on members using ({own});");
    if rng.random_bool(0.3) {
        sql += "alter table orgs enable row level security;
            create policy some_of_them on orgs for select to authenticated using (open or owner = (select auth.uid()));";
    }
    if rng.random_bool(0.3) {
        sql += "alter table members replica identity full;";
    }
    if rng.random_bool(0.25) {
        sql += "alter publication supabase_realtime add table rooms;";
    }
    sql += &format!("{};", fill_inner(rng, users));
    for table in tables {
        sql += &table.create();
        sql += &by_plan(&table.name);
        for _ in 0..40 {
            let (_, insert) = table.insert(rng, users);
            sql += &format!("{insert};");
        }
    }
    sql
}

pub(super) fn old_keys(transaction: &Transaction) -> Keys {
    keys(transaction, |change| change.old)
}

pub(super) fn new_keys(transaction: &Transaction) -> Keys {
    keys(transaction, |change| change.new)
}

fn keys(transaction: &Transaction, key: impl Fn(&super::history::Change) -> Option<i64>) -> Keys {
    let mut keys: Keys = BTreeMap::new();
    for change in &transaction.changes {
        if let Some(key) = key(change) {
            keys.entry(change.table).or_default().push(key);
        }
    }
    keys
}
