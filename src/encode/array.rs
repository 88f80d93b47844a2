//! The text of arrays, as `array_out` prints them.

use memchr::{memchr, memchr2};

use super::datum::Encoding;
use super::error::DatumError;

/// An array type: what its elements are, and what stands between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayEncoding {
    pub(super) element: Encoding,
    pub(super) delimiter: u8,
}

impl ArrayEncoding {
    /// Appends `{1,NULL,3}` or `[0:1]={{a},{"b c"}}` as nested JSON arrays; bounds have no place in JSON.
    pub(super) fn write(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), DatumError> {
        let mut offset = bounds_len(text);
        let mut depth = 0u32;
        let mut unescaped = Vec::new();
        loop {
            // An item: a nested array's opening brace or an element.
            match text.get(offset) {
                Some(b'{') => {
                    out.push(b'[');
                    depth += 1;
                    offset += 1;
                    if text.get(offset) != Some(&b'}') {
                        continue;
                    }
                }
                Some(b'"') if depth > 0 => {
                    offset = read_quoted(text, offset + 1, &mut unescaped)?;
                    self.element.write(&unescaped, out)?;
                }
                Some(_) if depth > 0 => {
                    let end = text[offset..].iter().position(|byte| *byte == self.delimiter || *byte == b'}');
                    let end = offset + end.ok_or_else(|| malformed(text.len()))?;
                    match &text[offset..end] {
                        b"" => return Err(malformed(offset)),
                        b"NULL" => out.extend_from_slice(b"null"),
                        element => self.element.write(element, out)?,
                    }
                    offset = end;
                }
                _ => return Err(malformed(offset)),
            }
            // What follows an item: closing braces, then a delimiter or the end.
            while text.get(offset) == Some(&b'}') {
                out.push(b']');
                depth -= 1;
                offset += 1;
                if depth == 0 {
                    return if offset == text.len() { Ok(()) } else { Err(malformed(offset)) };
                }
            }
            if text.get(offset) != Some(&self.delimiter) {
                return Err(malformed(offset));
            }
            out.extend_from_slice(b", ");
            offset += 1;
        }
    }
}

/// `[-1:0][2:3]=` stands before the braces where a lower bound is not 1.
fn bounds_len(text: &[u8]) -> usize {
    match text.first() {
        Some(b'[') => memchr(b'=', text).map_or(text.len(), |position| position + 1),
        _ => 0,
    }
}

/// Reads an element from behind its opening quote; gives the offset behind the closing one.
fn read_quoted(text: &[u8], mut offset: usize, unescaped: &mut Vec<u8>) -> Result<usize, DatumError> {
    unescaped.clear();
    loop {
        let rest = &text[offset..];
        let special = memchr2(b'"', b'\\', rest).ok_or_else(|| malformed(text.len()))?;
        unescaped.extend_from_slice(&rest[..special]);
        offset += special + 1;
        if rest[special] == b'"' {
            return Ok(offset);
        }
        unescaped.push(*text.get(offset).ok_or_else(|| malformed(offset))?);
        offset += 1;
    }
}

/// Appends `1 2 3`, the text of `int2vector` and `oidvector`, which count as arrays although they print otherwise.
pub(super) fn write_vector(element: &Encoding, text: &[u8], out: &mut Vec<u8>) -> Result<(), DatumError> {
    out.push(b'[');
    if !text.is_empty() {
        for (position, item) in text.split(|byte| *byte == b' ').enumerate() {
            if position > 0 {
                out.extend_from_slice(b", ");
            }
            element.write(item, out)?;
        }
    }
    out.push(b']');
    Ok(())
}

fn malformed(offset: usize) -> DatumError {
    DatumError::Malformed { expected: "array", offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(element: Encoding, delimiter: u8, text: &str) -> Result<String, DatumError> {
        let mut out = Vec::new();
        ArrayEncoding { element, delimiter }.write(text.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn elements_nest_as_the_dimensions_do() {
        let integers = |text| array(Encoding::Integer, b',', text).unwrap();
        assert_eq!(integers("{}"), "[]");
        assert_eq!(integers("{1,NULL,3}"), "[1, null, 3]");
        assert_eq!(integers("{{1,2},{3,4}}"), "[[1, 2], [3, 4]]");
        assert_eq!(integers("{{{1}},{{2}}}"), "[[[1]], [[2]]]");
        assert_eq!(integers("[0:1]={1,2}"), "[1, 2]");
        assert_eq!(integers("[-1:0][2:3]={{1,2},{3,4}}"), "[[1, 2], [3, 4]]");
    }

    #[test]
    fn a_quoted_null_is_a_word_and_quotes_are_taken_off() {
        let texts = |text| array(Encoding::Text, b',', text).unwrap();
        assert_eq!(texts(r#"{a,"b,c",NULL,"d\"e"}"#), r#"["a", "b,c", null, "d\"e"]"#);
        assert_eq!(texts(r#"{"NULL","","{}","\\x01",nULLs}"#), r#"["NULL", "", "{}", "\\x01", "nULLs"]"#);
        assert_eq!(
            array(Encoding::Text, b';', "{(1,1),(0,0);(2,2),(1,1)}").unwrap(),
            r#"["(1,1),(0,0)", "(2,2),(1,1)"]"#
        );
    }

    #[test]
    fn anything_else_is_malformed() {
        for text in [
            "", "{", "}", "1", "{1", "{1,", "{1,}", "{,1}", "{1}}", "{1}x", "{{1}", "{\"", "{\"a", "{\"a\\",
            "{\"a\"b}", "[0:1]", "[0:1]=", "[0:1]=1", "{{},1", "\"a\"", ",", "{}{}",
        ] {
            assert!(array(Encoding::Text, b',', text).is_err(), "{text}");
        }
    }
}
