//! Policies that are never true, whatever the row: Postgres raises an error before, or when it gets there.

use super::super::tree::{self, Node, Tree};
use super::super::{NotCompiled, builtin};
use super::{Lowering, target};
use crate::authz::plan::Applicable;
use crate::catalog::{Function, Policy, Role, quote_identifier};

/// Whether the role may call the function.
pub(super) fn may_execute(function: &Function, role: &Role) -> bool {
    role.superuser || function.execute.iter().any(|item| item.grantee == 0 || role.has_privileges_of(item.grantee))
}

impl Lowering<'_> {
    /// Why no row is shown: a condition that each row has to meet is a call that the role may not make. Of several
    /// permissive policies another one may be met.
    pub(super) fn never(&self, applicable: &Applicable) -> Option<NotCompiled> {
        let only = (applicable.permissive.len() == 1).then(|| applicable.permissive[0]);
        applicable.restrictive.iter().copied().chain(only).find_map(|policy| self.never_true(policy))
    }

    fn never_true(&self, policy: &Policy) -> Option<NotCompiled> {
        let tree = tree::read(policy.using_tree.as_deref()?).ok()?;
        let function = self.forbidden(tree.as_node()?)?;
        let name = format!("{}.{}", quote_identifier(&function.schema), quote_identifier(&function.name));
        Some(NotCompiled::Fails(format!("role {:?} may not execute {name}", self.role.name)))
    }

    /// The function that the condition cannot be true without.
    fn forbidden(&self, node: &Node) -> Option<&Function> {
        match node.name {
            "FUNCEXPR" => {
                let function = self.catalog.functions.get(&node.oid("funcid").ok()?)?;
                (!may_execute(function, self.role)).then_some(&**function)
            }
            "BOOLEXPR" if node.text("boolop").as_deref() == Ok("and") => {
                nodes(node.list("args").ok()?).find_map(|arg| self.forbidden(arg))
            }
            // Operators of others may leave their operands alone.
            "OPEXPR" if builtin::operator(node.oid("opno").ok()?).is_some_and(|function| function.strict) => {
                let mut calls = nodes(node.list("args").ok()?).filter(|arg| arg.name == "FUNCEXPR");
                calls.find_map(|call| self.forbidden(call))
            }
            // `x IN (SELECT f())`: no row comes but from the function.
            "SUBLINK" if node.int("subLinkType") == Ok(2) => {
                let query = node.node("subselect").ok()?;
                let [target] = target::targets(query).ok()?[..] else { return None };
                let call = target.as_node().filter(|call| call.name == "FUNCEXPR")?;
                let is_alone = query.optional("setOperations").ok()?.is_none() && !query.flag("hasAggs").ok()?;
                if is_alone { self.forbidden(call) } else { None }
            }
            _ => None,
        }
    }
}

fn nodes<'t, 'a>(trees: &'t [Tree<'a>]) -> impl Iterator<Item = &'t Node<'a>> {
    trees.iter().filter_map(Tree::as_node)
}
