//! What differs from run to run without a meaning of its own: ids and references, the same for the same throughout a case.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// What an id of ours was in the recording, and back: two things never share one.
#[derive(Clone, Debug, Default)]
pub struct Renaming {
    /// Of bindings, by topic: the original's are hashes of the parameters, ours need only be positive numbers.
    pub bindings: HashMap<(String, String), String>,
    /// Of rows, by table: sequences stand elsewhere than they stood then.
    rows: Pairs<(String, String)>,
    /// UUIDs of messages and of generated presence keys, and `phx_ref`s.
    names: Pairs<String>,
    /// UUIDs that the client made: they must come back as they are.
    own: HashSet<String>,
}

#[derive(Clone, Debug)]
struct Pairs<T> {
    forth: HashMap<T, T>,
    back: HashMap<T, T>,
}

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Pairs { forth: HashMap::new(), back: HashMap::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Pairs<T> {
    fn bind(&mut self, ours: &T, recorded: &T) -> bool {
        let forth = self.forth.entry(ours.clone()).or_insert_with(|| recorded.clone());
        let back = self.back.entry(recorded.clone()).or_insert_with(|| ours.clone());
        forth == recorded && back == ours
    }
}

impl Renaming {
    /// `sent`: everything that the client says in this case.
    pub fn of_client(sent: impl Iterator<Item = String>) -> Renaming {
        let own = sent
            .flat_map(|text| uuids(&text).into_iter().map(|at| text[at..at + UUID].to_string()).collect::<Vec<_>>());
        Renaming { own: own.collect(), ..Renaming::default() }
    }

    pub fn is_row(&mut self, table: &str, ours: &str, recorded: &str) -> bool {
        self.rows.bind(&(table.to_string(), ours.to_string()), &(table.to_string(), recorded.to_string()))
    }

    /// Whether `ours` is what `recorded` was; a first meeting makes it so.
    fn is_name(&mut self, ours: &str, recorded: &str) -> bool {
        !self.own.contains(recorded) && self.names.bind(&ours.to_string(), &recorded.to_string())
    }

    /// `ours` with every UUID called as in the recording.
    pub fn text(&mut self, ours: &str, recorded: &str) -> String {
        let mut out = ours.to_string();
        for (our, then) in uuids(ours).into_iter().zip(uuids(recorded)) {
            let (our, then) = (our..our + UUID, &recorded[then..then + UUID]);
            if self.is_name(&ours[our.clone()], then) {
                out.replace_range(our, then);
            }
        }
        out
    }

    /// `ours` with its UUIDs, as keys too, and its `phx_ref`s called as in the recording.
    pub fn value(&mut self, ours: &mut Value, recorded: &Value) {
        match (ours, recorded) {
            (Value::Object(ours), Value::Object(recorded)) => self.object(ours, recorded),
            (Value::Array(ours), Value::Array(recorded)) => {
                ours.iter_mut().zip(recorded).for_each(|(ours, recorded)| self.value(ours, recorded));
            }
            (Value::String(ours), Value::String(recorded))
                if is_uuid(ours) && is_uuid(recorded) && self.is_name(ours, recorded) =>
            {
                ours.clone_from(recorded);
            }
            _ => {}
        }
    }

    fn object(&mut self, ours: &mut Map<String, Value>, recorded: &Map<String, Value>) {
        let generated = |map: &Map<String, Value>| map.keys().filter(|key| is_uuid(key)).cloned().collect::<Vec<_>>();
        for (our, then) in generated(ours).into_iter().zip(generated(recorded)) {
            if self.is_name(&our, &then)
                && let Some(value) = ours.remove(&our)
            {
                ours.insert(then, value);
            }
        }
        for (key, our) in ours {
            let Some(then) = recorded.get(key) else { continue };
            match (key.as_str(), our.as_str(), then.as_str()) {
                ("phx_ref" | "phx_ref_prev", Some(reference), Some(name)) => {
                    if self.is_name(reference, name) {
                        *our = then.clone();
                    }
                }
                _ => self.value(our, then),
            }
        }
    }
}

const UUID: usize = 36;

fn is_uuid(text: &str) -> bool {
    text.len() == UUID
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Where UUIDs begin. From hyphen to hyphen, as some texts have megabytes without one.
fn uuids(text: &str) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::new();
    for (hyphen, _) in text.match_indices('-') {
        let Some(at) = hyphen.checked_sub(8) else { continue };
        let is_behind = found.last().is_none_or(|last| last + UUID <= at);
        if is_behind && text.get(at..at + UUID).is_some_and(is_uuid) {
            found.push(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaa-0000-0000-0000-000000000001";
    const B: &str = "bbbbbbbb-0000-0000-0000-000000000002";
    const X: &str = "cccccccc-0000-0000-0000-000000000003";
    const Y: &str = "dddddddd-0000-0000-0000-000000000004";

    #[test]
    fn one_name_stands_for_one_thing() {
        let mut renaming = Renaming::default();
        assert_eq!(renaming.text(&format!("{A} {B}"), &format!("{X} {Y}")), format!("{X} {Y}"));
        assert_eq!(renaming.text(A, Y), A, "another than before");
        assert_eq!(renaming.text("aaaaaaaa-0000-0000-0000-000000000009", X), "aaaaaaaa-0000-0000-0000-000000000009");
    }

    #[test]
    fn what_the_client_made_comes_back_as_it_is() {
        let mut renaming = Renaming::of_client([format!("select f('{X}')")].into_iter());
        assert_eq!(renaming.text(X, X), X);
        assert_eq!(renaming.text(A, X), A);
    }

    #[test]
    fn references_of_presences_keep_what_they_refer_to() {
        let mut renaming = Renaming::default();
        let mut named = |ours: Value, recorded: Value| {
            let mut value = ours;
            renaming.value(&mut value, &recorded);
            value == recorded
        };
        let meta = |key: &str, reference: &str, before: &str| serde_json::json!({ key: { "metas": [{ "phx_ref": reference, "phx_ref_prev": before }] } });
        assert!(named(meta(A, "1", "0"), meta(X, "a", "z")));
        assert!(named(meta(A, "2", "1"), meta(X, "b", "a")));
        assert!(!named(meta(A, "3", "1"), meta(X, "c", "b")), "the one before was another");
        assert!(!named(meta(B, "4", "3"), meta(X, "d", "c")), "another key");
    }
}
