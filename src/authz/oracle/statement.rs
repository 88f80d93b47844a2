//! The SQL of a question.
//!
//! `SELECT (policy) FROM unnest($1::schema.tab[]) AS tab` gave the answer of a real SELECT in every case tried but
//! system columns: the rows have the table's own type under the table's own name, and nothing is constant, so nothing
//! is folded away. One statement per identity, always: `(SELECT auth.uid())` is computed once per statement, and with
//! two identities in one of them the second would get the first one's answer.
//!
//! `unnest` gives the rows in the array's order, and a select list without ORDER BY, DISTINCT or window keeps it.
//! WITH ORDINALITY would add a column to the row type, and functions that take the row would no longer fit.

use super::super::RowText;
use super::super::row_text::array_literal;
use super::question::{Asked, Question};
use crate::catalog::relation::quote_identifier;
use crate::catalog::{Column, ColumnIndex, ColumnSet, Relation};

const SNAPSHOT: &str = "(SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text)";

/// One statement of a question, for those of its rows that are asked alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) sql: String,
    /// Places in the question's rows, in the order in which they are asked.
    pub(super) rows: Vec<usize>,
    /// How many text parameters: the rows, and for [`Form::Current`] the transaction.
    pub(super) parameters: usize,
    form: Form,
}

/// Where the values of a row come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// From the image, which has all that is read.
    Image,
    /// Generated columns (absent from the stream before 18) are computed from the image.
    Computed,
    /// The image lacks what is read (a TOASTed value that the UPDATE did not touch): the table is asked, provided
    /// that the row there is still this transaction's.
    Current,
}

impl Part {
    /// The statement's parameters.
    pub(super) fn bind(&self, question: &Question) -> Vec<String> {
        let mut parameters = vec![array_literal(self.rows.iter().map(|row| &question.rows[*row]))];
        if self.parameters > 1 {
            parameters.push(question.xid.unwrap_or(0).to_string());
        }
        parameters
    }

    /// The same statement for each row alone.
    pub(super) fn one_by_one(&self) -> impl Iterator<Item = Part> + '_ {
        self.rows.iter().map(|row| Part { rows: vec![*row], ..self.clone() })
    }
}

/// The statements of a question. Rows that are in none of them cannot be asked at all.
pub(super) fn parts(question: &Question) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (row, text) in question.rows.iter().enumerate() {
        let Some(form) = form(question, text) else { continue };
        match parts.iter_mut().find(|part| part.form == form) {
            Some(part) => part.rows.push(row),
            None => {
                let parameters = if form == Form::Current { 2 } else { 1 };
                parts.push(Part { sql: sql(question, form), rows: vec![row], parameters, form });
            }
        }
    }
    parts
}

fn form(question: &Question, row: &RowText) -> Option<Form> {
    let relation = &*question.relation;
    let lacking: Vec<ColumnIndex> = row.missing.iter().filter(|column| reads(question, *column)).collect();
    if lacking.is_empty() {
        return Some(Form::Image);
    }
    let computable = |column: &ColumnIndex| match &relation.column(*column).generated {
        // What it is generated from must be in the image itself.
        Some(generated) => generated.expression.is_some() && plain_columns_known(relation, &row.missing),
        None => false,
    };
    if lacking.iter().all(computable) {
        return Some(Form::Computed);
    }
    let key = &relation.primary_key;
    let key_known = !key.is_empty() && key.iter().all(|column| !row.missing.contains(*column));
    let askable = row.is_new && key_known && question.xid.is_some();
    let policy = matches!(question.asked, Asked::Policy { .. });
    (policy && askable).then_some(Form::Current)
}

fn plain_columns_known(relation: &Relation, missing: &ColumnSet) -> bool {
    missing.iter().all(|column| relation.column(column).generated.is_some())
}

/// Whether the question reads the column of its rows.
fn reads(question: &Question, column: ColumnIndex) -> bool {
    match &question.asked {
        Asked::Policy { plan, .. } => plan.columns.as_ref().is_none_or(|columns| columns.contains(column)),
        Asked::Filter { columns, .. } => columns.as_ref().is_none_or(|columns| columns.contains(column)),
        Asked::Json { columns, .. } => columns.contains(&column),
    }
}

fn sql(question: &Question, form: Form) -> String {
    let relation = &*question.relation;
    let from = match form {
        Form::Image | Form::Current => format!("pg_catalog.unnest({})", array_parameter(relation)),
        Form::Computed => computed_rows(relation),
    };
    let answers = match &question.asked {
        Asked::Policy { .. } if form == Form::Current => current_row(relation),
        Asked::Policy { plan, .. } => format!("({})", plan.expression),
        Asked::Filter { expression, .. } => format!("({expression})"),
        Asked::Json { columns, .. } => json_columns(relation, columns),
    };
    format!("SELECT {SNAPSHOT}, {answers} FROM {from} AS {}", quote_identifier(&relation.name))
}

/// The array literal, typed. Given as text, so that the driver need not know the table's type.
fn array_parameter(relation: &Relation) -> String {
    format!("$1::pg_catalog.text::{}[]", relation.sql_name())
}

/// The rows with their generated columns filled in, still of the table's type.
fn computed_rows(relation: &Relation) -> String {
    let table = quote_identifier(&relation.name);
    let value = |column: &Column| match &column.generated {
        Some(generated) => match &generated.expression {
            Some(expression) => format!("({expression})"),
            None => "NULL".to_owned(),
        },
        None => format!("{table}.{}", quote_identifier(&column.name)),
    };
    let fields: Vec<String> = relation.columns.iter().map(value).collect();
    format!(
        "pg_catalog.unnest(ARRAY(SELECT ROW({})::{} FROM pg_catalog.unnest({}) AS {table}))",
        fields.join(", "),
        relation.sql_name(),
        array_parameter(relation)
    )
}

/// A real SELECT of the row by its key, with the policies that Postgres itself applies. It answers for this change
/// only while the row in the table is the one that this transaction wrote.
fn current_row(relation: &Relation) -> String {
    let table = quote_identifier(&relation.name);
    let equal = |column: &ColumnIndex| {
        let name = quote_identifier(&relation.column(*column).name);
        format!("walcast_now.{name} = {table}.{name}")
    };
    let key: Vec<String> = relation.primary_key.iter().map(equal).collect();
    format!(
        "EXISTS (SELECT FROM {} AS walcast_now WHERE {} AND walcast_now.xmin = $2::pg_catalog.text::pg_catalog.xid)",
        relation.sql_name(),
        key.join(" AND ")
    )
}

fn json_columns(relation: &Relation, columns: &[ColumnIndex]) -> String {
    let table = quote_identifier(&relation.name);
    let json = |column: &ColumnIndex| {
        let name = quote_identifier(&relation.column(*column).name);
        format!("pg_catalog.to_jsonb({table}.{name})::pg_catalog.text")
    };
    columns.iter().map(json).collect::<Vec<_>>().join(", ")
}

/// What a question takes part in a transaction with: the identity, then the role. Local, all of it.
pub(super) const SET_IDENTITY: &str = "
SELECT pg_catalog.set_config('request.jwt.claims', $1, true), pg_catalog.set_config('role', $2, true)";

/// Where text goes in or comes out, it is the text of the stream's pinned settings. Policies are evaluated under the
/// login's own: its TimeZone is part of what a SELECT would see.
pub(super) const SET_OUTPUT: &str = "
SELECT pg_catalog.set_config('TimeZone', 'UTC', true), pg_catalog.set_config('DateStyle', 'ISO, MDY', true),
       pg_catalog.set_config('IntervalStyle', 'postgres', true), pg_catalog.set_config('extra_float_digits', '3', true),
       pg_catalog.set_config('bytea_output', 'hex', true), pg_catalog.set_config('role', $1, true)";

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
