//! Validating one clause against its column's type, and choosing how it is decided.

use std::sync::Arc;

use super::{Binder, raised};
use crate::catalog::{Catalog, Column, ColumnIndex, PgType, Relation, TypeKind};
use crate::routing::array_literal;
use crate::routing::bytewise::Form;
use crate::routing::cast::{CastError, CastRequest};
use crate::routing::check::{Accepts, Check, Scale};
use crate::routing::filter::{Clause, Operator};
use crate::routing::predicate::{BoundClause, Test};
use crate::routing::{literal, operators, sql_test};

/// Supabase's limit on the elements of `in`.
const IN_ELEMENTS_MAX: usize = 100;

/// A value that Postgres takes for the column's type.
enum Valid {
    /// Its canonical text.
    One(String),
    /// `None`: NULL.
    Many(Vec<Option<String>>),
    /// Of `is`.
    Keyword,
    /// Not a value but a pattern.
    Pattern,
}

/// A column with its type, and the same with domains looked through.
#[derive(Clone, Copy)]
struct Subject<'a> {
    column: &'a Column,
    own: &'a PgType,
    base: &'a PgType,
}

impl Binder<'_> {
    /// `None`: an answer is missing.
    pub(super) fn clause(
        &mut self,
        relation: &Relation,
        index: ColumnIndex,
        clause: &Clause,
    ) -> Result<Option<BoundClause>, CastError> {
        let column = relation.column(index);
        let catalog: &Catalog = self.catalog;
        let types = catalog.types.get(&column.type_oid).zip(catalog.base_type(column.type_oid));
        let (own, base) = types.ok_or_else(|| raised(format!("failed to lookup type for column {}", clause.column)))?;
        let subject = Subject { column, own, base };
        if let Some(refusal) = operators::refusal(clause.operator, own, base) {
            return Err(raised(refusal));
        }
        let Some(valid) = self.validate(subject, clause)? else { return Ok(None) };
        let check = check(subject, clause, &valid);
        let passes_null = passes_null(clause, &valid);
        // `neq` is `not eq` and `isdistinct` is `neq` but for NULL.
        let inverted = matches!(clause.operator, Operator::Neq | Operator::IsDistinct);
        let negate = clause.negate != inverted;
        let sql = sql_test::clause(relation, column, own, base, clause);
        let selectivity = selectivity(relation, index, base, &check);
        Ok(Some(BoundClause { test: Test { column: index, negate, passes_null, check }, sql, selectivity }))
    }

    fn validate(&mut self, subject: Subject<'_>, clause: &Clause) -> Result<Option<Valid>, CastError> {
        match clause.operator {
            Operator::Is => keyword(subject.own, &clause.value).map(|()| Some(Valid::Keyword)),
            Operator::In => self.elements(subject, &clause.value),
            // bytea is the one type with LIKE whose values have a syntax.
            Operator::Like | Operator::Ilike if subject.base.name == "bytea" => {
                Ok(self.value(subject, &clause.value)?.map(|_| Valid::Pattern))
            }
            Operator::Like | Operator::Ilike => Ok(Some(Valid::Pattern)),
            Operator::Match | Operator::Imatch => self.regex(clause),
            _ => Ok(self.value(subject, &clause.value)?.map(Valid::One)),
        }
    }

    fn regex(&mut self, clause: &Clause) -> Result<Option<Valid>, CastError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'_' | b'-' | b'^' | b'$' | b'.');
        if clause.value.bytes().all(plain) {
            return Ok(Some(Valid::Pattern));
        }
        let answer = self.ask(CastRequest::regex(&clause.value)).map_err(|error| {
            raised(format!("invalid regular expression for {} filter: {}", clause.operator.as_str(), error.message))
        })?;
        Ok(answer.map(|_| Valid::Pattern))
    }

    fn value(&mut self, subject: Subject<'_>, text: &str) -> Result<Option<String>, CastError> {
        match plain(subject.own, text) {
            Some(answer) => answer.map(Some),
            None => Ok(self.ask(request(subject.own, text, false))?.map(|text| printed(subject.base, text))),
        }
    }

    /// The elements of an `in` list. If one of them is not plain, Postgres reads the whole list, so that its errors
    /// come in its own order.
    fn elements(&mut self, subject: Subject<'_>, text: &str) -> Result<Option<Valid>, CastError> {
        let plain_elements = array_literal::parse(text).and_then(|elements| {
            let canonical = |element: Option<String>| match element {
                None => Some(Ok(None)),
                Some(text) => plain(subject.own, &text).map(|answer| answer.map(Some)),
            };
            elements.into_iter().map(canonical).collect::<Option<Result<Vec<_>, _>>>()
        });
        let (elements, length) = match plain_elements {
            Some(elements) => {
                let elements = elements?;
                let length = elements.len();
                (elements, length)
            }
            None => match self.ask(request(subject.own, text, true))? {
                None => return Ok(None),
                Some(output) => array_literal::parse_output(&output)
                    .ok_or_else(|| raised(format!("unexpected output of an array: {output}")))?,
            },
        };
        if length > IN_ELEMENTS_MAX {
            return Err(raised(format!("too many values for `in` filter. Maximum {IN_ELEMENTS_MAX}")));
        }
        Ok(Some(Valid::Many(elements)))
    }
}

fn request(own: &PgType, text: &str, array: bool) -> CastRequest {
    CastRequest { type_oid: own.oid, sql_name: sql_test::type_name(own), text: text.to_owned(), array }
}

/// The text that the stream carries for a value whose cast to text looks otherwise.
fn printed(base: &PgType, text: String) -> String {
    match (base.name.as_str(), text.as_str()) {
        ("bool", "true") => "t".to_owned(),
        ("bool", "false") => "f".to_owned(),
        ("inet", address) if !address.contains(':') => address.trim_end_matches("/32").to_owned(),
        ("inet", address) => address.trim_end_matches("/128").to_owned(),
        _ => text,
    }
}

/// What can be said of a value without Postgres: its canonical text, or that it is no label of the enum.
fn plain(own: &PgType, text: &str) -> Option<Result<String, CastError>> {
    let TypeKind::Enum { labels, .. } = &own.kind else { return literal::canonical(own, text).map(Ok) };
    if labels.iter().any(|label| label == text) {
        return Some(Ok(text.to_owned()));
    }
    let name = operators::type_name_in_messages(own);
    let message = format!("invalid input value for enum {name}: \"{text}\"");
    Some(Err(CastError::from_postgres("22P02", &message, None)))
}

fn keyword(own: &PgType, value: &str) -> Result<(), CastError> {
    match value {
        "null" => Ok(()),
        "true" | "false" | "unknown" if operators::is_boolean(own) => Ok(()),
        "true" | "false" | "unknown" => {
            let name = operators::type_name_in_messages(own);
            Err(raised(format!("is {value} filter requires a boolean column, got {name}")))
        }
        _ => Err(raised("invalid value for is filter: must be null, true, false, or unknown")),
    }
}

/// Whether the clause, its `not.` included, is true of NULL.
fn passes_null(clause: &Clause, valid: &Valid) -> bool {
    match (clause.operator, valid) {
        (Operator::Is, _) => matches!(clause.value.as_str(), "null" | "unknown") != clause.negate,
        (Operator::IsDistinct, _) => !clause.negate,
        // Nothing is in an empty list, not even NULL.
        (Operator::In, Valid::Many(elements)) => elements.is_empty() && clause.negate,
        _ => false,
    }
}

fn check(subject: Subject<'_>, clause: &Clause, valid: &Valid) -> Check {
    let collation = subject.column.collation;
    let form = Form::of(subject.base, collation);
    match (clause.operator, valid) {
        // A composite value of NULLs is NULL, too.
        (Operator::Is, _) if matches!(subject.base.kind, TypeKind::Composite { .. }) => Check::Ask,
        (Operator::Is, _) => match clause.value.as_str() {
            "true" => Check::Boolean(Some(true)),
            "false" => Check::Boolean(Some(false)),
            "unknown" => Check::Boolean(None),
            _ => Check::Null,
        },
        (Operator::In, Valid::Many(elements)) => one_of(form, elements),
        (Operator::Like | Operator::Ilike, _) => {
            let Some(collation) = collation.filter(|c| c.deterministic) else { return Check::Ask };
            let Some(pattern) = pattern(subject.base, &clause.value) else { return Check::Ask };
            match clause.operator {
                Operator::Like => Check::Like { pattern },
                _ => Check::Ilike { pattern, is_c: collation.is_c },
            }
        }
        (operator, Valid::One(value)) => comparison(subject, form, operator, value).unwrap_or(Check::Ask),
        _ => Check::Ask,
    }
}

fn one_of(form: Option<Form>, elements: &[Option<String>]) -> Check {
    let Some(form) = form.or(elements.is_empty().then_some(Form::Whole)) else { return Check::Ask };
    let mut values: Vec<Arc<[u8]>> =
        elements.iter().flatten().map(|element| Arc::from(form.of_text(element.as_bytes()))).collect();
    values.sort_unstable();
    values.dedup();
    Check::OneOf { form, values: values.into(), null: elements.contains(&None) }
}

/// The pattern as the column's type holds it, for the types whose LIKE is that of text.
fn pattern(base: &PgType, text: &str) -> Option<Box<str>> {
    match base.name.as_str() {
        _ if base.schema != "pg_catalog" => None,
        // A cast to text takes the padding off the pattern, not off the column.
        "bpchar" => Some(text.trim_end_matches(' ').into()),
        "text" | "name" => literal::canonical(base, text).map(String::into_boxed_str),
        _ => None,
    }
}

fn comparison(subject: Subject<'_>, form: Option<Form>, operator: Operator, value: &str) -> Option<Check> {
    let accepts = match operator {
        Operator::Lt => Accepts::Less,
        Operator::Lte => Accepts::LessOrEqual,
        Operator::Gt => Accepts::Greater,
        Operator::Gte => Accepts::GreaterOrEqual,
        Operator::Eq | Operator::Neq | Operator::IsDistinct => Accepts::Equal,
        _ => return None,
    };
    if let (Accepts::Equal, Some(form)) = (accepts, form) {
        return Some(Check::Equal { form, value: form.of_text(value.as_bytes()).into() });
    }
    if let TypeKind::Enum { labels, .. } = &subject.base.kind {
        let place = labels.iter().position(|label| label == value)? as u32;
        let labels = labels.iter().map(|label| label.as_str().into()).collect();
        return Some(Check::Label { labels, place, accepts });
    }
    if subject.base.schema != "pg_catalog" {
        return None;
    }
    let number = |scale: Scale| Some(Check::Number { scale, value: scale.number(value.as_bytes())?, accepts });
    let bytes = |form: Form| Some(Check::Bytes { form, value: form.of_text(value.as_bytes()).into(), accepts });
    let is_c = subject.column.collation.is_some_and(|collation| collation.is_c && collation.deterministic);
    match subject.base.name.as_str() {
        "int2" | "int4" | "int8" | "oid" => number(Scale::Integer),
        "float4" => number(Scale::Float4),
        "float8" => number(Scale::Float8),
        "date" => number(Scale::Date),
        "timestamp" => number(Scale::Timestamp),
        "timestamptz" => number(Scale::Timestamptz),
        "numeric" => Some(Check::Decimal { value: value.as_bytes().into(), accepts }),
        // Of fixed width (`time`: but for digits behind the point), in lower case, most significant first.
        "bool" | "uuid" | "bytea" | "macaddr" | "macaddr8" | "time" => bytes(Form::Whole),
        "text" | "varchar" | "name" if is_c => bytes(Form::Whole),
        "bpchar" if is_c => bytes(Form::Unpadded),
        _ => None,
    }
}

/// How few rows an equality lets through: the whole primary key, then by type, then by the number of values.
fn selectivity(relation: &Relation, index: ColumnIndex, base: &PgType, check: &Check) -> u8 {
    let by_type = match base.name.as_str() {
        _ if relation.primary_key == [index] => 4,
        "uuid" => 3,
        "bool" => 0,
        _ if matches!(base.kind, TypeKind::Enum { .. }) => 1,
        _ => 2,
    };
    2 * by_type + u8::from(matches!(check, Check::Equal { .. }))
}
