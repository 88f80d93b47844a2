//! The part of a predicate that only Postgres can decide, as SQL over a row image.

use super::filter::{Clause, Operator};
use crate::catalog::relation::quote_identifier;
use crate::catalog::{Column, ColumnSet, PgType, Relation, TypeKind};

/// A boolean expression over the table's row, under the table's own name as alias.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SqlTest {
    pub expression: String,
    /// The columns that the expression reads.
    pub columns: ColumnSet,
}

/// A type as SQL, never with an implied length: `character` alone would be `character(1)`, and `bit` one bit.
pub(super) fn type_name(pg_type: &PgType) -> String {
    if pg_type.schema == "pg_catalog" && matches!(pg_type.name.as_str(), "bpchar" | "bit") {
        return format!("pg_catalog.{}", quote_identifier(&pg_type.name));
    }
    pg_type.sql_name.clone()
}

/// A string constant that means the same whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// One clause as SQL. `base` is the column's type with domains looked through; the value has been validated.
pub(super) fn clause(
    relation: &Relation,
    column: &Column,
    column_type: &PgType,
    base: &PgType,
    clause: &Clause,
) -> String {
    let (operator, value) = (clause.operator, clause.value.as_str());
    let not = if clause.negate { "not " } else { "" };
    let reference = format!("{}.{}", quote_identifier(&relation.name), quote_identifier(&column.name));
    let constant = format!("{}::{}", literal(value), type_name(column_type));
    // Operators of an extension's types live with the type; under a search_path without its schema `citext = citext`
    // would quietly be `text = text`.
    let foreign = base.kind == TypeKind::Base && base.schema != "pg_catalog";
    let schema = if foreign { quote_identifier(&base.schema) } else { "pg_catalog".to_owned() };
    let infix = |symbol: &str| format!("{reference} operator({schema}.{symbol}) {constant}");
    // Patterns are refused by non-deterministic collations (before 18), and Supabase applies the database's anyway.
    let deterministic = column.collation.is_none_or(|collation| collation.deterministic);
    let collate = if deterministic { "" } else { " collate pg_catalog.\"default\"" };
    let pattern = |symbol: &str| format!("{reference} operator({schema}.{symbol}) {constant}{collate}");
    let plain = match operator {
        Operator::Eq => infix("="),
        Operator::Neq => infix("<>"),
        Operator::Lt => infix("<"),
        Operator::Lte => infix("<="),
        Operator::Gt => infix(">"),
        Operator::Gte => infix(">="),
        Operator::In => {
            let array = format!("{}::{}[]", literal(value), type_name(column_type));
            format!("{reference} operator({schema}.=) any ({array})")
        }
        Operator::Like => pattern("~~"),
        Operator::Ilike => pattern("~~*"),
        Operator::Match => pattern("~"),
        Operator::Imatch => pattern("~*"),
        // Not the same as `not (.. is null)` where the value is composite.
        Operator::Is => return format!("{reference} is {not}{value}"),
        // IS DISTINCT FROM finds its operator by search_path and takes no schema.
        Operator::IsDistinct if foreign => format!("({reference} is null or not ({}))", infix("=")),
        Operator::IsDistinct => format!("{reference} is distinct from {constant}"),
    };
    if clause.negate { format!("not ({plain})") } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }
}
