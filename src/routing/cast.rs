//! Filter values whose validity and canonical text only Postgres can say.

use std::collections::HashMap;

use crate::catalog::Oid;

/// A question about one filter value. Asked in a session with the settings that `wal::connection` pins, so that
/// canonical texts are those of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CastRequest {
    /// The type of the column (of the element, where `array`). [`CastRequest::REGEX`]: see there.
    pub type_oid: Oid,
    /// What `$1::text::` is followed by: the type as SQL under an empty search_path, without `[]`.
    pub sql_name: String,
    pub text: String,
    /// The text is a literal of an array of the type.
    pub array: bool,
}

impl CastRequest {
    /// Stands in `type_oid` when the question is whether the text is a regular expression.
    pub const REGEX: Oid = 0;

    /// No cast tells whether a text is a regular expression; using it does.
    pub(super) fn regex(pattern: &str) -> CastRequest {
        let used = "pg_catalog.text is null or ''::pg_catalog.text operator(pg_catalog.~) $1::pg_catalog.text";
        CastRequest { type_oid: CastRequest::REGEX, sql_name: used.into(), text: pattern.into(), array: false }
    }

    /// The statement to ask with: `$1` is the text, the answer is one text, the canonical form.
    ///
    /// `format` because a cast to text is not always what the stream carries: `true` instead of `t`, and the mask of
    /// a single address. (Those two are understood, too.)
    pub fn statement(&self) -> String {
        let brackets = if self.array { "[]" } else { "" };
        format!("select pg_catalog.format('%s', $1::pg_catalog.text::{}{brackets})", self.sql_name)
    }
}

/// Why Postgres does not take a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ERROR {sqlstate}{} {message}", condition_name(.sqlstate).map(|name| format!(" ({name})")).unwrap_or_default())]
pub struct CastError {
    pub sqlstate: String,
    pub message: String,
}

impl CastError {
    /// The detail goes below the message, as Supabase's clients are used to reading it.
    pub fn from_postgres(sqlstate: &str, message: &str, detail: Option<&str>) -> CastError {
        let detail = detail.map(|detail| format!("\n\n{detail}")).unwrap_or_default();
        CastError { sqlstate: sqlstate.to_owned(), message: format!("{message}{detail}") }
    }
}

/// Postgres' answers so far.
#[derive(Clone, Debug, Default)]
pub struct Casts {
    answers: HashMap<CastRequest, Result<String, CastError>>,
}

impl Casts {
    pub fn insert(&mut self, request: CastRequest, answer: Result<String, CastError>) {
        self.answers.insert(request, answer);
    }

    pub fn get(&self, request: &CastRequest) -> Option<&Result<String, CastError>> {
        self.answers.get(request)
    }

    pub fn len(&self) -> usize {
        self.answers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Forgets everything: types may have changed, or there is too much of it.
    pub fn clear(&mut self) {
        self.answers.clear();
    }
}

/// The manual's name of an SQLSTATE (appendix A), as far as casts and regular expressions raise it.
pub fn condition_name(sqlstate: &str) -> Option<&'static str> {
    Some(match sqlstate {
        "0A000" => "feature_not_supported",
        "21000" => "cardinality_violation",
        "22000" => "data_exception",
        "2202E" => "array_subscript_error",
        "22021" => "character_not_in_repertoire",
        "22008" => "datetime_field_overflow",
        "22012" => "division_by_zero",
        "22005" => "error_in_assignment",
        "22022" => "indicator_overflow",
        "22015" => "interval_field_overflow",
        "22018" => "invalid_character_value_for_cast",
        "22007" => "invalid_datetime_format",
        "22019" => "invalid_escape_character",
        "22025" => "invalid_escape_sequence",
        "22010" => "invalid_indicator_parameter_value",
        "22023" => "invalid_parameter_value",
        "2201B" => "invalid_regular_expression",
        "22009" => "invalid_time_zone_displacement_value",
        "2200G" => "most_specific_type_mismatch",
        "22004" => "null_value_not_allowed",
        "22003" => "numeric_value_out_of_range",
        "22026" => "string_data_length_mismatch",
        "22001" => "string_data_right_truncation",
        "22P01" => "floating_point_exception",
        "22P02" => "invalid_text_representation",
        "22P03" => "invalid_binary_representation",
        "22P05" => "untranslatable_character",
        "2200L" => "not_an_xml_document",
        "2200M" => "invalid_xml_document",
        "2200N" => "invalid_xml_content",
        "22030" => "duplicate_json_object_key_value",
        "22032" => "invalid_json_text",
        "23502" => "not_null_violation",
        "23514" => "check_violation",
        "3F000" => "invalid_schema_name",
        "42501" => "insufficient_privilege",
        "42601" => "syntax_error",
        "42602" => "invalid_name",
        "42704" => "undefined_object",
        "42703" => "undefined_column",
        "42804" => "datatype_mismatch",
        "42846" => "cannot_coerce",
        "42883" => "undefined_function",
        "42P01" => "undefined_table",
        "53200" => "out_of_memory",
        "54000" => "program_limit_exceeded",
        "54001" => "statement_too_complex",
        "57014" => "query_canceled",
        "P0001" => "raise_exception",
        "XX000" => "internal_error",
        _ => return None,
    })
}
