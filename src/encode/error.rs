//! Why a value or a change has no JSON.

/// A value that could not be written. Never carries the value itself: errors are logged, row values are not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatumError {
    /// The bytes are not what the type's output function prints under the pinned session settings.
    #[error("not the text of a {expected}, at byte {offset}")]
    Malformed { expected: &'static str, offset: usize },
    /// Only a database with encoding SQL_ASCII can store such a value; a text frame cannot carry it.
    #[error("the value is not UTF-8")]
    NotUtf8,
    /// The type has a cast to `json` somewhere inside, which `to_jsonb` calls.
    #[error("only Postgres can turn a value of this type to JSON")]
    OnlyPostgres,
    /// The type `json` takes more than `jsonb` does; `to_jsonb` raises an error for the rest.
    #[error("jsonb has no such value: {0}")]
    NotJsonb(NotJsonb),
}

/// What `json` allows and `jsonb` does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJsonb {
    #[error("\\u0000 in a string")]
    NulCharacter,
    #[error("half a surrogate pair in a string")]
    UnpairedSurrogate,
    #[error("a number outside numeric's range")]
    NumberOverflow,
    /// Not Postgres' limit but ours: nine bytes (`1e131071`) stand for 131,072 digits.
    #[error("numbers that would be written with too many digits")]
    TooManyDigits,
}

/// A change that could not be encoded: it is shown to nobody of that projection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("column {column:?} cannot be encoded")]
    Column { column: Box<str>, source: DatumError },
    /// Found by the check over the whole of the change, so the column is not known.
    #[error("a value of the change is not UTF-8")]
    NotUtf8,
}
