//! `jsonb` values.

mod parse;
mod print;

use std::sync::Arc;

pub(super) use parse::{check, elements, members, scalar_text};

use super::Failure;

/// What `jsonb` keeps of a document: keys sorted (shorter first, then by bytes), the last of equal keys, numbers as
/// `numeric`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Json {
    Null,
    Bool(bool),
    Number(bigdecimal::BigDecimal),
    String(Arc<str>),
    Array(Vec<Json>),
    Object(Vec<(Arc<str>, Json)>),
}

impl Json {
    /// `text::jsonb`.
    pub fn parse(text: &str) -> Result<Json, Failure> {
        parse::jsonb(text)
    }

    /// The value of a key; `None` also for what is no object.
    pub fn field(&self, name: &str) -> Option<&Json> {
        let Json::Object(members) = self else { return None };
        let order = |key: &str| (key.len(), key).cmp(&(name.len(), name));
        members.binary_search_by(|(key, _)| order(key)).ok().map(|place| &members[place].1)
    }

    /// `@>`, below the root: an object or an array has all that the other one has.
    pub fn contains(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Object(_), Json::Object(members)) => members.iter().all(|(key, wanted)| match self.field(key) {
                Some(found) if wanted.is_container() => found.contains(wanted),
                Some(found) => found == wanted,
                None => false,
            }),
            (Json::Array(have), Json::Array(wanted)) => wanted.iter().all(|wanted| match wanted.is_container() {
                true => have.iter().any(|element| element.is_container() && element.contains(wanted)),
                false => have.contains(wanted),
            }),
            _ => false,
        }
    }

    pub fn is_container(&self) -> bool {
        matches!(self, Json::Array(_) | Json::Object(_))
    }
}

impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        print::write(self, f)
    }
}
