//! The type of an expression in a tree.

use super::super::tree::{Node, Tree};
use super::super::{DatumType, NotCompiled};
use super::{Lowering, in_query};
use crate::catalog::{Oid, TypeKind};

pub(super) const BOOL: Oid = 16;
/// `name`: `current_user` and constants compared with it; shortened text otherwise.
pub(super) use super::super::datum_type::NAME;
/// `RETURNS TABLE (..)`.
pub(super) const RECORD: Oid = 2249;

impl Lowering<'_> {
    /// The values of this type, or why they are not known.
    pub(super) fn datum_type(&self, oid: Oid) -> Result<DatumType, NotCompiled> {
        DatumType::of(self.catalog, oid).ok_or(NotCompiled::Type(oid))
    }

    /// Whether a value of one type is one of the other as it stands.
    pub(super) fn same_values(&self, a: Oid, b: Oid) -> bool {
        a == b || self.datum_type(a).is_ok_and(|a| self.datum_type(b).is_ok_and(|b| a == b))
    }

    pub(super) fn is_domain(&self, oid: Oid) -> bool {
        self.catalog.types.get(&oid).is_some_and(|known| matches!(known.kind, TypeKind::Domain { .. }))
    }

    /// `exprType`.
    pub(super) fn type_of(&self, tree: &Tree) -> Result<Oid, NotCompiled> {
        let node = tree.as_node().ok_or_else(|| NotCompiled::Node("a list".to_owned()))?;
        let field = match node.name {
            "VAR" => "vartype",
            "CONST" => "consttype",
            "PARAM" => "paramtype",
            "OPEXPR" | "NULLIFEXPR" => "opresulttype",
            "FUNCEXPR" => "funcresulttype",
            "AGGREF" => "aggtype",
            "RELABELTYPE" | "COERCEVIAIO" | "ARRAYCOERCEEXPR" | "COERCETODOMAIN" => "resulttype",
            "CASEEXPR" => "casetype",
            "CASETESTEXPR" => "typeId",
            "COALESCEEXPR" => "coalescetype",
            "MINMAXEXPR" => "minmaxtype",
            "ARRAYEXPR" => "array_typeid",
            "SQLVALUEFUNCTION" => "type",
            "BOOLEXPR" | "NULLTEST" | "BOOLEANTEST" | "SCALARARRAYOPEXPR" | "DISTINCTEXPR" => return Ok(BOOL),
            "COLLATEEXPR" => return self.type_of(node.field("arg").unwrap_or(&Tree::Null)),
            "SUBLINK" => return self.type_of_sub_query(node),
            name => return Err(NotCompiled::Node(name.to_owned())),
        };
        Ok(node.oid(field)?)
    }

    fn type_of_sub_query(&self, node: &Node) -> Result<Oid, NotCompiled> {
        match node.int("subLinkType")? {
            0..=2 => Ok(BOOL),
            4 => {
                let targets = super::target::targets(node.node("subselect")?)?;
                self.type_of(targets.first().ok_or_else(|| in_query("no column"))?)
            }
            6 => {
                let targets = super::target::targets(node.node("subselect")?)?;
                let element = self.type_of(targets.first().ok_or_else(|| in_query("no column"))?)?;
                let known = self.catalog.types.values().find_map(|known| match known.kind {
                    TypeKind::Array { element: of, .. } if of == element => Some(known.oid),
                    _ => None,
                });
                known.or_else(|| array_of(element)).ok_or(NotCompiled::Type(element))
            }
            _ => Err(NotCompiled::Node("the type of a SUBLINK".to_owned())),
        }
    }
}

/// The fixed OIDs of arrays of built-in types.
fn array_of(element: Oid) -> Option<Oid> {
    Some(match element {
        16 => 1000,
        21 => 1005,
        23 => 1007,
        20 => 1016,
        26 => 1028,
        25 => 1009,
        1043 => 1015,
        1042 => 1014,
        2950 => 2951,
        1700 => 1231,
        1082 => 1182,
        1114 => 1115,
        1184 => 1185,
        3802 => 3807,
        _ => return None,
    })
}
