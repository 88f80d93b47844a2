use serde_json::{Value, json};

use crate::routing::sample::{Answer, bind_with, bound, bound_to, catalog};
use crate::routing::{Binding, Bound, CastRequest, Casts, bind};

const EXCEPTION: &str = "Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: ";
const NOTHING: &str = "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: ";

fn refusal_with(params: Value, answers: &[Answer]) -> String {
    match bind_with(params, answers) {
        Bound::Refused(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn refusal(params: Value) -> String {
    refusal_with(params, &[])
}

/// What follows `Exception: `.
fn exception(table: &str, filter: &str, answers: &[Answer]) -> String {
    let text = refusal_with(json!({"schema": "public", "table": table, "filter": filter}), answers);
    text.split_once("Exception: ").unwrap_or_else(|| panic!("{text}")).1.to_owned()
}

fn requests(table: &str, filter: &str) -> Vec<CastRequest> {
    match bind_with(json!({"schema": "public", "table": table, "filter": filter}), &[]) {
        Bound::NeedsCasts(requests) => requests,
        other => panic!("{other:?}"),
    }
}

fn sql(table: &str, filter: &str) -> Option<String> {
    let predicate = bound(table, filter).predicate.unwrap();
    predicate.sql().map(|sql| sql.expression.clone())
}

#[test]
fn what_matches_no_published_table_is_echoed() {
    for (schema, table) in [("public", "nope"), ("nope", "plain"), ("public", "plai_"), ("public", "%")] {
        assert_eq!(
            refusal(json!({"event": "*", "schema": schema, "table": table})),
            format!("{NOTHING}[event: *, schema: {schema}, table: {table}, filters: [], select: nil]")
        );
    }
}

#[test]
fn exceptions_read_as_recorded() {
    for (params, answers, text) in [
        (
            json!({"event": "*", "schema": "public", "table": "plain", "filter": "nope=eq.1"}),
            vec![],
            r#"[event: *, schema: public, table: plain, filters: [{"nope", "eq", "1", false}], select: nil]. Exception: ERROR P0001 (raise_exception) invalid column for filter nope"#,
        ),
        (
            json!({"event": "*", "schema": "public", "table": "plain", "filter": "amount=eq.abc"}),
            vec![Answer("abc", Err(("22P02", "invalid input syntax for type integer: \"abc\"")))],
            r#"[event: *, schema: public, table: plain, filters: [{"amount", "eq", "abc", false}], select: nil]. Exception: ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: "abc""#,
        ),
        (
            json!({"event": "*", "schema": "public", "table": "filt", "filter": "session_id=eq.notauuid"}),
            vec![Answer("notauuid", Err(("22P02", "invalid input syntax for type uuid: \"notauuid\"")))],
            r#"[event: *, schema: public, table: filt, filters: [{"session_id", "eq", "notauuid", false}], select: nil]. Exception: ERROR 22P02 (invalid_text_representation) invalid input syntax for type uuid: "notauuid""#,
        ),
        (
            json!({"event": "*", "schema": "public", "table": "colpriv", "filter": "secret=eq.x"}),
            vec![],
            r#"[event: *, schema: public, table: colpriv, filters: [{"secret", "eq", "x", false}], select: nil]. Exception: ERROR P0001 (raise_exception) invalid column for filter secret"#,
        ),
        (
            json!({"event": "INSERT", "schema": "public", "table": "alltypes", "filter": "e=eq.nope"}),
            vec![],
            r#"[event: INSERT, schema: public, table: alltypes, filters: [{"e", "eq", "nope", false}], select: nil]. Exception: ERROR 22P02 (invalid_text_representation) invalid input value for enum mood: "nope""#,
        ),
        (
            json!({"event": "*", "schema": "public", "table": "sel", "select": ["nope"]}),
            vec![],
            r#"[event: *, schema: public, table: sel, filters: [], select: ["nope"]]. Exception: ERROR P0001 (raise_exception) invalid column for select nope"#,
        ),
    ] {
        assert_eq!(refusal_with(params, &answers), format!("{EXCEPTION}{text}"));
    }
}

#[test]
fn a_role_that_does_not_exist_is_named() {
    let binding = Binding::parse_legacy_topic("public:plain").unwrap();
    let Bound::Refused(error) = bind(&binding, &catalog(), "nobody", &Casts::default()) else { panic!() };
    assert!(
        error.to_string().ends_with("Exception: ERROR 42704 (undefined_object) role \"nobody\" does not exist"),
        "{error}"
    );
    let binding = Binding::parse_legacy_topic("public:nope").unwrap();
    let Bound::Refused(error) = bind(&binding, &catalog(), "nobody", &Casts::default()) else { panic!() };
    assert!(error.to_string().starts_with(NOTHING), "{error}");
}

#[test]
fn operators_are_refused_by_the_columns_own_type() {
    for (filter, text) in [
        ("i2=like.1%", "operator like requires a text-compatible column type, got smallint"),
        ("vc=like.a%", "operator like requires a text-compatible column type, got character varying"),
        ("vc=not.ilike.a%", "operator ilike requires a text-compatible column type, got character varying"),
        ("e=like.a%", "operator like requires a text-compatible column type, got mood"),
        ("dom=like.a%", "operator like requires a text-compatible column type, got short"),
        ("ch=match.a", "operator match requires a text-compatible column type, got character"),
        ("nm=imatch.a", "operator imatch requires a text-compatible column type, got name"),
        ("t=is.true", "is true filter requires a boolean column, got text"),
        ("i2=is.unknown", "is unknown filter requires a boolean column, got smallint"),
        ("b=is.TRUE", "invalid value for is filter: must be null, true, false, or unknown"),
        ("j=eq.{}", "operator eq requires a column type that can be compared, got json"),
        ("x=neq.<a/>", "operator neq requires a column type that can be compared, got xml"),
        ("pt=eq.(1.5,-2)", "operator eq requires a column type that can be compared, got point"),
        ("ta=eq.{x}", "operator eq requires a column type that can be compared, got text[]"),
        ("ta=in.({x})", "operator in requires a column type that can be compared, got text[]"),
        ("j=isdistinct.{}", "operator isdistinct requires a column type that can be compared, got json"),
    ] {
        assert_eq!(exception("alltypes", filter, &[]), format!("ERROR P0001 (raise_exception) {text}"), "{filter}");
    }
    for filter in
        ["ta=is.null", "j=not.is.null", "pt=is.null", "nm=like.a%", "ch=ilike.a%", "by=like.\\xde", "ct=match.a"]
    {
        bound("alltypes", filter);
    }
}

#[test]
fn a_list_has_at_most_a_hundred_elements() {
    let list = |count: usize| vec!["1"; count].join(",");
    bound("plain", &format!("id=in.({})", list(100)));
    assert_eq!(
        exception("plain", &format!("id=in.({})", list(101)), &[]),
        "ERROR P0001 (raise_exception) too many values for `in` filter. Maximum 100"
    );
}

#[test]
fn a_list_that_is_not_plain_is_read_by_postgres() {
    let [request] = requests("plain", "id=in.(1,x)").try_into().unwrap();
    assert_eq!(request.statement(), "select pg_catalog.format('%s', $1::pg_catalog.text::integer[])");
    assert_eq!(request.text, "{1,x}");
    let error = Answer("{1,x}", Err(("22P02", "invalid input syntax for type integer: \"x\"")));
    assert_eq!(
        exception("plain", "id=in.(1,x)", &[error]),
        "ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: \"x\""
    );
    bound_to("plain", "id=in.({1,2},{3,4})", "*", &[Answer("{{1,2},{3,4}}", Ok("{{1,2},{3,4}}"))]);
}

#[test]
fn regular_expressions_are_judged_by_postgres() {
    let [request] = requests("plain", "name=match.(").try_into().unwrap();
    assert_eq!(request.type_oid, CastRequest::REGEX);
    let error = Answer("(", Err(("2201B", "invalid regular expression: parentheses () not balanced")));
    assert_eq!(
        exception("plain", "name=match.(", &[error]),
        "ERROR P0001 (raise_exception) invalid regular expression for match filter: invalid regular expression: parentheses () not balanced"
    );
    bound("plain", "name=match.^abc$");
}

#[test]
fn the_first_error_wins_even_if_postgres_must_be_asked_for_it() {
    assert_eq!(requests("plain", "amount=eq.abc,nope=eq.1").len(), 1);
    let error = Answer("abc", Err(("22P02", "bad")));
    assert_eq!(
        exception("plain", "amount=eq.abc,nope=eq.1", &[error]),
        "ERROR 22P02 (invalid_text_representation) bad"
    );
    let fine = Answer("0x10", Ok("16"));
    assert!(exception("plain", "amount=eq.0x10,nope=eq.1", &[fine]).ends_with("invalid column for filter nope"));
    assert!(exception("plain", "nope=eq.1,amount=eq.abc", &[]).ends_with("invalid column for filter nope"));
}

#[test]
fn types_are_named_without_an_implied_length() {
    assert_eq!(
        requests("alltypes", "bits=eq.x")[0].statement(),
        "select pg_catalog.format('%s', $1::pg_catalog.text::pg_catalog.\"bit\")"
    );
    assert_eq!(requests("alltypes", "dom=eq.x")[0].sql_name, "public.short");
}

#[test]
fn a_wildcard_binds_to_every_table_in_order() {
    let Bound::Ready(subscriptions) = bind_with(json!({"schema": "*"}), &[]) else { panic!() };
    let ids: Vec<u32> = subscriptions.iter().map(|subscription| subscription.relation.0).collect();
    assert_eq!(ids, [6, 7, 2, 5, 3, 1, 4]);
}

#[test]
fn a_selection_keeps_the_primary_key() {
    let params = json!({"schema": "public", "table": "sel", "select": ["note"]});
    let Bound::Ready(subscriptions) = bind_with(params, &[]) else { panic!() };
    let columns: Vec<u16> = subscriptions[0].select.as_ref().unwrap().iter().map(|column| column.0).collect();
    assert_eq!(columns, [0, 3]);
}

#[test]
fn a_null_character_is_refused_as_postgres_refuses_it() {
    assert_eq!(
        exception("plain", "name=eq.a\0b", &[]),
        "ERROR 22021 (character_not_in_repertoire) invalid byte sequence for encoding \"UTF8\": 0x00"
    );
}

#[test]
fn what_is_provable_needs_no_sql() {
    for filter in [
        "id=eq.01",
        "t=eq.x",
        "t=neq.x",
        "t=isdistinct.x",
        "vc=in.(a,b)",
        "ch=eq.a",
        "u=in.()",
        "b=is.true",
        "t=is.null",
        "num=gt.1.5",
        "u=lt.a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "c=gte.x",
        "nm=lt.x",
        "by=eq.\\xde",
        "e=eq.ok",
        "tm=is.null",
    ] {
        assert_eq!(sql("alltypes", filter), None, "{filter}");
    }
}

#[test]
fn what_is_not_provable_has_sql() {
    for (filter, expected) in [
        ("t=gt.it's", r#"("alltypes"."t" operator(pg_catalog.>) 'it''s'::text)"#),
        ("t=not.lt.x", r#"(not ("alltypes"."t" operator(pg_catalog.<) 'x'::text))"#),
        ("nd=eq.x", r#"("alltypes"."nd" operator(pg_catalog.=) 'x'::text)"#),
        ("nd=like.x%", r#"("alltypes"."nd" operator(pg_catalog.~~) 'x%'::text collate pg_catalog."default")"#),
        ("t=imatch.^a", r#"("alltypes"."t" operator(pg_catalog.~*) '^a'::text)"#),
        ("ch=gt.a", r#"("alltypes"."ch" operator(pg_catalog.>) 'a'::pg_catalog."bpchar")"#),
        ("ct=like.a%", r#"("alltypes"."ct" operator("public".~~) 'a%'::public.citext)"#),
    ] {
        assert_eq!(sql("alltypes", filter).as_deref(), Some(expected), "{filter}");
    }
    let both = sql("alltypes", "id=eq.1,t=gt.a,t=lt.b").unwrap();
    assert_eq!(
        both,
        r#"("alltypes"."t" operator(pg_catalog.<) 'b'::text) and ("alltypes"."t" operator(pg_catalog.>) 'a'::text)"#
    );
}

#[test]
fn the_same_filter_written_differently_is_the_same_predicate() {
    let predicate = |filter: &str| bound("plain", filter).predicate.unwrap();
    assert_eq!(predicate("id=eq.1,name=eq.x"), predicate("name=eq.x, id=eq.1"));
    assert_ne!(predicate("id=eq.1"), predicate("id=eq.2"));
    assert_ne!(predicate("id=eq.1"), predicate("id=not.eq.1"));
}
