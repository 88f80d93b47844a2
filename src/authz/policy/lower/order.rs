//! The order in which a query's sources are gone through, and how rows of tables are found.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::expr::{Access, Query, Source};
use super::super::{DatumType, Expr, Value, walk};
use super::query::Draft;
use super::slots;
use crate::catalog::{Catalog, ColumnIndex, Oid};
use crate::wal::pgoutput::RelationId;

/// The functions of `=` whose arguments are equal if and only if they are the same value.
const EQUALITY: [Oid; 18] = [
    60,   // booleq
    63,   // int2eq
    65,   // int4eq
    67,   // texteq
    158,  // int24eq
    159,  // int42eq
    184,  // oideq
    467,  // int8eq
    474,  // int84eq
    852,  // int48eq
    1086, // date_eq
    1145, // time_eq
    1152, // timestamptz_eq
    1850, // int28eq
    1856, // int82eq
    2052, // timestamp_eq
    2956, // uuid_eq
    3508, // enum_eq
];

/// Chooses an order in which every table is looked up by an index where that is possible.
pub(super) fn order(catalog: &Catalog, mut draft: Draft) -> Query {
    if draft.sources.is_empty() && !draft.conditions.is_empty() {
        // A condition needs a source to stand at.
        draft.sources.push(Source::Elements { array: Expr::Const(Value::Array(Arc::new([Value::Bool(true)]))) });
    }
    let needs: Vec<Vec<u16>> = draft.sources.iter_mut().map(used_by_source).collect();
    let mut left: Vec<u16> = (0..draft.sources.len() as u16).collect();
    let mut chosen: Vec<u16> = Vec::new();
    let mut lookups: BTreeMap<u16, Keys> = BTreeMap::new();
    while !left.is_empty() {
        let ready = |source: &u16| needs[usize::from(*source)].iter().all(|other| chosen.contains(other));
        let best = left.iter().filter(|source| ready(source)).map(|source| {
            let keys = keys_of(catalog, &draft, *source, &chosen);
            let (cost, keys) = match &draft.sources[usize::from(*source)] {
                Source::Table { relation, .. } if is_unique(catalog, *relation, &keys) => (0, keys),
                Source::Elements { .. } => (1, keys),
                Source::Table { .. } if !keys.is_empty() => (2, keys),
                Source::Query(_) => (3, keys),
                Source::Table { .. } => (4, keys),
            };
            (cost, *source, keys)
        });
        // Sources use only those before them: the first that is left is always ready.
        let (_, source, keys) =
            best.min_by_key(|(cost, source, _)| (*cost, *source)).unwrap_or((4, left[0], Keys::new()));
        left.retain(|other| *other != source);
        chosen.push(source);
        lookups.insert(source, keys);
    }
    build(draft, &chosen, lookups)
}

/// Columns with the values that they have to equal.
type Keys = BTreeMap<ColumnIndex, Expr>;

/// Sources of the same query that a source uses.
fn used_by_source(source: &mut Source) -> Vec<u16> {
    let mut used = Vec::new();
    walk::in_source_mut(source, 0, &mut |expr, nesting| {
        walk::every_mut(expr, nesting, &mut |expr, nesting| match expr {
            Expr::Inner { levels, source, .. } if *levels == nesting => used.push(*source),
            _ => {}
        });
    });
    used
}

/// What of a table's columns is known once these sources have rows.
fn keys_of(catalog: &Catalog, draft: &Draft, source: u16, chosen: &[u16]) -> Keys {
    let Source::Table { relation, .. } = &draft.sources[usize::from(source)] else { return Keys::new() };
    let Some(relation) = catalog.any_relation(*relation) else { return Keys::new() };
    let mut keys = Keys::new();
    for condition in &draft.conditions {
        let Expr::Call { function, args } = condition else { continue };
        let [left, right] = &args[..] else { continue };
        if !EQUALITY.contains(&function.oid) {
            continue;
        }
        for (column, key) in [(left, right), (right, left)] {
            let Expr::Inner { levels: 0, source: of, column } = column else { continue };
            let known = walk::uses(key).iter().all(|(source, _)| chosen.contains(source));
            let index = ColumnIndex(*column);
            let hashes = relation
                .columns
                .get(usize::from(*column))
                .and_then(|column| DatumType::of(catalog, column.type_oid))
                .is_some_and(|datum_type| datum_type.hashes_as_it_compares());
            if *of == source && known && hashes {
                keys.entry(index).or_insert_with(|| key.clone());
            }
        }
    }
    keys
}

fn is_unique(catalog: &Catalog, relation: RelationId, keys: &Keys) -> bool {
    catalog.any_relation(relation).is_some_and(|relation| {
        !relation.primary_key.is_empty() && relation.primary_key.iter().all(|column| keys.contains_key(column))
    })
}

/// The query with its sources in this order.
fn build(draft: Draft, chosen: &[u16], lookups: BTreeMap<u16, Keys>) -> Query {
    let mut places = vec![0; chosen.len()];
    for (place, source) in chosen.iter().enumerate() {
        places[usize::from(*source)] = place as u16;
    }
    let renumber = |expr: &mut Expr, nesting: u16| {
        walk::every_mut(expr, nesting, &mut |expr, nesting| match expr {
            Expr::Inner { levels, source, .. } if *levels == nesting => {
                if let Some(place) = places.get(usize::from(*source)) {
                    *source = *place;
                }
            }
            _ => {}
        });
    };
    let mut gates = Vec::new();
    draft.conditions.iter().chain(&draft.output).for_each(|expr| gates_of(expr, &mut gates));
    let mut sources: Vec<Option<Source>> = draft.sources.into_iter().map(Some).collect();
    let mut lookups = lookups;
    let mut ordered = Vec::new();
    for chosen in chosen {
        let Some(mut source) = sources[usize::from(*chosen)].take() else { continue };
        if let (Source::Table { access, .. }, Some(keys)) = (&mut source, lookups.remove(chosen))
            && !keys.is_empty()
        {
            let (columns, keys): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
            *access = Access::Lookup { columns: columns.into(), keys: keys.into() };
        }
        walk::in_source_mut(&mut source, 0, &mut |expr, nesting| renumber(expr, nesting));
        ordered.push(source);
    }
    let mut conditions: Vec<(u16, Expr)> = Vec::new();
    for mut condition in draft.conditions {
        renumber(&mut condition, 0);
        let at = walk::uses(&condition).iter().map(|(source, _)| *source).max().unwrap_or(0);
        conditions.push((at, condition));
    }
    // Within a source they keep their order: a table's own policies come first.
    conditions.sort_by_key(|(source, _)| *source);
    let mut output = draft.output;
    output.iter_mut().for_each(|output| renumber(output, 0));
    Query {
        sources: ordered.into(),
        conditions: conditions.into(),
        gates: gates.into(),
        output: output.into(),
        union: [].into(),
        limit: draft.limit,
        aggregate: draft.aggregate,
    }
}

/// See [`Query::gates`].
fn gates_of(expr: &Expr, gates: &mut Vec<Expr>) {
    let mut is_apart = walk::uses(expr).is_empty() && slots::may_fail(expr);
    walk::every(expr, 0, &mut |expr, _| {
        let is_query = matches!(expr, Expr::Exists(_) | Expr::AnyQuery { .. } | Expr::Scalar(_) | Expr::ArrayOf(_));
        is_apart &= !matches!(expr, Expr::Param(_)) && !is_query;
    });
    match expr {
        // What depends on the person alone is worked out before.
        _ if is_apart || slots::is_personal(expr) => {
            if slots::may_fail(expr) && !gates.contains(expr) {
                gates.push(expr.clone());
            }
        }
        Expr::Exists(query) | Expr::Scalar(query) | Expr::ArrayOf(query) => gates_within(query, gates),
        Expr::AnyQuery { left, query, .. } => {
            gates_of(left, gates);
            gates_within(query, gates);
        }
        Expr::Apply { args, .. } => args.iter().for_each(|arg| gates_of(arg, gates)),
        _ => walk::children(expr, 0, &mut |child, _| gates_of(child, gates)),
    }
}

/// A query within another one has its own; what of them depends on the person alone may fail before the outer one has a row.
fn gates_within(query: &Query, gates: &mut Vec<Expr>) {
    for gate in std::iter::once(query).chain(&query.union).flat_map(|query| &query.gates) {
        personal_parts(gate, gates);
    }
}

fn personal_parts(expr: &Expr, gates: &mut Vec<Expr>) {
    if !slots::is_personal(expr) {
        walk::children(expr, 0, &mut |child, _| personal_parts(child, gates));
    } else if slots::may_fail(expr) && !gates.contains(expr) {
        gates.push(expr.clone());
    }
}

/// Whether a query has one row at the most: each of its tables is looked up by its primary key.
pub(super) fn has_one_row(catalog: &Catalog, query: &Query) -> bool {
    query.union.is_empty()
        && query.sources.iter().all(|source| match source {
            Source::Table { relation, access: Access::Lookup { columns, .. } } => {
                catalog.any_relation(*relation).is_some_and(|relation| {
                    !relation.primary_key.is_empty() && relation.primary_key.iter().all(|key| columns.contains(key))
                })
            }
            _ => false,
        })
}
