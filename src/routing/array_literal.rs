//! Array literals: `{a,"b,c",NULL}`.

/// The elements of a one-dimensional array literal in its plain form.
///
/// `None` for everything else (nested arrays, other delimiters, junk around quotes, malformed text): that is for
/// Postgres to read, and to word the error if it is one.
pub(crate) fn parse(literal: &str) -> Option<Vec<Option<String>>> {
    let inner = literal.strip_prefix('{')?.strip_suffix('}')?;
    let mut reader = Reader { rest: inner };
    reader.skip_space();
    if reader.rest.is_empty() {
        return Some(Vec::new());
    }
    let mut elements = Vec::new();
    loop {
        elements.push(reader.element()?);
        match reader.next() {
            Some(',') => {}
            Some(_) => return None,
            None => return Some(elements),
        }
    }
}

/// The elements of an array in Postgres' own output, nested ones flattened, and the length of the outer dimension.
pub(super) fn parse_output(text: &str) -> Option<(Vec<Option<String>>, usize)> {
    // Bounds other than 1 are printed in front: `[0:1]={a,b}`.
    let text = if text.starts_with('[') { text.split_once('=')?.1 } else { text };
    if let Some(elements) = parse(text) {
        let length = elements.len();
        return Some((elements, length));
    }
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let (mut elements, mut length) = (Vec::new(), 0);
    for part in nested(inner) {
        elements.extend(parse_output(part)?.0);
        length += 1;
    }
    Some((elements, length))
}

/// Splits `{..},{..}` at the commas between the braces.
fn nested(inner: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut quoted, mut escaped, mut start) = (0u32, false, false, 0);
    for (at, character) in inner.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    parts
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let character = self.rest.chars().next()?;
        self.rest = &self.rest[character.len_utf8()..];
        Some(character)
    }

    /// `array_isspace`.
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    }

    /// One element and the space around it: `Some(None)` is NULL.
    fn element(&mut self) -> Option<Option<String>> {
        self.skip_space();
        if let Some(rest) = self.rest.strip_prefix('"') {
            self.rest = rest;
            let text = self.quoted()?;
            self.skip_space();
            return Some(Some(text));
        }
        let end = self.rest.find(',').unwrap_or(self.rest.len());
        let text = self.rest[..end].trim_end_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
        // Backslashes keep spaces and commas; such elements are rare enough to be Postgres' own.
        if text.is_empty() || text.contains(['{', '}', '"', '\\']) {
            return None;
        }
        self.rest = &self.rest[end..];
        Some((!text.eq_ignore_ascii_case("null")).then(|| text.to_owned()))
    }

    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.next()? {
                '"' => return Some(text),
                '\\' => text.push(self.next()?),
                character => text.push(character),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(literal: &str) -> Option<Vec<Option<String>>> {
        parse(literal)
    }

    fn some(items: &[&str]) -> Option<Vec<Option<String>>> {
        Some(items.iter().map(|item| Some(item.to_string())).collect())
    }

    #[test]
    fn plain_literals_are_read() {
        assert_eq!(elements("{}"), some(&[]));
        assert_eq!(elements("{ }"), some(&[]));
        assert_eq!(elements("{1, 2 ,3}"), some(&["1", "2", "3"]));
        assert_eq!(elements(r#"{"a,b",c d}"#), some(&["a,b", "c d"]));
        assert_eq!(elements(r#"{"a\"\\b", "" }"#), some(&["a\"\\b", ""]));
        assert_eq!(elements("{NULL,null,\"null\"}"), Some(vec![None, None, Some("null".into())]));
    }

    #[test]
    fn everything_else_is_left_to_postgres() {
        for literal in ["", "{", "{a,}", "{,a}", "{a,,b}", "{{1},{2}}", "{a\"b\"}", "{\"a\"b}", r"{a\,b}", "{\"a}"] {
            assert_eq!(elements(literal), None, "{literal}");
        }
    }

    #[test]
    fn output_of_nested_arrays_is_flattened() {
        let (elements, length) = parse_output(r#"{{a,"b,}"},{NULL,d}}"#).unwrap();
        assert_eq!(elements, [Some("a".into()), Some("b,}".into()), None, Some("d".into())]);
        assert_eq!(length, 2);
        assert_eq!(parse_output("[0:1]={a,b}").unwrap().1, 2);
    }
}
