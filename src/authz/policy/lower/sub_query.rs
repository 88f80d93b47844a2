//! Sub-queries within expressions.

use std::sync::Arc;

use super::super::builtin::{ACCUMULATED, Builtin};
use super::super::expr::{Aggregate, Query, Source, Truth};
use super::super::tree::{Node, Tree};
use super::super::{DatumType, Expr, NotCompiled, Value, walk};
use super::fold::not_constant;
use super::query::{Draft, limit, split};
use super::scope::{Env, Rows, Scope};
use super::{Lowering, in_query, known, order, slots, target, unknown};

/// The query of `ARRAY(SELECT ..)`.
pub(super) fn array_query<'e, 'a>(tree: &'e Tree<'a>) -> Option<&'e Node<'a>> {
    let node = tree.as_node().filter(|node| node.name == "SUBLINK")?;
    if node.int("subLinkType") == Ok(6) { node.node("subselect").ok() } else { None }
}

impl Lowering<'_> {
    pub(super) fn sub_query(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &["subLinkType", "subLinkId", "testexpr", "operName", "subselect", "location"])?;
        let query = node.node("subselect")?;
        let env = Env { targets: None, ..*env };
        match node.int("subLinkType")? {
            0 => self.exists(query, &env),
            1 => self.any(node, query, true, &env),
            2 if env.filter => self.is_in(node.node("testexpr")?, query, &env),
            2 => self.any(node, query, false, &env),
            4 => self.scalar(query, &env),
            6 => self.array_query(query, Rows::All, &env),
            _ => Err(in_query("a comparison of rows")),
        }
    }

    fn exists(&mut self, query: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        let drafts = self.drafts(query, Rows::Exist, env)?;
        if let [one] = &drafts[..]
            && one.limit != Some(0)
            && (one.aggregate.is_some() || (one.sources.is_empty() && one.conditions.is_empty()))
        {
            // Aggregates are worked out all the same, and what they are of may fail.
            let worked_out = one.output.iter().filter(|output| query.flag("hasAggs") == Ok(true) && may_fail(output));
            let values: Box<[Expr]> = worked_out.cloned().collect();
            return Ok(match values.len() {
                0 => not_constant(Expr::Const(Value::Bool(true))),
                _ => Expr::Not(Expr::IsNull(Expr::Array(values).into()).into()),
            });
        }
        let mut drafts = drafts;
        drafts.iter_mut().for_each(|draft| draft.output.clear());
        // One row or none is the same as one row or more.
        drafts.iter_mut().for_each(|draft| draft.limit = draft.limit.filter(|limit| *limit == 0));
        Ok(self.one_of(drafts, env))
    }

    /// Whether there is a row.
    fn one_of(&self, mut drafts: Vec<Draft>, env: &Env) -> Expr {
        match &mut drafts[..] {
            // Of a SELECT without FROM there is, if the conditions hold.
            [one] if one.sources.is_empty() && one.limit.is_none() => {
                let mut conditions = Expr::And(std::mem::take(&mut one.conditions).into());
                lift(&mut conditions);
                if env.filter {
                    return conditions;
                }
                Expr::Is { test: Truth::True, not: false, arg: Box::new(conditions) }
            }
            _ => Expr::Exists(Arc::new(self.finish(drafts))),
        }
    }

    /// `x IN (SELECT y ..)` where NULL is as good as false: there is a row with `x = y`. An index then serves it.
    fn is_in(&mut self, test: &Node, query: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        if query.flag("hasAggs")? {
            return self.compared(test, query, false, env);
        }
        let mut drafts = self.drafts(query, Rows::Set, env)?;
        for draft in &mut drafts {
            let output = std::mem::take(&mut draft.output);
            // The comparison moves into the query: what it compares is outside of it.
            let inside =
                Env { depth: env.depth + 1, sub_select: Some(&output), filter: true, estimated: false, ..*env };
            let condition = self.deeper(|lowering| lowering.node(test, &inside))?;
            split(condition, &mut draft.conditions);
        }
        Ok(self.one_of(drafts, env))
    }

    fn any(&mut self, node: &Node, query: &Node, all: bool, env: &Env) -> Result<Expr, NotCompiled> {
        self.compared(node.node("testexpr")?, query, all, env)
    }

    /// `x op ANY (SELECT ..)` with all three of its answers.
    fn compared(&mut self, test: &Node, query: &Node, all: bool, env: &Env) -> Result<Expr, NotCompiled> {
        if test.name != "OPEXPR" {
            return Err(in_query("a comparison of rows"));
        }
        let function =
            self.operator_of(test, &["opno", "opfuncid", "opresulttype", "inputcollid", "args", "location"])?;
        let [left, right] = test.list("args")? else { return Err(unknown("OPEXPR", "args")) };
        let left = self.expr(left, &Env { sub_select: None, ..env.operand() })?;
        let mut drafts = self.drafts(query, Rows::Set, env)?;
        for draft in &mut drafts {
            let output = std::mem::take(&mut draft.output);
            let inside = Env { depth: env.depth + 1, sub_select: Some(&output), ..env.operand() };
            draft.output = vec![self.expr(right, &inside)?];
        }
        self.collation_fits(function, test)?;
        Ok(Expr::AnyQuery { function, all, left: Box::new(left), query: Arc::new(self.finish(drafts)) })
    }

    /// `x = ANY (ARRAY(SELECT ..))` where NULL is as good as false: the same as `IN`.
    pub(super) fn any_of_array_query(
        &mut self,
        node: &Node,
        function: &'static Builtin,
        left: &Tree,
        query: &Node,
        env: &Env,
    ) -> Result<Expr, NotCompiled> {
        if query.flag("hasAggs")? {
            return Err(in_query("an aggregate in an array"));
        }
        self.no_array_of_arrays(query)?;
        let mut drafts = self.drafts(query, Rows::Set, env)?;
        for draft in &mut drafts {
            let [output] = &draft.output[..] else { return Err(in_query("several columns in an array")) };
            let inside = Env { depth: env.depth + 1, ..env.operand() };
            let args = [self.expr(left, &inside)?, output.clone()].into();
            draft.output.clear();
            draft.conditions.push(Expr::Call { function, args });
        }
        self.collation_fits(function, node)?;
        Ok(self.one_of(drafts, env))
    }

    /// `ARRAY(SELECT array)` of one row for sure, to be compared with: how many dimensions it has does not matter.
    pub(super) fn one_array(&mut self, query: &Node, env: &Env) -> Result<Option<Expr>, NotCompiled> {
        let [target] = target::targets(query)?[..] else { return Ok(None) };
        let is_array = matches!(self.datum_type(self.type_of(target)?), Ok(DatumType::Array(_)));
        let has_condition = !matches!(query.node("jointree")?.field("quals"), None | Some(Tree::Null));
        if !is_array || limit(query)?.is_some() || (has_condition && !query.flag("hasAggs")?) {
            return Ok(None);
        }
        let array = self.value_without_table(query, &Env { targets: None, ..env.operand() })?;
        Ok(array.map(|array| Expr::Call { function: &ACCUMULATED, args: [array].into() }))
    }

    /// Arrays become one of more dimensions, or an error if they are NULL or empty.
    fn no_array_of_arrays(&self, query: &Node) -> Result<(), NotCompiled> {
        for target in target::targets(query)? {
            if let DatumType::Array(_) = self.datum_type(self.type_of(target)?)? {
                return Err(in_query("an array of arrays"));
            }
        }
        Ok(())
    }

    pub(super) fn array_query(&mut self, query: &Node, rows: Rows, env: &Env) -> Result<Expr, NotCompiled> {
        if rows == Rows::All && !query.list("sortClause")?.is_empty() {
            return Err(in_query("ORDER BY in an array"));
        }
        self.no_array_of_arrays(query)?;
        let query = self.query(query, rows, env)?;
        Ok(Expr::ArrayOf(Arc::new(query)))
    }

    /// `(SELECT ..)`.
    fn scalar(&mut self, query: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        let env = &Env { estimated: false, ..*env };
        let value = match limit(query)? {
            Some(1) => self.first_value(query, env)?,
            Some(_) => return Err(in_query("LIMIT, which leaves open which rows those are")),
            None => self.only_value(query, env)?,
        };
        // It is worked out by itself, and when it is needed: nothing of it is estimated, nor is it known to the planner.
        let value = not_constant(value);
        Ok(if slots::is_personal(&value) { self.slot(value) } else { value })
    }

    /// Of a query that may have no more than one row.
    fn only_value(&mut self, query: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        if let Some(value) = self.value_without_table(query, env)? {
            return Ok(value);
        }
        let query = self.query(query, Rows::All, env)?;
        Ok(Expr::Scalar(Arc::new(query)))
    }

    /// The first row's value, where it is known which row is the first.
    pub(super) fn first_value(&mut self, query: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        if let Some(value) = self.value_without_table(query, env)? {
            return Ok(value);
        }
        if query.optional("setOperations")?.is_some() {
            return Err(in_query("a UNION of which the first row counts"));
        }
        let draft = self.deeper(|lowering| {
            super::query::check_but_limit(query)?;
            lowering.rows_of(query, Rows::All, env, |lowering, draft, inside| {
                let (output, sources) = lowering.select_list(query, draft.sources.len(), inside)?;
                draft.sources.extend(sources);
                draft.output = output;
                Ok(())
            })
        })?;
        self.first_of(draft)
    }

    fn first_of(&mut self, mut draft: Draft) -> Result<Expr, NotCompiled> {
        let [output] = &draft.output[..] else { return Err(in_query("several columns here")) };
        if !slots::reads_sources(output) {
            // The same for every row: only whether there is one counts.
            let mut value = output.clone();
            lift(&mut value);
            draft.output.clear();
            let condition = Expr::Exists(Arc::new(self.finish(vec![draft])));
            return Ok(when(condition, value));
        }
        let query = self.finish(vec![draft]);
        if !order::has_one_row(self.catalog, &query) {
            return Err(in_query("several rows of which the first counts, in no order that is known here"));
        }
        Ok(Expr::Scalar(Arc::new(query)))
    }

    /// A query of one row whatever the tables hold: without FROM, or of aggregates.
    fn value_without_table(&mut self, query: &Node, env: &Env) -> Result<Option<Expr>, NotCompiled> {
        if query.optional("setOperations")?.is_some() {
            return Ok(None);
        }
        let [target] = target::targets(query)?[..] else { return Err(in_query("several columns here")) };
        if query.flag("hasAggs")? {
            super::query::check_but_limit(query)?;
            let scope = aggregated_scope(query, env)?;
            return self.expr(target, &Env { scope: Some(&scope), ..env.operand() }).map(Some);
        }
        let from = query.node("jointree")?;
        if query.flag("hasTargetSRFs")? || !from.list("fromlist")?.is_empty() {
            return Ok(None);
        }
        super::query::check_but_limit(query)?;
        let scope = aggregated_scope(query, env)?;
        let scope = Scope { aggregated: None, ..scope };
        let inside = Env { scope: Some(&scope), targets: None, ..*env };
        let value = self.expr(target, &inside)?;
        Ok(Some(match from.field("quals") {
            None | Some(Tree::Null) => value,
            Some(condition) => {
                let inside = Env { filter: true, estimated: false, ..inside };
                when(self.expr(condition, &inside)?, value)
            }
        }))
    }

    /// A row of aggregates in FROM, or compared with.
    pub(super) fn aggregated_row(&mut self, query: &Node, env: &Env) -> Result<Draft, NotCompiled> {
        // Each aggregate is a query of its own, in a row that comes from nothing.
        let scope = aggregated_scope(query, env)?;
        let inside = Env { scope: Some(&scope), depth: env.depth + 1, case_value: None, ..env.operand() };
        let output = target::targets(query)?.into_iter().map(|target| self.expr(target, &inside));
        Ok(Draft {
            output: output.collect::<Result<_, _>>()?,
            sources: Vec::new(),
            conditions: Vec::new(),
            limit: limit(query)?,
            aggregate: None,
        })
    }

    /// An aggregate: a query of its own, with the conditions of the one that it stands in.
    pub(super) fn aggregate_query(
        &mut self,
        query: &Node,
        aggregate: Aggregate,
        arg: Option<&Tree>,
        env: &Env,
    ) -> Result<Query, NotCompiled> {
        let outside = Env { scope: env.scope.and_then(|scope| scope.outer), ..*env };
        let draft = self.rows_of(query, Rows::All, &outside, |lowering, draft, inside| {
            draft.aggregate = Some(aggregate);
            if let Some(arg) = arg {
                draft.output = vec![lowering.expr(arg, &inside.operand())?];
            }
            Ok(())
        })?;
        Ok(self.finish(vec![draft]))
    }
}

/// The level of variables that a query makes, without tables.
fn aggregated_scope<'e>(query: &'e Node<'e>, env: &Env<'e>) -> Result<Scope<'e>, NotCompiled> {
    Ok(Scope {
        outer: env.scope,
        entries: Vec::new(),
        depth: env.depth,
        ctes: query.list("cteList")?,
        rows: Rows::All,
        aggregated: Some(query),
    })
}

/// Whether an expression of aggregates can raise an error.
fn may_fail(expr: &Expr) -> bool {
    match expr {
        Expr::Scalar(query) => {
            let has_query = query.sources.iter().any(|source| !matches!(source, Source::Table { .. }));
            let conditions = query.conditions.iter().map(|(_, condition)| condition);
            has_query || conditions.chain(&query.gates).chain(&query.output).any(slots::may_fail)
        }
        _ => slots::may_fail(expr),
    }
}

/// Moves an expression that uses none of its query's sources out of the query.
fn lift(expr: &mut Expr) {
    walk::every_mut(expr, 0, &mut |expr, nesting| match expr {
        Expr::Inner { levels, .. } if *levels > nesting => *levels -= 1,
        _ => {}
    });
}

fn when(condition: Expr, value: Expr) -> Expr {
    let condition = match condition {
        Expr::Exists(_) => condition,
        other => Expr::Is { test: Truth::True, not: false, arg: Box::new(other) },
    };
    Expr::Case { branches: [(condition, value)].into(), otherwise: Box::new(Expr::Const(Value::Null)) }
}
