//! The policies of `tests/zoo` in-process: which are compiled, why the others are not, and what the programs answer
//! against a real SELECT of every row by every person.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use walcast::authz::oracle::PlainConnect;
use walcast::authz::policy::audience::{Audience, Led};
use walcast::authz::policy::{Person as Asking, RowTypes, RowValues, Slots};
use walcast::authz::tracked::{self, Moment, Tables};
use walcast::authz::{CompiledPlan, DeniedReason, Plan, plan, read_session_facts};
use walcast::catalog::{Catalog, ColumnIndex, Followed, PolicyCommand, Relation, Role};
use walcast::change::Row;
use walcast::setup::tracking;
use walcast::wal::pgoutput::RelationId;

use super::zoo::{Citation, by_oracle, citations};
use crate::support::policies::{cluster, images};
use crate::support::zoo::{Person, Zoo, ZooTable};

const README: &str = include_str!("../zoo/README.md");

/// The catalog with what a session of the oracle's login says, and with the tables followed that setup would follow:
/// only their publication is missing.
async fn catalog(zoo: &Zoo) -> Catalog {
    let mut catalog = zoo.ground.catalog().await;
    let url = cluster().url("oracle", &zoo.ground.database.name);
    let (reading, again) =
        read_session_facts(&PlainConnect(url.parse().expect("a conninfo")), &catalog).await.expect("session facts");
    assert!(!again, "something was in the way of the functions' bodies");
    catalog.session = reading.facts;
    for id in tracking::tables_read(&catalog) {
        let Some(relation) = catalog.relations.get(&id) else { continue };
        if relation.followed == Followed::No && tracking::obstacle(&catalog, relation).is_none() {
            let relation = Relation { followed: Followed::Whole, ..Relation::clone(relation) };
            catalog.relations.insert(id, Arc::new(relation));
        }
    }
    catalog
}

/// What a policy by itself becomes, for the roles of those who look at its table.
enum Made {
    Compiled,
    /// Compiled, and reads other tables.
    Tracked,
    Oracle(String),
}

fn roles<'a>(catalog: &'a Catalog, table: &ZooTable, applies_to: &[u32]) -> Vec<&'a Arc<Role>> {
    let names: BTreeSet<&str> = table.persons.iter().map(|person| person.identity.role.as_str()).collect();
    let roles = names.into_iter().filter_map(|name| catalog.roles.get(name));
    roles.filter(|role| applies_to.iter().any(|oid| *oid == 0 || role.has_privileges_of(*oid))).collect()
}

fn made(catalog: &Catalog, table: &ZooTable, policy: &str) -> Made {
    let relation = &catalog.relations[&table.table.relation.id];
    let mut alone = Relation::clone(relation);
    alone.policies.retain(|known| known.name == policy);
    let [known] = &mut alone.policies[..] else { panic!("{}: policy {policy:?}", table.name()) };
    // By itself a restrictive one shows nothing, which would need no compiling.
    known.permissive = true;
    assert!(matches!(known.command, PolicyCommand::All | PolicyCommand::Select), "{policy}");
    let roles = roles(catalog, table, &known.roles.clone());
    assert!(!roles.is_empty(), "{}: nobody looks at the table that {policy:?} is for", table.name());
    let alone = Arc::new(alone);
    let mut is_tracked = false;
    for role in roles.into_iter().filter(|role| alone.row_security_active(role)) {
        match plan(catalog, &alone, role) {
            Plan::Compiled(plan) => is_tracked |= !plan.program.needs.is_empty(),
            Plan::Denied(DeniedReason::AlwaysFails { .. }) => {}
            Plan::Oracle(plan) => {
                let why = plan.not_compiled.as_ref().expect("a reason");
                return Made::Oracle(format!("{}: {why}", role.name));
            }
            plan => panic!("{}, {policy:?}, {}: {plan:?}", table.name(), role.name),
        }
    }
    if is_tracked { Made::Tracked } else { Made::Compiled }
}

#[tokio::test]
async fn nine_tenths_of_the_zoo_are_decided_in_process() {
    let zoo = Zoo::load().await;
    let catalog = catalog(&zoo).await;
    let (mut compiled, mut tracked, mut oracle, mut worse) = (0, 0, 0, Vec::new());
    let cited = citations();
    for Citation { number, table, policy, .. } in &cited {
        let found = zoo.tables.iter().find(|known| known.name() == *table || known.table.relation.name == *table);
        let found = found.unwrap_or_else(|| panic!("[{number}]: no table {table}"));
        let row = README.lines().find(|line| line.starts_with(&format!("| {number} |")));
        let written = row.and_then(|row| row.trim_end_matches(" |").rsplit(" | ").next()).unwrap_or_default();
        let words = match made(&catalog, found, policy) {
            Made::Compiled => {
                compiled += 1;
                "compiled".to_owned()
            }
            Made::Tracked => {
                tracked += 1;
                "tracked".to_owned()
            }
            Made::Oracle(why) => {
                oracle += 1;
                format!("oracle: {why}")
            }
        };
        if words.starts_with("oracle") && !written.starts_with("oracle") {
            worse.push(format!("[{number}] {table}, {policy}: {words}"));
        }
        println!("[{number}] {words}");
    }
    println!("{compiled} compiled, {tracked} tracked, {oracle} oracle, of {}", cited.len());
    assert!(worse.is_empty(), "decided in-process according to tests/zoo/README.md:\n{}", worse.join("\n"));
    assert!((compiled + tracked) * 10 >= cited.len() * 9, "{compiled} and {tracked} of {}", cited.len());
}

/// A table's rows as programs read them, by the columns and indexes that they need.
struct Loaded<'a> {
    zoo: &'a Zoo,
    catalog: &'a Catalog,
    images: RefCell<HashMap<u32, Arc<Vec<Row>>>>,
}

impl Loaded<'_> {
    async fn images(&self, relation: &Arc<Relation>) -> Arc<Vec<Row>> {
        if let Some(rows) = self.images.borrow().get(&relation.id.0) {
            return Arc::clone(rows);
        }
        let rows = Arc::new(images(&self.zoo.ground.database, relation).await);
        self.images.borrow_mut().insert(relation.id.0, Arc::clone(&rows));
        rows
    }

    async fn tables(&self, plan: &CompiledPlan) -> Tables {
        let audience = plan.audience.as_ref().map(Audience::needs).unwrap_or_default();
        type Needs = (BTreeSet<ColumnIndex>, BTreeSet<Box<[ColumnIndex]>>);
        let mut needs: HashMap<u32, Needs> = HashMap::new();
        for need in plan.program.needs.iter().chain(&audience) {
            let (columns, indexes) = needs.entry(need.relation.0).or_default();
            columns.extend(need.columns.iter());
            indexes.extend(need.indexes.iter().cloned());
        }
        let mut tables = Tables::default();
        for (id, (columns, indexes)) in needs {
            let relation = self.catalog.any_relation(RelationId(id)).expect("a tracked table");
            let types = RowTypes::new(self.catalog, relation);
            let mut table = tracked::Table::new(columns.iter().copied().collect(), indexes);
            for row in self.images(relation).await.iter() {
                use walcast::authz::policy::Row;
                let row = RowValues::new(&types, row, None);
                table.load(columns.iter().map(|column| row.value(*column).expect("a value").clone()).collect());
            }
            tables.insert(RelationId(id), table);
        }
        tables
    }

    async fn now(&self) -> i64 {
        let sql = "select (extract(epoch from now() - '2000-01-01 00:00Z') * 1000000)::int8";
        self.zoo.ground.database.client.query_one(sql, &[]).await.expect("the time").get(0)
    }
}

/// Whether the person is among those whom the row may be for.
fn leads(audience: &Audience, slots: &Slots, row: &RowValues<'_>, tables: &Tables, now: i64) -> bool {
    let Some(standing) = audience.standing(slots) else { return true };
    match audience.led(row, tables, Moment::After, now) {
        Led::Everyone => true,
        Led::To(keys) => standing.always || keys.iter().any(|key| standing.keys.contains(key)),
    }
}

#[derive(Default)]
struct Counts {
    asked: usize,
    not_led: usize,
    undecided: usize,
    oracle: usize,
    reasons: BTreeSet<String>,
}

/// What walcast decides with its programs; Postgres is asked where it would be.
async fn by_program(loaded: &Loaded<'_>, table: &ZooTable, person: &Person, counts: &RefCell<Counts>) -> Vec<bool> {
    let rows = table.keys.len();
    counts.borrow_mut().asked += rows;
    if !table.is_granted(person) {
        return vec![false; rows];
    }
    let catalog = loaded.catalog;
    let relation = &catalog.relations[&table.table.relation.id];
    let role = catalog.roles.get(&person.identity.role).expect("a role");
    let plan = match plan(catalog, relation, role) {
        Plan::Open => return vec![true; rows],
        Plan::Denied(_) => return vec![false; rows],
        Plan::Oracle(_) => {
            counts.borrow_mut().oracle += rows;
            return by_oracle(loaded.zoo, table, person).await;
        }
        Plan::Compiled(plan) => plan,
    };
    let tables = loaded.tables(&plan).await;
    let slots = plan.program.slots_of(Asking { role: &role.name, claims: &person.identity.claims });
    let now = loaded.now().await;
    let mut decided = Vec::with_capacity(rows);
    for row in &table.table.rows {
        let row = RowValues::new(&plan.types, row, None);
        // Whom the row does not lead to is not asked about at all.
        let is_led = plan.audience.as_ref().is_none_or(|audience| leads(audience, &slots, &row, &tables, now));
        counts.borrow_mut().not_led += usize::from(!is_led);
        decided.push(if is_led { plan.program.decide(&row, &slots, &tables, Moment::After, now) } else { Ok(false) });
    }
    let undecided = decided.iter().filter(|decided| decided.is_err()).count();
    if undecided == 0 {
        return decided.into_iter().flatten().collect();
    }
    {
        let mut counts = counts.borrow_mut();
        counts.undecided += undecided;
        let reasons = decided.iter().filter_map(|decided| decided.as_ref().err());
        counts.reasons.extend(reasons.map(|why| format!("{}, {}: {why:?}", table.name(), person.label)));
    }
    let asked = by_oracle(loaded.zoo, table, person).await;
    decided.into_iter().zip(asked).map(|(decided, asked)| decided.unwrap_or(asked)).collect()
}

#[tokio::test]
async fn programs_decide_the_zoo_as_a_select_does() {
    let zoo = Zoo::load().await;
    let catalog = catalog(&zoo).await;
    let loaded = Loaded { zoo: &zoo, catalog: &catalog, images: RefCell::default() };
    let counts = RefCell::new(Counts::default());
    let tallies = zoo.compare(async |table, person| by_program(&loaded, table, person, &counts).await).await;
    let wrong: Vec<String> = tallies.into_iter().flat_map(|tally| tally.wrong).collect();
    let Counts { asked, not_led, undecided, oracle, reasons } = counts.into_inner();
    let mut told = String::new();
    reasons.iter().for_each(|reason| writeln!(told, "undecided: {reason}").expect("a string"));
    println!(
        "{told}{asked} decisions, {} wrong; {oracle} were oracle, {undecided} undecided, of {not_led} rows led elsewhere",
        wrong.len()
    );
    assert!(not_led * 10 > asked, "rows lead to nobody in particular: {not_led} of {asked}");
    assert!(wrong.is_empty(), "{} of {asked} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
