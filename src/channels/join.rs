//! The payload of `phx_join` (PROTOCOL 3.1).
//!
//! Lenient where the original is: a field of the wrong type falls to its default and the join goes on. Only what makes
//! the original's join crash fails here too, with its words.

use std::cell::OnceCell;
use std::collections::HashMap;

use serde_json::{Map, Value};

use super::replay::LIMIT_MAX;
use crate::authz::Claims;
use crate::resume::{Ask, Holder, OWN_KEYS};
use crate::routing::{Binding, BindingError};

/// What a join asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinRequest {
    /// `None`: the token of the upgrade.
    pub token: Option<String>,
    pub private: bool,
    pub broadcast: BroadcastOptions,
    pub presence_enabled: bool,
    /// `None`: the server makes one.
    pub presence_key: Option<Box<str>>,
    pub replay: Option<ReplayOptions>,
    pub replication_ready: bool,
    pub wanted: Wanted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BroadcastOptions {
    /// Replies to broadcasts.
    pub ack: bool,
    /// The sender gets its own broadcasts.
    pub own: bool,
}

/// `config.broadcast.replay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayOptions {
    /// Unix milliseconds; `None`: not an integer.
    pub since: Option<i64>,
    pub limit: u32,
}

/// The `postgres_changes` that a channel wants, kept for as long as it is joined: a new token binds them anew.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    Items(Box<[WantedItem]>),
    /// No `config` at all: the topic says what is wanted.
    Legacy(WantedItem),
}

/// One item of `config.postgres_changes`.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedItem {
    /// What the client knows it by: in the reply, and in every event's `ids`.
    pub id: u32,
    /// The canonical text of the client's object, without a key `id`.
    pub params: Box<str>,
}

/// What makes a join fail. The texts are Elixir's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("expected params to be a :map, got: `{0}`")]
    PayloadNotAMap(String),
    #[error("no function clause matching in Access.get/3")]
    NoAccess,
    #[error(
        "the Access module supports only keyword lists (with atom keys), got: \"{0}\"\n\nIf you want to search lists of \
         tuples, use List.keyfind/3"
    )]
    AccessToList(&'static str),
    #[error("expected a map, got:\n\n    {0}\n")]
    ItemNotAMap(String),
}

impl JoinRequest {
    pub fn parse(payload: Value, subtopic: &str) -> Result<JoinRequest, ConfigError> {
        let Value::Object(mut params) = payload else {
            return Err(ConfigError::PayloadNotAMap(inspect(&payload)));
        };
        let config = params.remove("config");
        let mut request = JoinRequest {
            token: asked_token(params),
            private: false,
            broadcast: BroadcastOptions::default(),
            presence_enabled: false,
            presence_key: None,
            replay: None,
            replication_ready: false,
            wanted: Wanted::Items(Box::default()),
        };
        let Some(config) = config else {
            request.wanted = Wanted::Legacy(legacy_item(subtopic));
            return Ok(request);
        };
        if let Some(mut config) = section(config, "broadcast")? {
            request.private = flexible_bool(config.get("private"));
            if let Some(presence) = config.get("presence") {
                request.presence_enabled = flexible_bool(presence.get("enabled"));
                request.presence_key = presence.get("key").and_then(presence_key);
            }
            let items = config.remove("postgres_changes").unwrap_or_default();
            if let Some(broadcast) = section(config.remove("broadcast").unwrap_or_default(), "replication_ready")? {
                request.broadcast.ack = flexible_bool(broadcast.get("ack"));
                request.broadcast.own = flexible_bool(broadcast.get("self"));
                request.replay = broadcast.get("replay").filter(|replay| !replay.is_null()).map(replay_options);
                let ready = broadcast.get("replication_ready");
                request.replication_ready =
                    ready.is_some_and(|ready| !matches!(ready, Value::Null | Value::Bool(false)));
            }
            request.wanted = Wanted::Items(parse_items(items)?);
        }
        Ok(request)
    }
}

/// `user_token` is preferred, but the `sb_` test looks at `access_token` first (PROTOCOL 3.1).
fn asked_token(mut params: Map<String, Value>) -> Option<String> {
    let mut string = |key: &str| match params.remove(key) {
        Some(Value::String(token)) => Some(token),
        _ => None,
    };
    let (access, user) = (string("access_token"), string("user_token"));
    if access.as_ref().or(user.as_ref()).is_some_and(|token| is_opaque_key(token)) {
        return None;
    }
    user.or(access)
}

/// `sb_publishable_...` and `sb_secret_...` are the gateway's, not tokens.
pub fn is_opaque_key(token: &str) -> bool {
    token.starts_with("sb_")
}

/// An object, or `None` for null. `key` is what the original looks up in it.
fn section(value: Value, key: &'static str) -> Result<Option<Map<String, Value>>, ConfigError> {
    match value {
        Value::Object(map) => Ok(Some(map)),
        Value::Null => Ok(None),
        Value::Array(_) => Err(ConfigError::AccessToList(key)),
        _ => Err(ConfigError::NoAccess),
    }
}

/// A boolean, or its name as a string; anything else is false.
fn flexible_bool(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

fn presence_key(key: &Value) -> Option<Box<str>> {
    match key {
        Value::String(key) if !key.is_empty() => Some(key.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        _ => None,
    }
}

fn replay_options(replay: &Value) -> ReplayOptions {
    let limit = replay.get("limit").and_then(Value::as_i64).unwrap_or(LIMIT_MAX.into());
    ReplayOptions { since: replay.get("since").and_then(Value::as_i64), limit: limit.clamp(1, LIMIT_MAX.into()) as u32 }
}

/// More than any join may have, and so few that ids which were made to collide are found quickly.
const ITEMS_READ_MAX: usize = 1000;

fn parse_items(items: Value) -> Result<Box<[WantedItem]>, ConfigError> {
    let Value::Array(items) = items else { return Ok(Box::default()) };
    let mut ids = HashMap::new();
    let items = items.into_iter().filter(|item| !item.is_null()).take(ITEMS_READ_MAX).map(|item| match item {
        Value::Object(params) => Ok(WantedItem::new(params, &mut ids)),
        other => Err(ConfigError::ItemNotAMap(inspect(&other))),
    });
    items.collect()
}

/// `schema[:table[:filter]]` as the object that it stands for, without `event`.
fn legacy_item(subtopic: &str) -> WantedItem {
    let parts = ["schema", "table", "filter"].into_iter().zip(subtopic.splitn(3, ':'));
    let params = parts.map(|(key, part)| (key.to_owned(), Value::from(part))).collect();
    WantedItem::new(params, &mut HashMap::new())
}

impl Wanted {
    pub fn items(&self) -> &[WantedItem] {
        match self {
            Wanted::Items(items) => items,
            Wanted::Legacy(item) => std::slice::from_ref(item),
        }
    }

    /// The items as routing understands them.
    pub fn bindings(&self, subtopic: &str) -> Vec<(u32, Result<Binding, BindingError>)> {
        match self {
            Wanted::Items(items) => items.iter().map(|item| (item.id, Binding::parse(&item.params()))).collect(),
            Wanted::Legacy(item) => vec![(item.id, Binding::parse_legacy_topic(subtopic))],
        }
    }

    /// What its items ask to be sent of what they missed.
    pub fn asks(&self, claims: &Claims) -> Vec<Ask> {
        let Wanted::Items(items) = self else { return Vec::new() };
        let holder = OnceCell::new();
        let ask = |item: &WantedItem| {
            // Few have any of these, and parsing costs.
            if !["\"resume\"", "\"since\"", "\"positions\""].iter().any(|key| item.params.contains(key)) {
                return None;
            }
            let text = |params| canonical_text(&Value::Object(params));
            let holder = holder.get_or_init(|| Holder::of(&claims.identity()));
            Ask::parse(item.id, &item.params(), holder, text)
        };
        items.iter().filter_map(ask).collect()
    }

    /// The response of the join's reply: each item as the client sent it, in its order, `id` in front.
    pub fn response(&self) -> String {
        let mut response = String::from("{\"postgres_changes\":[");
        for (index, item) in self.items().iter().enumerate() {
            if index > 0 {
                response.push(',');
            }
            response += &format!("{{\"id\":{}", item.id);
            let rest = &item.params[1..];
            if rest != "}" {
                response.push(',');
            }
            response += rest;
        }
        response + "]}"
    }
}

/// Ids are 27 bits, as the original's are.
const ID_MASK: u32 = (1 << 27) - 1;

impl WantedItem {
    /// Equal objects have equal ids in every join of every process, whatever they say of resuming; different objects of
    /// one join have different ones.
    /// A key `id` of the client's is dropped: as a second key it would win over ours in `JSON.parse`.
    fn new(mut params: Map<String, Value>, ids: &mut HashMap<u32, Box<str>>) -> WantedItem {
        params.remove("id");
        let text = canonical_text(&Value::Object(params.clone()));
        let mut id = hash(&text);
        if OWN_KEYS.iter().any(|key| params.contains_key(*key)) {
            OWN_KEYS.iter().for_each(|key| drop(params.remove(*key)));
            id = hash(&canonical_text(&Value::Object(params)));
        }
        let params = text.into_boxed_str();
        // Never 0: realtime-js takes an id for absent if it is falsy.
        while id == 0 || ids.get(&id).is_some_and(|other| *other != params) {
            id = (id + 1) & ID_MASK;
        }
        ids.insert(id, params.clone());
        WantedItem { id, params }
    }

    fn params(&self) -> Map<String, Value> {
        serde_json::from_str(&self.params).expect("the canonical text was written from an object")
    }
}

/// FNV-1a: stable over versions and machines, which the standard hashers are not.
fn hash(text: &str) -> u32 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ hash >> 32) as u32 & ID_MASK
}

fn canonical_text(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

/// JSON with sorted keys and no spaces, as the original writes it back.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            write_list(text, ['{', '}'], &entries, |(key, value), text| {
                *text += &Value::from(key.as_str()).to_string();
                text.push(':');
                write_canonical(value, text);
            });
        }
        Value::Array(items) => write_list(text, ['[', ']'], items, write_canonical),
        scalar => *text += &scalar.to_string(),
    }
}

fn write_list<T>(text: &mut String, [open, close]: [char; 2], items: &[T], write: impl Fn(&T, &mut String)) {
    text.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write(item, text);
    }
    text.push(close);
}

/// As Elixir's `inspect/1` shows it.
fn inspect(value: &Value) -> String {
    match value {
        Value::Null => "nil".into(),
        Value::Array(items) => format!("[{}]", items.iter().map(inspect).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            let entries = entries.into_iter().map(|(key, value)| format!("{key:?} => {}", inspect(value)));
            format!("%{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests;
