//! The text of composite values, as `record_out` prints them.

use std::ops::Range;

use memchr::memchr2;
use smallvec::SmallVec;

use super::datum::Encoding;
use super::error::DatumError;
use super::escape::write_string;

/// A composite type's attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompositeEncoding {
    /// In `jsonb`'s order of keys: shorter names first, then by bytes.
    attributes: Box<[Attribute]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attribute {
    /// Its place in the text.
    place: usize,
    /// `"name": `, escaped.
    key: Box<[u8]>,
    encoding: Encoding,
}

/// Where a field's text lies among the unescaped bytes; `None` is NULL.
type Fields = SmallVec<[Option<Range<usize>>; 16]>;

impl CompositeEncoding {
    /// Attributes in the type's order.
    pub(super) fn new<'a>(attributes: impl Iterator<Item = (&'a str, Encoding)>) -> CompositeEncoding {
        let mut named: Vec<_> = attributes.enumerate().collect();
        named.sort_by_key(|(_, (name, _))| (name.len(), *name));
        let attribute = |(place, (name, encoding)): (usize, (&str, Encoding))| {
            let mut key = Vec::new();
            write_string(name.as_bytes(), &mut key);
            key.extend_from_slice(b": ");
            Attribute { place, key: key.into(), encoding }
        };
        CompositeEncoding { attributes: named.into_iter().map(attribute).collect() }
    }

    pub(super) fn encodings(&self) -> impl Iterator<Item = &Encoding> {
        self.attributes.iter().map(|attribute| &attribute.encoding)
    }

    /// Appends `(1,"a b",)` as a JSON object.
    pub(super) fn write(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), DatumError> {
        let mut unescaped = Vec::with_capacity(text.len());
        let mut fields = split(text, &mut unescaped)?;
        // A type without attributes prints like one NULL.
        if self.attributes.is_empty() && fields[..] == [None] {
            fields.clear();
        }
        if fields.len() != self.attributes.len() {
            return Err(DatumError::Malformed { expected: "composite with these attributes", offset: text.len() });
        }
        out.push(b'{');
        for (position, attribute) in self.attributes.iter().enumerate() {
            if position > 0 {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(&attribute.key);
            match &fields[attribute.place] {
                None => out.extend_from_slice(b"null"),
                Some(range) => attribute.encoding.write(&unescaped[range.clone()], out)?,
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// Takes the fields apart. There is always at least one.
fn split(text: &[u8], unescaped: &mut Vec<u8>) -> Result<Fields, DatumError> {
    let mut fields = Fields::new();
    if text.first() != Some(&b'(') {
        return Err(malformed(0));
    }
    let mut offset = 1;
    loop {
        let field_start = offset;
        let start = unescaped.len();
        let ends_row = loop {
            match text.get(offset) {
                None => return Err(malformed(offset)),
                Some(b')') => break true,
                Some(b',') => break false,
                Some(b'"') => offset = read_quoted(text, offset + 1, unescaped)?,
                Some(b'\\') => {
                    unescaped.push(*text.get(offset + 1).ok_or_else(|| malformed(offset))?);
                    offset += 2;
                }
                Some(byte) => {
                    unescaped.push(*byte);
                    offset += 1;
                }
            }
        };
        // Nothing at all is NULL; an empty string is quoted.
        fields.push((offset > field_start).then_some(start..unescaped.len()));
        offset += 1;
        if ends_row {
            return if offset == text.len() { Ok(fields) } else { Err(malformed(offset)) };
        }
    }
}

/// Reads from behind an opening quote; gives the offset behind the closing one. Quotes and backslashes are doubled.
fn read_quoted(text: &[u8], mut offset: usize, unescaped: &mut Vec<u8>) -> Result<usize, DatumError> {
    loop {
        let rest = &text[offset..];
        let special = memchr2(b'"', b'\\', rest).ok_or_else(|| malformed(text.len()))?;
        unescaped.extend_from_slice(&rest[..special]);
        offset += special + 1;
        let next = text.get(offset).copied();
        match (rest[special], next) {
            (b'\\', Some(byte)) => unescaped.push(byte),
            (b'"', Some(b'"')) => unescaped.push(b'"'),
            (b'"', _) => return Ok(offset),
            _ => return Err(malformed(offset)),
        }
        offset += 1;
    }
}

fn malformed(offset: usize) -> DatumError {
    DatumError::Malformed { expected: "composite", offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composite(attributes: &[(&'static str, Encoding)], text: &str) -> Result<String, DatumError> {
        let mut out = Vec::new();
        CompositeEncoding::new(attributes.iter().cloned()).write(text.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn fields_become_keys_in_jsonb_order() {
        let attributes = [("city", Encoding::Text), ("n", Encoding::Integer), ("a\"b", Encoding::Text)];
        assert_eq!(
            composite(&attributes, r#"("New ""York""\\",7,)"#).unwrap(),
            r#"{"n": 7, "a\"b": null, "city": "New \"York\"\\"}"#
        );
        assert_eq!(composite(&attributes, r#"("",,"")"#).unwrap(), r#"{"n": null, "a\"b": "", "city": ""}"#);
    }

    #[test]
    fn composites_nest() {
        let inner = CompositeEncoding::new([("x", Encoding::Integer), ("y", Encoding::Text)].into_iter());
        let attributes = [("p", Encoding::Composite(Box::new(inner))), ("q", Encoding::Bool)];
        assert_eq!(
            composite(&attributes, r#"("(1,""a b"")",t)"#).unwrap(),
            r#"{"p": {"x": 1, "y": "a b"}, "q": true}"#
        );
    }

    #[test]
    fn a_type_of_no_attributes_and_one_null_look_alike() {
        assert_eq!(composite(&[], "()").unwrap(), "{}");
        assert_eq!(composite(&[("a", Encoding::Text)], "()").unwrap(), r#"{"a": null}"#);
    }

    #[test]
    fn anything_else_is_malformed() {
        for text in ["", "(", ")", "a", "(a", "(a,", "(\"", "(\"a", "(\"a\"", "(\"a\\", "(\\", "(a)x", "(a,b)"] {
            assert!(composite(&[("a", Encoding::Text)], text).is_err(), "{text}");
        }
    }
}
