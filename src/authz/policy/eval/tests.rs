use std::sync::Arc;

use super::*;
use crate::authz::policy::builtin::{self, Builtin};
use crate::authz::policy::expr::{Aggregate, Truth};
use crate::authz::policy::{Access, Query, Source};
use crate::authz::tracked::Table;
use crate::catalog::ColumnSet;
use crate::wal::pgoutput::RelationId;

const INT4_EQ: u32 = 65;
const MEMBERS: RelationId = RelationId(7);

struct Columns(Vec<Value>);

impl Row for Columns {
    fn value(&self, column: ColumnIndex) -> Result<&Value, Failure> {
        self.0.get(usize::from(column.0)).ok_or(Failure::Undecided(Undecided::ColumnMissing(column)))
    }
}

fn function(oid: u32) -> &'static Builtin {
    builtin::function(oid).expect("a known function")
}

fn call(oid: u32, args: impl Into<Box<[Expr]>>) -> Expr {
    Expr::Call { function: function(oid), args: args.into() }
}

fn int(value: i64) -> Expr {
    Expr::Const(Value::Int(value))
}

fn boolean(value: Option<bool>) -> Expr {
    Expr::Const(value.map_or(Value::Null, Value::Bool))
}

/// `1 / 0`.
fn error() -> Expr {
    call(154, [int(1), int(0)])
}

/// `1 / 0 = 1`.
fn wrong() -> Expr {
    call(INT4_EQ, [error(), int(1)])
}

fn ints(values: &[Option<i64>]) -> Value {
    Value::Array(values.iter().map(|value| value.map_or(Value::Null, Value::Int)).collect())
}

fn value(expr: &Expr) -> Result<Value, Failure> {
    over(expr, &Tables::default())
}

fn over(expr: &Expr, tables: &Tables) -> Result<Value, Failure> {
    value_of(expr, &Columns(vec![Value::Int(1), Value::Null]), &Slots::default(), tables, Moment::After, 5)
}

fn is_error(expr: &Expr) -> bool {
    matches!(value(expr), Err(Failure::Error(_)))
}

fn is_undecided(result: Result<Value, Failure>) -> bool {
    matches!(result, Err(Failure::Undecided(_)))
}

const T: Option<bool> = Some(true);
const F: Option<bool> = Some(false);
const N: Option<bool> = None;

#[test]
fn and_or_not_have_three_values() {
    let table = [
        (T, T, T, T),
        (T, F, F, T),
        (T, N, N, T),
        (F, T, F, T),
        (F, F, F, F),
        (F, N, F, N),
        (N, T, N, T),
        (N, F, F, N),
        (N, N, N, N),
    ];
    for (a, b, and, or) in table {
        let args = || [boolean(a), boolean(b)].into();
        assert_eq!(value(&Expr::And(args())), value(&boolean(and)), "{a:?} and {b:?}");
        assert_eq!(value(&Expr::Or(args())), value(&boolean(or)), "{a:?} or {b:?}");
    }
    assert_eq!(value(&Expr::Not(boolean(N).into())), Ok(Value::Null));
    assert_eq!(value(&Expr::Not(boolean(F).into())), Ok(Value::Bool(true)));
}

#[test]
fn an_operand_that_decides_hides_errors_behind_it_only() {
    assert_eq!(value(&Expr::And([boolean(F), wrong()].into())), Ok(Value::Bool(false)));
    assert_eq!(value(&Expr::Or([boolean(T), wrong()].into())), Ok(Value::Bool(true)));
    assert!(is_error(&Expr::And([wrong(), boolean(F)].into())));
    assert!(is_error(&Expr::And([boolean(N), wrong()].into())));
    assert!(is_error(&call(INT4_EQ, [Expr::Const(Value::Null), error()])), "arguments are all evaluated");
}

#[test]
fn tests_of_truth_and_null_are_never_null() {
    for (arg, test, expected) in [
        (N, Truth::True, false),
        (T, Truth::True, true),
        (N, Truth::False, false),
        (F, Truth::False, true),
        (N, Truth::Unknown, true),
        (F, Truth::Unknown, false),
    ] {
        for not in [false, true] {
            let expr = Expr::Is { test, not, arg: boolean(arg).into() };
            assert_eq!(value(&expr), Ok(Value::Bool(expected != not)), "{arg:?} is {not} {test:?}");
        }
    }
    let distinct = |a, b| Expr::Distinct { equal: function(INT4_EQ), args: [Expr::Const(a), Expr::Const(b)].into() };
    for (a, b, expected) in [
        (Value::Null, Value::Null, false),
        (Value::Int(1), Value::Null, true),
        (Value::Int(1), Value::Int(1), false),
        (Value::Int(1), Value::Int(2), true),
    ] {
        assert_eq!(value(&distinct(a, b)), Ok(Value::Bool(expected)));
    }
    let null_if = |a, b| Expr::NullIf { equal: function(INT4_EQ), args: [Expr::Const(a), Expr::Const(b)].into() };
    assert_eq!(value(&null_if(Value::Int(1), Value::Int(1))), Ok(Value::Null));
    assert_eq!(value(&null_if(Value::Int(1), Value::Null)), Ok(Value::Int(1)));
}

#[test]
fn case_and_coalesce_evaluate_no_more_than_they_need() {
    let case = Expr::Case {
        branches: [(boolean(N), error()), (boolean(T), int(2)), (wrong(), int(3))].into(),
        otherwise: error().into(),
    };
    assert_eq!(value(&case), Ok(Value::Int(2)));
    assert_eq!(value(&Expr::Coalesce([Expr::Column(ColumnIndex(1)), int(4), error()].into())), Ok(Value::Int(4)));
    assert_eq!(value(&Expr::Coalesce([Expr::Const(Value::Null)].into())), Ok(Value::Null));
}

#[test]
fn any_and_all_of_an_array() {
    let any = |all, left: Value, array: Value| {
        let args = [Expr::Const(left), Expr::Const(array)].into();
        value(&Expr::AnyArray { function: function(INT4_EQ), all, args }).unwrap()
    };
    let one = || Value::Int(1);
    assert_eq!(any(false, one(), ints(&[Some(2), None, Some(1)])), Value::Bool(true));
    assert_eq!(any(false, one(), ints(&[Some(2), None])), Value::Null);
    assert_eq!(any(false, one(), ints(&[Some(2)])), Value::Bool(false));
    assert_eq!(any(false, Value::Null, ints(&[])), Value::Bool(false), "whatever the left side is");
    assert_eq!(any(true, Value::Null, ints(&[])), Value::Bool(true));
    assert_eq!(any(false, Value::Null, ints(&[Some(1)])), Value::Null);
    assert_eq!(any(true, one(), ints(&[Some(1), None])), Value::Null);
    assert_eq!(any(true, one(), ints(&[None, Some(2)])), Value::Bool(false));
    assert_eq!(any(true, one(), Value::Null), Value::Null);
}

#[test]
fn strict_functions_and_bodies_are_null_for_a_null() {
    assert_eq!(value(&call(INT4_EQ, [int(1), Expr::Const(Value::Null)])), Ok(Value::Null));
    assert_eq!(value(&call(INT4_EQ, [Expr::Const(Value::Null), Expr::Const(Value::Null)])), Ok(Value::Null));
    let apply =
        |strict, arg| Expr::Apply { args: [arg].into(), strict, body: Expr::IsNull(Expr::Param(0).into()).into() };
    assert_eq!(value(&apply(true, Expr::Const(Value::Null))), Ok(Value::Null));
    assert_eq!(value(&apply(false, Expr::Const(Value::Null))), Ok(Value::Bool(true)));
    assert_eq!(value(&apply(true, int(1))), Ok(Value::Bool(false)));
}

/// `members (organization, person)`, with an index on the first.
fn members(rows: &[(Option<i64>, i64)]) -> Tables {
    let columns: Box<[ColumnIndex]> = [ColumnIndex(0), ColumnIndex(1)].into();
    let mut table = Table::new(columns, [Box::from([ColumnIndex(0)])]);
    for (organization, person) in rows {
        table.load([organization.map_or(Value::Null, Value::Int), Value::Int(*person)].into());
    }
    let mut tables = Tables::default();
    tables.insert(MEMBERS, table);
    tables
}

fn inner(source: u16, column: u16) -> Expr {
    Expr::Inner { levels: 0, source, column }
}

fn query(sources: impl Into<Box<[Source]>>, conditions: impl Into<Box<[(u16, Expr)]>>, output: Expr) -> Query {
    Query {
        sources: sources.into(),
        gates: Box::new([]),
        conditions: conditions.into(),
        output: [output].into(),
        union: [].into(),
        limit: None,
        aggregate: None,
    }
}

fn scan() -> Source {
    Source::Table { relation: MEMBERS, access: Access::Scan }
}

fn lookup(key: Expr) -> Source {
    Source::Table { relation: MEMBERS, access: Access::Lookup { columns: [ColumnIndex(0)].into(), keys: [key].into() } }
}

fn exists(query: Query) -> Expr {
    Expr::Exists(Arc::new(query))
}

#[test]
fn sub_queries_look_up_and_filter() {
    let tables = members(&[(Some(1), 10), (Some(2), 20), (None, 30)]);
    let person_is = |person| (0, call(INT4_EQ, [inner(0, 1), int(person)]));
    let own = |person| exists(query([lookup(Expr::Column(ColumnIndex(0)))], [person_is(person)], int(1)));
    assert_eq!(over(&own(10), &tables), Ok(Value::Bool(true)));
    assert_eq!(over(&own(20), &tables), Ok(Value::Bool(false)));
    let by_null = exists(query([lookup(Expr::Column(ColumnIndex(1)))], [], int(1)));
    assert_eq!(over(&by_null, &tables), Ok(Value::Bool(false)), "NULL equals no key, not even a NULL");
    let joined = exists(query(
        [scan(), lookup(inner(0, 0))],
        [(0, call(INT4_EQ, [inner(0, 1), int(20)])), (1, call(INT4_EQ, [inner(1, 1), inner(0, 1)]))],
        int(1),
    ));
    assert_eq!(over(&joined, &tables), Ok(Value::Bool(true)));
    // From within, the query around it is one level out.
    let outward = Expr::Inner { levels: 1, source: 0, column: 1 };
    for (organization, is_there) in [(2, true), (1, false)] {
        let nested = query([lookup(int(2))], [(0, call(INT4_EQ, [inner(0, 1), outward.clone()]))], int(1));
        let is_it = (0, call(INT4_EQ, [inner(0, 0), int(organization)]));
        let nested = exists(query([scan()], [(0, exists(nested)), is_it], int(1)));
        assert_eq!(over(&nested, &tables), Ok(Value::Bool(is_there)), "{organization}");
    }
}

#[test]
fn rows_are_those_whose_conditions_are_true() {
    let tables = members(&[(None, 30)]);
    let is_one = |expr| exists(query([scan()], [(0, expr)], int(1)));
    assert_eq!(over(&is_one(call(INT4_EQ, [inner(0, 0), int(1)])), &tables), Ok(Value::Bool(false)), "NULL = 1");
    assert_eq!(over(&is_one(boolean(N)), &tables), Ok(Value::Bool(false)));
    assert_eq!(over(&is_one(Expr::IsNull(inner(0, 0).into())), &tables), Ok(Value::Bool(true)));
    let none = Query { limit: Some(0), ..query([scan()], [], int(1)) };
    assert_eq!(over(&exists(none), &tables), Ok(Value::Bool(false)), "LIMIT 0");
}

#[test]
fn in_a_sub_query_has_three_values() {
    let within = |left: Expr, all| Expr::AnyQuery {
        function: function(INT4_EQ),
        all,
        left: left.into(),
        query: Arc::new(query([scan()], [], inner(0, 0))),
    };
    let tables = members(&[(Some(1), 10), (None, 30)]);
    assert_eq!(over(&within(int(1), false), &tables), Ok(Value::Bool(true)));
    assert_eq!(over(&within(int(2), false), &tables), Ok(Value::Null));
    assert_eq!(over(&within(int(2), true), &tables), Ok(Value::Bool(false)));
    assert_eq!(over(&within(Expr::Const(Value::Null), false), &tables), Ok(Value::Null));
    let nobody = members(&[]);
    assert_eq!(over(&within(Expr::Const(Value::Null), false), &nobody), Ok(Value::Bool(false)));
    assert_eq!(over(&within(error(), false), &nobody), Ok(Value::Bool(false)), "nothing to compare with");
}

#[test]
fn one_value_is_of_one_row() {
    let person = |conditions: Vec<(u16, Expr)>| Expr::Scalar(Arc::new(query([scan()], conditions, inner(0, 1))));
    let tables = members(&[(Some(1), 10), (Some(2), 20)]);
    let of = |organization| vec![(0, call(INT4_EQ, [inner(0, 0), int(organization)]))];
    assert_eq!(over(&person(of(2)), &tables), Ok(Value::Int(20)));
    assert_eq!(over(&person(of(3)), &tables), Ok(Value::Null));
    assert!(matches!(over(&person(vec![]), &tables), Err(Failure::Error(_))));
    let limited = Expr::Scalar(Arc::new(Query { limit: Some(1), ..query([scan()], [], inner(0, 1)) }));
    assert!(is_undecided(over(&limited, &tables)), "which of two is not said");
}

#[test]
fn aggregates_of_nothing() {
    let of = |aggregate, output, rows: &[(Option<i64>, i64)]| {
        let query = Query { aggregate: Some(aggregate), ..query([scan()], [], output) };
        over(&Expr::Scalar(Arc::new(query)), &members(rows)).unwrap()
    };
    let rows = [(None, 1), (Some(3), 2), (Some(2), 2)];
    assert_eq!(of(Aggregate::ArrayAgg, inner(0, 0), &[]), Value::Null);
    assert_eq!(of(Aggregate::ArrayAgg, inner(0, 0), &rows[..1]), ints(&[None]));
    assert_eq!(of(Aggregate::CountRows, inner(0, 0), &[]), Value::Int(0));
    assert_eq!(of(Aggregate::CountRows, inner(0, 0), &rows), Value::Int(3));
    assert_eq!(of(Aggregate::Count, inner(0, 0), &rows), Value::Int(2));
    assert_eq!(of(Aggregate::Max, inner(0, 0), &rows), Value::Int(3));
    assert_eq!(of(Aggregate::Min, inner(0, 0), &rows), Value::Int(2));
    assert_eq!(of(Aggregate::Min, inner(0, 0), &[]), Value::Null);
    let is_two = || call(INT4_EQ, [inner(0, 0), int(2)]);
    assert_eq!(of(Aggregate::BoolOr, is_two(), &rows), Value::Bool(true));
    assert_eq!(of(Aggregate::BoolAnd, is_two(), &rows), Value::Bool(false));
    assert_eq!(of(Aggregate::BoolAnd, is_two(), &rows[..1]), Value::Null);
    let array = Expr::ArrayOf(Arc::new(query([scan()], [], inner(0, 0))));
    assert_eq!(over(&array, &members(&[])), Ok(ints(&[])));
}

#[test]
fn unions_and_elements_give_rows() {
    let elements = |array: Value| query([Source::Elements { array: Expr::Const(array) }], [], inner(0, 0));
    let both = Query { union: [elements(ints(&[Some(3)]))].into(), ..elements(ints(&[Some(1), None])) };
    let array = Expr::ArrayOf(Arc::new(both.clone()));
    assert_eq!(value(&array), Ok(ints(&[Some(1), None, Some(3)])));
    let none = Expr::ArrayOf(Arc::new(Query { limit: Some(0), ..both }));
    assert_eq!(value(&none), Ok(ints(&[])));
    assert_eq!(value(&exists(elements(Value::Null))), Ok(Value::Bool(false)));
    let scalar = Value::Jsonb(crate::authz::policy::json::Json::Bool(true).into());
    assert!(is_error(&exists(elements(scalar))));
}

#[test]
fn what_postgres_may_or_may_not_reach_is_undecided() {
    let tables = members(&[(Some(1), 10)]);
    let divides = call(INT4_EQ, [call(154, [int(1), inner(0, 1)]), int(0)]);
    assert!(is_undecided(over(&exists(query([scan()], [(0, divides)], int(1))), &tables)), "some other row may be 0");
    assert!(is_undecided(over(&exists(query([scan()], [(0, wrong())], int(1))), &tables)));
    assert!(is_error(&exists(query([], [(0, wrong())], int(1)))), "it has no rows");
    let unknown = exists(query([scan()], [], int(1)));
    let not_loaded = Failure::Undecided(Undecided::NotLoaded(MEMBERS));
    assert_eq!(value(&unknown), Err(not_loaded.clone()));
    let no_index = Access::Lookup { columns: [ColumnIndex(1)].into(), keys: [int(1)].into() };
    let no_index = query([Source::Table { relation: MEMBERS, access: no_index }], [], int(1));
    assert_eq!(over(&exists(no_index), &tables), Err(not_loaded));
}

fn program(clauses: Vec<(bool, Expr)>, slots: Vec<Expr>, eager: &[u16]) -> Program {
    let clause = |(permissive, using)| Clause { policy: String::new(), permissive, using };
    Program {
        clauses: clauses.into_iter().map(clause).collect(),
        slots: slots.into(),
        eager: eager.into(),
        columns: ColumnSet::default(),
        needs: [].into(),
        uses_now: false,
    }
}

fn decide(program: &Program) -> Result<bool, Undecided> {
    let slots = program.slots_of(Person { role: "anon", claims: r#"{"sub":"x"}"#, channel: None });
    program.decide(&Columns(vec![]), &slots, &Tables::default(), Moment::After, 0)
}

#[test]
fn restrictive_clauses_and_then_one_permissive_one() {
    let (yes, no) = (|| boolean(T), || boolean(F));
    let missing = || Expr::Column(ColumnIndex(9));
    let lacks = Err(Undecided::ColumnMissing(ColumnIndex(9)));
    for (clauses, expected) in [
        (vec![], Ok(false)),
        (vec![(true, yes())], Ok(true)),
        (vec![(false, yes())], Ok(false)),
        (vec![(false, yes()), (true, no()), (true, yes())], Ok(true)),
        (vec![(false, boolean(N)), (true, yes())], Ok(false)),
        (vec![(true, boolean(N))], Ok(false)),
        (vec![(true, yes()), (true, wrong())], Ok(true)),
        (vec![(true, wrong()), (true, yes())], Ok(false)),
        (vec![(false, wrong()), (true, yes())], Ok(false)),
        (vec![(true, missing()), (true, yes())], lacks.clone()),
        (vec![(true, yes()), (true, missing())], Ok(true)),
        (vec![(false, missing()), (false, no()), (true, yes())], Ok(false)),
        (vec![(false, missing()), (true, no())], Ok(false)),
        (vec![(false, missing()), (true, yes())], lacks.clone()),
    ] {
        assert_eq!(decide(&program(clauses.clone(), vec![], &[])), expected, "{clauses:?}");
    }
}

#[test]
fn an_error_in_an_eager_slot_hides_every_row() {
    let clauses = || vec![(true, Expr::Or([boolean(T), Expr::Slot(0)].into()))];
    assert_eq!(decide(&program(clauses(), vec![wrong()], &[0])), Ok(false));
    assert_eq!(decide(&program(clauses(), vec![wrong()], &[])), Ok(true));
    assert_eq!(decide(&program(vec![(true, Expr::Slot(0))], vec![wrong()], &[])), Ok(false));
}

#[test]
fn people_have_their_claims_their_role_and_nothing_else() {
    let setting = |name: &str, missing_ok| Expr::Setting { name: Expr::Const(Value::text(name)).into(), missing_ok };
    let slots = vec![
        setting("request.jwt.claims", false),
        setting("role", true),
        setting("request.jwt.claim.sub", true),
        setting("request.jwt.claim.sub", false),
        setting("Request.JWT.Claims", false),
        setting("timezone", true),
        Expr::Now,
        Expr::Slot(1),
    ];
    let slots = program(vec![], slots, &[]).slots_of(Person { role: "anon", claims: "{}", channel: None });
    assert_eq!(slots.get(0), Some(&Ok(Value::text("{}"))));
    assert_eq!(slots.get(1), Some(&Ok(Value::text("anon"))));
    assert_eq!(slots.get(2), Some(&Ok(Value::Null)));
    assert!(matches!(slots.get(3), Some(Err(Failure::Error(_)))));
    assert_eq!(slots.get(4), slots.get(0));
    assert!(matches!(slots.get(5), Some(Err(Failure::Undecided(_)))));
    assert!(matches!(slots.get(6), Some(Err(Failure::Undecided(_)))));
    assert_eq!(slots.get(7), slots.get(1));
    assert!(value(&setting("role", true)).is_err(), "a row has no person");
}
