//! Sub-queries: nested loops over their sources.
//!
//! Which rows Postgres looks at, and in which order, is its plan's business. An error on the way is therefore
//! undecided as soon as rows are involved: Postgres may never get there, or get there first.

use smallvec::SmallVec;

use super::expression::{Env, Quantified, apply, evaluate, truth, truth_of};
use crate::authz::policy::builtin::{self, Builtin};
use crate::authz::policy::expr::Aggregate;
use crate::authz::policy::failure::Undecided;
use crate::authz::policy::json::Json;
use crate::authz::policy::{Access, Expr, Failure, Query, Source, Value};
use crate::authz::tracked::{Table, TrackedRow};
use crate::catalog::ColumnIndex;
use crate::wal::pgoutput::RelationId;

/// A query that is being evaluated: its rows so far, and the query around it.
pub(super) struct Level<'a> {
    last: Option<&'a Bound<'a>>,
    outer: Option<&'a Level<'a>>,
}

/// The present row of a source.
struct Bound<'a> {
    source: u16,
    row: SourceRow<'a>,
    before: Option<&'a Bound<'a>>,
}

#[derive(Clone, Copy)]
enum SourceRow<'a> {
    Tracked(&'a Table, &'a TrackedRow),
    Values(&'a [Value]),
}

/// Whether to go on with the next row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    Stop,
}

type Emit<'e> = dyn FnMut(&[Value]) -> Result<Flow, Failure> + 'e;

/// A column of a source.
pub(super) fn inner<'a>(env: Env<'a>, levels: u16, source: u16, column: u16) -> Result<&'a Value, Failure> {
    let unknown = || Failure::undecided("a column of no source");
    let mut level = env.level.ok_or_else(unknown)?;
    for _ in 0..levels {
        level = level.outer.ok_or_else(unknown)?;
    }
    let mut bound = level.last;
    while let Some(candidate) = bound {
        if candidate.source == source {
            let value = match candidate.row {
                SourceRow::Tracked(table, row) => table.value(row, ColumnIndex(column)),
                SourceRow::Values(values) => values.get(usize::from(column)),
            };
            return value.ok_or_else(unknown);
        }
        bound = candidate.before;
    }
    Err(unknown())
}

pub(super) fn exists(query: &Query, env: Env<'_>) -> Result<bool, Failure> {
    let mut found = false;
    // The select list of EXISTS is not evaluated.
    run(query, env, false, &mut |_| {
        found = true;
        Ok(Flow::Stop)
    })?;
    Ok(found)
}

pub(super) fn any(
    query: &Query,
    function: &Builtin,
    all: bool,
    left: &Expr,
    env: Env<'_>,
) -> Result<Option<bool>, Failure> {
    let mut outcome = Quantified::new(all);
    // Not evaluated where there is no row to compare with.
    let mut value: Option<Value> = None;
    run_all(query, env, &mut |row| {
        if value.is_none() {
            value = Some(evaluate(left, env)?.into_owned());
        }
        let compared = apply(function, value.as_ref().unwrap_or(&Value::Null), first(row)?)?;
        Ok(if outcome.take(truth_of(&compared)?) { Flow::Stop } else { Flow::GoOn })
    })?;
    Ok(outcome.result())
}

pub(super) fn scalar(query: &Query, env: Env<'_>) -> Result<Value, Failure> {
    let mut rows: SmallVec<[Value; 1]> = SmallVec::new();
    run_all(query, env, &mut |row| {
        rows.push(first(row)?.clone());
        Ok(if rows.len() > 1 { Flow::Stop } else { Flow::GoOn })
    })?;
    match rows.len() {
        0 | 1 => Ok(rows.pop().unwrap_or_default()),
        // UNION may leave one of them.
        _ if !query.union.is_empty() => Err(Failure::undecided("the rows of a UNION as one value")),
        _ => Err(Failure::Error("more than one row returned by a subquery used as an expression".into())),
    }
}

pub(super) fn array(query: &Query, env: Env<'_>) -> Result<Value, Failure> {
    let mut values = Vec::new();
    run_all(query, env, &mut |row| {
        values.push(first(row)?.clone());
        Ok(Flow::GoOn)
    })?;
    Ok(Value::Array(values.into()))
}

fn first(row: &[Value]) -> Result<&Value, Failure> {
    row.first().ok_or_else(|| Failure::undecided("a sub-query without columns"))
}

/// Where it matters which rows a LIMIT leaves, it is undecided whether there are more.
fn run_all(query: &Query, env: Env<'_>, emit: &mut Emit<'_>) -> Result<(), Failure> {
    let Some(limit) = query.limit else {
        return run(query, env, true, emit).map(|_| ());
    };
    let mut rows: Vec<Vec<Value>> = Vec::new();
    run(query, env, true, &mut |row| {
        rows.push(row.to_vec());
        Ok(Flow::GoOn)
    })?;
    if limit > 0 && rows.len() as u64 > limit {
        return Err(Failure::undecided("which rows a LIMIT leaves"));
    }
    for row in rows.iter().take(limit as usize) {
        if emit(row)? == Flow::Stop {
            break;
        }
    }
    Ok(())
}

/// Gives each row of the query, the LIMIT apart (but for one of none), to `emit`. `output`: the select list is needed.
fn run(query: &Query, env: Env<'_>, output: bool, emit: &mut Emit<'_>) -> Result<Flow, Failure> {
    if query.limit == Some(0) && !output {
        return Ok(Flow::Stop);
    }
    let has_tables = query.sources.iter().any(|source| matches!(source, Source::Table { .. }));
    if has_tables && query.may_fail_on_rows() {
        return Err(Failure::undecided("a sub-query that fails on some rows"));
    }
    let flow = match query.aggregate {
        None => members(query, env, output, emit)?,
        Some(aggregate) => {
            let value = aggregated(query, aggregate, env)?;
            emit(&[value])?
        }
    };
    if flow == Flow::Stop {
        return Ok(flow);
    }
    for member in &query.union {
        let flow = match member.limit {
            None => run(member, env, output, emit)?,
            Some(_) => {
                let mut flow = Flow::GoOn;
                run_all(member, env, &mut |row| {
                    flow = emit(row)?;
                    Ok(flow)
                })?;
                flow
            }
        };
        if flow == Flow::Stop {
            return Ok(flow);
        }
    }
    Ok(Flow::GoOn)
}

fn aggregated(query: &Query, aggregate: Aggregate, env: Env<'_>) -> Result<Value, Failure> {
    let needs_value = aggregate != Aggregate::CountRows;
    let (mut count, mut values, mut result) = (0i64, Vec::new(), Value::Null);
    members(query, env, needs_value, &mut |row| {
        if aggregate == Aggregate::CountRows {
            count += 1;
            return Ok(Flow::GoOn);
        }
        let value = first(row)?;
        match aggregate {
            Aggregate::ArrayAgg => values.push(value.clone()),
            _ if value.is_null() => {}
            Aggregate::CountRows | Aggregate::Count => count += 1,
            Aggregate::BoolOr | Aggregate::BoolAnd => {
                let (old, new) = (truth_of(&result)?, truth_of(value)? == Some(true));
                let joined =
                    if aggregate == Aggregate::BoolOr { old == Some(true) || new } else { old != Some(false) && new };
                result = Value::Bool(joined);
            }
            Aggregate::Min | Aggregate::Max => {
                if matches!(value, Value::Text(_)) {
                    return Err(Failure::undecided("the least or greatest text"));
                }
                let better = result.is_null() || {
                    let order = builtin::compare(value, &result)?;
                    if aggregate == Aggregate::Min { order.is_lt() } else { order.is_gt() }
                };
                if better {
                    result = value.clone();
                }
            }
        }
        Ok(Flow::GoOn)
    })?;
    Ok(match aggregate {
        Aggregate::CountRows | Aggregate::Count => Value::Int(count),
        // Of no rows it is NULL, not an empty array.
        Aggregate::ArrayAgg if values.is_empty() => Value::Null,
        Aggregate::ArrayAgg => Value::Array(values.into()),
        _ => result,
    })
}

/// The rows of the query's own sources.
fn members(query: &Query, env: Env<'_>, output: bool, emit: &mut Emit<'_>) -> Result<Flow, Failure> {
    let level = Level { last: None, outer: env.level };
    let here = Env { level: Some(&level), ..env };
    let has_tables = query.sources.iter().any(|source| matches!(source, Source::Table { .. }));
    for gate in query.gates.iter().filter(|_| has_tables) {
        evaluate(gate, here).map_err(|failure| among_rows(query, failure))?;
    }
    if query.sources.is_empty() {
        for (_, condition) in &query.conditions {
            if truth(condition, here).map_err(|failure| among_rows(query, failure))? != Some(true) {
                return Ok(Flow::GoOn);
            }
        }
        return emit_row(query, here, output, emit);
    }
    nested(query, 0, here, output, emit)
}

fn emit_row(query: &Query, env: Env<'_>, output: bool, emit: &mut Emit<'_>) -> Result<Flow, Failure> {
    if !output {
        return emit(&[]);
    }
    let mut row: SmallVec<[Value; 2]> = SmallVec::with_capacity(query.output.len());
    for expr in &query.output {
        row.push(evaluate(expr, env).map_err(|failure| among_rows(query, failure))?.into_owned());
    }
    emit(&row)
}

/// An error that Postgres raises only if it gets to this row, and before another condition rules it out.
fn among_rows(query: &Query, failure: Failure) -> Failure {
    let for_sure = query.conditions.len() <= 1 && has_one_row(query);
    match failure {
        Failure::Error(_) if !for_sure => Failure::undecided("an error within a sub-query"),
        other => other,
    }
}

/// No source but, perhaps, a made-up one for the condition to stand at.
fn has_one_row(query: &Query) -> bool {
    match &*query.sources {
        [] => true,
        [Source::Elements { array: Expr::Const(Value::Array(elements)) }] => elements.len() == 1,
        _ => false,
    }
}

/// The rows of source `at` and of those after it, given a row of each before it.
fn nested(query: &Query, at: usize, env: Env<'_>, output: bool, emit: &mut Emit<'_>) -> Result<Flow, Failure> {
    let Some(source) = query.sources.get(at) else { return emit_row(query, env, output, emit) };
    match source {
        Source::Table { relation, access } => {
            let table = env.evaluation.tables.get(*relation).ok_or_else(|| not_loaded(*relation))?;
            let moment = env.evaluation.moment;
            let rows = match access {
                Access::Scan => table.scan(moment),
                Access::Lookup { columns, keys } => {
                    let mut key: SmallVec<[Value; 2]> = SmallVec::with_capacity(keys.len());
                    for expr in keys {
                        key.push(evaluate(expr, env).map_err(|failure| among_rows(query, failure))?.into_owned());
                    }
                    if key.iter().any(Value::is_null) {
                        return Ok(Flow::GoOn);
                    }
                    table.lookup(columns, &key, moment).ok_or_else(|| not_loaded(*relation))?
                }
            };
            for row in rows {
                let row = SourceRow::Tracked(table, row);
                if with_row(query, at, row, env, output, emit)? == Flow::Stop {
                    return Ok(Flow::Stop);
                }
            }
            Ok(Flow::GoOn)
        }
        Source::Query(inner) => {
            let mut flow = Flow::GoOn;
            run_all(inner, env, &mut |values| {
                flow = with_row(query, at, SourceRow::Values(values), env, output, emit)?;
                Ok(flow)
            })
            .map_err(|failure| among_rows(query, failure))?;
            Ok(flow)
        }
        Source::Elements { array } => {
            let value = evaluate(array, env).map_err(|failure| among_elements(query, at, failure))?;
            let mut give = |element: &Value| {
                let row = SourceRow::Values(std::slice::from_ref(element));
                with_row(query, at, row, env, output, emit)
            };
            match &*value {
                Value::Null => {}
                Value::Array(elements) => {
                    for element in elements.iter() {
                        if give(element)? == Flow::Stop {
                            return Ok(Flow::Stop);
                        }
                    }
                }
                Value::Jsonb(json) => {
                    let Json::Array(elements) = &**json else {
                        let failure = Failure::Error("cannot extract elements from an object or a scalar".into());
                        return Err(among_elements(query, at, failure));
                    };
                    for element in elements {
                        if give(&Value::Jsonb(element.clone().into()))? == Flow::Stop {
                            return Ok(Flow::Stop);
                        }
                    }
                }
                _ => return Err(Failure::undecided("an array that is none")),
            }
            Ok(Flow::GoOn)
        }
    }
}

/// A query's only source is looked at for sure, unless there is a condition to look at before.
fn among_elements(query: &Query, at: usize, failure: Failure) -> Failure {
    let for_sure = at == 0 && query.sources.len() == 1 && query.conditions.is_empty();
    if for_sure { failure } else { among_rows(query, failure) }
}

/// Goes on with this row of source `at`, if its conditions hold.
fn with_row(
    query: &Query,
    at: usize,
    row: SourceRow<'_>,
    env: Env<'_>,
    output: bool,
    emit: &mut Emit<'_>,
) -> Result<Flow, Failure> {
    let bound = Bound { source: at as u16, row, before: env.level.and_then(|level| level.last) };
    let level = Level { last: Some(&bound), outer: env.level.and_then(|level| level.outer) };
    let env = Env { level: Some(&level), ..env };
    for (source, condition) in &query.conditions {
        if usize::from(*source) == at
            && truth(condition, env).map_err(|failure| among_rows(query, failure))? != Some(true)
        {
            return Ok(Flow::GoOn);
        }
    }
    nested(query, at + 1, env, output, emit)
}

fn not_loaded(relation: RelationId) -> Failure {
    Failure::Undecided(Undecided::NotLoaded(relation))
}
