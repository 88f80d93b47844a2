//! The vectors of PROTOCOL 4.3 and of the transcripts, type by type.

use super::*;
use crate::catalog::PgType;
use std::sync::Arc;

const MOOD: Oid = 20_000;
const MOODS: Oid = 20_001;
const HSTORE: Oid = 20_002;
const HSTORES: Oid = 20_003;
const BYTES_DOMAIN: Oid = 20_004;
const FLOAT_DOMAIN: Oid = 20_005;
const PAIR: Oid = 20_006;
const HSTORE_DOMAIN: Oid = 20_007;
const HSTORE_PAIR: Oid = 20_008;
const OURS_ITSELF: Oid = 20_009;

fn catalog() -> Catalog {
    let types = [
        (1001, "_bytea", array(oid::BYTEA)),
        (1007, "_int4", array(oid::INT4)),
        (1022, "_float8", array(oid::FLOAT8)),
        (1185, "_timestamptz", array(oid::TIMESTAMPTZ)),
        (3807, "_jsonb", array(oid::JSONB)),
        (199, "_json", array(oid::JSON)),
        (1020, "_box", TypeKind::Array { element: 603, delimiter: b';' }),
        (MOOD, "mood", TypeKind::Enum { labels: vec!["sad".into(), "ok".into()], label_oids: vec![] }),
        (MOODS, "_mood", array(MOOD)),
        (HSTORE, "hstore", TypeKind::Base),
        (HSTORES, "_hstore", array(HSTORE)),
        (BYTES_DOMAIN, "bytes", TypeKind::Domain { base: oid::BYTEA }),
        (FLOAT_DOMAIN, "ratio", TypeKind::Domain { base: oid::FLOAT8 }),
        (PAIR, "pair", TypeKind::Composite { attributes: vec![("a".into(), 1700), ("b".into(), 17)] }),
        (HSTORE_DOMAIN, "tags", TypeKind::Domain { base: HSTORES }),
        (HSTORE_PAIR, "hpair", TypeKind::Composite { attributes: vec![("h".into(), HSTORE_DOMAIN)] }),
        (OURS_ITSELF, "ourselves", array(OURS_ITSELF)),
    ];
    let pg_type = |(oid, name, kind): (Oid, &str, TypeKind)| {
        let has_json_cast = oid == HSTORE;
        let (schema, name, sql_name) = ("s".to_owned(), name.to_owned(), name.to_owned());
        (oid, Arc::new(PgType { oid, schema, name, sql_name, kind, has_json_cast }))
    };
    Catalog { types: types.into_iter().map(pg_type).collect(), ..Catalog::default() }
}

fn array(element: Oid) -> TypeKind {
    TypeKind::Array { element, delimiter: b',' }
}

fn json(type_oid: Oid, text: &str) -> Result<String, DatumError> {
    let mut out = Vec::new();
    write_json(&catalog(), type_oid, text.as_bytes(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// The values of the transcripts pg_types_alltypes*, and PROTOCOL 4.3's.
#[test]
fn every_type_reads_as_in_the_transcripts() {
    let zeros = "0".repeat(300);
    for (type_oid, text, expected) in [
        (16, "t", "true"),
        (16, "f", "false"),
        (21, "-32768", "-32768"),
        (23, "2147483647", "2147483647"),
        (20, "9223372036854775807", "9223372036854775807"),
        (20, "-9223372036854775808", "-9223372036854775808"),
        (20, "9007199254740993", "9007199254740993"),
        (1700, "12345678901234567890.123456789", "12345678901234567890.123456789"),
        (1700, "1.50", "1.50"),
        (1700, "0.00", "0.00"),
        (1700, "NaN", "null"),
        (1700, "Infinity", "null"),
        (700, "1.5", "1.5"),
        (700, "NaN", "null"),
        (700, "-Infinity", "null"),
        (701, "0.1", "0.1"),
        (701, "-0", "0"),
        (701, "Infinity", "null"),
        (701, "1e+300", &format!("1{zeros}")),
        (701, "1.5e-07", "0.00000015"),
        (25, "héllo \"q\" \\ \n tab\t ☃", r#""héllo \"q\" \\ \n tab\t ☃""#),
        (25, "", "\"\""),
        (1043, "vc", "\"vc\""),
        (1042, "ab   ", "\"ab   \""),
        (2950, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""),
        (114, r#"{"a": [1, 2.50, null], "b":"x"}"#, r#"{"a": [1, 2.50, null], "b": "x"}"#),
        (3802, r#"{"a": {"c": 1000}, "b": 1}"#, r#"{"a": {"c": 1000}, "b": 1}"#),
        (3802, "null", "null"),
        (1184, "2024-02-29 10:34:56.123456+00", "\"2024-02-29T10:34:56.123456+00:00\""),
        (1184, "12024-01-01 00:00:00+00", "\"12024-01-01T00:00:00+00:00\""),
        (1184, "infinity", "\"infinity\""),
        (1114, "2024-02-29 12:34:56.1", "\"2024-02-29T12:34:56.1\""),
        (1114, "0044-03-15 00:00:00 BC", "\"0044-03-15T00:00:00 BC\""),
        (1114, "-infinity", "\"-infinity\""),
        (1082, "2024-02-29", "\"2024-02-29\""),
        (1082, "0044-03-15 BC", "\"0044-03-15 BC\""),
        (1083, "24:00:00", "\"24:00:00\""),
        (1266, "12:34:56+05:30", "\"12:34:56+05:30\""),
        (1186, "1 year 2 mons 3 days 04:05:06.7", "\"1 year 2 mons 3 days 04:05:06.7\""),
        (17, "\\xdeadbeef", "\"deadbeef\""),
        (17, "\\x", "\"\""),
        (1001, r#"{"\\x01"}"#, r#"["\\x01"]"#),
        (1007, "{1,NULL,3}", "[1, null, 3]"),
        (1007, "{{1,2},{3,4}}", "[[1, 2], [3, 4]]"),
        (1007, "{}", "[]"),
        (3807, r#"{"{\"a\": 1}",[1]}"#, r#"[{"a": 1}, [1]]"#),
        (199, r#"{"{\"b\":1e2,\"a\":1}",NULL}"#, r#"[{"a": 1, "b": 100}, null]"#),
        (1185, r#"{"2024-01-01 00:00:00+00",infinity}"#, r#"["2024-01-01T00:00:00+00:00", "infinity"]"#),
        (1020, "{(1,1),(0,0);(2,2),(1,1)}", r#"["(1,1),(0,0)", "(2,2),(1,1)"]"#),
        (1022, "{NaN,-0,1e+20}", r#"["NaN", 0, 100000000000000000000]"#),
        (22, "1 2 3", "[1, 2, 3]"),
        (30, "", "[]"),
        (30, "1 2", r#"["1", "2"]"#),
        (600, "(1.5,-2)", "\"(1.5,-2)\""),
        (790, "$12.34", "\"$12.34\""),
        (1560, "1010", "\"1010\""),
        (3904, "[1,10)", "\"[1,10)\""),
        (3910, "[\"2024-01-01 00:00:00+00\",)", r#""[\"2024-01-01 00:00:00+00\",)""#),
        (26, "12345", "\"12345\""),
        (MOOD, "happy", "\"happy\""),
        (MOODS, "{sad,ok}", r#"["sad", "ok"]"#),
        (PAIR, r#"(1.50,"\\x01")"#, r#"{"a": 1.50, "b": "\\x01"}"#),
        (PAIR, "(NaN,)", r#"{"a": "NaN", "b": null}"#),
        // wal2json looks at the column's own type, so its two rules do not reach through domains.
        (BYTES_DOMAIN, "\\x01", r#""\\x01""#),
        (FLOAT_DOMAIN, "NaN", "\"NaN\""),
        (FLOAT_DOMAIN, "1e+02", "100"),
        // Dropped since: a string.
        (99_999, "{1,2}", "\"{1,2}\""),
    ] {
        assert_eq!(json(type_oid, text).as_deref(), Ok(expected), "type {type_oid}: {text}");
    }
}

#[test]
fn what_is_not_the_types_text_is_an_error_and_leaves_nothing_behind() {
    for (type_oid, text) in [(16, "true"), (23, ""), (23, "-"), (23, "1x"), (701, "1e"), (1700, "1,5"), (17, "00")] {
        assert!(matches!(json(type_oid, text), Err(DatumError::Malformed { .. })), "type {type_oid}: {text}");
    }
    let mut out = b"kept".to_vec();
    assert!(write_json(&catalog(), 1007, b"{1,2", &mut out).is_err());
    assert_eq!(write_json(&catalog(), 25, b"\xff", &mut out), Err(DatumError::NotUtf8));
    assert_eq!(out, b"kept");
}

#[test]
fn a_cast_to_json_anywhere_inside_is_left_to_postgres() {
    for type_oid in [HSTORE, HSTORES, HSTORE_DOMAIN, HSTORE_PAIR, OURS_ITSELF] {
        assert_eq!(json(type_oid, "{}"), Err(DatumError::OnlyPostgres), "type {type_oid}");
    }
}

#[test]
fn computed_values_follow_the_column_rules() {
    let computed = |type_oid, jsonb| {
        let mut out = Vec::new();
        Encoding::of_column(&catalog(), type_oid).write_computed(jsonb, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(computed(701, "\"NaN\""), "null");
    assert_eq!(computed(701, "1.5"), "1.5");
    assert_eq!(computed(17, r#""\\x01""#), "\"01\"");
    assert_eq!(computed(25, "\"a\""), "\"a\"");
    assert_eq!(computed(BYTES_DOMAIN, r#""\\x01""#), r#""\\x01""#);
}

#[test]
fn no_bytes_panic_whatever_the_type_and_what_is_written_is_json() {
    use proptest::prelude::*;
    let catalog = catalog();
    let mut encodings: Vec<Encoding> = Vec::new();
    for type_oid in (0..4000).chain(MOOD..=OURS_ITSELF) {
        let encoding = Encoding::of_column(&catalog, type_oid);
        // The text of jsonb is passed on unread.
        if !encodings.contains(&encoding) && !format!("{encoding:?}").contains("Jsonb") {
            encodings.push(encoding);
        }
    }
    assert!(encodings.len() > 15, "{encodings:?}");
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let text = "[-\\[\\]{}()\",;\\\\ :=.0-9eEtfnulNULinsdx\u{7f}é\u{0}]{0,40}";
    proptest!(config, |(text in text)| {
        for encoding in &encodings {
            let mut out = Vec::new();
            if encoding.write(text.as_bytes(), &mut out).is_ok() {
                let read = serde_json::from_slice::<serde::de::IgnoredAny>(&out);
                prop_assert!(read.is_ok(), "{encoding:?}: {text:?}");
            }
        }
    });
}
