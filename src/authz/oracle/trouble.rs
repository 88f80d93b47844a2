//! What an error of a session means for the question.

use tokio_postgres::error::{DbError, Severity, SqlState};

use super::error::OracleError;
use super::question::CastFailure;

/// Why a question was not answered.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The session is gone; nobody knows how far it got. `ordered`: an administrator ended it.
    Lost { ordered: bool },
    /// Nothing wrong with the question: a cancel meant for another, a deadlock, a server out of something.
    Transient(DbError),
    /// The role cannot be taken on.
    Role(DbError),
    /// The statement raised an error.
    Statement(DbError),
    /// Postgres answered something that it never does.
    Nonsense,
}

impl Trouble {
    /// An error of BEGIN, of the settings or of ROLLBACK is never the policy's doing.
    pub(super) fn of_frame(err: &tokio_postgres::Error) -> Trouble {
        match Trouble::of_statement(err) {
            Trouble::Statement(db) => Trouble::Transient(db),
            other => other,
        }
    }

    pub(super) fn of_statement(err: &tokio_postgres::Error) -> Trouble {
        let Some(db) = err.as_db_error() else { return Trouble::Lost { ordered: false } };
        // The severity, not the code: a policy may RAISE any code, but only the server ends a session.
        match db.parsed_severity() {
            Some(Severity::Fatal | Severity::Panic) => {
                Trouble::Lost { ordered: *db.code() == SqlState::ADMIN_SHUTDOWN }
            }
            _ if is_transient(db.code()) => Trouble::Transient(db.clone()),
            _ => Trouble::Statement(db.clone()),
        }
    }

    pub(super) fn of_settings(err: &tokio_postgres::Error) -> Trouble {
        match Trouble::of_statement(err) {
            Trouble::Statement(db)
                if [SqlState::INVALID_PARAMETER_VALUE, SqlState::INSUFFICIENT_PRIVILEGE].contains(db.code()) =>
            {
                Trouble::Role(db)
            }
            Trouble::Statement(db) => Trouble::Transient(db),
            other => other,
        }
    }
}

/// Worth asking again: the same question may well be answered next time.
fn is_transient(code: &SqlState) -> bool {
    let again = [
        SqlState::QUERY_CANCELED,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::IN_FAILED_SQL_TRANSACTION,
    ];
    // Class 53: insufficient resources; 57P03: cannot connect now.
    again.contains(code) || code.code().starts_with("53")
}

pub(super) fn refused(db: &DbError) -> OracleError {
    OracleError::Refused { sqlstate: db.code().code().to_owned(), message: db.message().to_owned() }
}

pub(super) fn role_refused(role: &str, db: &DbError) -> OracleError {
    OracleError::Role { role: role.to_owned(), sqlstate: db.code().code().to_owned(), message: db.message().to_owned() }
}

pub(super) fn cast_refused(db: &DbError) -> CastFailure {
    let sqlstate = db.code().code();
    CastFailure::Refused {
        sqlstate: sqlstate.to_owned(),
        condition: condition_name(sqlstate),
        message: db.message().to_owned(),
    }
}

/// The condition's name in the manual's appendix A, as far as reading a value may raise it.
pub fn condition_name(sqlstate: &str) -> &'static str {
    match sqlstate {
        "0A000" => "feature_not_supported",
        "21000" => "cardinality_violation",
        "22000" => "data_exception",
        "22001" => "string_data_right_truncation",
        "22003" => "numeric_value_out_of_range",
        "22004" => "null_value_not_allowed",
        "22007" => "invalid_datetime_format",
        "22008" => "datetime_field_overflow",
        "22009" => "invalid_time_zone_displacement_value",
        "22012" => "division_by_zero",
        "22015" => "interval_field_overflow",
        "22018" => "invalid_character_value_for_cast",
        "22021" => "character_not_in_repertoire",
        "22023" => "invalid_parameter_value",
        "22026" => "string_data_length_mismatch",
        "2202E" => "array_subscript_error",
        "22030" => "duplicate_json_object_key_value",
        "22032" => "invalid_json_text",
        "2200L" => "not_an_xml_document",
        "2200M" => "invalid_xml_document",
        "2200N" => "invalid_xml_content",
        "2201B" => "invalid_regular_expression",
        "22P02" => "invalid_text_representation",
        "22P03" => "invalid_binary_representation",
        "22P05" => "untranslatable_character",
        "23502" => "not_null_violation",
        "23514" => "check_violation",
        "3F000" => "invalid_schema_name",
        "42501" => "insufficient_privilege",
        "42601" => "syntax_error",
        "42704" => "undefined_object",
        "42804" => "datatype_mismatch",
        "42846" => "cannot_coerce",
        "42883" => "undefined_function",
        "42P01" => "undefined_table",
        "54000" => "program_limit_exceeded",
        "54001" => "statement_too_complex",
        "P0001" => "raise_exception",
        "XX000" => "internal_error",
        _ => "unknown",
    }
}
