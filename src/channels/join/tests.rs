//! Payloads of joins, well formed and not.

use serde_json::json;

use super::*;

fn parse(payload: Value) -> JoinRequest {
    JoinRequest::parse(payload, "room").unwrap()
}

fn response(items: Value) -> String {
    parse(json!({"config": {"postgres_changes": items}})).wanted.response()
}

/// The ids of a response are ours to choose; the rest is not.
fn without_ids(response: &str) -> String {
    let mut parts = response.split("\"id\":");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text + "\"id\":_" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

#[test]
fn items_are_echoed_in_order_with_a_numeric_id_in_front() {
    let items = json!([
        {"event": "*", "schema": "public", "table": "todos", "filter": "id=eq.1", "select": ["id", "title"]},
        {"event": "*", "schema": "public", "table": "plain", "foo": "bar", "id": 99},
        {"event": "INSERT", "schema": "public", "table": "plain", "filter": ""},
        {"filter": null, "table": 7},
        {},
    ]);
    assert_eq!(
        without_ids(&response(items)),
        concat!(
            r#"{"postgres_changes":["#,
            r#"{"id":_,"event":"*","filter":"id=eq.1","schema":"public","select":["id","title"],"table":"todos"},"#,
            r#"{"id":_,"event":"*","foo":"bar","schema":"public","table":"plain"},"#,
            r#"{"id":_,"event":"INSERT","filter":"","schema":"public","table":"plain"},"#,
            r#"{"id":_,"filter":null,"table":7},"#,
            r#"{"id":_}]}"#
        )
    );
}

#[test]
fn ids_are_stable_equal_for_equal_objects_and_never_zero() {
    let item = json!({"event": "INSERT", "schema": "public", "table": "multi_b"});
    let reordered = json!({"table": "multi_b", "id": 5, "schema": "public", "event": "INSERT"});
    let wanted = parse(json!({"config": {"postgres_changes": [item, reordered, {"schema": "public"}]}})).wanted;
    let ids: Vec<u32> = wanted.items().iter().map(|item| item.id).collect();
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2]);
    assert!(ids.iter().all(|id| (1..=ID_MASK).contains(id)));
    // A change of this number would make clients of a rolling restart see two ids for one binding.
    assert_eq!(ids[0], 37_327_219);
}

#[test]
fn different_objects_of_one_join_never_share_an_id() {
    let text: Box<str> = "{}".into();
    let mut ids = HashMap::from([(hash(&text), Box::from("{\"other\":1}"))]);
    assert_eq!(WantedItem::new(Map::new(), &mut ids).id, hash(&text) + 1);
}

#[test]
fn wrong_types_fall_to_their_defaults() {
    for items in [json!({}), json!("x"), Value::Null, json!([null])] {
        assert_eq!(response(items), r#"{"postgres_changes":[]}"#);
    }
    let config = json!({"private": "maybe", "presence": 5, "broadcast": {"self": "yes", "ack": "TRUE"}});
    let request = parse(json!({"config": config}));
    assert!(!request.private && !request.presence_enabled && !request.broadcast.own && request.broadcast.ack);
    assert!(parse(json!({"config": {"private": "true"}})).private);
    assert_eq!(parse(json!({"config": null})).wanted, Wanted::Items(Box::default()));
}

#[test]
fn what_makes_the_original_crash_fails() {
    let reason = |payload: Value| JoinRequest::parse(payload, "room").unwrap_err().to_string();
    assert_eq!(reason(json!("str")), "expected params to be a :map, got: `\"str\"`");
    assert_eq!(reason(Value::Null), "expected params to be a :map, got: `nil`");
    let config = |config: Value| json!({ "config": config });
    assert_eq!(reason(config(json!({"postgres_changes": ["x"]}))), "expected a map, got:\n\n    \"x\"\n");
    assert_eq!(reason(config(json!("x"))), "no function clause matching in Access.get/3");
    assert_eq!(reason(config(json!({"broadcast": "x"}))), "no function clause matching in Access.get/3");
    assert!(reason(config(json!([]))).starts_with("the Access module supports only keyword lists"));
}

#[test]
fn without_a_config_the_topic_is_the_binding() {
    let response = |subtopic| JoinRequest::parse(json!({}), subtopic).unwrap().wanted.response();
    assert_eq!(without_ids(&response("room")), r#"{"postgres_changes":[{"id":_,"schema":"room"}]}"#);
    assert_eq!(
        without_ids(&response("public:todos:id=eq.a:b")),
        r#"{"postgres_changes":[{"id":_,"filter":"id=eq.a:b","schema":"public","table":"todos"}]}"#
    );
}

#[test]
fn the_token_is_the_string_that_is_no_gateway_key() {
    let token = |params: Value| parse(params).token;
    assert_eq!(token(json!({"access_token": "a"})).as_deref(), Some("a"));
    assert_eq!(token(json!({"access_token": "a", "user_token": "u"})).as_deref(), Some("u"));
    assert_eq!(token(json!({"access_token": "sb_x", "user_token": "u"})), None);
    assert_eq!(token(json!({"user_token": "sb_x"})), None);
    assert_eq!(token(json!({"access_token": 123})), None);
    assert_eq!(token(json!({"access_token": null})), None);
}
