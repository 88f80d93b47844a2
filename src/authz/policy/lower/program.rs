//! What a program reads.

use std::collections::{BTreeMap, BTreeSet};

use super::super::expr::{Access, Query, Source};
use super::super::{Clause, Expr, Need, NotCompiled, Program, walk};
use super::{Lowering, array_order, in_query};
use crate::catalog::ColumnIndex;
use crate::wal::pgoutput::RelationId;

pub(super) fn assemble(mut lowering: Lowering, mut clauses: Vec<Clause>) -> Result<Program, NotCompiled> {
    clauses.iter_mut().for_each(|clause| lowering.extract(&mut clause.using));
    if clauses.iter().map(|clause| &clause.using).chain(&lowering.slots).any(may_fail_on_rows) {
        return Err(in_query("something that is an error for some rows: Postgres may look at others of them"));
    }
    if clauses.iter().any(|clause| array_order::matters(&clause.using)) {
        return Err(in_query("an array of rows whose order matters"));
    }
    if clauses.iter().map(|clause| &clause.using).chain(&lowering.slots).any(|expr| lowering.fails_in_planning(expr)) {
        return Err(NotCompiled::Constant);
    }
    let mut reads = Reads::default();
    for expr in clauses.iter().map(|clause| &clause.using).chain(&lowering.slots) {
        reads.expr(expr, &mut Vec::new());
    }
    let need = |(relation, (columns, indexes)): (RelationId, Needed)| Need {
        relation,
        columns: columns.into_iter().collect(),
        indexes: indexes.into_iter().collect(),
    };
    let needs = reads.tables.into_iter().map(|(id, needed)| (RelationId(id), needed)).map(need);
    Ok(Program {
        clauses: clauses.into(),
        slots: lowering.slots.into(),
        eager: lowering.eager.into_iter().collect(),
        columns: reads.columns.into_iter().collect(),
        needs: needs.collect(),
        uses_now: reads.now,
    })
}

/// Whether a sub-query over tracked tables would always be undecided: see [`Query::may_fail_on_rows`].
fn may_fail_on_rows(expr: &Expr) -> bool {
    let mut found = false;
    expr.walk(&mut |expr| match expr {
        Expr::Exists(query) | Expr::Scalar(query) | Expr::ArrayOf(query) | Expr::AnyQuery { query, .. } => {
            found |= is_undecided(query);
        }
        _ => {}
    });
    found
}

fn is_undecided(query: &Query) -> bool {
    let reads_table = query.sources.iter().any(|source| matches!(source, Source::Table { .. }));
    let inner = |source: &Source| matches!(source, Source::Query(query) if is_undecided(query));
    (reads_table && query.may_fail_on_rows()) || query.sources.iter().any(inner) || query.union.iter().any(is_undecided)
}

type Needed = (BTreeSet<ColumnIndex>, BTreeSet<Box<[ColumnIndex]>>);

#[derive(Default)]
struct Reads {
    columns: BTreeSet<ColumnIndex>,
    /// By table.
    tables: BTreeMap<u32, Needed>,
    now: bool,
}

impl Reads {
    /// `around`: the queries around the expression, the innermost last.
    fn expr<'e>(&mut self, expr: &'e Expr, around: &mut Vec<&'e Query>) {
        match expr {
            Expr::Column(column) => drop(self.columns.insert(*column)),
            Expr::Now => self.now = true,
            Expr::Inner { levels, source, column } => {
                let query = around.len().checked_sub(1 + usize::from(*levels)).and_then(|place| around.get(place));
                let source = query.and_then(|query| query.sources.get(usize::from(*source)));
                if let Some(Source::Table { relation, .. }) = source {
                    self.tables.entry(relation.0).or_default().0.insert(ColumnIndex(*column));
                }
            }
            Expr::Exists(query) | Expr::Scalar(query) | Expr::ArrayOf(query) => self.query(query, around),
            Expr::AnyQuery { left, query, .. } => {
                self.expr(left, around);
                self.query(query, around);
            }
            _ => walk::children(expr, 0, &mut |child, _| self.expr(child, around)),
        }
    }

    fn query<'e>(&mut self, query: &'e Query, around: &mut Vec<&'e Query>) {
        around.push(query);
        for source in &query.sources {
            match source {
                Source::Table { relation, access } => {
                    let (columns, indexes) = self.tables.entry(relation.0).or_default();
                    if let Access::Lookup { columns: by, keys } = access {
                        columns.extend(by);
                        indexes.insert(by.clone());
                        keys.iter().for_each(|key| self.expr(key, around));
                    }
                }
                Source::Query(inner) => self.query(inner, around),
                Source::Elements { array } => self.expr(array, around),
            }
        }
        query.conditions.iter().for_each(|(_, condition)| self.expr(condition, around));
        query.gates.iter().for_each(|gate| self.expr(gate, around));
        query.output.iter().for_each(|output| self.expr(output, around));
        around.pop();
        query.union.iter().for_each(|member| self.query(member, around));
    }
}
