//! Who is present on a topic, and what is told of changes: pure, without members, frames and clocks.
//!
//! A client is told of a change by `{"joins":..,"leaves":..}`; a channel has one meta under its key, and several channels
//! may share a key: then its metas are listed, oldest first.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foldhash::fast::RandomState;
use serde_json::Value;
use smallvec::SmallVec;

use super::Subject;
use crate::channels::frame::TextFrame;
use crate::channels::raw_object;
use crate::channels::subscribe::ChannelId;

/// `phx_ref`: opaque and unique, 16 characters of URL-safe base64 as the original's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ref([u8; 16]);

impl Ref {
    pub fn new(number: u64, salt: u32) -> Ref {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes[8..].copy_from_slice(&salt.to_be_bytes());
        let mut text = [0; 16];
        let written = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
        debug_assert_eq!(written, Ok(text.len()));
        Ref(text)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[derive(Default)]
pub struct Presence {
    by_key: HashMap<Arc<str>, SmallVec<[Entry; 1]>, RandomState>,
    entries: usize,
    /// What its state has, about.
    bytes: usize,
}

/// One meta.
struct Entry {
    channel: ChannelId,
    /// Its socket was lost, and it may be taken over by whoever this is.
    lingers_for: Option<Subject>,
    phx_ref: Ref,
    previous: Option<Ref>,
    /// What the client tracked: the inside of a JSON object, without the two refs.
    payload: Box<str>,
}

impl Presence {
    pub fn len(&self) -> usize {
        self.entries
    }

    pub fn bytes(&self) -> usize {
        self.bytes + 2
    }

    /// The diff, unless nothing has changed. `payload`: a raw JSON object.
    pub fn track(
        &mut self,
        key: &Arc<str>,
        channel: ChannelId,
        subject: Subject,
        payload: &str,
        next_ref: impl FnOnce() -> Ref,
    ) -> Option<String> {
        let payload = inside(payload);
        let metas = self.by_key.entry(Arc::clone(key)).or_default();
        let own = metas.iter().position(|entry| entry.channel == channel);
        let place = own.or_else(|| metas.iter().position(|entry| entry.lingers_for == Some(subject)));
        let Some(place) = place else {
            let entry = Entry { channel, lingers_for: None, phx_ref: next_ref(), previous: None, payload };
            self.entries += 1;
            self.bytes += entry.bytes(key);
            let diff = diff(key, Some(&entry), None);
            metas.push(entry);
            return Some(diff);
        };
        let entry = &mut metas[place];
        (entry.channel, entry.lingers_for) = (channel, None);
        if is_same(&entry.payload, &payload) {
            return None;
        }
        let before = metas.remove(place);
        let after = Entry { channel, lingers_for: None, phx_ref: next_ref(), previous: Some(before.phx_ref), payload };
        self.bytes = (self.bytes + after.bytes(key)).saturating_sub(before.bytes(key));
        let diff = diff(key, Some(&after), Some(&before));
        metas.push(after);
        Some(diff)
    }

    /// The diff, if it was there.
    pub fn untrack(&mut self, key: &str, channel: ChannelId) -> Option<String> {
        self.remove(key, |entry| entry.channel == channel)
    }

    /// It stays without its socket. Whether there is one.
    pub fn linger(&mut self, key: &str, channel: ChannelId, subject: Subject) -> bool {
        let entry = self.by_key.get_mut(key).and_then(|metas| metas.iter_mut().find(|entry| entry.channel == channel));
        if let Some(entry) = entry {
            entry.lingers_for = Some(subject);
            return true;
        }
        false
    }

    /// The diff, if nobody has taken it over.
    pub fn end_grace(&mut self, key: &str, channel: ChannelId) -> Option<String> {
        self.remove(key, |entry| entry.channel == channel && entry.lingers_for.is_some())
    }

    fn remove(&mut self, key: &str, is_meant: impl Fn(&Entry) -> bool) -> Option<String> {
        let metas = self.by_key.get_mut(key)?;
        let entry = metas.remove(metas.iter().position(is_meant)?);
        if metas.is_empty() {
            self.by_key.remove(key);
        }
        self.entries -= 1;
        self.bytes = self.bytes.saturating_sub(entry.bytes(key));
        Some(diff(key, None, Some(&entry)))
    }

    /// `{"key":{"metas":[..]},..}`
    pub fn write_state(&self, frame: &mut TextFrame) {
        frame.push("{");
        for (index, (key, metas)) in self.by_key.iter().enumerate() {
            frame.push(if index > 0 { "," } else { "" });
            frame.push_json(key);
            frame.push(":{\"metas\":[");
            for (index, entry) in metas.iter().enumerate() {
                frame.push(if index > 0 { "," } else { "" });
                entry.write(|text| frame.push(text));
            }
            frame.push("]}");
        }
        frame.push("}");
    }
}

impl Entry {
    fn bytes(&self, key: &str) -> usize {
        80 + key.len() + self.payload.len()
    }

    fn write(&self, mut push: impl FnMut(&str)) {
        push("{\"phx_ref\":\"");
        push(self.phx_ref.as_str());
        push("\"");
        if let Some(previous) = &self.previous {
            push(",\"phx_ref_prev\":\"");
            push(previous.as_str());
            push("\"");
        }
        if !self.payload.is_empty() {
            push(",");
            push(&self.payload);
        }
        push("}");
    }
}

fn diff(key: &str, joins: Option<&Entry>, leaves: Option<&Entry>) -> String {
    let mut text = String::with_capacity(256 + key.len() + joins.map_or(0, |entry| entry.payload.len()));
    let key = Value::from(key).to_string();
    for (name, entry) in [("{\"joins\":{", joins), ("},\"leaves\":{", leaves)] {
        text.push_str(name);
        if let Some(entry) = entry {
            text.push_str(&key);
            text.push_str(":{\"metas\":[");
            entry.write(|piece| text.push_str(piece));
            text.push_str("]}");
        }
    }
    text.push_str("}}");
    text
}

/// The inside of an object, as it was sent. The refs are the server's: what a client calls so is left out, as the
/// original overwrites it.
fn inside(payload: &str) -> Box<str> {
    let is_own = |key: &str| matches!(key, "phx_ref" | "phx_ref_prev");
    match raw_object::parse(payload) {
        // A name of ours may be written with escapes, so the text itself is not searched for it.
        Some(pairs) if pairs.iter().any(|(key, _)| is_own(key)) => {
            let pairs = pairs.iter().filter(|(key, _)| !is_own(key));
            let pairs = pairs.map(|(key, value)| format!("{}:{}", Value::from(&**key), value.get()));
            pairs.collect::<Vec<_>>().join(",").into()
        }
        _ => {
            let inside = payload.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}'));
            inside.unwrap_or_default().trim().into()
        }
    }
}

/// As maps, whatever their order and spaces.
fn is_same(one: &str, other: &str) -> bool {
    let parse = |inside: &str| serde_json::from_str::<Value>(&format!("{{{inside}}}")).ok();
    one == other || parse(one).zip(parse(other)).is_some_and(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Subject = Subject(1);

    struct Topic(Presence, u64);

    impl Topic {
        fn track(&mut self, key: &str, channel: u64, payload: &str) -> Option<String> {
            self.track_as(ME, key, channel, payload)
        }

        fn track_as(&mut self, who: Subject, key: &str, channel: u64, payload: &str) -> Option<String> {
            let number = &mut self.1;
            let next_ref = || {
                *number += 1;
                Ref::new(*number, 0)
            };
            self.0.track(&key.into(), ChannelId(channel), who, payload, next_ref).map(named)
        }

        fn state(&self) -> String {
            let mut frame = TextFrame::with_capacity(0);
            self.0.write_state(&mut frame);
            named(String::from_utf8(frame.finish()[2..].to_vec()).unwrap())
        }
    }

    /// Refs by their numbers.
    fn named(text: String) -> String {
        (1..9).fold(text, |text, number| text.replace(Ref::new(number, 0).as_str(), &format!("#{number}")))
    }

    #[test]
    fn a_presence_joins_changes_and_leaves() {
        let mut topic = Topic(Presence::default(), 0);
        assert_eq!(
            topic.track("a", 1, r#"{"user":1}"#).unwrap(),
            r##"{"joins":{"a":{"metas":[{"phx_ref":"#1","user":1}]}},"leaves":{}}"##
        );
        assert_eq!(topic.track("a", 1, r#" { "user" : 1 } "#), None);
        assert_eq!(
            topic.track("a", 1, r#"{"user":11}"#).unwrap(),
            r##"{"joins":{"a":{"metas":[{"phx_ref":"#2","phx_ref_prev":"#1","user":11}]}},"leaves":{"a":{"metas":[{"phx_ref":"#1","user":1}]}}}"##
        );
        assert_eq!(
            topic.0.untrack("a", ChannelId(1)).map(named).unwrap(),
            r##"{"joins":{},"leaves":{"a":{"metas":[{"phx_ref":"#2","phx_ref_prev":"#1","user":11}]}}}"##
        );
        assert_eq!(topic.0.untrack("a", ChannelId(1)), None);
        assert_eq!((topic.0.len(), topic.0.bytes()), (0, 2));
    }

    #[test]
    fn metas_of_one_key_are_listed_oldest_first() {
        let mut topic = Topic(Presence::default(), 0);
        topic.track("same", 1, r#"{"d":1}"#);
        topic.track("same", 2, "{}");
        assert_eq!(topic.state(), r##"{"same":{"metas":[{"phx_ref":"#1","d":1},{"phx_ref":"#2"}]}}"##);
        topic.0.untrack("same", ChannelId(1));
        assert_eq!(topic.state(), r##"{"same":{"metas":[{"phx_ref":"#2"}]}}"##);
    }

    #[test]
    fn a_client_cannot_choose_its_ref() {
        let mut topic = Topic(Presence::default(), 0);
        let diff = topic.track("a", 1, r#"{"phx_ref":"mine","n":1.50,"phx\u005fref_prev":"x","o":{"phx_ref":1}}"#);
        assert_eq!(
            diff.unwrap(),
            r##"{"joins":{"a":{"metas":[{"phx_ref":"#1","n":1.50,"o":{"phx_ref":1}}]}},"leaves":{}}"##
        );
    }

    #[test]
    fn who_comes_back_in_time_never_left() {
        let mut topic = Topic(Presence::default(), 0);
        topic.track("a", 1, r#"{"n":1}"#);
        assert!(topic.0.linger("a", ChannelId(1), ME));
        // Somebody else with the same key is somebody else.
        assert!(topic.track_as(Subject(2), "a", 2, "{}").unwrap().contains("#2"));
        assert_eq!(topic.track("a", 3, r#"{"n":1}"#), None);
        assert_eq!(topic.0.end_grace("a", ChannelId(1)), None);
        assert_eq!(topic.0.untrack("a", ChannelId(1)), None);
        assert!(topic.0.linger("a", ChannelId(3), ME));
        assert_eq!(
            topic.0.end_grace("a", ChannelId(3)).map(named).unwrap(),
            r##"{"joins":{},"leaves":{"a":{"metas":[{"phx_ref":"#1","n":1}]}}}"##
        );
    }
}
