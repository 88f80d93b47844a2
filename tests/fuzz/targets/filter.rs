//! Filters. One that parses is bound, or refused in words; binding ends whatever Postgres says of the values; the index
//! finds a subscription exactly when its predicate holds, and evaluation always has an answer.

use std::sync::Arc;

use serde_json::{Map, Value};
use walcast::change::{Change, OldRow, Operation, Row};
use walcast::routing::{
    Binding, Bound, BoundSubscription, CastError, CastRequest, Casts, Matches, SubscriptionId, SubscriptionIndex,
    Tested, bind,
};

use super::{RECORD, UNIT, parts, world};

/// Table, filter, selected columns, the new row, the old row.
pub fn fuzz_filter(data: &[u8]) {
    let mut parts = parts(data, RECORD);
    let mut next = || parts.next().unwrap_or_default();
    let (table, filter, select) = (next(), next(), next());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut params = Map::from_iter([
        ("schema".to_owned(), Value::from("public")),
        ("table".to_owned(), Value::from(text(table))),
        ("filter".to_owned(), Value::from(text(filter))),
    ]);
    if !select.is_empty() {
        params.insert("select".into(), super::parts(select, UNIT).map(|name| Value::from(text(name))).collect());
    }
    let long = |text: String| assert!(text.len() <= 32 * data.len() + 1000, "a refusal of {} bytes", text.len());
    let binding = match Binding::parse(&params) {
        Ok(binding) => binding,
        Err(error) => return long(error.to_string()),
    };
    let bound = match bound(&binding) {
        Ok(bound) => bound,
        Err(refusal) => return long(refusal),
    };
    let mut index = SubscriptionIndex::default();
    for (place, one) in bound.iter().enumerate() {
        index.insert(SubscriptionId(place as u32), one);
    }
    let (new, old) = (next(), next());
    for (place, one) in bound.iter().enumerate() {
        let relation = world::catalog().relation(one.relation).expect("what was bound");
        let (new, old) = (world::row(relation, new), world::row(relation, old));
        for change in changes(relation, new, old) {
            check(&index, SubscriptionId(place as u32), one, &change);
        }
    }
    (0..bound.len()).for_each(|place| index.remove(SubscriptionId(place as u32)));
    assert!(index.is_empty());
}

/// With answers of a Postgres that takes some values as they are and refuses others.
fn bound(binding: &Binding) -> Result<Vec<BoundSubscription>, String> {
    let mut casts = Casts::default();
    for _ in 0..4 {
        match bind(binding, world::catalog(), "authenticated", &casts) {
            Bound::Ready(bound) => return Ok(bound),
            Bound::Refused(error) => return Err(error.to_string()),
            Bound::NeedsCasts(requests) => {
                assert!(!requests.is_empty());
                for request in requests {
                    assert!(casts.get(&request).is_none(), "asked twice: {request:?}");
                    let answer = answer(&request);
                    casts.insert(request, answer);
                }
            }
        }
    }
    panic!("binding {binding:?} asks for ever");
}

fn answer(request: &CastRequest) -> Result<String, CastError> {
    assert!(!request.statement().is_empty());
    match request.text.bytes().map(u32::from).sum::<u32>() % 4 {
        0 => Err(CastError::from_postgres("22P02", "invalid input syntax", None)),
        _ => Ok(request.text.clone()),
    }
}

fn changes(relation: &Arc<walcast::catalog::Relation>, new: Row, old: Row) -> Vec<Change> {
    let change = |operation, new: Option<&Row>, old: OldRow| Change {
        relation: Arc::clone(relation),
        operation,
        new: new.cloned(),
        old,
        kept: None,
        commit_lsn: walcast::wal::Lsn::ZERO,
        index: 0,
        commit_timestamp: 0,
    };
    vec![
        change(Operation::Insert, Some(&new), OldRow::Absent),
        change(Operation::Update, Some(&new), OldRow::Full(old.clone())),
        change(Operation::Update, Some(&new), OldRow::Key(Row { key_only: true, ..old.clone() })),
        change(Operation::Delete, None, OldRow::Key(Row { key_only: true, ..old.clone() })),
        change(Operation::Delete, None, OldRow::Full(old)),
    ]
}

fn check(index: &SubscriptionIndex, id: SubscriptionId, one: &BoundSubscription, change: &Change) {
    let mut matches = Matches::default();
    index.matches(change, &mut matches);
    let found = matches.matched.contains(&id);
    let asked = matches.undecided.iter().any(|(_, ids)| ids.contains(&id));
    assert!(!(found && asked));
    let expected = one.predicate.as_ref().map_or(Tested::Matched, |predicate| predicate.test(change));
    let got = if found {
        Tested::Matched
    } else if asked {
        Tested::Undecided
    } else {
        Tested::NotMatched
    };
    assert_eq!(got, expected, "the index and the predicate disagree about {change:?}");
}
