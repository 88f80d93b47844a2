//! What a change costs under a policy, by the number of people who subscribe to the table without a filter.
//!
//! `cargo bench --bench policy`. A throw-away Postgres has two tables with policies, `user_id = (select auth.uid())` and
//! `exists (select 1 from members m where ..)`; the plans come from its catalog. Everybody has an identity of their own.
//!
//! Timed is what dispatch does with a change until there are deliveries ([`Chunk::add`]): subscriptions found by what the
//! policies compare, each person's decision, the deliveries made. Not timed: decoding the change, its JSON, its frames.
//! `no policy` is the same with a filter on a table without row-level security. What a hundred thousand cost more than
//! one there is what memory costs.
//!
//! The oracle is asked the same questions over four sessions that are never idle: one row to a question, and as many as
//! one may carry. Sizes and oracle take turns, so that whatever else the machine does hits all of them; what is printed
//! is the median of the rounds, with the smallest and the largest. `-- quick` leaves the oracle out, `-- ownership` the other
//! cases.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use walcast::authz::oracle::PlainConnect;
use walcast::authz::policy::Value;
use walcast::authz::tracked::{Shape, Table, Tables};
use walcast::authz::{
    Answer, Asked, AuthzMetrics, Identity, Oracle, OracleConfig, Plan, Question, Verdict, read_session_facts, row_text,
};
use walcast::catalog::{Catalog, ColumnSet, Followed, Relation, loader};
use walcast::change::{Change, Layout, OldRow, Operation, Row};
use walcast::channels::metrics::Metrics;
use walcast::channels::opening::Opening;
use walcast::channels::outbox::{self, ChannelOutbox, Outbox};
use walcast::channels::phoenix::{Address, Serializer};
use walcast::channels::subscribe::{ChannelId, EventShapeKind, Subscribe};
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::dispatch::Config;
use walcast::dispatch::access::AccessTable;
use walcast::dispatch::delivery::{Chunk, Context};
use walcast::dispatch::pending::Ticket;
use walcast::dispatch::subscribers::{Bind, Inserted, Subscribers};
use walcast::routing::{Binding, Casts, Matches};
use walcast::wal::pgoutput::{RelationId, Tuple};

const ROUNDS: usize = 9;
const CHANGES: usize = 16_384;
/// Between two looks at the clock: few enough for the changes to be in the cache, as after decoding.
const BATCH: usize = 256;
const PEOPLE: usize = 100_000;
const MEMBERSHIPS: usize = 1_000_000;
const ASKED: usize = 512;
const IN_FLIGHT: usize = 64;
const ROWS_OF_A_QUESTION: usize = 128;
const GOAL_RATIO: f64 = 1.5;
const GOAL: f64 = 1000.0;
const GOAL_OF_ORACLE: f64 = 100.0;

/// What a subscription's table and policy are, and how many of how many people a change is for.
/// A name, a policy, and (subscriptions, of which match) three times.
type Case = (&'static str, &'static str, [(usize, usize); 3]);

const CASES: [Case; 4] = [
    ("ownership", "owned", [(1, 1), (1_000, 1), (PEOPLE, 1)]),
    ("membership", "messages", [(1, 1), (1_000, 1), (PEOPLE, 1)]),
    ("membership of ten", "messages", [(10, 10), (1_000, 10), (PEOPLE, 10)]),
    ("no policy, a filter", "plain", [(1, 1), (1_000, 1), (PEOPLE, 1)]),
];

const SCHEMA: &str = "
create role authenticated nologin;
create role oracle login noinherit in role authenticated;
create schema auth;
grant usage on schema auth to public;
create function auth.uid() returns uuid language sql stable as
  $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
create table plain (id int8 primary key, user_id uuid, body text);
create table owned (id int8 primary key, user_id uuid, body text);
create table messages (id int8 primary key, session_id uuid, body text);
create table members (session_id uuid, user_id uuid, primary key (session_id, user_id));
alter table owned enable row level security;
alter table messages enable row level security;
create policy own on owned to authenticated using (user_id = (select auth.uid()));
create policy member on messages to authenticated using (exists (
  select 1 from members m where m.session_id = messages.session_id and m.user_id = auth.uid()));
grant select on all tables in schema public to authenticated;
insert into members select
  (lpad(to_hex(n / 10), 8, '0') || '-0000-0000-0000-000000000002')::uuid,
  (lpad(to_hex(n), 8, '0') || '-0000-0000-0000-000000000001')::uuid from generate_series(0, 99999) n;
analyze members;
create publication p for all tables;
";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_named = |name: &str| arguments.iter().any(|argument| argument == name);
    let quick = is_named("quick");
    let wanted = |name: &str| is_named(name) || !CASES.iter().any(|case| is_named(case.0));
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres");
    let catalog = catalog(&cluster).await;
    memory(&catalog);
    let mut measured: Vec<Measured> = Vec::new();
    for (case, (_, _, sizes)) in CASES.iter().enumerate().filter(|(_, case)| wanted(case.0)) {
        measured.extend(sizes.iter().map(|(size, matching)| Measured::new(&catalog, case, *size, *matching)));
    }
    let of_oracle = [0, 2].into_iter().filter(|case| !quick && wanted(CASES[*case].0));
    let mut asked: Vec<OfOracle> = of_oracle.map(OfOracle::new).collect();
    let metrics = Arc::new(AuthzMetrics::default());
    let connect = Arc::new(PlainConnect(cluster.url("oracle", "postgres").parse().expect("a conninfo")));
    let (oracle, task) = Oracle::new(&OracleConfig::default(), connect, metrics);
    let stop = CancellationToken::new();
    let sessions = tokio::spawn(task.run(stop.clone()));
    for _ in 0..ROUNDS {
        for one in &mut measured {
            one.round(&catalog);
        }
        for one in &mut asked {
            let of = measured.iter().rfind(|of| of.case == one.case).expect("a case");
            one.round(&oracle, &cluster, of).await;
        }
    }
    stop.cancel();
    sessions.await.expect("the oracle ends");
    report(&measured, &asked);
}

fn report(measured: &[Measured], asked: &[OfOracle]) {
    println!(
        "{:>19} | {:>10} | {:>5} | {:>27} | {:>27} | {:>9} | {:>5}",
        "", "identities", "match", "CPU ns per change", "wall ns per change", "ns each", "ratio"
    );
    for of_case in measured.chunk_by(|a, b| a.case == b.case) {
        let base = median(&of_case[0].cpu);
        for Measured { case, size, matching, cpu, wall, .. } in of_case {
            let (each, ratio) = (median(cpu) / *matching as f64, median(cpu) / base);
            let (name, cpu, wall) = (CASES[*case].0, spread(cpu), spread(wall));
            println!("{name:>19} | {size:>10} | {matching:>5} | {cpu} | {wall} | {each:>9.1} | {ratio:>5.2}");
        }
        let last = &of_case[of_case.len() - 1];
        let (each, ratio) = (median(&last.cpu) / last.matching as f64, median(&last.cpu) / base);
        let sizes = (of_case[0].size, last.size);
        println!(
            "goal: flat (at most {GOAL_RATIO}x) from {} to {}: {}",
            sizes.0,
            sizes.1,
            verdict(ratio <= GOAL_RATIO)
        );
        println!("goal: below {GOAL} ns for each that matches: {}", verdict(each < GOAL));
    }
    for OfOracle { case, wall, cpu, rows_wall, rows_cpu } in asked {
        let last = measured.iter().rfind(|of| of.case == *case).expect("a case");
        let here = (median(&last.wall) / last.matching as f64, median(&last.cpu) / last.matching as f64);
        let name = CASES[*case].0;
        for (how, wall, cpu) in
            [("a question each", wall, cpu), ("a question for 128 rows of one person", rows_wall, rows_cpu)]
        {
            let ratios = (median(wall) / here.0, median(cpu) / here.1);
            println!(
                "oracle, {name}, {how}: wall ns per decision {}, CPU {}; {:.0}x and {:.0}x what it costs here",
                spread(wall),
                spread(cpu),
                ratios.0,
                ratios.1
            );
            println!("goal: at least {GOAL_OF_ORACLE}x: {}", verdict(ratios.1 >= GOAL_OF_ORACLE));
        }
    }
}

fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "MISSED" }
}

async fn catalog(cluster: &Cluster) -> Catalog {
    let url = cluster.url("postgres", "postgres");
    let (mut client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client.batch_execute(SCHEMA).await.expect("tables and policies");
    let mut catalog = loader::load(&mut client, &["p".to_owned()], None).await.expect("a catalog").catalog;
    let connect = PlainConnect(cluster.url("oracle", "postgres").parse().expect("a conninfo"));
    catalog.session = read_session_facts(&connect, &catalog).await.expect("facts").0.facts;
    // Setup would have walcast's own publication follow it.
    let members = catalog.relations.values_mut().find(|relation| relation.name == "members").expect("a table");
    *members = Arc::new(Relation { followed: Followed::Whole, ..Relation::clone(members) });
    catalog
}

fn relation<'a>(catalog: &'a Catalog, name: &str) -> &'a Arc<Relation> {
    catalog.relations.values().find(|relation| relation.name == name).expect("a table")
}

/// A table that policies read, as dispatch would have it loaded: person n is in session n / `of_session`.
fn members(catalog: &Catalog, access: &mut AccessTable, rows: usize, of_session: usize) -> (RelationId, Table) {
    let role = access.role("authenticated");
    access.access(catalog, relation(catalog, "messages"), role);
    let needs = access.take_needs().expect("a program that was just made");
    let members = relation(catalog, "members");
    let shape = Shape::of(catalog, members.id, &needs.iter().collect::<Vec<_>>()).expect("it can be tracked");
    let mut table = Table::of(Arc::new(shape));
    for n in 0..rows {
        table.load([session(n / of_session), person(n)].map(|id| Value::Uuid(id.to_be_bytes())).into());
    }
    (members.id, table)
}

fn memory(catalog: &Catalog) {
    let before = resident_bytes();
    let (_, table) = members(catalog, &mut AccessTable::default(), MEMBERSHIPS, 10);
    let (taken, said) = (resident_bytes() - before, table.memory_bytes());
    println!(
        "memory: {} bytes resident for each of {MEMBERSHIPS} memberships, {} as counted for --tracked-memory-max",
        taken / MEMBERSHIPS,
        said / MEMBERSHIPS
    );
}

struct Measured {
    case: usize,
    size: usize,
    matching: usize,
    subscribers: Subscribers,
    access: AccessTable,
    tables: Tables,
    changes: Vec<Change>,
    identities: Vec<Arc<Identity>>,
    plan: Plan,
    cpu: Vec<f64>,
    wall: Vec<f64>,
}

impl Measured {
    fn new(catalog: &Catalog, case: usize, size: usize, matching: usize) -> Measured {
        let (mut access, mut tables, mut subscribers) =
            (AccessTable::default(), Tables::default(), Subscribers::default());
        let (id, table) = members(catalog, &mut access, size, matching);
        tables.insert(id, table);
        let table = CASES[case].1;
        let (outbox, _reader) = Outbox::new(Arc::new(outbox::Config::default()), Arc::new(Metrics::default()));
        let outbox = ChannelOutbox::new(&outbox);
        let identities: Vec<_> = (0..size).map(identity).collect();
        for (n, identity) in identities.iter().enumerate() {
            let filter = (table == "plain").then(|| format!("user_id=eq.{}", text(person(n))));
            let mut item = json!({"event": "*", "schema": "public", "table": table});
            if let Some(filter) = filter {
                item["filter"] = filter.into();
            }
            let subscribe = Subscribe {
                channel: ChannelId(n as u64),
                address: Address { topic: "realtime:room".into(), join_ref: None, serializer: Serializer::V2 },
                shape: EventShapeKind::Standard,
                identity: Arc::clone(identity),
                bindings: vec![(1, Binding::parse(item.as_object().expect("an object")))],
                outbox: outbox.clone(),
                resume: None,
                on_active: Some(Box::new(Opening::of_frames(vec![Bytes::from_static(b"{}")]))),
            };
            let Inserted::At(place, _) = subscribers.insert(subscribe, Arc::new(Casts::default()), 0, &mut access)
            else {
                panic!("a new channel has no place")
            };
            let Bind::Ready(bound) = subscribers.bind(place, catalog) else { panic!("the table does not bind") };
            subscribers.replace(place, bound, 0, catalog, &mut access);
        }
        let relation = relation(catalog, table);
        let layout = Arc::new(Layout::identity(Arc::clone(relation)));
        // More changes than caches hold, in an order that no prefetcher knows.
        let changes = (0..CHANGES).map(|_| {
            let n = rand::random_range(0..size);
            let key = text(if table == "messages" { session(n / matching) } else { person(n) });
            let tuple =
                Tuple::from_values([Some("1"), Some(&key), Some("hello")].map(|value| value.map(str::as_bytes)));
            let new = Row { layout: Arc::clone(&layout), tuple, key_only: false };
            let (relation, operation, old) = (Arc::clone(relation), Operation::Insert, OldRow::Absent);
            Change {
                relation,
                operation,
                new: Some(new),
                old,
                kept: None,
                commit_lsn: walcast::wal::Lsn::ZERO,
                index: 0,
                commit_timestamp: 0,
            }
        });
        let (changes, cpu, wall) = (changes.collect(), Vec::new(), Vec::new());
        let role = access.role("authenticated");
        let plan = access.access(catalog, relation, role).plan.clone();
        Measured { case, size, matching, subscribers, access, tables, changes, identities, plan, cpu, wall }
    }

    fn round(&mut self, catalog: &Catalog) {
        let (config, budget, columns_asked) = (Config::default(), Arc::new(AtomicUsize::new(0)), ColumnSet::default());
        let context = Context {
            catalog,
            config: &config,
            subscribers: &self.subscribers,
            budget: &budget,
            columns_asked: &columns_asked,
            tables: &self.tables,
            xid: 1,
            sequence: 1,
            replayed: None,
        };
        let (ticket, mut matches) = (Arc::new(Ticket), Matches::default());
        let (mut cpu, mut wall) = (Duration::ZERO, Duration::ZERO);
        for changes in self.changes.chunks(BATCH) {
            let mut chunk = Chunk::default();
            let batch = changes.to_vec();
            black_box(batch.iter().map(bytes_read).sum::<usize>());
            let (cpu_before, wall_before) = (cpu_time(), Instant::now());
            for change in batch {
                chunk.add(change, &ticket, &mut matches, &mut self.access, None, &context);
            }
            wall += wall_before.elapsed();
            cpu += cpu_time() - cpu_before;
            assert_eq!(chunk.delivery_count(), self.matching * changes.len());
            chunk.finish();
            assert!(chunk.ready.is_empty(), "it was decided here");
        }
        self.cpu.push(cpu.as_nanos() as f64 / self.changes.len() as f64);
        self.wall.push(wall.as_nanos() as f64 / self.changes.len() as f64);
    }
}

/// The same decisions by Postgres.
#[derive(Default)]
struct OfOracle {
    case: usize,
    wall: Vec<f64>,
    cpu: Vec<f64>,
    rows_wall: Vec<f64>,
    rows_cpu: Vec<f64>,
}

impl OfOracle {
    fn new(case: usize) -> OfOracle {
        OfOracle { case, ..OfOracle::default() }
    }

    async fn round(&mut self, oracle: &Oracle, cluster: &Cluster, of: &Measured) {
        let (wall, cpu) = ask(oracle, cluster, of, 1).await;
        self.wall.push(wall);
        self.cpu.push(cpu);
        let (wall, cpu) = ask(oracle, cluster, of, ROWS_OF_A_QUESTION).await;
        self.rows_wall.push(wall);
        self.rows_cpu.push(cpu);
    }
}

/// Wall time and CPU time of both processes for one decision.
async fn ask(oracle: &Oracle, cluster: &Cluster, of: &Measured, rows: usize) -> (f64, f64) {
    let places: Vec<usize> = (0..ASKED).map(|_| rand::random_range(0..of.size)).collect();
    let questions = places.iter().map(|n| {
        let plan = Arc::clone(of.plan.oracle().expect("row-level security"));
        let relation = Arc::clone(&plan.relation);
        let layout = Arc::new(Layout::identity(Arc::clone(&relation)));
        let key = text(if relation.name == "messages" { session(n / of.matching) } else { person(*n) });
        let tuple = Tuple::from_values([Some("1"), Some(&key), Some("hello")].map(|value| value.map(str::as_bytes)));
        let row = row_text(&Row { layout, tuple, key_only: false }, None);
        let asked = Asked::Policy { plan, identity: Arc::clone(&of.identities[*n]) };
        Question { xid: None, relation, asked, rows: vec![row; rows] }
    });
    let questions: Vec<Question> = questions.collect();
    let (wall, cpu) = (Instant::now(), cpu_of_both(cluster));
    let mut questions = questions.into_iter();
    loop {
        let batch: Vec<_> = questions.by_ref().take(IN_FLIGHT).map(|question| oracle.ask(question)).collect();
        if batch.is_empty() {
            break;
        }
        for answer in join_all(batch).await {
            let Ok(Answer::Verdicts(verdicts)) = answer.expect("the oracle runs") else { panic!("no answer") };
            assert!(verdicts.len() == rows && verdicts.iter().all(|verdict| *verdict == Verdict::Allowed));
        }
    }
    let decisions = (ASKED * rows) as f64;
    (wall.elapsed().as_nanos() as f64 / decisions, (cpu_of_both(cluster) - cpu) / decisions)
}

/// Looks at every byte of a change, as decoding has just done.
fn bytes_read(change: &Change) -> usize {
    let row = change.new.as_ref().expect("an insert");
    row.tuple.frame.iter().map(|byte| usize::from(*byte)).sum()
}

fn person(n: usize) -> u128 {
    (n as u128) << 96 | 1
}

fn session(n: usize) -> u128 {
    (n as u128) << 96 | 2
}

fn text(id: u128) -> String {
    let text = format!("{id:032x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

fn identity(n: usize) -> Arc<Identity> {
    let claims = json!({"role": "authenticated", "sub": text(person(n)), "exp": 4_000_000_000_u64});
    Arc::new(Identity { role: "authenticated".into(), claims: claims.to_string().into() })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn spread(values: &[f64]) -> String {
    let (min, max) = values.iter().fold((f64::MAX, 0.0_f64), |(min, max), value| (min.min(*value), max.max(*value)));
    format!("{:>8.0} ({min:>6.0} .. {max:>6.0})", median(values))
}

/// Time this thread has run, from the first number of `schedstat`. The kernel brings it up to date at a tick, every few
/// milliseconds, and when asked to look for somebody else to run.
fn cpu_time() -> Duration {
    std::thread::yield_now();
    let nanos = on_cpu("/proc/thread-self/schedstat");
    Duration::from_nanos(nanos)
}

fn on_cpu(schedstat: &str) -> u64 {
    let text = std::fs::read_to_string(schedstat).unwrap_or_default();
    text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Nanoseconds that this process and the server's sessions have run.
fn cpu_of_both(cluster: &Cluster) -> f64 {
    let server = std::fs::read_to_string(cluster.data_directory().join("postmaster.pid")).unwrap_or_default();
    let server = server.lines().next().unwrap_or_default().to_owned();
    let ours = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ours: u64 = ours.filter_map(|task| Some(on_cpu(task.path().join("schedstat").to_str()?))).sum();
    // The oracle's, which stay: others end meanwhile, and their time with them.
    let is_session = |process: &std::path::Path| {
        let read = |name| std::fs::read_to_string(process.join(name)).unwrap_or_default();
        read("stat").rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)) == Some(&*server)
            && read("cmdline").starts_with("postgres: oracle")
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|process| process.path());
    let sessions = all.filter(|process| is_session(process));
    let theirs: u64 = sessions.filter_map(|process| Some(on_cpu(process.join("schedstat").to_str()?))).sum();
    (ours + theirs) as f64
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|text| text.parse::<usize>().ok()).unwrap_or_default() * 4096
}
