//! The SQL of a question.
//!
//! `SELECT (policy) FROM unnest($1::schema.tab[]) AS tab` gave the answer of a real SELECT in every case tried but
//! system columns: the rows have the table's own type under the table's own name, and nothing is constant, so nothing
//! is folded away. One statement per identity, always: `(SELECT auth.uid())` is computed once per statement, and with
//! two identities in one of them the second would get the first one's answer.
//!
//! `unnest` gives the rows in the array's order, and a select list without ORDER BY, DISTINCT or window keeps it.
//! WITH ORDINALITY would add a column to the row type, and functions that take the row would no longer fit.

use std::sync::Arc;

use super::super::RowText;
use super::super::plan::policies_text_sql;
use super::super::row_text::array_literal;
use super::question::{Asked, Question};
use crate::catalog::relation::quote_identifier;
use crate::catalog::{Column, ColumnIndex, ColumnSet, Relation};

pub(super) const SNAPSHOT: &str = "(SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text)";

/// One statement of a flight, for those rows of its questions that are asked alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) sql: Arc<str>,
    /// In the order in which they are asked.
    pub(super) rows: Vec<Place>,
    form: Form,
    /// For [`Form::Current`]: the transaction that wrote the rows.
    xid: Option<u32>,
}

/// A row of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which of the flight's questions.
    pub(super) question: usize,
    /// Which of that question's rows.
    pub(super) row: usize,
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
    /// The statement's parameters, all text.
    pub(super) fn bind(&self, questions: &[&Question]) -> Option<Vec<String>> {
        let text = |place: &Place| questions.get(place.question)?.rows.get(place.row);
        let rows = self.rows.iter().map(text).collect::<Option<Vec<_>>>()?;
        let mut parameters = vec![array_literal(rows.into_iter())];
        parameters.extend(self.xid.map(|xid| xid.to_string()));
        Some(parameters)
    }

    /// Whether its rows say, behind the answer, if the policies are still those that it asks by. The table itself is
    /// asked by what it has.
    pub(super) fn looks_at_policies(&self, question: &Question) -> bool {
        self.form != Form::Current && matches!(question.asked, Asked::Policy { .. })
    }

    /// The same statement for each row alone.
    pub(super) fn one_by_one(&self) -> impl Iterator<Item = Part> + '_ {
        self.rows.iter().map(|place| Part { rows: vec![*place], ..self.clone() })
    }
}

/// The statements of questions that ask alike. Rows that are in none of them cannot be asked at all.
pub(super) fn parts(questions: &[&Question]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (n, question) in questions.iter().enumerate() {
        for (row, text) in question.rows.iter().enumerate() {
            let Some(form) = form(question, text) else { continue };
            let place = Place { question: n, row };
            // What is asked of the table is asked of one transaction's rows.
            let xid = question.xid.filter(|_| form == Form::Current);
            match parts.iter_mut().find(|part| part.form == form && part.xid == xid) {
                Some(part) => part.rows.push(place),
                None => {
                    let same = parts.iter().find(|part| part.form == form).map(|part| Arc::clone(&part.sql));
                    let sql = same.unwrap_or_else(|| sql(question, form).into());
                    parts.push(Part { sql, rows: vec![place], form, xid });
                }
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
        Asked::Policy { plan, .. } | Asked::Channel { plan, .. } => {
            plan.columns.as_ref().is_none_or(|columns| columns.contains(column))
        }
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
        Asked::Policy { plan, .. } => {
            let now = policies_text_sql(relation.id.0);
            let same = format!("({now}) IS NOT DISTINCT FROM {}", quote_literal(&plan.policies));
            // Looked up once per statement.
            format!("({}), (SELECT {same})", plan.expression)
        }
        Asked::Channel { plan, .. } => format!("({})", plan.expression),
        Asked::Filter { expression, .. } => format!("({expression})"),
        Asked::Json { columns, .. } => json_columns(relation, columns),
    };
    format!("SELECT {SNAPSHOT}, {answers} FROM {from} AS {}", quote_identifier(&relation.name))
}

/// The array literal, typed. Given as text, so that the driver need not know the table's type.
///
/// A literal names no columns: it is read only while the table has those that it was written for, else there are no
/// rows at all. Where as many were added as dropped nothing else would tell. (A change of columns between this look and
/// the reading of the literal is an error: the statement was planned for a row type of another length.) The sub-select also
/// keeps the planner from reading the literal for an estimate, before anything was looked at.
fn array_parameter(relation: &Relation) -> String {
    let table = relation.id.0;
    // Attributes stay when they are dropped, so up to this one each has its row to be compared.
    let last = relation.columns.iter().map(|column| column.attnum).max().unwrap_or(0);
    format!(
        "(SELECT $1::pg_catalog.text FROM pg_catalog.pg_class AS c WHERE c.oid = {table} AND c.relname = {} \
         AND c.relnamespace = {}::pg_catalog.regnamespace AND c.relnatts >= {last} AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a \
         WHERE a.attrelid = {table} AND a.attnum > 0 AND ({}) IS NOT TRUE))::{}[]",
        quote_literal(&relation.name),
        quote_literal(&quote_identifier(&relation.schema)),
        is_known(relation),
        relation.sql_name()
    )
}

/// Whether the attribute `a` is as the catalog has it, or dropped.
fn is_known(relation: &Relation) -> String {
    let column = |column: &Column| {
        let Column { attnum, type_oid, name, .. } = column;
        format!("WHEN {attnum} THEN a.atttypid = {type_oid} AND a.attname = {}", quote_literal(name))
    };
    let columns: Vec<String> = relation.columns.iter().map(column).collect();
    match columns.is_empty() {
        true => "a.attisdropped".to_owned(),
        false => format!("CASE a.attnum {} ELSE a.attisdropped END", columns.join(" ")),
    }
}

/// The table's columns at present, a line for each: number, type, name. With its length no name can pass for two lines.
pub(super) fn columns_of(table: u32) -> String {
    format!(
        "SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attnum, a.atttypid, \
         pg_catalog.length(a.attname::pg_catalog.text), a.attname), e'\\n' ORDER BY a.attnum) \
         FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = {table} AND a.attnum > 0 AND NOT a.attisdropped"
    )
}

/// Whatever `standard_conforming_strings` is.
pub(super) fn quote_literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
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

/// What a question takes part in a transaction with: the identity, then the role. Local, all of it. Its snapshot is one
/// from before the question: what that sees the question has seen, even where it ended in an error.
pub(super) const SET_IDENTITY: &str = "
SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text,
       pg_catalog.set_config('request.jwt.claims', $1, true), pg_catalog.set_config('role', $2, true)";

/// With the settings that the original has for a private channel. An absent subject is as if it were empty: so
/// `set_config` leaves it when it is given NULL.
pub(super) const SET_CHANNEL: &str = "
SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text,
       pg_catalog.set_config('request.jwt.claims', $1, true), pg_catalog.set_config('request.jwt.claim.sub', $2, true),
       pg_catalog.set_config('request.jwt.claim.role', $3, true), pg_catalog.set_config('realtime.topic', $4, true),
       pg_catalog.set_config('request.headers', $5, true), pg_catalog.set_config('role', $3, true)";

/// Where text goes in or comes out, it is the text of the stream's pinned settings. Policies are evaluated under the
/// login's own: its TimeZone is part of what a SELECT would see.
pub(super) const SET_OUTPUT: &str = "
SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text,
       pg_catalog.set_config('TimeZone', 'UTC', true), pg_catalog.set_config('DateStyle', 'ISO, MDY', true),
       pg_catalog.set_config('IntervalStyle', 'postgres', true), pg_catalog.set_config('extra_float_digits', '3', true),
       pg_catalog.set_config('bytea_output', 'hex', true), pg_catalog.set_config('role', $1, true)";

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
