//! SQL functions, looked into.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::expr::{Query, Source};
use super::super::tree::{self, Node, Tree};
use super::super::{Expr, NotCompiled, Value, walk};
use super::fold::not_constant;
use super::query::limit;
use super::scope::{BOUND_SIZE_MAX, Bound, Env, Rows};
use super::types::RECORD;
use super::{Lowering, never, slots, target};
use crate::catalog::{Function, Oid, Role, quote_identifier};

/// How deep functions call functions.
const CALLS_MAX: usize = 16;

fn refused(function: &Function, why: impl Into<Cow<'static, str>>) -> NotCompiled {
    let name = format!("{}.{}", quote_identifier(&function.schema), quote_identifier(&function.name));
    NotCompiled::Body { name, why: why.into() }
}

/// The one query of a body: `{QUERY ..}` of RETURN, `(({QUERY ..}))` of BEGIN ATOMIC.
fn only_query<'t>(tree: &'t Tree<'t>) -> Option<&'t Node<'t>> {
    match tree {
        Tree::Node(node) => (node.name == "QUERY").then_some(node),
        Tree::List(items) => match &items[..] {
            [only] => only_query(only),
            _ => None,
        },
        _ => None,
    }
}

/// Whether Postgres puts the body in the place of the call, if it does so with any: an expression and nothing else.
fn is_expression(query: &Node) -> bool {
    let is_false = |field| query.flag(field) == Ok(false);
    let is_empty = |field| query.list(field).is_ok_and(<[Tree]>::is_empty);
    let from = query.node("jointree");
    is_false("hasAggs")
        && is_false("hasSubLinks")
        && is_false("hasTargetSRFs")
        && ["cteList", "rtable", "sortClause", "distinctClause"].into_iter().all(is_empty)
        && query.optional("limitCount").is_ok_and(|limit| limit.is_none())
        && query.optional("setOperations").is_ok_and(|operation| operation.is_none())
        && from.is_ok_and(|from| matches!(from.field("quals"), None | Some(Tree::Null)))
}

impl<'c> Lowering<'c> {
    /// A call of a function of one value.
    pub(super) fn apply(&mut self, function: &Function, args: &[Tree], env: &Env) -> Result<Expr, NotCompiled> {
        if function.returns_set {
            return Err(refused(function, "it returns a set"));
        }
        let body = self.body(function, env)?;
        let body = tree::read(&body)?;
        let query = only_query(&body).ok_or_else(|| refused(function, "it has several statements"))?;
        self.result_is(function, query, function.result)?;
        let runs_as = self.runs_as(function, env)?;
        // Otherwise it is called, with its arguments worked out first, and its body is planned then.
        let in_place = is_expression(query) && !function.security_definer && function.settings.is_empty();
        let mut exprs = self.arguments(function, args, &Env { targets: None, ..env.operand() })?;
        for expr in &mut exprs {
            if walk::size(expr) > BOUND_SIZE_MAX && slots::is_personal(expr) {
                *expr = self.slot(expr.clone());
            }
        }
        let strict = function.strict && exprs.iter().any(|expr| !matches!(expr, Expr::Const(c) if !c.is_null()));
        let must_apply = |expr: &Expr| !is_as_good_as_its_name(expr) || (!in_place && slots::may_fail(expr));
        let applied = strict || exprs.iter().any(must_apply);
        let bind = |(place, expr): (usize, &Expr)| match expr {
            Expr::Param(_) if !applied => expr.clone(),
            expr if is_as_good_as_its_name(expr) && !has_param(expr) => expr.clone(),
            _ => Expr::Param(place as u16),
        };
        let bound = exprs.iter().enumerate().map(bind).map(|expr| Bound { expr, depth: env.depth });
        let bound: Vec<Bound> = bound.collect();
        let inside = Env {
            scope: None,
            args: &bound,
            case_value: None,
            sub_select: None,
            targets: None,
            runs_as: &runs_as,
            by_name: function.body.is_none(),
            estimated: env.estimated && in_place,
            planned: env.planned || !in_place,
            ..*env
        };
        let around = (!in_place).then(|| std::mem::take(&mut self.eager));
        let value = self.calling(function, |lowering| match limit(query)? {
            None | Some(1..) => lowering.first_value(query, &inside),
            Some(0) => Err(refused(function, "LIMIT 0")),
        });
        let worked_out = around.map(|around| std::mem::replace(&mut self.eager, around));
        let value = failing_with(value?, worked_out.unwrap_or_default());
        if !applied {
            // A call is no constant to the planner, unless it puts the body in the call's place.
            let is_called = !in_place || function.strict;
            return Ok(if is_called { not_constant(value) } else { value });
        }
        Ok(Expr::Apply { args: exprs.into(), strict: function.strict, body: Box::new(value) })
    }

    /// The arguments of a call, with the defaults of those that it leaves out: the last ones.
    fn arguments(&mut self, function: &Function, args: &[Tree], env: &Env) -> Result<Vec<Expr>, NotCompiled> {
        let mut exprs = self.list(args, env)?;
        let missing = function.arguments.len().saturating_sub(exprs.len());
        if missing == 0 {
            return Ok(exprs);
        }
        let unknown = || refused(function, "its default arguments are no constants");
        let defaults = tree::read(function.defaults.as_deref().ok_or_else(unknown)?)?;
        let defaults = defaults.as_list().ok_or_else(unknown)?;
        let first = defaults.len().checked_sub(missing).ok_or_else(unknown)?;
        for default in &defaults[first..] {
            // What else they may call and read is known to nobody who asks what policies read.
            match self.expr(default, &Env { scope: None, args: &[], case_value: None, ..*env })? {
                constant @ Expr::Const(_) => exprs.push(constant),
                _ => return Err(unknown()),
            }
        }
        Ok(exprs)
    }

    /// The rows of a set-returning function, and its columns' types.
    pub(super) fn rows_of_function(
        &mut self,
        function: &Function,
        args: &[Tree],
        env: &Env,
    ) -> Result<(Query, Vec<Oid>), NotCompiled> {
        let body = self.body(function, env)?;
        let body = tree::read(&body)?;
        let query = only_query(&body).ok_or_else(|| refused(function, "it has several statements"))?;
        let targets = target::targets(query)?.into_iter().map(|target| self.type_of(target));
        let types = targets.collect::<Result<Vec<_>, _>>()?;
        if function.result != RECORD {
            // Rows of a table or a composite type: which attribute is which column is not known.
            self.datum_type(function.result)?;
            self.result_is(function, query, function.result)?;
        }
        let runs_as = self.runs_as(function, env)?;
        let rows = env.scope.map_or(Rows::All, |scope| if scope.rows == Rows::All { Rows::All } else { Rows::Set });
        let args = self.arguments(function, args, &env.operand())?;
        if function.strict && !args.iter().all(|arg| matches!(arg, Expr::Const(value) if !value.is_null())) {
            return Err(refused(function, "it is STRICT and returns a set"));
        }
        // Each argument that takes work is a source before the rows: worked out once, and whatever they need of it.
        if args.iter().any(takes_work) {
            return self.rows_of_worked_out(function, query, args, types, rows, &Env { runs_as: &runs_as, ..*env });
        }
        let bound: Vec<Bound> = args.into_iter().map(|expr| Bound { expr, depth: env.depth }).collect();
        let inside = within(function, &bound, &runs_as, env);
        let rows = self.calling(function, |lowering| lowering.query(query, rows, &inside))?;
        Ok((rows, types))
    }

    /// `SELECT rows.* FROM (arguments), LATERAL rows`.
    fn rows_of_worked_out(
        &mut self,
        function: &Function,
        query: &Node,
        args: Vec<Expr>,
        types: Vec<Oid>,
        rows: Rows,
        env: &Env,
    ) -> Result<(Query, Vec<Oid>), NotCompiled> {
        let mut sources = Vec::new();
        let mut bound = Vec::new();
        for mut expr in args {
            walk::shift(&mut expr, 1);
            if takes_work(&expr) {
                let source = sources.len() as u16;
                sources.push(Source::Elements { array: Expr::Array([expr].into()) });
                expr = Expr::Inner { levels: 0, source, column: 0 };
            }
            bound.push(Bound { expr, depth: env.depth + 1 });
        }
        let inside = within(function, &bound, env.runs_as, env);
        let inside = Env { depth: env.depth + 1, ..inside };
        let rows = self.calling(function, |lowering| lowering.query(query, rows, &inside))?;
        let source = sources.len() as u16;
        sources.push(Source::Query(Arc::new(rows)));
        let output = (0..types.len() as u16).map(|column| Expr::Inner { levels: 0, source, column });
        let rows = Query {
            sources: sources.into(),
            conditions: [].into(),
            gates: [].into(),
            output: output.collect(),
            union: [].into(),
            limit: None,
            aggregate: None,
        };
        Ok((rows, types))
    }

    fn calling<T>(
        &mut self,
        function: &Function,
        f: impl FnOnce(&mut Self) -> Result<T, NotCompiled>,
    ) -> Result<T, NotCompiled> {
        if self.calling.contains(&function.oid) {
            return Err(refused(function, "it calls itself"));
        }
        if self.calling.len() >= CALLS_MAX {
            return Err(refused(function, "too many functions call each other"));
        }
        self.calling.push(function.oid);
        // A function's query is a statement of its own: the policies of its tables begin anew.
        let reading = std::mem::take(&mut self.reading);
        let result = f(self);
        self.reading = reading;
        self.calling.pop();
        result
    }

    /// The tree of the body, if the function may be looked into at all.
    fn body(&self, function: &Function, env: &Env) -> Result<Cow<'c, str>, NotCompiled> {
        if !never::may_execute(function, env.runs_as) {
            return Err(refused(function, format!("role {:?} may not execute it", env.runs_as.name)));
        }
        let is_path =
            |setting: &String| setting.split('=').next().is_some_and(|n| n.eq_ignore_ascii_case("search_path"));
        if let Some(other) = function.settings.iter().find(|setting| !is_path(setting)) {
            return Err(refused(function, format!("it sets {other}")));
        }
        let catalog = self.catalog;
        let by_name = function.body.is_none();
        if env.by_name && !catalog.may_use_schema(env.runs_as, &function.schema) {
            return Err(refused(function, format!("role {:?} may not use its schema", env.runs_as.name)));
        }
        let runs_as = if function.security_definer { function.owner } else { env.runs_as.oid };
        if let Some(body) = catalog.session.body(function.oid, runs_as) {
            // Another role may find other things under the names in a string.
            if by_name && !self.names_hold_for(function, env.runs_as) {
                return Err(refused(function, "what its names mean to the role is not known"));
            }
            return match body {
                Ok(tree) if by_name && function.settings.is_empty() && self.is_pinned(function) && names_ours(tree) => {
                    Err(refused(function, "it is called under another search_path, where its names may mean others"))
                }
                Ok(tree) => Ok(Cow::Borrowed(&**tree)),
                Err(why) => Err(refused(function, why.clone())),
            };
        }
        match &function.body {
            Some(tree) => Ok(Cow::Owned(tree.clone())),
            None if function.language == "sql" => Err(refused(function, "its body has not been read")),
            None => {
                let why = "; walcast looks into LANGUAGE sql only: rewrite it so, if it is one query";
                Err(refused(function, format!("it is written in {}{why}", function.language)))
            }
        }
    }

    /// Whether a function that sets its own search_path is on the way to this one.
    fn is_pinned(&self, function: &Function) -> bool {
        let callers = self.calling.iter().filter(|oid| **oid != function.oid);
        callers.filter_map(|oid| self.catalog.functions.get(oid)).any(|caller| !caller.settings.is_empty())
    }

    /// The trees of strings hold for these roles, and for the owners of SECURITY DEFINER functions.
    fn names_hold_for(&self, function: &Function, role: &Role) -> bool {
        let is_definer = |known: &Arc<Function>| known.security_definer && known.owner == role.oid;
        function.security_definer
            || self.catalog.session.roles.contains(&role.oid)
            || self.catalog.functions.values().any(is_definer)
    }

    fn runs_as(&self, function: &Function, env: &Env) -> Result<Role, NotCompiled> {
        if !function.security_definer {
            return Ok(env.runs_as.clone());
        }
        let owner = self.catalog.roles.by_name.values().find(|role| role.oid == function.owner);
        owner.map(|owner| Role::clone(owner)).ok_or_else(|| refused(function, "its owner is not known"))
    }

    /// What the body gives is what the function returns, as it stands.
    fn result_is(&self, function: &Function, query: &Node, result: Oid) -> Result<(), NotCompiled> {
        let [target] = target::targets(query)?[..] else { return Err(refused(function, "it selects several columns")) };
        let given = self.type_of(target)?;
        if given == result || (!self.is_domain(result) && self.same_values(given, result)) {
            return Ok(());
        }
        Err(refused(function, "its result is cast to the type that it returns"))
    }
}

/// Whether a tree names anything that is not built in, and so found by a search_path.
fn names_ours(tree: &str) -> bool {
    let fields =
        [":relid", ":funcid", ":opno", ":aggfnoid", ":consttype", ":resulttype", ":funcresulttype", ":opresulttype"];
    let mut tokens = tree.split([' ', '\n', '(', ')', '{', '}']).filter(|token| !token.is_empty());
    while let Some(token) = tokens.next() {
        if fields.contains(&token)
            && tokens.next().and_then(|oid| oid.parse::<u32>().ok()).is_none_or(|oid| oid >= 16384)
        {
            return true;
        }
    }
    false
}

/// A body that is planned when it is called: what the planner works out of it fails then, whatever would be reached.
fn failing_with(body: Expr, worked_out: BTreeSet<u16>) -> Expr {
    if worked_out.is_empty() {
        return body;
    }
    let looked_at = |slot| {
        let is_null = Expr::IsNull(Box::new(Expr::Slot(slot)));
        Expr::And([is_null, Expr::Const(Value::Bool(false))].into())
    };
    let never = Expr::Or(worked_out.into_iter().map(looked_at).collect());
    Expr::Case { branches: [(never, Expr::Const(Value::Null))].into(), otherwise: Box::new(body) }
}

fn within<'e>(function: &Function, bound: &'e [Bound], runs_as: &'e Role, env: &Env<'e>) -> Env<'e> {
    Env {
        scope: None,
        args: bound,
        case_value: None,
        sub_select: None,
        targets: None,
        runs_as,
        by_name: function.body.is_none(),
        planned: false,
        estimated: false,
        ..*env
    }
}

/// Whether an argument may stand wherever its name does: it takes no work, or is worked out once per person.
fn is_as_good_as_its_name(expr: &Expr) -> bool {
    matches!(expr, Expr::Const(_) | Expr::Column(_) | Expr::Inner { .. } | Expr::Param(_) | Expr::Now)
        || slots::is_personal(expr)
}

/// Whether a set-returning function's argument is worked out before the function is.
fn takes_work(expr: &Expr) -> bool {
    slots::may_fail(expr) || walk::size(expr) > BOUND_SIZE_MAX
}

fn has_param(expr: &Expr) -> bool {
    let mut found = false;
    walk::every(expr, 0, &mut |expr, _| found |= matches!(expr, Expr::Param(_)));
    found
}

#[cfg(test)]
mod tests {
    use super::names_ours;

    #[test]
    fn built_in_names_mean_the_same_under_every_search_path() {
        let built_in = "(({QUERY :targetList ({TARGETENTRY :expr {FUNCEXPR :funcid 2077 :funcresulttype 25 :args ({CONST :consttype 25})}})}))";
        assert!(!names_ours(built_in));
        for ours in [":funcid 2077", ":consttype 25"].map(|field| (field, field.split(' ').next().unwrap())) {
            assert!(names_ours(&built_in.replace(ours.0, &format!("{} 16384", ours.1))), "{ours:?}");
        }
        assert!(names_ours("{RTE :rtekind 0 :relid 24000 :inh true}"));
    }
}
