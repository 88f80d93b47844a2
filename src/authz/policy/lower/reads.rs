//! Which tables policies lead to, whether or not they can be compiled.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::super::tree::{self, Node, Tree};
use crate::authz::plan::applicable;
use crate::catalog::{Catalog, Oid, Relation, Role};
use crate::wal::pgoutput::RelationId;

/// Every table in sub-queries of the policies that apply, of the functions they call and of those tables' own policies,
/// as far as their trees are known: what setup has to follow.
pub fn tables_read(catalog: &Catalog, relation: &Arc<Relation>, role: &Role) -> Vec<RelationId> {
    let mut reads = Reads { catalog, tables: BTreeSet::new(), seen: HashSet::new() };
    reads.policies(relation, role);
    reads.tables.into_iter().map(RelationId).collect()
}

struct Reads<'c> {
    catalog: &'c Catalog,
    tables: BTreeSet<u32>,
    /// Functions, and tables with their policies, by the role they are looked at as.
    seen: HashSet<(Oid, Oid)>,
}

impl Reads<'_> {
    fn policies(&mut self, relation: &Relation, role: &Role) {
        if !relation.row_security_active(role) || !self.seen.insert((relation.id.0, role.oid)) {
            return;
        }
        let applicable = applicable(relation, role);
        for policy in applicable.restrictive.into_iter().chain(applicable.permissive) {
            self.text(policy.using_tree.as_deref(), role);
        }
    }

    fn text(&mut self, text: Option<&str>, role: &Role) {
        if let Some(tree) = text.and_then(|text| tree::read(text).ok()) {
            self.tree(&tree, role);
        }
    }

    fn tree(&mut self, tree: &Tree, role: &Role) {
        match tree {
            Tree::Node(node) => self.node(node, role),
            Tree::List(items) => items.iter().for_each(|item| self.tree(item, role)),
            _ => {}
        }
    }

    fn node(&mut self, node: &Node, role: &Role) {
        match node.name {
            "RANGETBLENTRY" if node.int("rtekind") == Ok(0) => self.table(node, role),
            "FUNCEXPR" => self.function(node.oid("funcid").ok(), role),
            "OPEXPR" | "SCALARARRAYOPEXPR" => self.function(node.oid("opfuncid").ok(), role),
            _ => {}
        }
        node.values().for_each(|value| self.tree(value, role));
    }

    fn table(&mut self, node: &Node, role: &Role) {
        let Ok(oid) = node.oid("relid") else { return };
        self.tables.insert(oid);
        if let Some(relation) = self.catalog.any_relation(RelationId(oid)).cloned() {
            self.policies(&relation, role);
        }
    }

    fn function(&mut self, oid: Option<Oid>, role: &Role) {
        let Some(function) = oid.and_then(|oid| self.catalog.functions.get(&oid)).cloned() else { return };
        if !self.seen.insert((function.oid, role.oid)) {
            return;
        }
        let owner = self.catalog.roles.by_name.values().find(|role| role.oid == function.owner).cloned();
        let runs_as = owner.as_deref().filter(|_| function.security_definer).unwrap_or(role);
        match self.catalog.session.body(function.oid, runs_as.oid) {
            Some(body) => self.text(body.as_ref().ok().map(|body| &**body), runs_as),
            None => self.text(function.body.as_deref(), runs_as),
        }
    }
}
