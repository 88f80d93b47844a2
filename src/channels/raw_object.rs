//! A JSON object taken apart one level deep; its values stay as they were written.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::phoenix::v2::Text;

type Pairs<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// `None`: it is no object.
pub fn parse(text: &str) -> Option<Pairs<'_>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let pairs = deserializer.deserialize_map(Object).ok()?;
    deserializer.end().ok()?;
    Some(pairs)
}

/// The value of a key; of several alike, the last, as JSON's readers have it.
pub fn get<'a>(pairs: &Pairs<'a>, key: &str) -> Option<&'a str> {
    pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.get())
}

struct Object;

impl<'a> Visitor<'a> for Object {
    type Value = Pairs<'a>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some((Text(key), value)) = map.next_entry::<Text<'a>, &'a RawValue>()? {
            pairs.push((key, value));
        }
        Ok(pairs)
    }
}
