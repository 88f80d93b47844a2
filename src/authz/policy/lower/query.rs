//! SELECTs: their sources, conditions and select lists.

use super::super::expr::{Aggregate, Query, Source};
use super::super::tree::{Node, Tree};
use super::super::{Expr, NotCompiled, Value};
use super::scope::{Entry, Env, Rows, Scope};
use super::{Lowering, in_query, known, order, target, unknown};

/// A query whose access paths are still to be chosen.
pub(super) struct Draft {
    pub sources: Vec<Source>,
    pub conditions: Vec<Expr>,
    pub output: Vec<Expr>,
    pub limit: Option<u64>,
    pub aggregate: Option<Aggregate>,
}

/// Fields of a QUERY that are looked at, or that say nothing about its rows.
const QUERY: [&str; 19] = [
    "commandType",
    "querySource",
    "canSetTag",
    "hasAggs",
    "hasTargetSRFs",
    "hasSubLinks",
    "isReturn",
    "cteList",
    "rtable",
    "rteperminfos",
    "jointree",
    "targetList",
    "distinctClause",
    "sortClause",
    "limitCount",
    "limitOption",
    "setOperations",
    "stmt_location",
    "stmt_len",
];

/// Parts of a query that are not known, by the field that has them.
const PARTS: [(&str, &str); 10] = [
    ("hasWindowFuncs", "window functions"),
    ("windowClause", "window functions"),
    ("hasDistinctOn", "DISTINCT ON"),
    ("hasRecursive", "WITH RECURSIVE"),
    ("hasForUpdate", "FOR UPDATE"),
    ("rowMarks", "FOR UPDATE"),
    ("groupClause", "GROUP BY"),
    ("groupingSets", "GROUP BY"),
    ("havingQual", "HAVING"),
    ("limitOffset", "OFFSET"),
];

impl Lowering<'_> {
    /// A query and the other members of its UNION.
    pub(super) fn drafts(&mut self, query: &Node, rows: Rows, env: &Env) -> Result<Vec<Draft>, NotCompiled> {
        self.deeper(|lowering| {
            check(query, rows)?;
            match query.optional("setOperations")? {
                Some(operation) => lowering.union(query, operation, rows, env),
                None => Ok(vec![lowering.draft(query, rows, env)?]),
            }
        })
    }

    /// The same as one query with access paths.
    pub(super) fn query(&mut self, query: &Node, rows: Rows, env: &Env) -> Result<Query, NotCompiled> {
        let drafts = self.drafts(query, rows, env)?;
        Ok(self.finish(drafts))
    }

    pub(super) fn finish(&self, drafts: Vec<Draft>) -> Query {
        let mut members = drafts.into_iter().map(|draft| order::order(self.catalog, draft)).collect::<Vec<_>>();
        let mut first = members.remove(0);
        first.union = members.into();
        first
    }

    fn draft(&mut self, query: &Node, rows: Rows, env: &Env) -> Result<Draft, NotCompiled> {
        if query.flag("hasAggs")? {
            return self.aggregated_row(query, env);
        }
        let limit = limit(query)?;
        self.rows_of(query, rows, env, |lowering, draft, inside| {
            let (output, sources) = lowering.select_list(query, draft.sources.len(), inside)?;
            draft.sources.extend(sources);
            draft.output = output;
            draft.limit = limit;
            Ok(())
        })
    }

    /// FROM and WHERE; `select` adds what is selected.
    pub(super) fn rows_of(
        &mut self,
        query: &Node,
        rows: Rows,
        env: &Env,
        select: impl FnOnce(&mut Self, &mut Draft, &Env) -> Result<(), NotCompiled>,
    ) -> Result<Draft, NotCompiled> {
        let mut joins = Joins::default();
        joins.clause(query.node("jointree")?)?;
        let rtable = query.list("rtable")?;
        let mut scope = Scope {
            outer: env.scope,
            entries: (0..rtable.len()).map(|_| Entry::Absent).collect(),
            depth: env.depth,
            ctes: query.list("cteList")?,
            rows,
            aggregated: None,
        };
        let mut draft =
            Draft { sources: Vec::new(), conditions: Vec::new(), output: Vec::new(), limit: None, aggregate: None };
        for (place, joined) in joins.entries {
            let entry = rtable.get(place).and_then(Tree::as_node).ok_or_else(|| unknown("QUERY", "rtable"))?;
            let made = match joined {
                Joined::Source => self.source(query, entry, &mut draft, &scope, env)?,
                Joined::Join => Entry::Join(join_columns(entry)?),
            };
            scope.entries[place] = made;
        }
        let inside = env.within(&scope);
        for condition in joins.conditions {
            let condition = self.expr(condition, &inside)?;
            split(condition, &mut draft.conditions);
        }
        select(self, &mut draft, &inside)?;
        Ok(draft)
    }

    fn union(&mut self, query: &Node, operation: &Node, rows: Rows, env: &Env) -> Result<Vec<Draft>, NotCompiled> {
        if limit(query)?.is_some() {
            return Err(in_query("LIMIT of a UNION"));
        }
        let mut members = Vec::new();
        union_members(operation, rows, &mut members)?;
        let types = operation.field("colTypes").and_then(Tree::as_numbers).unwrap_or_default();
        // The members see the query that unites them as one more level outward.
        let scope = Scope {
            outer: env.scope,
            entries: Vec::new(),
            depth: env.depth,
            ctes: query.list("cteList")?,
            rows,
            aggregated: None,
        };
        let env = Env { scope: Some(&scope), ..*env };
        let rtable = query.list("rtable")?;
        let mut drafts = Vec::new();
        for member in members {
            let entry = rtable.get(member).and_then(Tree::as_node).ok_or_else(|| unknown("QUERY", "rtable"))?;
            let member = entry.node("subquery")?;
            for (target, wanted) in target::targets(member)?.into_iter().zip(&types) {
                let given = self.type_of(target)?;
                if !u32::try_from(*wanted).is_ok_and(|wanted| self.same_values(given, wanted)) {
                    return Err(in_query("a UNION of different types"));
                }
            }
            drafts.extend(self.drafts(member, rows, &env)?);
        }
        Ok(drafts)
    }
}

fn check(query: &Node, rows: Rows) -> Result<(), NotCompiled> {
    check_but_limit(query)?;
    if rows == Rows::All && !query.list("distinctClause")?.is_empty() {
        return Err(in_query("DISTINCT where it counts"));
    }
    if rows != Rows::Exist && limit(query)?.is_some() {
        return Err(in_query("LIMIT, which leaves open which rows those are"));
    }
    Ok(())
}

pub(super) fn check_but_limit(query: &Node) -> Result<(), NotCompiled> {
    if let Some((_, part)) = PARTS.iter().find(|(field, _)| query.unknown_field(&known_but(field)).is_some()) {
        return Err(in_query(part));
    }
    known(query, &QUERY)?;
    if query.name != "QUERY" || query.int("commandType")? != 1 {
        return Err(in_query("INSERT, UPDATE or DELETE"));
    }
    Ok(())
}

/// All fields that are known, and all parts but this one: then that one is the unknown one.
fn known_but(field: &&str) -> Vec<&'static str> {
    let others = PARTS.iter().map(|(other, _)| *other).filter(|other| other != field);
    QUERY.into_iter().chain(others).chain(["groupDistinct", "hasGroupRTE", "hasModifyingCTE"]).collect()
}

/// LIMIT of a constant.
pub(super) fn limit(query: &Node) -> Result<Option<u64>, NotCompiled> {
    let Some(mut count) = query.optional("limitCount")? else { return Ok(None) };
    if query.field("limitOption").is_some() && query.int("limitOption")? != 0 {
        return Err(in_query("WITH TIES"));
    }
    // `LIMIT 1` is an integer made a bigint.
    if count.name == "FUNCEXPR" && count.int("funcid")? == 481 {
        count = count.list("args")?.first().and_then(Tree::as_node).ok_or_else(|| unknown("QUERY", "limitCount"))?;
    }
    match count.field("constvalue") {
        // LIMIT NULL.
        Some(Tree::Null) => Ok(None),
        Some(Tree::Datum { bytes, .. }) if matches!(count.int("consttype"), Ok(20 | 23)) => {
            let bytes = <[u8; 8]>::try_from(&bytes[..]).map_err(|_| unknown("CONST", "constvalue"))?;
            let count = if count.int("consttype")? == 23 {
                i64::from(i64::from_le_bytes(bytes) as i32)
            } else {
                i64::from_le_bytes(bytes)
            };
            Ok(Some(u64::try_from(count).map_err(|_| in_query("a negative LIMIT"))?))
        }
        _ => Err(in_query("a LIMIT that is computed")),
    }
}

/// AND, split into the conditions that it joins.
pub(super) fn split(condition: Expr, conditions: &mut Vec<Expr>) {
    match condition {
        Expr::And(args) => args.into_iter().for_each(|arg| split(arg, conditions)),
        Expr::Const(Value::Bool(true)) => {}
        condition => conditions.push(condition),
    }
}

enum Joined {
    Source,
    Join,
}

/// A join tree, taken apart: inner joins are their sources and their conditions.
#[derive(Default)]
struct Joins<'e, 'a> {
    /// Places in the range table, in the order in which each may use those before.
    entries: Vec<(usize, Joined)>,
    conditions: Vec<&'e Tree<'a>>,
}

impl<'e, 'a> Joins<'e, 'a> {
    fn clause(&mut self, node: &'e Node<'a>) -> Result<(), NotCompiled> {
        known(node, &["fromlist", "quals"])?;
        for item in node.list("fromlist")? {
            self.item(item)?;
        }
        self.condition(node);
        Ok(())
    }

    fn condition(&mut self, node: &'e Node<'a>) {
        self.conditions.extend(node.field("quals").filter(|quals| **quals != Tree::Null));
    }

    fn item(&mut self, item: &'e Tree<'a>) -> Result<(), NotCompiled> {
        let node = item.as_node().ok_or_else(|| unknown("FROMEXPR", "fromlist"))?;
        let place = |node: &Node| {
            let number = usize::try_from(node.int("rtindex")?).ok();
            number.and_then(|number| number.checked_sub(1)).ok_or_else(|| unknown("QUERY", "rtable"))
        };
        match node.name {
            "RANGETBLREF" => self.entries.push((place(node)?, Joined::Source)),
            "FROMEXPR" => self.clause(node)?,
            "JOINEXPR" => {
                let fields = ["jointype", "isNatural", "larg", "rarg", "usingClause", "join_using_alias", "quals"];
                known(node, &[&fields[..], &["alias", "rtindex"]].concat())?;
                if node.int("jointype")? != 0 {
                    return Err(in_query("an outer join"));
                }
                for side in ["larg", "rarg"] {
                    self.item(node.field(side).unwrap_or(&Tree::Null))?;
                }
                self.condition(node);
                self.entries.push((place(node)?, Joined::Join));
            }
            name => return Err(NotCompiled::Node(name.to_owned())),
        }
        Ok(())
    }
}

fn join_columns<'e, 'a>(entry: &'e Node<'a>) -> Result<&'e [Tree<'a>], NotCompiled> {
    if entry.int("rtekind")? != 2 {
        return Err(unknown("RANGETBLENTRY", "rtekind"));
    }
    Ok(entry.list("joinaliasvars")?)
}

/// The places in the range table of what UNIONs unite.
fn union_members(node: &Node, rows: Rows, members: &mut Vec<usize>) -> Result<(), NotCompiled> {
    if node.name == "RANGETBLREF" {
        let place = usize::try_from(node.int("rtindex")?).ok().and_then(|number| number.checked_sub(1));
        members.push(place.ok_or_else(|| unknown("QUERY", "rtable"))?);
        return Ok(());
    }
    if node.name != "SETOPERATIONSTMT" || node.int("op")? != 1 {
        return Err(in_query("INTERSECT or EXCEPT"));
    }
    if rows == Rows::All && !node.flag("all")? {
        return Err(in_query("UNION where it counts how often a row occurs"));
    }
    for side in ["larg", "rarg"] {
        union_members(node.node(side)?, rows, members)?;
    }
    Ok(())
}
