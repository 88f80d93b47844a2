//! What `to_jsonb` makes of `json`, and what it refuses.

use super::*;

fn jsonb(text: &str) -> Result<String, DatumError> {
    let mut out = Vec::new();
    write_jsonb(text.as_bytes(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn keys_are_ordered_by_length_and_then_bytes_and_the_last_of_equal_ones_wins() {
    assert_eq!(jsonb(r#"{"bb":1,"a":2,"c":3,"ab":4}"#).unwrap(), r#"{"a": 2, "c": 3, "ab": 4, "bb": 1}"#);
    assert_eq!(jsonb(r#"{"a":1,"b":[],"a":{"z":1,"y":2},"\u0061":3}"#).unwrap(), r#"{"a": 3, "b": []}"#);
    assert_eq!(jsonb(r#"{"é":1,"z":2,"aa":3}"#).unwrap(), r#"{"z": 2, "aa": 3, "é": 1}"#);
}

#[test]
fn values_read_as_in_the_transcripts() {
    assert_eq!(jsonb(r#"{"a": [1, 2.50, null], "b":"x"}"#).unwrap(), r#"{"a": [1, 2.50, null], "b": "x"}"#);
    assert_eq!(jsonb(r#"{"b":1,"a":{"c":1e3}}"#).unwrap(), r#"{"a": {"c": 1000}, "b": 1}"#);
    for scalar in ["null", "true", "false", "\"str\"", "1.50", "[]", "{}"] {
        assert_eq!(jsonb(&format!(" \t\r\n{scalar} ")).unwrap(), scalar);
    }
}

#[test]
fn strings_lose_their_needless_escapes() {
    assert_eq!(
        jsonb(r#""\/ \u00e9 \u2603 \ud83d\ude00 \u0001 \u000A \" \\""#).unwrap(),
        r#""/ é ☃ 😀 \u0001 \n \" \\""#
    );
}

#[test]
fn what_jsonb_refuses_is_an_error_even_where_a_later_key_replaces_it() {
    let refused = |reason| Err(DatumError::NotJsonb(reason));
    assert_eq!(jsonb(r#""\u0000""#), refused(NotJsonb::NulCharacter));
    for text in [r#""\ud800""#, r#""\ud800x""#, r#""\ud800\n""#, r#""\ud800\ud800""#, r#""\udc00""#, r#"{"\ud800":1}"#]
    {
        assert_eq!(jsonb(text), refused(NotJsonb::UnpairedSurrogate), "{text}");
    }
    assert_eq!(jsonb(r#"{"a":1e200000,"a":1}"#), refused(NotJsonb::NumberOverflow));
}

#[test]
fn text_that_is_not_json_is_malformed() {
    for text in [
        "",
        " ",
        "nul",
        "nulll",
        "{",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{\"a\":1,}",
        "[1}",
        "{\"a\":1]",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\\u\"",
        "\"\n\"",
        "1 2",
        "01",
        "-",
        "]",
        ",",
    ] {
        assert!(matches!(jsonb(text), Err(DatumError::Malformed { .. })), "{text:?}: {:?}", jsonb(text));
    }
}

#[test]
fn depth_costs_no_stack() {
    let depth = 300_000;
    let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(jsonb(&text).unwrap(), text);
    let text = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    assert_eq!(jsonb(&text).unwrap().len(), text.len() + depth);
}

#[test]
fn a_few_bytes_cannot_ask_for_gigabytes() {
    let text = format!("[{}1]", "1e131071,".repeat(1000));
    assert_eq!(jsonb(&text), Err(DatumError::NotJsonb(NotJsonb::TooManyDigits)));
}
