//! Functions of `text` and `bpchar`.

use super::Depends::DeterministicCollation;
use super::{Builtin, error, unexpected};
use crate::authz::policy::{Failure, Value};
use crate::routing::like;

fn whole(text: String) -> Result<Value, Failure> {
    Ok(Value::Text(text.into()))
}

fn of_text(args: &[Value], operate: fn(&str) -> Result<Value, Failure>) -> Result<Value, Failure> {
    match args {
        [Value::Text(text)] => operate(text),
        _ => unexpected(),
    }
}

fn of_two(args: &[Value], operate: fn(&str, &str) -> Result<Value, Failure>) -> Result<Value, Failure> {
    match args {
        [Value::Text(a), Value::Text(b)] => operate(a, b),
        _ => unexpected(),
    }
}

fn count(count: usize) -> Result<Value, Failure> {
    Ok(Value::Int(count as i64))
}

/// What every locale but the Turkish ones agrees on, and those but for this letter.
fn folded(text: &str, but: char, fold: fn(&str) -> String) -> Result<Value, Failure> {
    match text.is_ascii() && !text.contains(but) {
        true => whole(fold(text)),
        false => Err(Failure::undecided("upper and lower case beyond ASCII")),
    }
}

fn like(text: &str, pattern: &str) -> Result<bool, Failure> {
    like::matches(text, pattern).ok_or_else(|| Failure::undecided("a pattern that ends in its escape character"))
}

fn ilike(text: &str, pattern: &str) -> Result<bool, Failure> {
    match (like::fold(text, false), like::fold(pattern, false)) {
        (Some(text), Some(pattern)) => like(&text, &pattern),
        _ => Err(Failure::undecided("upper and lower case beyond ASCII")),
    }
}

fn trimmed(args: &[Value], start: bool, end: bool) -> Result<Value, Failure> {
    let (text, set) = match args {
        [Value::Text(text)] => (&**text, " "),
        [Value::Text(text), Value::Text(set)] => (&**text, &**set),
        _ => return unexpected(),
    };
    let is_in = |character: char| set.contains(character);
    let text = if start { text.trim_start_matches(is_in) } else { text };
    Ok(Value::text(if end { text.trim_end_matches(is_in) } else { text }))
}

/// Characters `start` to `start + length`, counted from 1; those outside of the text do not exist.
fn substring(args: &[Value]) -> Result<Value, Failure> {
    let (text, start, length) = match args {
        [Value::Text(text), Value::Int(start)] => (text, *start, None),
        [Value::Text(text), Value::Int(start), Value::Int(length)] => (text, *start, Some(*length)),
        _ => return unexpected(),
    };
    if length.is_some_and(|length| length < 0) {
        return error("negative substring length not allowed");
    }
    let first = start.max(1);
    let taken = length.map_or(usize::MAX, |length| (start + length - first).max(0) as usize);
    whole(text.chars().skip((first - 1) as usize).take(taken).collect())
}

/// The first characters, or all but the last.
fn left(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Text(text), Value::Int(length)] = args else { return unexpected() };
    let taken = if *length < 0 { text.chars().count() as i64 + length } else { *length };
    whole(text.chars().take(taken.max(0) as usize).collect())
}

fn right(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Text(text), Value::Int(length)] = args else { return unexpected() };
    // Has no positive counterpart in an `int4`.
    if *length == i64::from(i32::MIN) {
        return Err(Failure::undecided("the least of all lengths"));
    }
    let skipped = if *length < 0 { -length } else { text.chars().count() as i64 - length };
    whole(text.chars().skip(skipped.max(0) as usize).collect())
}

fn position(text: &str, part: &str) -> Result<Value, Failure> {
    count(text.find(part).map_or(0, |at| text[..at].chars().count() + 1))
}

fn replace(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Text(text), Value::Text(from), Value::Text(to)] = args else { return unexpected() };
    if from.is_empty() {
        return Ok(Value::Text(text.clone()));
    }
    // A replacement may grow the text by the product of the three.
    if text.len().saturating_mul(to.len().max(1)) > 1 << 24 {
        return Err(Failure::undecided("a very long text"));
    }
    whole(text.replace(&**from, to))
}

/// Fields are counted from 1, or from the end with negative numbers (since 14).
fn split_part(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Text(text), Value::Text(separator), Value::Int(field)] = args else { return unexpected() };
    let (text, separator, field) = (&**text, &**separator, *field);
    if field == 0 {
        return error("field position must not be zero");
    }
    if separator.is_empty() {
        return Ok(Value::text(if field == 1 || field == -1 { text } else { "" }));
    }
    let place = (field.unsigned_abs() - 1) as usize;
    let found = match field > 0 {
        true => text.split(separator).nth(place),
        // Searched from the front all the same: `aaa` split at `aa` has its separator at the start.
        false => {
            let parts: Vec<&str> = text.split(separator).collect();
            parts.len().checked_sub(place + 1).map(|place| parts[place])
        }
    };
    Ok(Value::text(found.unwrap_or("")))
}

/// `string_to_array(text, delimiter [, null_string])`.
pub(super) fn string_to_array(args: &[Value]) -> Result<Value, Failure> {
    let (text, delimiter, null) = match args {
        [Value::Null, ..] => return Ok(Value::Null),
        [Value::Text(text), delimiter] => (text, delimiter, &Value::Null),
        [Value::Text(text), delimiter, null] => (text, delimiter, null),
        _ => return unexpected(),
    };
    let element = |part: &str| match null {
        Value::Text(null) if **null == *part => Value::Null,
        _ => Value::text(part),
    };
    let elements: Vec<Value> = match delimiter {
        _ if text.is_empty() => Vec::new(),
        Value::Null => text.chars().map(|character| element(character.encode_utf8(&mut [0; 4]))).collect(),
        Value::Text(delimiter) if delimiter.is_empty() => vec![element(text)],
        Value::Text(delimiter) => text.split(&**delimiter).map(element).collect(),
        _ => return unexpected(),
    };
    Ok(Value::Array(elements.into()))
}

/// `array_to_string(array, delimiter [, null_string])`; only of elements whose text is sure without their type.
fn array_to_string(args: &[Value]) -> Result<Value, Failure> {
    let (elements, delimiter, null) = match args {
        [Value::Null, ..] | [_, Value::Null, ..] => return Ok(Value::Null),
        [Value::Array(elements), Value::Text(delimiter)] => (elements, delimiter, None),
        [Value::Array(elements), Value::Text(delimiter), Value::Null] => (elements, delimiter, None),
        [Value::Array(elements), Value::Text(delimiter), Value::Text(null)] => (elements, delimiter, Some(&**null)),
        _ => return unexpected(),
    };
    let mut parts: Vec<String> = Vec::new();
    for element in elements.iter() {
        match element {
            Value::Null => parts.extend(null.map(str::to_owned)),
            Value::Text(text) => parts.push(text.to_string()),
            Value::Int(number) => parts.push(number.to_string()),
            Value::Uuid(bytes) => parts.push(super::super::encode::uuid(bytes)),
            _ => return Err(Failure::undecided("the text of an array's elements")),
        }
    }
    whole(parts.join(delimiter))
}

/// `varchar(n)`: an assignment takes blanks off only, a cast takes what is too much.
fn varchar(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Text(text), Value::Int(modifier), Value::Bool(explicit)] = args else { return unexpected() };
    let kept = match text.char_indices().nth((modifier - 4).max(0) as usize) {
        Some((end, _)) if *modifier >= 4 => &text[..end],
        _ => return Ok(Value::Text(text.clone())),
    };
    if !explicit && text[kept.len()..].contains(|character| character != ' ') {
        return error("value too long for type character varying");
    }
    Ok(Value::text(kept))
}

/// `char(n)`: the same, and shorter ones are filled up.
fn bpchar(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Text(text), Value::Int(modifier), _] = args else { return unexpected() };
    let missing = (modifier - 4) - text.chars().count() as i64;
    if *modifier >= 4 && missing > 0 {
        return whole(format!("{text}{}", " ".repeat(missing as usize)));
    }
    varchar(args)
}

fn boolean(result: Result<bool, Failure>) -> Result<Value, Failure> {
    result.map(Value::Bool)
}

pub(super) const TABLE: &[Builtin] = &[
    Builtin::total(1258, "textcat", |args| of_two(args, |a, b| whole(format!("{a}{b}")))),
    Builtin::total(870, "lower", |args| of_text(args, |text| folded(text, 'I', str::to_ascii_lowercase))),
    Builtin::total(871, "upper", |args| of_text(args, |text| folded(text, 'i', str::to_ascii_uppercase))),
    Builtin::total(1317, "length", |args| of_text(args, |text| count(text.chars().count()))),
    Builtin::total(1369, "character_length", |args| of_text(args, |text| count(text.chars().count()))),
    Builtin::total(1381, "char_length", |args| of_text(args, |text| count(text.chars().count()))),
    Builtin::total(1318, "length", |args| of_text(args, |text| count(text.trim_end_matches(' ').chars().count()))),
    Builtin::total(1367, "character_length", |args| {
        of_text(args, |text| count(text.trim_end_matches(' ').chars().count()))
    }),
    Builtin::total(1372, "char_length", |args| of_text(args, |text| count(text.trim_end_matches(' ').chars().count()))),
    Builtin::total(1374, "octet_length", |args| of_text(args, |text| count(text.len()))),
    Builtin::total(1375, "octet_length", |args| of_text(args, |text| count(text.len()))),
    Builtin::total(885, "btrim", |args| trimmed(args, true, true)),
    Builtin::total(884, "btrim", |args| trimmed(args, true, true)),
    Builtin::total(881, "ltrim", |args| trimmed(args, true, false)),
    Builtin::total(875, "ltrim", |args| trimmed(args, true, false)),
    Builtin::total(882, "rtrim", |args| trimmed(args, false, true)),
    Builtin::total(876, "rtrim", |args| trimmed(args, false, true)),
    Builtin::total(883, "substr", substring),
    Builtin::new(877, "substr", substring),
    Builtin::total(937, "substring", substring),
    Builtin::new(936, "substring", substring),
    Builtin::total(3060, "left", left),
    Builtin::total(3061, "right", right),
    Builtin::total(868, "strpos", |args| of_two(args, position)).depends(DeterministicCollation),
    Builtin::total(849, "position", |args| of_two(args, position)).depends(DeterministicCollation),
    Builtin::total(2087, "replace", replace).depends(DeterministicCollation),
    Builtin::new(2088, "split_part", split_part).depends(DeterministicCollation),
    Builtin::total(3696, "starts_with", |args| of_two(args, |a, b| boolean(Ok(a.starts_with(b)))))
        .depends(DeterministicCollation),
    Builtin::total(850, "textlike", |args| of_two(args, |a, b| boolean(like(a, b)))).depends(DeterministicCollation),
    Builtin::total(851, "textnlike", |args| of_two(args, |a, b| boolean(like(a, b).map(|is| !is))))
        .depends(DeterministicCollation),
    Builtin::total(1569, "like", |args| of_two(args, |a, b| boolean(like(a, b)))).depends(DeterministicCollation),
    Builtin::total(1570, "notlike", |args| of_two(args, |a, b| boolean(like(a, b).map(|is| !is))))
        .depends(DeterministicCollation),
    Builtin::total(1631, "bpcharlike", |args| of_two(args, |a, b| boolean(like(a, b)))).depends(DeterministicCollation),
    Builtin::total(1632, "bpcharnlike", |args| of_two(args, |a, b| boolean(like(a, b).map(|is| !is))))
        .depends(DeterministicCollation),
    Builtin::total(1633, "texticlike", |args| of_two(args, |a, b| boolean(ilike(a, b))))
        .depends(DeterministicCollation),
    Builtin::total(1634, "texticnlike", |args| of_two(args, |a, b| boolean(ilike(a, b).map(|is| !is))))
        .depends(DeterministicCollation),
    Builtin::total(1660, "bpchariclike", |args| of_two(args, |a, b| boolean(ilike(a, b))))
        .depends(DeterministicCollation),
    Builtin::total(1661, "bpcharicnlike", |args| of_two(args, |a, b| boolean(ilike(a, b).map(|is| !is))))
        .depends(DeterministicCollation),
    Builtin::total(394, "string_to_array", string_to_array).not_strict().depends(DeterministicCollation),
    Builtin::total(376, "string_to_array", string_to_array).not_strict().depends(DeterministicCollation),
    Builtin::total(395, "array_to_string", array_to_string),
    Builtin::total(384, "array_to_string", array_to_string).not_strict(),
    Builtin::new(669, "varchar", varchar),
    Builtin::new(668, "bpchar", bpchar),
    Builtin::total(401, "text", |args| of_text(args, |text| Ok(Value::text(text.trim_end_matches(' '))))),
];
