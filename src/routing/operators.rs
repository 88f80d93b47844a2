//! Which operators a column's type has.

use super::filter::Operator;
use crate::catalog::{PgType, TypeKind};

/// Types without `=`, as `select null::t = null::t` says on Postgres 14 to 18.
const WITHOUT_EQUALITY: &[&str] = &[
    "gtsvector",
    "json",
    "jsonpath",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
    "pg_snapshot",
    "point",
    "polygon",
    "refcursor",
    "txid_snapshot",
    "xml",
];

/// Types with `=` but without `<>`.
const WITHOUT_INEQUALITY: &[&str] = &["aclitem", "box", "cid", "line", "path"];

/// Types with `=` but without an order.
const WITHOUT_ORDER: &[&str] = &["aclitem", "cid", "line", "xid"];

/// Why an operator is refused, in the words of Supabase's trigger; `None`: the type has it.
///
/// `column_type` is the column's own type, `base` the same with domains looked through. Patterns ask for operators
/// declared on the very type (so varchar, domains and enums have none), comparisons for what Postgres resolves to.
pub(super) fn refusal(operator: Operator, column_type: &PgType, base: &PgType) -> Option<String> {
    let name = || type_name_in_messages(column_type);
    let exact = |names: &[&str]| {
        column_type.kind == TypeKind::Base
            && (names.contains(&column_type.name.as_str()) && column_type.schema == "pg_catalog"
                || column_type.name == "citext")
    };
    let has_patterns = match operator {
        Operator::Is => return None,
        Operator::Like | Operator::Ilike => exact(&["text", "bpchar", "name", "bytea"]),
        Operator::Match | Operator::Imatch => exact(&["text"]),
        _ if is_comparable(operator, column_type, base) => return None,
        // Supabase accepts these, and then every change of the table fails for everybody (PROTOCOL 4.6).
        _ => {
            let (operator, name) = (operator.as_str(), name());
            return Some(format!("operator {operator} requires a column type that can be compared, got {name}"));
        }
    };
    (!has_patterns)
        .then(|| format!("operator {} requires a text-compatible column type, got {}", operator.as_str(), name()))
}

fn is_comparable(operator: Operator, column_type: &PgType, base: &PgType) -> bool {
    match base.kind {
        TypeKind::Array { .. } | TypeKind::Pseudo => return false,
        // `anyenum` does not look through domains, though `anyrange` does.
        TypeKind::Enum { .. } if column_type.oid != base.oid => return false,
        _ => {}
    }
    if base.schema != "pg_catalog" {
        return true;
    }
    let name = base.name.as_str();
    let lacks_more = match operator {
        Operator::Neq => WITHOUT_INEQUALITY.contains(&name),
        Operator::Lt | Operator::Lte | Operator::Gt | Operator::Gte => WITHOUT_ORDER.contains(&name),
        _ => false,
    };
    !WITHOUT_EQUALITY.contains(&name) && !lacks_more
}

/// `regtype::text` as it reads where `public` is in the search_path, which is how clients know it.
pub(super) fn type_name_in_messages(pg_type: &PgType) -> String {
    let name = pg_type.sql_name.as_str();
    name.strip_prefix("public.").unwrap_or(name).to_owned()
}

/// Whether `is.true` and the like apply: only to boolean itself, not to its domains.
pub(super) fn is_boolean(column_type: &PgType) -> bool {
    column_type.name == "bool" && column_type.schema == "pg_catalog"
}
