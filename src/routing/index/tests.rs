use std::sync::Arc;

use super::*;
use crate::catalog::Relation;
use crate::change::Row;
use crate::routing::sample::{Answer, bound, bound_to, change, insert_of, relation_named, row};

const NOBODY: [u32; 0] = [];

/// An index of filters on one table; the n-th has the id n.
fn index_of(table: &str, filters: &[&str]) -> SubscriptionIndex {
    let mut index = SubscriptionIndex::default();
    for (id, filter) in (0..).zip(filters) {
        index.insert(SubscriptionId(id), &bound(table, filter));
    }
    index
}

fn matched(index: &SubscriptionIndex, change: &Change) -> Vec<u32> {
    let mut out = Matches::default();
    index.matches(change, &mut out);
    let mut ids: Vec<u32> = out.matched.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    ids
}

fn undecided(index: &SubscriptionIndex, change: &Change) -> Vec<u32> {
    let mut out = Matches::default();
    index.matches(change, &mut out);
    let mut ids: Vec<u32> = out.undecided.iter().flat_map(|(_, ids)| ids).map(|id| id.0).collect();
    ids.sort_unstable();
    ids
}

/// Whether a filter on `alltypes` matches a row with one value (`None`: NULL).
fn matches_value(filter: &str, column: &str, value: Option<&str>) -> bool {
    let index = index_of("alltypes", &[filter]);
    let relation = relation_named("alltypes");
    let values: Vec<(&str, &str)> = value.map(|value| (column, value)).into_iter().collect();
    let change = insert_of(&relation, &values);
    assert_eq!(undecided(&index, &change), NOBODY, "{filter}");
    !matched(&index, &change).is_empty()
}

fn update(relation: &Arc<Relation>, new: Row, old: OldRow) -> Change {
    change(relation, Operation::Update, Some(new), old)
}

#[test]
fn null_is_never_matched_but_by_those_who_ask_for_it() {
    for (filter, expected) in [
        ("t=eq.a", false),
        ("t=not.eq.a", false),
        ("t=neq.a", false),
        ("t=in.(a,b)", false),
        ("t=not.in.(a,b)", false),
        ("t=in.()", false),
        ("t=not.in.()", true),
        ("t=not.in.(NULL)", false),
        ("t=isdistinct.a", true),
        ("t=not.isdistinct.a", false),
        ("t=is.null", true),
        ("t=not.is.null", false),
        ("t=like.%", false),
        ("t=not.like.a", false),
        ("t=gt.a", false),
        ("i2=not.lt.1", false),
    ] {
        assert_eq!(matches_value(filter, "t", None), expected, "{filter}");
    }
    for (filter, expected) in
        [("b=is.unknown", true), ("b=not.is.unknown", false), ("b=is.true", false), ("b=not.is.true", true)]
    {
        assert_eq!(matches_value(filter, "b", None), expected, "{filter}");
    }
}

#[test]
fn values_compare_as_their_type_does() {
    for (filter, column, value, expected) in [
        ("id=eq.01", "id", "1", true),
        ("num=eq.1.0", "num", "1.00", true),
        ("num=in.(1.5,2)", "num", "1.50", true),
        ("num=gt.9", "num", "10", true),
        ("num=lt.-9", "num", "-10", true),
        ("i2=lt.0", "i2", "-32768", true),
        ("f4=gt.1", "f4", "1.5", true),
        ("f4=eq.0.1", "f4", "0.1", true),
        ("f8=neq.0", "f8", "-0", false),
        ("f8=gt.1e300", "f8", "NaN", true),
        ("b=eq.true", "b", "t", true),
        ("b=is.false", "b", "f", true),
        ("b=not.is.true", "b", "f", true),
        ("t=eq.", "t", "", true),
        ("t=neq.a", "t", "b", true),
        ("t=not.in.(a,NULL)", "t", "b", false),
        ("t=not.isdistinct.a", "t", "a", true),
        ("t=isdistinct.null", "t", "null", false),
        ("t=like.h%o", "t", "hello", true),
        ("t=not.like.h%o", "t", "hello", false),
        ("t=ilike.h%o", "t", "HeLLO", true),
        ("ch=eq.ab", "ch", "ab   ", true),
        ("ch=eq.a", "ch", "ab   ", false),
        ("ch=like.ab", "ch", "ab   ", false),
        ("ch=like.ab%  ", "ch", "ab   ", true),
        ("e=lt.happy", "e", "ok", true),
        ("e=gte.ok", "e", "sad", false),
        ("e=in.(happy,ok)", "e", "happy", true),
        ("u=eq.A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "u", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", true),
        ("tstz=eq.2024-02-29T10:34:56.123456Z", "tstz", "2024-02-29 10:34:56.123456+00", true),
        ("tstz=gt.2024-01-01", "tstz", "2024-01-01 00:00:00+00", false),
        ("d=gt.2024-02-28", "d", "2024-02-29", true),
        ("d=gt.2024-02-28", "d", "infinity", true),
        ("d=gt.2024-02-28", "d", "0044-03-15 BC", false),
        ("by=eq.\\xDEADBEEF", "by", "\\xdeadbeef", true),
        ("c=gt.B", "c", "a", true),
    ] {
        assert_eq!(matches_value(filter, column, Some(value)), expected, "{filter} on {value:?}");
    }
}

#[test]
fn what_only_postgres_can_say_is_undecided_once_its_other_clauses_pass() {
    let index = index_of("plain", &["name=gt.b,amount=eq.1", "name=gt.b", "name=gt.b"]);
    let relation = relation_named("plain");
    let of = |amount: &str| insert_of(&relation, &[("name", "c"), ("amount", amount)]);
    assert_eq!(undecided(&index, &of("1")), [0, 1, 2]);
    assert_eq!(undecided(&index, &of("2")), [1, 2]);
    assert_eq!(matched(&index, &of("1")), NOBODY);
    // NULL needs no question.
    assert_eq!(undecided(&index, &insert_of(&relation, &[])), NOBODY);
}

#[test]
fn an_enum_label_added_later_is_asked_about() {
    let index = index_of("alltypes", &["e=lt.happy"]);
    assert_eq!(undecided(&index, &insert_of(&relation_named("alltypes"), &[("e", "new")])), [0]);
}

#[test]
fn a_predicate_wanted_for_several_events_is_asked_once() {
    let mut index = SubscriptionIndex::default();
    for (id, event) in (0..).zip(["*", "INSERT", "UPDATE", "INSERT"]) {
        index.insert(SubscriptionId(id), &bound_to("plain", "name=gt.b", event, &[]));
    }
    let mut out = Matches::default();
    index.matches(&insert_of(&relation_named("plain"), &[("name", "c")]), &mut out);
    assert_eq!(out.undecided.len(), 1);
    let mut ids = out.undecided[0].1.clone();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 3].map(SubscriptionId));
}

#[test]
fn events_are_told_apart() {
    let relation = relation_named("plain");
    let mut index = SubscriptionIndex::default();
    for (id, event) in (0..).zip(["*", "INSERT", "UPDATE", "DELETE"]) {
        index.insert(SubscriptionId(id), &bound_to("plain", "", event, &[]));
        index.insert(SubscriptionId(10 + id), &bound_to("plain", "id=eq.1", event, &[]));
    }
    let one = || row(&relation, &[("id", "1")]);
    assert_eq!(matched(&index, &insert_of(&relation, &[("id", "1")])), [0, 1, 10, 11]);
    assert_eq!(matched(&index, &update(&relation, one(), OldRow::Absent)), [0, 2, 10, 12]);
    let delete = change(&relation, Operation::Delete, None, OldRow::Full(one()));
    assert_eq!(matched(&index, &delete), [0, 3, 10, 13]);
    let mut everyone = Vec::new();
    index.everyone(relation.id, Operation::Update, &mut everyone);
    everyone.sort_unstable();
    assert_eq!(everyone, [0, 2, 10, 12].map(SubscriptionId));
}

#[test]
fn an_update_is_judged_by_its_new_row() {
    let relation = relation_named("plain");
    let index = index_of("plain", &["amount=eq.77"]);
    let of = |amount: &str| row(&relation, &[("amount", amount)]);
    assert_eq!(matched(&index, &update(&relation, of("78"), OldRow::Full(of("77")))), NOBODY);
    assert_eq!(matched(&index, &update(&relation, of("77"), OldRow::Full(of("78")))), [0]);
}

#[test]
fn unchanged_toast_is_taken_from_the_whole_old_row_or_matches_nothing() {
    let relation = relation_named("plain");
    let index = index_of("plain", &["name=eq.big", "name=not.eq.big", "name=is.null", "name=not.is.null", "name=gt.b"]);
    let toasted = || row(&relation, &[("id", "1"), ("name", "\u{1}")]);
    let old = || row(&relation, &[("id", "1"), ("name", "big")]);
    assert_eq!(matched(&index, &update(&relation, toasted(), OldRow::Absent)), NOBODY);
    assert_eq!(undecided(&index, &update(&relation, toasted(), OldRow::Absent)), NOBODY);
    assert_eq!(matched(&index, &update(&relation, toasted(), OldRow::Full(old()))), [0, 3]);
    assert_eq!(undecided(&index, &update(&relation, toasted(), OldRow::Full(old()))), [4]);
}

#[test]
fn a_delete_of_which_only_the_key_is_known_matches_only_by_the_key() {
    let relation = relation_named("plain");
    let index = index_of("plain", &["name=eq.fd2", "id=eq.1", "name=is.null", ""]);
    let mut key = row(&relation, &[("id", "1")]);
    key.key_only = true;
    assert_eq!(matched(&index, &change(&relation, Operation::Delete, None, OldRow::Key(key))), [1, 3]);
    assert_eq!(matched(&index, &change(&relation, Operation::Delete, None, OldRow::Absent)), [3]);
}

#[test]
fn several_equalities_use_one_bucket_and_test_the_rest() {
    let index = index_of("filt", &["session_id=eq.a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,b=eq.true,id=in.(1,2)"]);
    let relation = relation_named("filt");
    let of = |id: &str, flag: &str| {
        insert_of(&relation, &[("session_id", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), ("b", flag), ("id", id)])
    };
    assert_eq!(matched(&index, &of("2", "t")), [0]);
    assert_eq!(matched(&index, &of("2", "f")), NOBODY);
    assert_eq!(matched(&index, &of("3", "t")), NOBODY);
}

#[test]
fn removing_leaves_the_others_in_place() {
    let relation = relation_named("plain");
    // Many share buckets, with lists that overlap, equal predicates, scans and none at all.
    let filters = [
        "id=eq.1",
        "id=in.(1,2,3)",
        "id=in.(3,1)",
        "id=eq.1,name=eq.a",
        "name=like.a%",
        "name=gt.0",
        "",
        "id=in.()",
        "id=neq.9",
        "id=in.(1)",
    ];
    let all: Vec<&str> = filters.iter().chain(&filters).copied().collect();
    let change = insert_of(&relation, &[("id", "1"), ("name", "a")]);
    let expect = |alive: &dyn Fn(u32) -> bool| -> Vec<u32> {
        (0..20).filter(|id| !matches!(id % 10, 5 | 7) && alive(*id)).collect()
    };
    for step in [1, 3, 7, 11] {
        let mut index = index_of("plain", &all);
        assert_eq!(matched(&index, &change), expect(&|_| true));
        let order: Vec<u32> = (0..20).map(|n| n * step % 20).collect();
        let mut gone = Vec::new();
        for id in order {
            index.remove(SubscriptionId(id));
            gone.push(id);
            assert_eq!(matched(&index, &change), expect(&|id| !gone.contains(&id)), "step {step}, without {gone:?}");
        }
        assert!(index.is_empty() && !index.has_relation(relation.id));
        assert!(index.members.is_empty());
    }
}

#[test]
fn one_subscription_may_stand_in_several_tables() {
    let mut index = SubscriptionIndex::default();
    index.insert(SubscriptionId(1), &bound("plain", ""));
    index.insert(SubscriptionId(1), &bound("sel", ""));
    index.insert(SubscriptionId(2), &bound("sel", ""));
    assert_eq!(index.len(), 2);
    index.remove(SubscriptionId(1));
    assert_eq!(matched(&index, &insert_of(&relation_named("plain"), &[])), NOBODY);
    assert_eq!(matched(&index, &insert_of(&relation_named("sel"), &[])), [2]);
}

#[test]
fn a_value_that_postgres_made_canonical_is_found() {
    let mut index = SubscriptionIndex::default();
    let answers = [Answer("{f47ac10b58cc4372a5670e02b2c3d479}", Ok("f47ac10b-58cc-4372-a567-0e02b2c3d479"))];
    index.insert(
        SubscriptionId(1),
        &bound_to("filt", "session_id=eq.{f47ac10b58cc4372a5670e02b2c3d479}", "*", &answers),
    );
    let of = insert_of(&relation_named("filt"), &[("session_id", "f47ac10b-58cc-4372-a567-0e02b2c3d479")]);
    assert_eq!(matched(&index, &of), [1]);
}
