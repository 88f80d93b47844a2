//! Select lists.

use std::cell::RefCell;
use std::sync::Arc;

use super::super::expr::Source;
use super::super::tree::{Node, Tree};
use super::super::{Expr, NotCompiled, builtin};
use super::scope::{Env, Targets};
use super::{Lowering, in_query, known, unknown};
use crate::catalog::Oid;

/// The expressions of a select list, without those that only serve to sort.
pub(super) fn targets<'e, 'a>(query: &'e Node<'a>) -> Result<Vec<&'e Tree<'a>>, NotCompiled> {
    let mut targets = Vec::new();
    for entry in query.list("targetList")? {
        let entry = entry.as_node().ok_or_else(|| unknown("QUERY", "targetList"))?;
        let fields = ["expr", "resno", "resname", "ressortgroupref", "resorigtbl", "resorigcol", "resjunk"];
        known(entry, &fields)?;
        if !entry.flag("resjunk")? {
            targets.push(entry.field("expr").ok_or_else(|| unknown("TARGETENTRY", "expr"))?);
        }
    }
    Ok(targets)
}

impl Lowering<'_> {
    /// The select list, and the sources that its set-returning functions become.
    pub(super) fn select_list(
        &mut self,
        query: &Node,
        from: usize,
        env: &Env,
    ) -> Result<(Vec<Expr>, Vec<Source>), NotCompiled> {
        let sources = RefCell::new(Targets { sources: Vec::new(), from: from as u16 });
        let env = Env { targets: Some(&sources), ..env.operand() };
        let mut output = Vec::new();
        for target in targets(query)? {
            output.push(self.expr(target, &env)?);
        }
        let sources = sources.into_inner().sources;
        if sources.len() > 1 {
            // They would run side by side, not one within the other.
            return Err(in_query("several set-returning functions in its select list"));
        }
        Ok((output, sources))
    }

    /// A set-returning function in a select list.
    pub(super) fn set_in_select_list(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        let Some(targets) = env.targets else { return Err(in_query("a set-returning function here")) };
        let (source, types) = self.set_of_function(node, env)?;
        if types.len() != 1 {
            return Err(in_query("a set-returning function of several columns in its select list"));
        }
        let mut targets = targets.borrow_mut();
        let place = targets.from + targets.sources.len() as u16;
        targets.sources.push(source);
        Ok(Expr::Inner { levels: 0, source: place, column: 0 })
    }

    /// The rows of a set-returning function, and the types of its columns.
    pub(super) fn set_of_function(&mut self, node: &Node, env: &Env) -> Result<(Source, Vec<Oid>), NotCompiled> {
        let (oid, args) = (node.oid("funcid")?, node.list("args")?);
        let result = node.oid("funcresulttype")?;
        let env = Env { targets: None, ..env.operand() };
        if let Some(function) = self.catalog.functions.get(&oid) {
            let function = Arc::clone(function);
            let (query, types) = self.rows_of_function(&function, args, &env)?;
            return Ok((Source::Query(Arc::new(query)), types));
        }
        let function = builtin::function(oid).ok_or(NotCompiled::Function(oid))?;
        let args = self.list(args, &env)?;
        self.collation_fits(function, node)?;
        let array = match <[Expr; 1]>::try_from(args) {
            // `unnest` gives back its argument.
            Ok([array]) if oid == 2331 => array,
            Ok(args) => Expr::Call { function, args: args.into() },
            Err(args) => Expr::Call { function, args: args.into() },
        };
        self.datum_type(result)?;
        Ok((Source::Elements { array }, vec![result]))
    }
}
