//! Rows of `walcast.ddl_log` as they come through the stream.

use super::{State, StateError};
use crate::wal::pgoutput::{Datum, StreamRelation, Tuple};

/// Whether the stream's relation is the log.
pub fn is_log(relation: &StreamRelation) -> bool {
    relation.schema == "walcast" && relation.name == "ddl_log"
}

/// What a row says of the catalog at its place in the stream.
///
/// A transaction with DDL inserts a row without state and fills it in at its commit, by an UPDATE. Of several events in
/// one transaction **the last one counts**; deleted rows (pruning) say nothing.
#[derive(Clone, Debug)]
pub enum DdlEvent {
    /// The catalog as this transaction's commit leaves it. Without texts ([`State::has_texts`]) it should be followed by
    /// a load.
    State { id: i64, state: Box<State> },
    /// Something changed, and the log does not say what: it must be loaded, seeing this transaction.
    Reload { id: i64, reason: ReloadReason },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadReason {
    /// The trigger could not write the state, or it was too large.
    NoState,
    /// It is a state of other publications than those that are read: setup was run with another `--publication`.
    OtherPublications,
    /// The trigger is of another version of walcast.
    Unreadable(String),
}

impl DdlEvent {
    pub fn id(&self) -> i64 {
        match self {
            DdlEvent::State { id, .. } | DdlEvent::Reload { id, .. } => *id,
        }
    }
}

/// The new row of an INSERT or UPDATE was not one of the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of walcast.ddl_log has no {0}: run `walcast setup` again")]
pub struct DdlLogError(&'static str);

/// Reads the new row of an INSERT or UPDATE. `publications` are those that the relay reads.
pub fn parse(relation: &StreamRelation, new: &Tuple, publications: &[String]) -> Result<DdlEvent, DdlLogError> {
    let value = |name: &'static str| {
        let place = relation.columns.iter().position(|column| column.name == name).ok_or(DdlLogError(name))?;
        Ok(new.get(place))
    };
    let Datum::Text(id) = value("id")? else { return Err(DdlLogError("id")) };
    let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()).ok_or(DdlLogError("id"))?;
    // An UPDATE always writes the state, so it is never an unchanged TOAST value; if it were, it would be unknown.
    let Datum::Text(state) = value("state")? else {
        return Ok(DdlEvent::Reload { id, reason: ReloadReason::NoState });
    };
    let parsed = std::str::from_utf8(state).map_err(|error| error.to_string());
    let parsed = parsed.and_then(|text| State::parse(text).map_err(|error: StateError| error.to_string()));
    Ok(match parsed {
        Err(reason) => DdlEvent::Reload { id, reason: ReloadReason::Unreadable(reason) },
        Ok(state) if !state.is_of(publications) => DdlEvent::Reload { id, reason: ReloadReason::OtherPublications },
        Ok(state) => DdlEvent::State { id, state: Box::new(state) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::pgoutput::{RelationColumn, RelationId};

    fn log() -> StreamRelation {
        let column = |name: &str| RelationColumn { name: name.into(), type_oid: 25, type_modifier: -1, is_key: false };
        StreamRelation {
            id: RelationId(1),
            schema: "walcast".into(),
            name: "ddl_log".into(),
            replica_identity: b'd',
            columns: ["id", "xid", "at", "tag", "state"].into_iter().map(column).collect(),
        }
    }

    fn row(state: Option<String>) -> DdlEvent {
        let values = [Some("7"), Some("1"), Some("now"), Some("ALTER POLICY"), state.as_deref()];
        let tuple = Tuple::from_values(values.iter().map(|value| value.map(str::as_bytes)));
        parse(&log(), &tuple, &["p".to_owned()]).unwrap()
    }

    const EMPTY: &str = r#"{"format":3,"wanted":["p"],"server_version":150018,"with_texts":true,"publications":[],
        "schemas":[],"relations":[],"referenced":[],"types":[],"functions":[]}"#;

    #[test]
    fn a_row_with_a_state_is_that_state() {
        assert!(is_log(&log()));
        assert!(matches!(row(Some(EMPTY.into())), DdlEvent::State { id: 7, .. }));
    }

    #[test]
    fn whatever_cannot_be_used_means_reload() {
        let reason = |state: Option<String>| match row(state) {
            DdlEvent::Reload { id: 7, reason } => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(None), ReloadReason::NoState);
        assert_eq!(reason(Some(EMPTY.replace("\"p\"", "\"q\""))), ReloadReason::OtherPublications);
        assert!(matches!(reason(Some("{".into())), ReloadReason::Unreadable(_)));
        assert!(matches!(reason(Some(EMPTY.replace("\"format\":3", "\"format\":2"))), ReloadReason::Unreadable(_)));
    }
}
