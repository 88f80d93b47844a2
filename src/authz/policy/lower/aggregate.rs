//! Aggregates.

use std::sync::Arc;

use super::super::expr::Aggregate;
use super::super::tree::{Node, Tree};
use super::super::{Expr, NotCompiled};
use super::scope::Env;
use super::{Lowering, in_query, known, unknown};
use crate::catalog::Oid;

/// By `pg_proc.dat`. Minimum and maximum of what orders as its values do.
fn by_oid(oid: Oid) -> Option<Aggregate> {
    Some(match oid {
        2803 => Aggregate::CountRows,
        2147 => Aggregate::Count,
        2335 => Aggregate::ArrayAgg,
        2518 => Aggregate::BoolOr,
        2517 | 2519 => Aggregate::BoolAnd,
        // `int8`, `int4`, `int2`, `date`, `timestamp`, `timestamptz`.
        2131..=2133 | 2138 | 2142 | 2143 => Aggregate::Min,
        2115..=2117 | 2122 | 2126 | 2127 => Aggregate::Max,
        _ => return None,
    })
}

impl Lowering<'_> {
    /// In the select list of a query with aggregates: the value of a query of its own.
    pub(super) fn aggregate(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        let fields = [
            "aggfnoid",
            "aggtype",
            "aggcollid",
            "inputcollid",
            "aggargtypes",
            "args",
            "aggstar",
            "aggkind",
            "location",
            "aggno",
            "aggtransno",
            "aggsplit",
        ];
        for (field, part) in [
            ("aggdistinct", "DISTINCT in an aggregate"),
            ("aggfilter", "FILTER of an aggregate"),
            ("aggorder", "ORDER BY in an aggregate"),
        ] {
            if !node.list(field).is_ok_and(<[Tree]>::is_empty) {
                return Err(in_query(part));
            }
        }
        known(node, &fields)?;
        let Some(query) = env.scope.and_then(|scope| scope.aggregated) else {
            return Err(in_query("an aggregate of another query"));
        };
        let oid = node.oid("aggfnoid")?;
        let aggregate = by_oid(oid).ok_or_else(|| in_query("an aggregate that is not known here"))?;
        let arg = match node.list("args")? {
            [] => None,
            [Tree::Node(arg)] => Some(arg.field("expr").ok_or_else(|| unknown("TARGETENTRY", "expr"))?),
            _ => return Err(in_query("an aggregate of several values")),
        };
        let query = self.aggregate_query(query, aggregate, arg, env)?;
        Ok(Expr::Scalar(Arc::new(query)))
    }
}
