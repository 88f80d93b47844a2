//! Policies: a tree is compiled or not; a program decides every row, the same way each time; whoever may see a row is in its
//! audience; and where nobody looks away (private channels), the verdict is the decision.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use walcast::authz::policy::audience::{Audience, Led};
use walcast::authz::policy::{Person, Row as _, RowTypes, RowValues};
use walcast::authz::tracked::{Moment, Table, Tables};
use walcast::authz::{CompiledPlan, Plan, plan};
use walcast::catalog::{ColumnIndex, Policy, PolicyCommand, Relation};
use walcast::wal::pgoutput::RelationId;

use super::{RECORD, parts, world};

/// 2030-01-01.
const NOW: i64 = 946_684_800_000_000;

/// Table, tree, claims, the row, and then rows of whatever tables the policy reads.
pub fn fuzz_policy(data: &[u8]) {
    let mut parts = parts(data, RECORD);
    let mut next = || parts.next().unwrap_or_default();
    let (table, tree, claims, row) = (next(), next(), next(), next());
    let relation = std::str::from_utf8(table).ok().and_then(world::table).or(world::table("docs")).expect("a table");
    let relation = with_policy(relation, &String::from_utf8_lossy(tree));
    let rows: Vec<&[u8]> = parts.take(8).collect();
    let Some(plan) = compiled(&relation) else { return };
    decide(&plan, &relation, &String::from_utf8_lossy(claims), row, &rows);
}

pub fn with_policy(relation: &Arc<Relation>, tree: &str) -> Arc<Relation> {
    let policy = Policy {
        oid: 1,
        name: "p".into(),
        permissive: true,
        command: PolicyCommand::Select,
        roles: vec![0],
        using_tree: Some(tree.to_owned()),
        using_text: Some("true".into()),
        columns: None,
    };
    Arc::new(Relation { row_security: true, policies: vec![policy], ..Relation::clone(relation) })
}

pub fn compiled(relation: &Arc<Relation>) -> Option<Arc<CompiledPlan>> {
    let role = world::catalog().roles.get("authenticated").expect("a role");
    match plan(world::catalog(), relation, role) {
        Plan::Compiled(plan) => Some(plan),
        Plan::Oracle(plan) => {
            let why = plan.not_compiled.as_ref().expect("a reason").to_string();
            assert!(why.len() < 2000, "a reason of {} bytes", why.len());
            None
        }
        Plan::Open => panic!("row-level security is on"),
        Plan::Denied(_) => None,
    }
}

fn decide(plan: &CompiledPlan, relation: &Arc<Relation>, claims: &str, row: &[u8], rows: &[&[u8]]) {
    let person = Person { role: "authenticated", claims, channel: None };
    let slots = plan.program.slots_of(person);
    assert_eq!(slots, plan.program.slots_of(person));
    let image = world::row(relation, row);
    let row = RowValues::new(&plan.types, &image, None);
    for tables in [Tables::default(), loaded(plan, rows)] {
        let decided = plan.program.decide(&row, &slots, &tables, Moment::After, NOW);
        assert_eq!(decided, plan.program.decide(&row, &slots, &tables, Moment::After, NOW));
        plan.program.decide_clauses(&row, &slots, &tables, Moment::After, NOW);
        if let Ok(verdict) = plan.program.verdict(&row, &slots, &tables, NOW, false) {
            assert_eq!(decided, Ok(verdict), "a verdict without errors is the decision");
        }
        let Some(audience) = &plan.audience else { continue };
        let Some(standing) = audience.standing(&slots) else { continue };
        let is_led = match audience.led(&row, &tables, Moment::After, NOW) {
            Led::Everyone => true,
            Led::To(keys) => standing.always || keys.iter().any(|key| standing.keys.contains(key)),
        };
        assert!(is_led || decided != Ok(true), "somebody who may see the row is not in its audience");
    }
}

/// The columns that are kept of a table, and those that it is looked up by.
type Needed = (BTreeSet<ColumnIndex>, BTreeSet<Box<[ColumnIndex]>>);

fn loaded(plan: &CompiledPlan, rows: &[&[u8]]) -> Tables {
    let audience = plan.audience.as_ref().map(Audience::needs).unwrap_or_default();
    let mut needs: HashMap<u32, Needed> = HashMap::new();
    for need in plan.program.needs.iter().chain(&audience) {
        let (columns, indexes) = needs.entry(need.relation.0).or_default();
        columns.extend(need.columns.iter());
        indexes.extend(need.indexes.iter().cloned());
    }
    let mut tables = Tables::default();
    for (id, (columns, indexes)) in needs {
        let Some(relation) = world::catalog().any_relation(RelationId(id)) else { continue };
        let types = RowTypes::new(world::catalog(), relation);
        let mut table = Table::new(columns.iter().copied().collect(), indexes);
        for units in rows {
            let image = world::row(relation, units);
            let row = RowValues::new(&types, &image, None);
            let values: Result<Vec<_>, _> = columns.iter().map(|column| row.value(*column).cloned()).collect();
            if let Ok(values) = values {
                table.load(values.into());
            }
        }
        tables.insert(RelationId(id), table);
    }
    tables
}
