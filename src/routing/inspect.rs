//! Elixir's `inspect/2`, as far as it shows in texts that clients see.
//!
//! Supabase's server puts inspected terms into its error messages, and clients match on those messages.

use serde_json::{Map, Number, Value};

/// The width at which `inspect(term, pretty: true)` breaks lines.
const PRETTY_WIDTH: usize = 80;

/// `inspect/2` shows this many elements of a collection, then `...`.
const ELEMENTS_MAX: usize = 50;

/// A binary: `"a \"b\""`, or `<<0, 1>>` where it is not printable.
pub(super) fn string(text: &str) -> String {
    if !text.chars().all(is_printable) {
        let bytes: Vec<String> = text.bytes().take(ELEMENTS_MAX).map(|byte| byte.to_string()).collect();
        let rest = if text.len() > ELEMENTS_MAX { ", ..." } else { "" };
        return format!("<<{}{rest}>>", bytes.join(", "));
    }
    format!("\"{}\"", escape(text))
}

/// `["foo", "hey"]` on one line.
pub(super) fn list<S: AsRef<str>>(items: &[S]) -> String {
    format!("[{}]", elements(items.iter().map(|item| string(item.as_ref()))))
}

/// A decoded JSON object: `%{"event" => "*", "filter" => nil}`, keys sorted.
pub(super) fn map(object: &Map<String, Value>) -> String {
    let mut keys: Vec<&String> = object.keys().collect();
    keys.sort_unstable();
    let pairs = keys.into_iter().map(|key| format!("{} => {}", string(key), value(&object[key])));
    format!("%{{{}}}", elements(pairs))
}

/// A list of inspected strings as `inspect(list, pretty: true)` lays it out: filled lines.
pub(super) fn pretty_list<S: AsRef<str>>(items: &[S]) -> String {
    let flat = list(items);
    if flat.len() <= PRETTY_WIDTH {
        return flat;
    }
    let inspected: Vec<String> = items.iter().map(|item| string(item.as_ref())).collect();
    fill('[', &inspected, ']', 0, 0)
}

/// A list of tuples as `inspect(list, pretty: true)` lays it out: a line each when one line is too short.
/// Each tuple is given as its inspected elements.
pub(super) fn pretty_tuples(tuples: &[Vec<String>]) -> String {
    let flat = |tuple: &Vec<String>| format!("{{{}}}", tuple.join(", "));
    let one_line = format!("[{}]", elements(tuples.iter().map(flat)));
    if one_line.len() <= PRETTY_WIDTH {
        return one_line;
    }
    let last = tuples.len() - 1;
    let lines: Vec<String> = tuples
        .iter()
        .enumerate()
        .map(|(position, tuple)| {
            let separator = usize::from(position != last);
            let text = flat(tuple);
            if 2 + text.len() + separator <= PRETTY_WIDTH { text } else { fill('{', tuple, '}', 2, separator) }
        })
        .collect();
    format!("[\n  {}\n]", lines.join(",\n  "))
}

/// Elements one after another, a new line where the next does not fit; lines are indented one past the opening.
fn fill(open: char, items: &[String], close: char, indent: usize, after: usize) -> String {
    let mut out = String::from(open);
    let mut column = indent + 1;
    let last = items.len().saturating_sub(1);
    for (position, item) in items.iter().enumerate() {
        // What stands before the next place where the line may break: a comma, or the end and what follows it.
        let tail = if position == last { 1 + after } else { 1 };
        if position > 0 {
            if column + 1 + item.len() + tail <= PRETTY_WIDTH {
                out.push(' ');
                column += 1;
            } else {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent + 1));
                column = indent + 1;
            }
        }
        out.push_str(item);
        column += item.len();
        if position != last {
            out.push(',');
            column += 1;
        }
    }
    out.push(close);
    out
}

fn elements(items: impl ExactSizeIterator<Item = String>) -> String {
    let hidden = items.len() > ELEMENTS_MAX;
    let mut shown: Vec<String> = items.take(ELEMENTS_MAX).collect();
    if hidden {
        shown.push("...".into());
    }
    shown.join(", ")
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "nil".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => self::number(number),
        Value::String(text) => string(text),
        Value::Array(items) => {
            charlist(items).unwrap_or_else(|| format!("[{}]", elements(items.iter().map(self::value))))
        }
        Value::Object(object) => map(object),
    }
}

/// A list of integers that are all printable ASCII is shown as a charlist.
fn charlist(items: &[Value]) -> Option<String> {
    if items.is_empty() {
        return None;
    }
    let mut text = String::new();
    for item in items {
        match item.as_u64() {
            Some(code @ (0x07..=0x0d | 0x1b | 0x20..=0x7e)) => text.push(code as u8 as char),
            _ => return None,
        }
    }
    Some(format!("~c\"{}\"", escape(&text)))
}

/// Integers as they are; floats as Erlang's shortest form: the shorter of decimal and scientific notation, always
/// scientific from 2^53 on.
fn number(number: &Number) -> String {
    let (Some(float), true) = (number.as_f64(), number.is_f64()) else {
        return number.to_string();
    };
    let decimal = format!("{float:?}");
    let exponent_form = format!("{float:e}");
    let (mantissa, exponent) = exponent_form.split_once('e').unwrap_or((&exponent_form, "0"));
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let scientific = format!("{mantissa}{point}e{exponent}");
    let decimal_is_usual = !decimal.contains('e') && float.abs() < 9_007_199_254_740_992.0;
    if decimal_is_usual && decimal.len() <= scientific.len() { decimal } else { scientific }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    let mut chars = text.chars().peekable();
    while let Some(character) = chars.next() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // An interpolation would start here.
            '#' if chars.peek() == Some(&'{') => out.push_str("\\#"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\x1b' => out.push_str("\\e"),
            '\x7f' => out.push_str("\\d"),
            other => out.push(other),
        }
    }
    out
}

/// `String.printable?/1`.
fn is_printable(character: char) -> bool {
    matches!(character,
        '\x07'..='\r' | '\x1b' | ' '..='\x7f' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map_of(value: Value) -> String {
        map(value.as_object().unwrap())
    }

    #[test]
    fn strings_are_escaped_as_elixir_does() {
        assert_eq!(list(&["foo", "hey"]), r#"["foo", "hey"]"#);
        assert_eq!(list(&["\"b\":1}"]), r#"["\"b\":1}"]"#);
        assert_eq!(string("a\\b\n\t#{x} #"), r##""a\\b\n\t\#{x} #""##);
        assert_eq!(string("héllo ☃"), "\"héllo ☃\"");
        assert_eq!(string("a\0"), "<<97, 0>>");
    }

    #[test]
    fn maps_have_sorted_keys_and_elixir_terms() {
        assert_eq!(map_of(json!({})), "%{}");
        assert_eq!(
            map_of(json!({"schema": "public", "filter": null, "event": "*", "table": 7})),
            r#"%{"event" => "*", "filter" => nil, "schema" => "public", "table" => 7}"#
        );
        assert_eq!(map_of(json!({"a": [], "b": {"c": true}})), r#"%{"a" => [], "b" => %{"c" => true}}"#);
        assert_eq!(map_of(json!({"filter": [123]})), r#"%{"filter" => ~c"{"}"#);
        assert_eq!(map_of(json!({"filter": [123, "a"]})), r#"%{"filter" => [123, "a"]}"#);
    }

    #[test]
    fn floats_take_their_shorter_notation() {
        assert_eq!(map_of(json!({"a": 1.5})), r#"%{"a" => 1.5}"#);
        assert_eq!(map_of(json!({"a": 1000.0})), r#"%{"a" => 1.0e3}"#);
        assert_eq!(map_of(json!({"a": 1e22})), r#"%{"a" => 1.0e22}"#);
        assert_eq!(map_of(json!({"a": 0.001})), r#"%{"a" => 0.001}"#);
        assert_eq!(map_of(json!({"a": -2.5e-9})), r#"%{"a" => -2.5e-9}"#);
    }

    #[test]
    fn long_lists_of_tuples_take_a_line_each() {
        let tuple = |value: &str| vec![string("id"), string("eq"), string(value), "false".into()];
        assert_eq!(pretty_tuples(&[tuple("1")]), r#"[{"id", "eq", "1", false}]"#);
        assert_eq!(pretty_tuples(&[]), "[]");
        let long = "x".repeat(40);
        assert_eq!(
            pretty_tuples(&[tuple(&long), tuple(&long)]),
            format!("[\n  {{\"id\", \"eq\", \"{long}\", false}},\n  {{\"id\", \"eq\", \"{long}\", false}}\n]")
        );
    }

    #[test]
    fn an_overlong_tuple_is_filled() {
        let long = "x".repeat(90);
        let tuple = vec![string("id"), string("eq"), string(&long), "false".into()];
        assert_eq!(pretty_tuples(&[tuple]), format!("[\n  {{\"id\", \"eq\",\n   \"{long}\",\n   false}}\n]"));
    }

    #[test]
    fn long_lists_of_strings_are_filled() {
        let names: Vec<String> = (0..12).map(|n| format!("column_{n:02}")).collect();
        let text = pretty_list(&names);
        assert!(text.lines().all(|line| line.len() <= PRETTY_WIDTH), "{text}");
        assert!(text.starts_with("[\"column_00\", \"column_01\""), "{text}");
        assert!(text.contains(",\n \"column_"), "{text}");
    }
}
