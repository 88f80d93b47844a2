//! What an error of a session means for the question.

use tokio_postgres::error::{DbError, Severity, SqlState};

use super::error::OracleError;
use super::question::CastFailure;
use crate::routing::CastError;

/// Why a question was not answered.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The session is gone; nobody knows how far it got. `ordered`: an administrator ended it.
    Lost { ordered: bool },
    /// Nothing wrong with the question: a cancel meant for another, a deadlock, a server out of something.
    Transient(Box<DbError>),
    /// The role cannot be taken on.
    Role(Box<DbError>),
    /// The statement raised an error.
    Statement(Box<DbError>),
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
            _ if is_transient(db.code()) => Trouble::Transient(Box::new(db.clone())),
            _ => Trouble::Statement(Box::new(db.clone())),
        }
    }

    /// Something that the statement names may have changed since it was prepared, a privilege among them.
    pub(super) fn is_of_the_schema(&self) -> bool {
        let Trouble::Statement(db) = self else { return false };
        ["0A", "3F", "42", "XX"].iter().any(|class| db.code().code().starts_with(class))
    }

    /// An error of the role's or the claims' settings.
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
    CastFailure::Refused(CastError::from_postgres(db.code().code(), db.message(), db.detail()))
}
