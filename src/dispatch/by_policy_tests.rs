use super::*;
use crate::authz::OraclePlan;
use crate::authz::policy::audience::Audience;
use crate::authz::policy::builtin;
use crate::authz::policy::{Access, Clause, DatumType, Expr, Person, Program, Query, RowTypes, Source, Value};
use crate::authz::tracked::Table;
use crate::catalog::{ColumnIndex, ColumnSet, Relation};
use crate::change::{Layout, Row};
use crate::dispatch::access::AccessTable;
use crate::dispatch::sample::{SECURED, catalog, relation};
use crate::wal::Lsn;
use crate::wal::pgoutput::Tuple;

const TEXT_EQ: u32 = 67;
const INT4_EQ: u32 = 65;
const MEMBERS: RelationId = RelationId(9);

fn call(oid: u32, args: [Expr; 2]) -> Expr {
    Expr::Call { function: builtin::function(oid).unwrap(), args: args.into() }
}

fn column(column: u16) -> Expr {
    Expr::Column(ColumnIndex(column))
}

fn claims() -> Expr {
    Expr::Setting { name: Expr::Const(Value::text("request.jwt.claims")).into(), missing_ok: true }
}

/// Of permissive policies over the claims, which are a name and nothing else.
fn plan(policies: Vec<Expr>) -> Arc<CompiledPlan> {
    plan_over(claims(), policies)
}

fn plan_over(slot: Expr, policies: Vec<Expr>) -> Arc<CompiledPlan> {
    plan_with(vec![slot], policies.into_iter().map(|using| (true, using)).collect())
}

/// Of policies that are permissive, or restrictive.
fn plan_with(slots: Vec<Expr>, policies: Vec<(bool, Expr)>) -> Arc<CompiledPlan> {
    let clause = |(permissive, using)| Clause { policy: String::new(), permissive, using };
    let program = Program {
        clauses: policies.into_iter().map(clause).collect(),
        slots: slots.into(),
        eager: [].into(),
        columns: ColumnSet::default(),
        needs: [].into(),
        uses_now: false,
    };
    let table = Arc::new(relation(SECURED));
    let oracle = OraclePlan {
        relation: Arc::clone(&table),
        role: "member".into(),
        expression: "true".into(),
        columns: None,
        policies: "".into(),
        not_compiled: None,
    };
    let audience = Audience::of(&program);
    assert!(audience.is_some());
    let types = RowTypes::new(&catalog(), &table);
    Arc::new(CompiledPlan { program, audience, types, oracle: Arc::new(oracle) })
}

/// `note = claims`.
fn own() -> Expr {
    call(TEXT_EQ, [column(1), Expr::Slot(0)])
}

/// `EXISTS (SELECT FROM members m WHERE m.note_of = id AND m.name = claims)`.
fn of_members() -> Expr {
    let inner = |column| Expr::Inner { levels: 0, source: 0, column };
    let access = Access::Lookup { columns: [ColumnIndex(0)].into(), keys: [column(0)].into() };
    Expr::Exists(Arc::new(Query {
        sources: [Source::Table { relation: MEMBERS, access }].into(),
        gates: [].into(),
        conditions: [(0, call(INT4_EQ, [inner(0), column(0)])), (0, call(TEXT_EQ, [inner(1), Expr::Slot(0)]))].into(),
        output: [].into(),
        union: [].into(),
        limit: None,
        aggregate: None,
    }))
}

/// People by their names; the number is the subscription.
fn placed(plans: &[(&str, &Arc<CompiledPlan>)]) -> ByPolicy {
    let mut by_policy = ByPolicy::default();
    for (number, (name, plan)) in (0..).zip(plans) {
        let slots = plan.program.slots_of(Person { role: "member", claims: name, channel: None });
        let subscription = BoundSubscription {
            relation: SECURED,
            event: EventFilter::Any,
            predicate: None,
            select: None,
            positions: false,
        };
        let role = AccessTable::default().role("member");
        assert!(by_policy.insert(SubscriptionId(number), &subscription, role, plan, &slots));
    }
    by_policy
}

fn change(operation: Operation, id: &str, note: Option<&str>) -> Change {
    let table: Arc<Relation> = Arc::new(relation(SECURED));
    let tuple = Tuple::from_values([Some(id.as_bytes()), note.map(str::as_bytes)]);
    let row = Row { layout: Arc::new(Layout::identity(Arc::clone(&table))), tuple, key_only: false };
    let (new, old) = match operation {
        Operation::Delete => (None, OldRow::Full(row)),
        _ => (Some(row), OldRow::Absent),
    };
    Change { relation: table, operation, new, old, kept: None, commit_lsn: Lsn::ZERO, index: 0, commit_timestamp: 0 }
}

fn found(by_policy: &ByPolicy, change: &Change, tables: Option<&Tables>) -> Vec<u32> {
    let mut matches = Matches::default();
    by_policy.matches(change, tables, &mut matches);
    matches.matched.iter().map(|id| id.0).collect()
}

#[test]
fn a_row_leads_to_whom_it_is_for_and_to_whom_a_policy_always_holds_for() {
    let is_admin = call(TEXT_EQ, [Expr::Slot(0), Expr::Const(Value::text("admin"))]);
    for plan in [plan(vec![own(), is_admin.clone()]), plan(vec![Expr::Or([own(), is_admin].into())])] {
        let by_policy = placed(&[("ann", &plan), ("bob", &plan), ("admin", &plan)]);
        let of = |note| found(&by_policy, &change(Operation::Insert, "1", note), Some(&Tables::default()));
        assert_eq!(of(Some("ann")), [0, 2]);
        assert_eq!(of(Some("bob")), [1, 2]);
        assert_eq!(of(Some("eve")), [2]);
        assert_eq!(of(None), [2], "NULL is nobody");
    }
}

/// `note = ANY (claims::text[])`.
#[test]
fn each_element_of_an_array_of_the_claims_leads_to_the_person() {
    let list = DatumType::Array(Box::new(DatumType::Text));
    let slot = Expr::Cast { from: DatumType::Text, to: list, arg: claims().into() };
    let args = Box::new([column(1), Expr::Slot(0)]);
    let is_listed = Expr::AnyArray { function: builtin::function(TEXT_EQ).unwrap(), all: false, args };
    let plan = plan_over(slot, vec![is_listed]);
    let by_policy = placed(&[("{a,b,NULL}", &plan), ("{b}", &plan), ("{}", &plan)]);
    let of = |note| found(&by_policy, &change(Operation::Insert, "1", note), Some(&Tables::default()));
    assert_eq!((of(Some("a")), of(Some("b"))), (vec![0], vec![0, 1]));
    assert_eq!((of(Some("c")), of(None)), (vec![], vec![]));
}

/// They are left to routing, and judged for every row.
#[test]
fn whose_claims_cannot_be_read_here_stand_nowhere() {
    let list = DatumType::Array(Box::new(DatumType::Text));
    let slot = Expr::Cast { from: DatumType::Text, to: list, arg: claims().into() };
    let args = Box::new([column(1), Expr::Slot(0)]);
    let is_listed = Expr::AnyArray { function: builtin::function(TEXT_EQ).unwrap(), all: false, args };
    let plan = plan_over(slot, vec![is_listed]);
    let slots = plan.program.slots_of(Person { role: "member", claims: "{{of,two},{dimensions,?}}", channel: None });
    let subscription = BoundSubscription {
        relation: SECURED,
        event: EventFilter::Any,
        predicate: None,
        select: None,
        positions: false,
    };
    let role = AccessTable::default().role("member");
    assert!(!ByPolicy::default().insert(SubscriptionId(0), &subscription, role, &plan, &slots));
}

/// Those found that need not be judged.
fn sure(by_policy: &ByPolicy, change: &Change, tables: &Tables) -> Vec<u32> {
    let mut matches = Matches::default();
    by_policy.matches(change, Some(tables), &mut matches);
    matches.matched.iter().skip(matches.sure_from).map(|id| id.0).collect()
}

/// (1, ann) and (1, bob).
fn two_members() -> Tables {
    let mut members = Table::new([ColumnIndex(0), ColumnIndex(1)].into(), [Box::from([ColumnIndex(0)])]);
    for name in ["ann", "bob"] {
        members.load([Value::Int(1), Value::text(name)].into());
    }
    let mut tables = Tables::default();
    tables.insert(MEMBERS, members);
    tables
}

#[test]
fn whom_policies_lead_to_is_sure_where_they_say_nothing_else() {
    let tables = two_members();
    let is = |name: &str| call(TEXT_EQ, [Expr::Slot(0), Expr::Const(Value::text(name))]);
    let is_first = || call(INT4_EQ, [column(0), Expr::Const(Value::Int(1))]);
    let of_ann = change(Operation::Insert, "1", Some("ann"));
    let of = |policies: Vec<(bool, Expr)>| {
        let plan = plan_with(vec![claims()], policies);
        sure(&placed(&[("ann", &plan), ("bob", &plan), ("eve", &plan)]), &of_ann, &tables)
    };
    assert_eq!(of(vec![(true, own())]), [0]);
    assert_eq!(of(vec![(true, own()), (true, is("eve"))]), [0, 2]);
    assert_eq!(of(vec![(true, Expr::Or([is("eve"), of_members()].into()))]), [0, 1, 2]);
    assert_eq!(of(vec![(true, own()), (true, Expr::And([is("eve"), is("ann")].into()))]), [0]);
    assert!(of(vec![(true, Expr::And([own(), is_first()].into()))]).is_empty(), "there is another condition");
    assert!(of(vec![(false, is_first()), (true, own())]).is_empty(), "there is a restrictive policy");
    assert!(of(vec![(true, is_first()), (true, own())]).is_empty(), "the row is for everyone");
    let of_two_conditions = |query: &Query| {
        let conditions = query.conditions.iter().cloned().chain([(0, is("ann"))]).collect();
        Expr::Exists(Arc::new(Query { conditions, ..query.clone() }))
    };
    let Expr::Exists(query) = of_members() else { panic!("it is one") };
    assert!(of(vec![(true, of_two_conditions(&query))]).is_empty(), "another condition is about the person");
}

/// An error hides what another policy shows.
#[test]
fn whose_claims_fail_is_sure_of_nothing() {
    let number = Expr::Cast { from: DatumType::Text, to: DatumType::Int4, arg: claims().into() };
    let has_number = call(INT4_EQ, [column(0), Expr::Slot(1)]);
    let plan = plan_with(vec![claims(), number], vec![(true, has_number), (true, own())]);
    let by_policy = placed(&[("ann", &plan), ("7", &plan)]);
    let of = |note| sure(&by_policy, &change(Operation::Insert, "1", Some(note)), &Tables::default());
    assert_eq!(found(&by_policy, &change(Operation::Insert, "1", Some("ann")), Some(&Tables::default())), [0]);
    assert!(of("ann").is_empty());
    assert_eq!(of("7"), [1]);
}

#[test]
fn what_cannot_be_looked_up_is_for_everyone() {
    let plan = plan(vec![own()]);
    let by_policy = placed(&[("ann", &plan), ("bob", &plan)]);
    assert_eq!(found(&by_policy, &change(Operation::Insert, "1", Some("ann")), None), [0, 1], "no tables");
    let unknown = Change { old: OldRow::Absent, ..change(Operation::Delete, "1", None) };
    assert_eq!(found(&by_policy, &unknown, Some(&Tables::default())), [0, 1], "no old row");
    let members = self::plan(vec![of_members()]);
    let by_policy = placed(&[("ann", &members), ("bob", &members)]);
    let new = change(Operation::Insert, "1", None);
    assert_eq!(found(&by_policy, &new, Some(&Tables::default())), [0, 1], "the table is not loaded");
}

#[test]
fn deletes_are_for_those_of_before_the_transaction() {
    let plan = plan(vec![of_members()]);
    let by_policy = placed(&[("ann", &plan), ("bob", &plan)]);
    let mut members = Table::new([ColumnIndex(0), ColumnIndex(1)].into(), [Box::from([ColumnIndex(0)])]);
    members.load([Value::Int(1), Value::text("ann")].into());
    // Made by the transaction that is judged.
    members.insert([Value::Int(1), Value::text("bob")].into());
    let mut tables = Tables::default();
    tables.insert(MEMBERS, members);
    assert_eq!(found(&by_policy, &change(Operation::Delete, "1", None), Some(&tables)), [0]);
    assert_eq!(found(&by_policy, &change(Operation::Insert, "1", None), Some(&tables)), [0, 1]);
    assert!(found(&by_policy, &change(Operation::Insert, "2", None), Some(&tables)).is_empty());
}

/// Policies change, and people are placed anew one after the other.
#[test]
fn people_stand_under_the_plan_that_they_were_placed_by() {
    let (own, members) = (plan(vec![own()]), plan(vec![of_members()]));
    let mut by_policy = placed(&[("ann", &own), ("ann", &members)]);
    let mut tables = Tables::default();
    tables.insert(MEMBERS, Table::new([ColumnIndex(0), ColumnIndex(1)].into(), [Box::from([ColumnIndex(0)])]));
    let of_ann = change(Operation::Insert, "1", Some("ann"));
    assert_eq!(found(&by_policy, &of_ann, Some(&tables)), [0]);
    by_policy.remove(SubscriptionId(0));
    assert!(found(&by_policy, &of_ann, Some(&tables)).is_empty());
    by_policy.remove(SubscriptionId(1));
    assert!(by_policy.is_empty() && !by_policy.has_relation(SECURED));
}

#[test]
fn people_whose_numbers_are_written_in_different_ways_are_two() {
    let claims_as = |to| Expr::Cast { from: DatumType::Text, to, arg: claims().into() };
    let plan = plan_with(vec![claims_as(DatumType::Jsonb)], vec![(true, own())]);
    let of = |claims: &str| Arc::new(crate::authz::Identity { role: "member".into(), claims: claims.into() });
    let mut people = crate::dispatch::people::People::default();
    let (ann, bob) = (of(r#"{"level": 1.0}"#), of(r#"{"level": 1.00}"#));
    let of_ann = Arc::clone(people.slots(&plan, &ann));
    assert!(!Arc::ptr_eq(&of_ann, people.slots(&plan, &bob)));
    assert!(Arc::ptr_eq(&of_ann, people.slots(&plan, &of(r#"{"level":1.0}"#))));
}
