//! Who can possibly see a row: the other way round of a policy.
//!
//! `user_id = auth.uid()` says which person a row is for, `EXISTS (SELECT .. FROM members WHERE ..)` which people. With
//! an index of people by what the policy compares, a change costs what its audience costs, however many others are
//! subscribed. What is derived here is necessary, not sufficient: whoever is found is still judged by the program.

use std::collections::HashSet;
use std::sync::Arc;

use super::builtin::Builtin;
use super::eval::{NoRow, Row, Slots, value_of};
use super::expr::Aggregate;
use super::failure::Failure;
use super::{Access, Expr, Need, Program, Query, Source, Value};
use crate::authz::tracked::{Moment, Tables};
use crate::catalog::ColumnIndex;

/// The ways in which somebody may be allowed to see a row; whoever has none of them may not.
#[derive(Clone, Debug, PartialEq)]
pub struct Audience {
    pub ways: Box<[Way]>,
    /// The ways are all that the policies say: whoever is led to is allowed, if he is [sure](Standing::sure).
    pub is_exact: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Way {
    /// This holds for the person, whatever the row: an expression over slots.
    Person(Expr),
    /// This holds for the row, whoever asks: an expression over the row and tracked tables.
    Row(Expr),
    /// A slot of the person's is among the values that the row leads to.
    Keyed { slot: u16, of_slot: OfSlot, values: Values },
}

/// How the slot is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfSlot {
    /// Its value.
    Value,
    /// One of its elements: it is an array of the person's claims.
    Element,
}

/// Where a row leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// The value of an expression over the row.
    Value(Expr),
    /// The elements of an array in the row.
    Elements(Expr),
    /// What the query gives for the row: its one output column.
    Query(Arc<Query>),
}

impl Audience {
    /// `None`: anybody may be allowed to see any row, as far as can be told.
    pub fn of(program: &Program) -> Option<Audience> {
        let mut ways = Vec::new();
        for clause in program.clauses.iter().filter(|clause| clause.permissive) {
            ways.extend(ways_of(&clause.using)?);
        }
        ways.dedup();
        let is_exact = program.clauses.iter().all(|clause| clause.permissive && is_exact(&clause.using));
        // Without a key there is nothing to find people by.
        ways.iter().any(|way| matches!(way, Way::Keyed { .. })).then(|| Audience { ways: ways.into(), is_exact })
    }

    /// The indexes that it looks into.
    pub fn needs(&self) -> Vec<Need> {
        let queries = self.ways.iter().filter_map(|way| match way {
            Way::Keyed { values: Values::Query(query), .. } => Some(query),
            _ => None,
        });
        queries.flat_map(|query| query.sources.iter()).filter_map(need_of).collect()
    }
}

fn need_of(source: &Source) -> Option<Need> {
    match source {
        // What it scans the program itself reads.
        Source::Table { relation, access: Access::Lookup { columns, .. } } => Some(Need {
            relation: *relation,
            columns: columns.iter().copied().collect(),
            indexes: vec![columns.clone()],
        }),
        _ => None,
    }
}

/// `None`: this may hold for anybody.
fn ways_of(expr: &Expr) -> Option<Vec<Way>> {
    let reads = Reads::of(expr);
    if !reads.opaque {
        if !reads.row && !reads.tables {
            return Some(vec![Way::Person(expr.clone())]);
        }
        if !reads.person {
            return Some(vec![Way::Row(expr.clone())]);
        }
    }
    match expr {
        Expr::Or(args) => {
            let mut all = Vec::new();
            for arg in args {
                all.extend(ways_of(arg)?);
            }
            Some(all)
        }
        // Each condition by itself is necessary: the one that leads to the fewest is taken.
        Expr::And(args) => args.iter().filter_map(ways_of).min_by_key(|ways| breadth(ways)),
        Expr::Call { function, args } if is_equality(function) => match &**args {
            [Expr::Slot(slot), row] | [row, Expr::Slot(slot)] => {
                is_of_row(row).then(|| keyed(*slot, OfSlot::Value, Values::Value(row.clone())))
            }
            _ => None,
        },
        Expr::AnyArray { function, all: false, args } if is_equality(function) => match &**args {
            [row, Expr::Slot(slot)] if is_of_row(row) => {
                Some(keyed(*slot, OfSlot::Element, Values::Value(row.clone())))
            }
            [Expr::Slot(slot), row] if is_of_row(row) => {
                Some(keyed(*slot, OfSlot::Value, Values::Elements(row.clone())))
            }
            _ => None,
        },
        Expr::Exists(query) => of_query(query),
        // Nothing else of it is ever true.
        Expr::Case { branches, otherwise } if branches.iter().all(|(_, result)| is_no(result)) => ways_of(otherwise),
        _ => None,
    }
}

/// Whether the ways of an expression are all that it says. It is true then for whoever one of them leads to: `led` has
/// evaluated all that it reads of the row, without an error, and `standing` all that it reads of the person.
fn is_exact(expr: &Expr) -> bool {
    let reads = Reads::of(expr);
    // It is a way itself.
    if !reads.opaque && (!reads.person || !(reads.row || reads.tables)) {
        return true;
    }
    match expr {
        Expr::Or(args) => args.iter().all(is_exact),
        Expr::Exists(query) => {
            let of_person = query.conditions.iter().filter(|(_, condition)| Reads::of(condition).person);
            let are_slots = query.gates.iter().all(|gate| matches!(gate, Expr::Slot(_)));
            of_person.count() <= 1 && are_slots && !query.may_fail_on_rows() && ways_of(expr).is_some()
        }
        Expr::Call { .. } | Expr::AnyArray { .. } => ways_of(expr).is_some(),
        // Of these a condition leads somewhere, and there are others.
        _ => false,
    }
}

fn is_no(expr: &Expr) -> bool {
    matches!(expr, Expr::Const(Value::Null | Value::Bool(false)))
}

fn keyed(slot: u16, of_slot: OfSlot, values: Values) -> Vec<Way> {
    vec![Way::Keyed { slot, of_slot, values }]
}

/// The smaller, the fewer people are looked at for nothing.
fn breadth(ways: &[Way]) -> u32 {
    let of_way = |way: &Way| match way {
        Way::Keyed { values: Values::Query(query), .. } if has_scan(query) => 4,
        Way::Keyed { values: Values::Query(_), .. } => 2,
        Way::Keyed { .. } => 1,
        Way::Person(_) => 8,
        Way::Row(_) => 16,
    };
    ways.iter().map(of_way).sum()
}

fn has_scan(query: &Query) -> bool {
    query.sources.iter().any(|source| !matches!(source, Source::Table { access: Access::Lookup { .. }, .. }))
}

/// `EXISTS (.. WHERE inner = slot AND rest)`: the people whose slot is among the inner values under the rest.
fn of_query(query: &Query) -> Option<Vec<Way>> {
    let simple = query.union.is_empty() && query.limit.is_none() && query.aggregate.is_none();
    if !simple || query.sources.iter().any(|source| !matches!(source, Source::Table { .. })) {
        return None;
    }
    let key = query.conditions.iter().find_map(|(_, condition)| slot_of(condition))?;
    let (slot, of_slot, output) = key;
    let rest: Vec<(u16, Expr)> =
        query.conditions.iter().filter(|(_, condition)| !Reads::of(condition).person).cloned().collect();
    // The people's conditions have fed the access paths as well.
    let sources = query.sources.iter().enumerate().map(|(place, source)| match source {
        Source::Table { relation, .. } => Source::Table { relation: *relation, access: access(place as u16, &rest) },
        other => other.clone(),
    });
    let query = Query {
        sources: sources.collect(),
        conditions: rest.into(),
        gates: Box::new([]),
        output: Box::new([output]),
        union: Box::new([]),
        limit: None,
        aggregate: None::<Aggregate>,
    };
    Some(keyed(slot, of_slot, Values::Query(Arc::new(query))))
}

/// `inner = slot`, either way round, or `inner = ANY (slot)`.
fn slot_of(condition: &Expr) -> Option<(u16, OfSlot, Expr)> {
    let is_inner = |expr: &Expr| {
        let reads = Reads::of(expr);
        reads.inner && !reads.opaque && !reads.person && !reads.row && !reads.tables
    };
    match condition {
        Expr::Call { function, args } if is_equality(function) => match &**args {
            [Expr::Slot(slot), inner] | [inner, Expr::Slot(slot)] if is_inner(inner) => {
                Some((*slot, OfSlot::Value, inner.clone()))
            }
            _ => None,
        },
        Expr::AnyArray { function, all: false, args } if is_equality(function) => match &**args {
            [inner, Expr::Slot(slot)] if is_inner(inner) => Some((*slot, OfSlot::Element, inner.clone())),
            _ => None,
        },
        _ => None,
    }
}

/// The access path that these conditions allow: equalities of a column with what does not depend on later sources.
fn access(place: u16, conditions: &[(u16, Expr)]) -> Access {
    let mut found: Vec<(ColumnIndex, Expr)> = Vec::new();
    for (at, condition) in conditions {
        let Expr::Call { function, args } = condition else { continue };
        if *at != place || !is_equality(function) {
            continue;
        }
        let column = |expr: &Expr| match expr {
            Expr::Inner { levels: 0, source, column } if *source == place => Some(ColumnIndex(*column)),
            _ => None,
        };
        let [left, right] = &**args else { continue };
        let (column, key) = match (column(left), column(right)) {
            (Some(column), None) => (column, right),
            (None, Some(column)) => (column, left),
            _ => continue,
        };
        if !mentions_source(key, place) && !Reads::of(key).opaque && found.iter().all(|(known, _)| *known != column) {
            found.push((column, key.clone()));
        }
    }
    if found.is_empty() {
        return Access::Scan;
    }
    found.sort_by_key(|(column, _)| *column);
    let (columns, keys): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    Access::Lookup { columns: columns.into(), keys: keys.into() }
}

fn mentions_source(expr: &Expr, place: u16) -> bool {
    let mut found = false;
    expr.walk(&mut |expr| found |= matches!(expr, Expr::Inner { levels: 0, source, .. } if *source >= place));
    found
}

fn is_of_row(expr: &Expr) -> bool {
    let reads = Reads::of(expr);
    !reads.opaque && !reads.person && !reads.inner && !reads.tables
}

/// What an expression depends on.
#[derive(Clone, Copy, Debug, Default)]
struct Reads {
    row: bool,
    person: bool,
    /// The sources of the query around it.
    inner: bool,
    /// Tracked tables, or the time: what is not known when a person comes.
    tables: bool,
    /// Something that cannot be taken out of its place.
    opaque: bool,
}

impl Reads {
    fn of(expr: &Expr) -> Reads {
        let mut reads = Reads::default();
        expr.walk(&mut |expr| match expr {
            Expr::Column(_) => reads.row = true,
            Expr::Slot(_) | Expr::Setting { .. } => reads.person = true,
            Expr::Inner { .. } => reads.inner = true,
            Expr::Now => reads.tables = true,
            Expr::Param(_) | Expr::Apply { .. } => reads.opaque = true,
            Expr::Exists(_) | Expr::AnyQuery { .. } | Expr::Scalar(_) | Expr::ArrayOf(_) => reads.tables = true,
            _ => {}
        });
        reads
    }
}

/// Equality of types whose values hash as they compare.
fn is_equality(function: &Builtin) -> bool {
    matches!(
        function.name,
        "uuideq"
            | "uuid_eq"
            | "texteq"
            | "booleq"
            | "int2eq"
            | "int4eq"
            | "int8eq"
            | "int24eq"
            | "int42eq"
            | "int28eq"
            | "int82eq"
            | "int48eq"
            | "int84eq"
            | "oideq"
            | "date_eq"
            | "timestamp_eq"
            | "timestamptz_eq"
            | "enum_eq"
    )
}

/// Where a person stands.
pub struct Standing {
    /// A policy may hold for the person whatever the row.
    pub always: bool,
    /// Whatever row leads to the person, the person may see it.
    pub sure: bool,
    /// The ways that lead to the person, and the values that they have to lead to.
    pub keys: Vec<(u16, Value)>,
}

/// Whom a row is for.
pub enum Led {
    /// It cannot be told.
    Everyone,
    /// To whoever stands there, and to whom a policy holds always.
    To(Vec<(u16, Value)>),
}

/// A table of which a query reads every row is small, or looking through it costs more than judging people.
const SCANNED_MAX: usize = 1024;

impl Audience {
    /// `None`: it cannot be told, and the person is to be judged for every row.
    pub fn standing(&self, slots: &Slots) -> Option<Standing> {
        // An error would hide what another way leads to.
        let mut standing = Standing { always: false, sure: self.is_exact && slots.are_known(), keys: Vec::new() };
        for (way, place) in self.ways.iter().zip(0..) {
            match way {
                Way::Row(_) => {}
                Way::Person(expr) => {
                    let holds = value_of(expr, &NoRow, slots, &Tables::default(), Moment::After, 0);
                    standing.always |= !matches!(holds, Ok(Value::Bool(false) | Value::Null));
                    standing.sure &= matches!(holds, Ok(Value::Bool(_) | Value::Null));
                }
                Way::Keyed { slot, of_slot, .. } => match (slots.get(*slot)?, of_slot) {
                    // What compares with NULL is never true, and an error shows nothing.
                    (Ok(Value::Null) | Err(Failure::Error(_)), _) => {}
                    (Err(Failure::Undecided(_)), _) => return None,
                    (Ok(value), OfSlot::Value) => standing.keys.push((place, value.clone())),
                    (Ok(Value::Array(values)), OfSlot::Element) => {
                        let values: HashSet<&Value> = values.iter().filter(|value| !value.is_null()).collect();
                        standing.keys.extend(values.into_iter().map(|value| (place, value.clone())));
                    }
                    (Ok(_), OfSlot::Element) => return None,
                },
            }
        }
        Some(standing)
    }

    /// Whom the row may be for.
    pub fn led(&self, row: &dyn Row, tables: &Tables, moment: Moment, now: i64) -> Led {
        let slots = Slots::default();
        let value = |expr: &Expr| value_of(expr, row, &slots, tables, moment, now);
        let mut keys = Vec::new();
        for (way, place) in self.ways.iter().zip(0..) {
            let (expr, is_list) = match way {
                Way::Person(_) => continue,
                Way::Row(expr) => match value(expr) {
                    Ok(Value::Bool(false) | Value::Null) => continue,
                    _ => return Led::Everyone,
                },
                Way::Keyed { values: Values::Value(expr), .. } => (expr, false),
                Way::Keyed { values: Values::Elements(expr), .. } => (expr, true),
                Way::Keyed { values: Values::Query(query), .. } if reads_too_much(query, tables) => {
                    return Led::Everyone;
                }
                Way::Keyed { values: Values::Query(query), .. } => (&Expr::ArrayOf(Arc::clone(query)), true),
            };
            match value(expr) {
                Ok(Value::Null) => {}
                Ok(Value::Array(values)) if is_list => {
                    keys.extend(values.iter().filter(|value| !value.is_null()).map(|value| (place, value.clone())));
                }
                Ok(value) if !is_list => keys.push((place, value)),
                _ => return Led::Everyone,
            }
        }
        Led::To(keys)
    }
}

fn reads_too_much(query: &Query, tables: &Tables) -> bool {
    query.sources.iter().any(|source| match source {
        Source::Table { relation, access: Access::Scan } => {
            tables.get(*relation).is_none_or(|table| table.rows() > SCANNED_MAX)
        }
        _ => false,
    })
}
