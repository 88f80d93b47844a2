//! A world: tables, people, functions and policies at random, in a database of its own.

use std::collections::HashSet;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio_postgres::Client;
use walcast::authz::oracle::PlainConnect;
use walcast::authz::policy::{Audience, Need};
use walcast::authz::read_session_facts;
use walcast::authz::tracked::Moment;
use walcast::catalog::{Catalog, Relation, loader};
use walcast::change::{OldRow, Row};
use walcast::demo::postgres::Cluster;
use walcast::wal::pgoutput::Datum;

use super::forms;
use super::functions::{self, Function};
use super::judge::{Asked, Judge, judges};
use super::people::{self, MOODS, Person};
use super::policies;
use super::stream::{OUTPUT, Stream, images};
use super::tables::{self, INNER};
use super::tally::{Set, Tally};
use super::truth::{self, Shown, Truth};
use crate::support::database::{Database, connect};
use crate::support::scene::execute;

const AUTH: &str = include_str!("../../../../sql/migrations/0004_auth.sql");

const TABLES: usize = 20;
const PEOPLE: usize = 13;
const ROWS: usize = 90;
const TRANSACTIONS: usize = 3;
/// Attempts at what Postgres takes, and says neither always yes nor always no.
const ATTEMPTS_MAX: usize = 30;

struct Judged {
    name: String,
    relation: Arc<Relation>,
    policies: Vec<String>,
    judges: Vec<Judge>,
    set: usize,
}

pub(super) struct World {
    database: Database,
    catalog: Catalog,
    people: Vec<Person>,
    judged: Vec<Judged>,
    functions: Vec<Function>,
    truth: Truth,
    label: String,
}

/// In a savepoint: what Postgres does not take is the grammar's mistake.
async fn try_execute(client: &Client, sql: &str, tally: &mut Tally) -> bool {
    match client.batch_execute(sql).await {
        Ok(()) => true,
        Err(error) => {
            let error =
                error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_else(|| error.to_string());
            *tally.refused.entry(error).or_default() += 1;
            if std::env::var("WALCAST_DIFFERENTIAL_REFUSED").is_ok() {
                println!("refused: {sql}");
            }
            false
        }
    }
}

impl World {
    pub async fn new(cluster: &Cluster, random: &mut StdRng, label: String, tally: &mut Tally) -> World {
        let database = Database::create_in(cluster).await;
        let client = &database.client;
        let people = people::choose(random, PEOPLE);
        execute(client, "set client_min_messages = error; set jit = off").await;
        execute(client, AUTH).await;
        let moods: Vec<String> = MOODS.iter().map(|mood| format!("'{mood}'")).collect();
        execute(
            client,
            &format!("create type mood as enum ({}); create publication p for all tables", moods.join(", ")),
        )
        .await;
        let mut sql: String = INNER.iter().map(|shape| shape.create()).collect();
        for shape in &INNER {
            for id in 0..shape.rows {
                sql += &format!("{};", shape.insert(random, id));
            }
        }
        sql += "grant select on all tables in schema public to public; grant usage on schema auth to public;";
        sql += "grant create on schema public to keeper;";
        execute(client, &sql).await;
        execute(client, forms::SCHEMA).await;
        let functions = made_functions(client, random, tally).await;
        while !try_execute(client, &format!("begin; {}; commit", policies::of_guarded(random)), tally).await {
            execute(client, "rollback").await;
        }
        let mut names: Vec<String> = (0..TABLES).map(|n| format!("t{n}")).collect();
        let mut sets = Vec::new();
        for name in &names {
            let (owner, forced) =
                (if random.random_bool(0.15) { "keeper" } else { "postgres" }, random.random_bool(0.4));
            let create = tables::create(name, random.random_bool(0.6), owner, forced);
            execute(client, &format!("{create}; {}", tables::fill(random, name, ROWS))).await;
            sets.push(made_policies(client, random, &functions, name, tally).await);
        }
        for n in 0..forms::EACH_WORLD {
            let (name, form) = (format!("form{n}"), forms::of_world(tally.worlds, n));
            let create = tables::create(&name, n % 2 == 0, "postgres", false);
            execute(client, &format!("{create}; {}", tables::fill(random, &name, ROWS))).await;
            let policies = form.create(&name);
            execute(client, &policies.join("; ")).await;
            names.push(name);
            sets.push(policies);
        }
        execute(client, &truth::functions(&names)).await;
        let (catalog, truth) =
            (catalog(cluster, &database).await, Truth::new(&cluster.url("oracle", &database.name)).await);
        let world = tally.worlds;
        let judged = names.into_iter().zip(sets).enumerate().map(|(place, (name, policies))| {
            let named = |relation: &&Arc<Relation>| relation.name == name;
            let relation = Arc::clone(catalog.relations.values().find(named).expect("a published table"));
            let judges = judges(&catalog, &relation, &people);
            let is_left = place.checked_sub(TABLES).is_some_and(|n| forms::of_world(world, n).is_left());
            tally.sets.push(Set { is_left, ..Set::default() });
            Judged { name, relation, policies, judges, set: tally.sets.len() - 1 }
        });
        let judged = judged.collect();
        tally.worlds += 1;
        World { database, judged, catalog, people, functions, truth, label }
    }

    fn needs(&self) -> Vec<Need> {
        let plans = self.judged.iter().flat_map(|judged| judged.judges.iter().filter_map(Judge::plan));
        let mut needs = Vec::new();
        for plan in plans {
            needs.extend_from_slice(&plan.program.needs);
            needs.extend(plan.audience.iter().flat_map(Audience::needs));
        }
        needs
    }

    /// All rows as they are, then transactions: old rows as of before, new ones as of after, and all rows again.
    pub async fn run(self, random: &mut StdRng, tally: &mut Tally) {
        let url = &self.database.url;
        let mut stream = Stream::start(url, &self.database.name, &self.catalog, &self.needs()).await;
        let session = connect(url).await;
        execute(&session, OUTPUT).await;
        let mut before = self.all_rows(&session, &stream, tally).await;
        for _ in 0..TRANSACTIONS {
            let sql = self.transaction(random);
            execute(&self.database.client, &sql).await;
            let changed = stream.next(&self.catalog).await;
            let after = self.shown().await;
            for change in &changed {
                let Some(table) = self.judged.iter().position(|judged| judged.relation.id == change.relation) else {
                    continue;
                };
                if let OldRow::Key(row) | OldRow::Full(row) = &change.old {
                    tally.from_stream += 1;
                    tally.old_rows += 1;
                    self.ask(table, Moment::Before, &before, &stream).compare_in(key(row), row, None, tally);
                }
                if let Some(row) = &change.new {
                    let fallback = if let OldRow::Full(old) = &change.old { Some(old) } else { None };
                    tally.from_stream += 1;
                    self.ask(table, Moment::After, &after, &stream).compare_in(key(row), row, fallback, tally);
                }
            }
            self.compare_all(&session, &after, &stream, tally).await;
            stream.finish();
            self.compare_all(&session, &after, &stream, tally).await;
            before = after;
        }
        stream.drop_slot().await;
    }

    async fn shown(&self) -> Vec<Shown> {
        let names: Vec<String> = self.judged.iter().map(|judged| judged.name.clone()).collect();
        self.truth.shown(&self.people, &names, ROWS).await
    }

    async fn all_rows(&self, session: &Client, stream: &Stream, tally: &mut Tally) -> Vec<Shown> {
        let shown = self.shown().await;
        self.compare_all(session, &shown, stream, tally).await;
        shown
    }

    async fn compare_all(&self, session: &Client, shown: &[Shown], stream: &Stream, tally: &mut Tally) {
        for (table, judged) in self.judged.iter().enumerate() {
            for (key, row) in images(session, &judged.relation).await {
                self.ask(table, Moment::After, shown, stream).compare_in(key, &row, None, tally);
            }
        }
    }

    fn ask<'a>(&'a self, table: usize, moment: Moment, shown: &'a [Shown], stream: &'a Stream) -> Question<'a> {
        Question { world: self, table, moment, shown, stream }
    }

    fn describe(&self, table: usize) -> String {
        let Judged { name, policies, .. } = &self.judged[table];
        let called = self
            .functions
            .iter()
            .filter(|function| policies.iter().any(|policy| policy.contains(&format!("{}(", function.name))));
        let called: Vec<&str> = called.map(|function| function.create.as_str()).collect();
        format!("{}, {name}:\n  {}\n  {}", self.label, policies.join(";\n  "), called.join(";\n  "))
    }

    /// Of several tables; each row of a judged one at most once, so that the table shows every image.
    fn transaction(&self, random: &mut StdRng) -> String {
        let mut statements = Vec::new();
        for Judged { name, .. } in &self.judged {
            let mut taken = HashSet::new();
            for _ in 0..random.random_range(0..12) {
                let sql = tables::change(random, name, ROWS, &mut taken);
                statements.extend(sql);
            }
        }
        for shape in &INNER {
            for _ in 0..random.random_range(0..6) {
                statements.push(shape.change(random));
            }
        }
        statements.shuffle(random);
        format!("begin; {}; commit", statements.join("; "))
    }
}

struct Question<'a> {
    world: &'a World,
    table: usize,
    moment: Moment,
    shown: &'a [Shown],
    stream: &'a Stream,
}

impl Question<'_> {
    fn compare_in(&self, key: i64, row: &Row, fallback: Option<&Row>, tally: &mut Tally) {
        let judged = &self.world.judged[self.table];
        let asked = Asked {
            table: self.table,
            set: judged.set,
            judges: &judged.judges,
            people: &self.world.people,
            tables: self.stream.tables(),
            moment: self.moment,
            shown: self.shown,
            describe: &|| self.world.describe(self.table),
        };
        asked.compare(key, row, fallback, tally);
    }
}

fn key(row: &Row) -> i64 {
    let Datum::Text(text) = row.datum(walcast::catalog::ColumnIndex(0)) else { panic!("a row without its key") };
    std::str::from_utf8(text).expect("digits").parse().expect("a number")
}

async fn made_functions(client: &Client, random: &mut StdRng, tally: &mut Tally) -> Vec<Function> {
    let mut made = Vec::new();
    let mut names: HashSet<String> = HashSet::new();
    for _ in 0..ATTEMPTS_MAX {
        for function in functions::choose(random) {
            if names.contains(&function.name) {
                continue;
            }
            if try_execute(client, &format!("begin; {}; commit", function.create), tally).await {
                names.insert(function.name.clone());
                made.push(function);
            } else {
                execute(client, "rollback").await;
            }
        }
    }
    made
}

async fn made_policies(
    client: &Client,
    random: &mut StdRng,
    functions: &[Function],
    table: &str,
    tally: &mut Tally,
) -> Vec<String> {
    for _ in 0..ATTEMPTS_MAX {
        let set = policies::choose(random, functions, table);
        let create: Vec<String> = set.iter().map(|policy| policy.create(table)).collect();
        if try_execute(client, &format!("begin; {}; commit", create.join("; ")), tally).await {
            return create;
        }
        execute(client, "rollback").await;
    }
    panic!("Postgres took none of {ATTEMPTS_MAX} sets of policies")
}

/// With what a session of the oracle's login says.
async fn catalog(cluster: &Cluster, database: &Database) -> Catalog {
    let mut client = connect(&database.url).await;
    let mut catalog = loader::load(&mut client, &["p".to_owned()], None).await.expect("the catalog").catalog;
    let url = cluster.url("oracle", &database.name);
    let (reading, again) =
        read_session_facts(&PlainConnect(url.parse().expect("a conninfo")), &catalog).await.expect("session facts");
    assert!(!again, "something was in the way of the functions' bodies");
    catalog.session = reading.facts;
    catalog
}
